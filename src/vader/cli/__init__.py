"""The command line. Thin: it turns words into configs and calls the library; torch is imported inside commands only."""

from vader.cli import exams, learning, retrieval
from vader.cli.app import app, main

__all__ = ["app", "exams", "learning", "main", "retrieval"]
