"""Clips with a mask for each frame: DAVIS clips, and labelled sets that are videos.

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

SCORED = 3  # minimum number of frames for DAVIS: the first and the last are not scored


@dataclass(frozen=True, eq=False)
class LabelledClip:
    """A labelled set as one clip, in the order of its list. Class k is object k + 1 in the masks, and void is 0."""

    labelled: LabelledSet

    @property
    def name(self) -> str:
        """The name of the set and its split."""
        return f"{self.labelled.name} {self.labelled.split}"

    @cached_property
    def size(self) -> tuple[int, int]:
        """The height and width of the first frame."""
        height, width = self.labelled.image(0).shape[:2]
        return height, width

    def __len__(self) -> int:
        return len(self.labelled)

    def frame(self, t: int) -> str:
        """Return the name of example t."""
        return self.labelled.names[t]

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read frame t. Raises BadInput if its size differs from the first frame's."""
        return self._sized(self.labelled.image(t), t)

    def mask(self, t: int) -> UInt8[np.ndarray, "H W"]:
        """Read the classes of frame t plus 1. Raises BadInput if the mask's size differs from the frames'."""
        labels = self.labelled[t].labels
        assert labels is not None, "the set has classes"
        return self._sized(labels, t).astype(np.uint8) + np.uint8(1)  # void, 255, becomes 0

    def check(self) -> None:
        """Raise BadInput for a single frame, for a frame or mask whose size (from the file's header) differs from the
        first frame's, and for a first mask that is all void."""
        if len(self) < 2:
            raise BadInput(f"{self.name}: expected a clip of at least 2 frames, found {len(self)}")
        for path in self.labelled.files:
            if path.suffix.lower() in SUFFIXES:
                width, height = image_size(path)
                self._same_size((height, width), os.path.relpath(path, self.labelled.root))
        if not self.mask(0).any():
            raise BadInput(f"{self.frame(0)}: expected labels to propagate in the first frame, found only void")

    def _sized(self, pixels: np.ndarray, t: int) -> np.ndarray:
        self._same_size((pixels.shape[0], pixels.shape[1]), self.frame(t))
        return pixels

    def _same_size(self, got: tuple[int, int], source: str) -> None:
        if got != self.size:
            (height, width), (h, w) = self.size, got
            raise BadInput(
                f"{source}: expected {width} x {height} pixels as {self.frame(0)}, the first frame, found {w} x {h}; "
                "give frames and masks of one size"
            )


Clip = DavisClip | LabelledClip  # frames and masks are read on access; 0 is no object


def check_clips(clips: Sequence[Clip]) -> None:
    """Raise BadInput for the first error, before a picture is encoded: see `check` of the clips."""
    for clip in clips:
        if isinstance(clip, DavisClip) and len(clip) < SCORED:
            raise BadInput(
                f"{clip.name}: expected at least {SCORED} frames (the first and last are not scored), found {len(clip)}"
            )
        clip.check()
