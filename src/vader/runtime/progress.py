"""How far something is: a line every few seconds with what is done, how fast, and how long the rest takes."""

import sys
import time
from collections.abc import Callable

EVERY = 5.0  # seconds between two lines

Say = Callable[[str], None]


class Progress:
    """Says every few seconds how many of `total` units are done, how fast, and how long the rest takes.

    `start` units were done before, by a run that this one resumes.
    """

    def __init__(self, what: str, total: int, say: Say | None = None, *, unit: str = "images", start: int = 0) -> None:
        self.what, self.total, self.say, self.unit, self.start = what, total, say, unit, start
        self.since = self.last = time.monotonic()
        self.done = start

    def __call__(self, count: int = 1) -> None:
        """`count` units more."""
        self.done += count
        now = time.monotonic()
        if self.say and (now - self.last >= EVERY or self.done == self.total):
            self.last = now
            speed = (self.done - self.start) / max(now - self.since, 1e-9)
            left = f"  ETA {clock(max(0, self.total - self.done) / max(speed, 1e-9))}" if self.done < self.total else ""
            self.say(f"{self.what}{self.done}/{self.total} {self.unit}  {speed:.1f} {self.unit}/s{left}")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def to_stderr(text: str) -> None:
    """Progress for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """No progress."""
