"""The data of an exam, and the settings of an evaluation."""

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
    """Labelled splits, clips or pairs of pictures: everything that an exam needs except the encoder."""

    @property
    def name(self) -> str:
        """The name of the data set, for titles."""

    @property
    def pictures(self) -> Sequence[np.ndarray]:
        """(H, W, 3) uint8, read on access. A PCA and a mean are fitted on them, without labels."""

    def facts(self) -> dict[str, Any]:
        """Return plain JSON with fingerprints of files and counts; only reports with equal facts can be compared."""

    def lead(self) -> str:
        """Return one sentence on the amount of data."""


Keep = Callable[[str, np.ndarray], None]  # (an example's name, the first trial's prediction (H, W))


@dataclass
class Plan:
    """The settings of an evaluation. Only the seeds change a score."""

    seeds: Sequence[int]
    budget: Budget
    batch: int = 16
    device: str = "cpu"
    scratch: Path | None = None
    say: Callable[[str], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the elapsed time to the seconds of a phase."""
        since = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - since
