"""Check that a picture and its ground truth file have the same orientation.

Legend: H W pixels.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from vader.errors import BadInput
from vader.images.decode import orientation, upright


def check_turned(picture: Path, truth: Path) -> int:
    """Return the orientation of both files. Raises `BadInput` if they differ.

    Some tools draw masks over the picture as viewers show it, others over the stored pixels, and a rotation by 180
    degrees does not change the size. Only the author of the mask knows, and a wrong guess makes the score meaningless.
    """
    mine, other = orientation(picture), orientation(truth)
    if mine != other:
        raise BadInput(
            f"{picture}: expected Exif orientation {other}, that of its ground truth {truth}, found {mine}; if the "
            "ground truth fits the picture as viewers show it, save the picture rotated and without the tag "
            "(mogrify -auto-orient); if it fits the stored pixels, remove the tag (exiftool -Orientation=)"
        )
    return mine


def turned_like(
    picture: Path, truth: Path, values: UInt8[np.ndarray, "_ _"] | UInt16[np.ndarray, "_ _"]
) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """Rotate the values stored in `truth` as `decode` rotates the picture. Raises like `check_turned`."""
    return np.ascontiguousarray(upright(values, check_turned(picture, truth)))
