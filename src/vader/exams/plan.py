"""What an exam is sat on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vader.encoders.store import Budget


@runtime_checkable
class Material(Protocol):
    """Labelled splits, clips or pairs of pictures: all that an exam needs but for the encoder."""

    @property
    def name(self) -> str:
        """Of the data set, for titles."""

    @property
    def pictures(self) -> Sequence[np.ndarray]:
        """(H, W, 3) uint8, read when asked for. A PCA and a mean are fitted on them, and see no label."""

    def facts(self) -> dict[str, Any]:
        """Plain JSON with fingerprints of files and counts; reports of different facts are not compared."""

    def lead(self) -> str:
        """One sentence of how much there is."""


Keep = Callable[[str, np.ndarray], None]  # (an example's name, the first trial's prediction (H, W))


@dataclass
class Plan:
    """How to sit, none of which changes a score but for the seeds."""

    seeds: Sequence[int]
    budget: Budget
    batch: int = 16
    device: str = "cpu"
    scratch: Path | None = None
    say: Callable[[str], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds to the seconds of a phase."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - since
