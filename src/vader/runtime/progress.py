"""How far a clip is."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

TOLD_EVERY = 2.0  # seconds between lines


class Told:
    """Says every few seconds how many frames are done, how fast, and how long the rest will take."""

    def __init__(self, say: Callable[[str], None], total: int, start: int = 0, what: str = "") -> None:
        self.say, self.total, self.start, self.what = say, total, start, what
        self.since = self.last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last >= TOLD_EVERY or done == self.total:
            self.last = now
            speed = (done - self.start) / max(now - self.since, 1e-9)
            rest = clock(max(0, self.total - done) / max(speed, 1e-9))
            self.say(f"{self.what}{done}/{self.total} frames  {speed:.1f} frames/s  ETA {rest}")


EVERY = 5.0  # seconds between two lines of progress


@dataclass
class Progress:
    """Says every few seconds how many pictures are done, how fast, and how long the rest will take."""

    what: str
    total: int
    say: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.since = self.last = time.monotonic()
        self.done = 0

    def __call__(self, count: int) -> None:
        """`count` pictures more."""
        self.done += count
        now = time.monotonic()
        if self.say and (now - self.last >= EVERY or self.done >= self.total):
            self.last = now
            speed = self.done / max(now - self.since, 1e-9)
            rest = f", {(self.total - self.done) / speed:.0f} s left" if self.done < self.total else ""
            self.say(f"{self.what}: {self.done} of {self.total} pictures, {speed:.1f} images/s{rest}")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def to_stderr(text: str) -> None:
    """Progress for the person who waits."""
    print(text, file=sys.stderr, flush=True)
