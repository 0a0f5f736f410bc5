"""Clips with a mask for each frame, of DAVIS or made of a labelled set that is a video.

Legend: H W pixels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from vader.datasets.davis import DavisClip
from vader.datasets.example import LabelledSet
from vader.errors import BadInput
from vader.images.decode import image_size
from vader.images.sources import SUFFIXES

SCORED = 3  # frames that DAVIS needs: the first is given, the last is left out


@dataclass(frozen=True, eq=False)
class LabelledClip:
    """A labelled set as one clip, in its list's order. In the masks class k is object k + 1, and void is 0."""

    labelled: LabelledSet

    @property
    def name(self) -> str:
        """The set's and the split's."""
        return f"{self.labelled.name} {self.labelled.split}"

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame."""
        height, width = self.labelled.image(0).shape[:2]
        return height, width

    def __len__(self) -> int:
        return len(self.labelled)

    def frame(self, t: int) -> str:
        """The example's name."""
        return self.labelled.names[t]

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame t. Raises BadInput for one of another size than the first."""
        return self._sized(self.labelled.image(t), t)

    def mask(self, t: int) -> UInt8[np.ndarray, "H W"]:
        """Frame t's classes, one higher. Raises BadInput for a mask of another size than the frames."""
        labels = self.labelled[t].labels
        assert labels is not None, "the set has classes"
        return self._sized(labels, t).astype(np.uint8) + np.uint8(1)  # void, 255, becomes 0

    def check(self) -> None:
        """Raises BadInput for a single frame, for a frame or mask that is not of the first frame's size (from the
        files' headers), and for a first mask that is void throughout."""
        if len(self) < 2:
            raise BadInput(f"{self.name}: expected a clip of at least 2 frames, got {len(self)}")
        for path in self.labelled.files:
            if path.suffix.lower() in SUFFIXES:
                width, height = image_size(path)
                self._same_size((height, width), os.path.relpath(path, self.labelled.root))
        if not self.mask(0).any():
            raise BadInput(f"{self.frame(0)}: expected labels to propagate in the first frame, got void alone")

    def _sized(self, pixels: np.ndarray, t: int) -> np.ndarray:
        self._same_size((pixels.shape[0], pixels.shape[1]), self.frame(t))
        return pixels

    def _same_size(self, got: tuple[int, int], source: str) -> None:
        if got != self.size:
            (height, width), (h, w) = self.size, got
            raise BadInput(
                f"{source}: expected {width} x {height} pixels as {self.frame(0)}, the first frame, got {w} x {h}; "
                "a clip has one size"
            )


Clip = DavisClip | LabelledClip  # frames and masks, read when they are asked for; 0 is what no object has


def check_clips(clips: Sequence[Clip]) -> None:
    """Raises BadInput for the first thing that is wrong before a picture is encoded: see the clips' `check`."""
    for clip in clips:
        if isinstance(clip, DavisClip) and len(clip) < SCORED:
            raise BadInput(
                f"{clip.name}: expected at least {SCORED} frames, of which the first and last are not scored, got "
                f"{len(clip)}"
            )
        clip.check()
