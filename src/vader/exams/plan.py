"""What an exam is sat on."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


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
