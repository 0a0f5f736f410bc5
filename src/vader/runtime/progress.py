"""Progress: a line every few seconds with the share done, the speed, and the remaining time."""

import sys
import time
from collections.abc import Callable

EVERY = 5.0  # seconds between two lines

Say = Callable[[str], None]


class Progress:
    """Print every few seconds how many of `total` units are done, the speed, and the remaining time.

    `start` units were done before, by the run that this one resumes.
    """

    def __init__(self, what: str, total: int, say: Say | None = None, *, unit: str = "images", start: int = 0) -> None:
        self.what, self.total, self.say, self.unit, self.start = what, total, say, unit, start
        self.since = self.last = time.monotonic()
        self.done = start

    def __call__(self, count: int = 1) -> None:
        """Count `count` more units."""
        self.done += count
        now = time.monotonic()
        if self.say and (now - self.last >= EVERY or self.done == self.total):
            self.last = now
            speed = (self.done - self.start) / max(now - self.since, 1e-9)
            left = f"  ETA {clock(max(0, self.total - self.done) / max(speed, 1e-9))}" if self.done < self.total else ""
            self.say(f"{self.what}{self.done}/{self.total} {self.unit}  {speed:.1f} {self.unit}/s{left}")


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def to_stderr(text: str) -> None:
    """Print a line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """Print nothing."""
