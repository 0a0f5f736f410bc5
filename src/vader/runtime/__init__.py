"""What the rest runs on: processes, interrupts, files, saved states, the journal, progress."""
