"""The command line. Every verb is a public function of the library; torch is imported when a verb runs."""

from vader.runtime.interrupts import listen

listen()  # before the slow imports

from vader.cli import verbs  # noqa: E402
from vader.cli.app import app, main  # noqa: E402

__all__ = ["app", "main", "verbs"]
