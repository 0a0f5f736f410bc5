"""Outputs for people: metrics, tables, figures, report pages, and the provenance of numbers."""
