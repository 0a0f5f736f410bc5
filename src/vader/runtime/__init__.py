"""Foundations: processes, interrupts, files, saved states, the journal, progress."""
