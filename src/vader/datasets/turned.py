"""Which way up a picture and the file of its truth are.

Legend: H W pixels.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from vader.errors import BadInput
from vader.images.decode import orientation, upright


def check_turned(picture: Path, truth: Path) -> int:
    """The orientation that both files have. Raises `BadInput` where they differ.

    Some tools draw masks over the picture as a viewer shows it, others over the pixels as they are stored, and a half
    turn shows in no size: nobody but who made the mask knows, and the wrong guess is a score of nonsense.
    """
    mine, other = orientation(picture), orientation(truth)
    if mine != other:
        raise BadInput(
            f"{picture}: expected Exif orientation {other}, that of its truth {truth}, came {mine}, so which way up "
            "the truth is cannot be known; if it fits the picture as viewers show it, save that one turned and without "
            "the tag (mogrify -auto-orient); if it fits the pixels as stored, remove the tag (exiftool -Orientation=)"
        )
    return mine


def turned_like(
    picture: Path, truth: Path, values: UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """The values that `truth` stores, turned as `decode` turns the picture. Raises what `check_turned` raises."""
    return np.ascontiguousarray(upright(values, check_turned(picture, truth)))
