"""The command line. Thin: it turns words into configs and calls the library; torch is imported inside commands only."""

from vader.runtime import interrupts  # before all that takes its time

# isort: split
from vader.cli import exams, learning, propagation, retrieval
from vader.cli.app import app, main

__all__ = ["app", "exams", "interrupts", "learning", "main", "propagation", "retrieval"]
