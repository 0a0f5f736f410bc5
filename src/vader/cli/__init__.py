"""The command line. Thin: it turns words into calls of the library; torch is imported inside commands only."""

from vader.runtime.interrupts import listen

listen()  # before all that takes its time

from vader.cli import exams, learning, propagation, retrieval  # noqa: E402
from vader.cli.app import app, main  # noqa: E402

__all__ = ["app", "exams", "learning", "main", "propagation", "retrieval"]
