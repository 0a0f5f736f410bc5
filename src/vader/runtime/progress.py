"""How far a clip is."""

import time
from collections.abc import Callable

from vader.runtime.journal import clock

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
