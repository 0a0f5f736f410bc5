"""The constants of the published protocols of mask propagation, by name.

Axes: H W pixels of an original frame.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from vader.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class PropagationProtocol:
    """Every constant that a score depends on, except the encoder. "Frame" is the resized picture that the encoder sees.

    The defaults are DINO's constants on frames of the original size. Masks are converted to the share of each cell that
    an object covers, and shares to masks by bilinear upsampling and the maximum. This variant is vader's own; the
    rendered scenes use it.

    Properties of an encoder are not part of it: the layer, the mean and deviation of its input, and UVC's input, which
    is the L channel of Lab three times.
    """

    # Frames: original; resized to side x side; short side `side` and long side, ratio kept, rounded down to a multiple
    # of 64; both sides rounded up to multiples of the encoder's stride, short side from `side`.
    resize: Literal["native", "square", "short-64", "short-stride"] = "native"
    side: int | None = None  # pixels
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    # Similarity: cosine of embeddings, or the product of raw features.
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = 0.1
    # "jointly": softmax over the k most similar cells of all context frames together. "per frame": softmax over all
    # cells of one context frame, its k largest weights without renormalisation, and the mean over the frames.
    normalised: Literal["jointly", "per frame"] = "jointly"
    top_k: int = 5
    ties: bool = False  # whether all cells as similar as the k-th count, or exactly k cells

    # Context: the frames with given masks and the `context` frames before. `padded`: as long as there are fewer, the
    # first frame replaces the missing ones, and it counts once more there than as the first frame.
    context: int = 7
    padded: bool = False
    radius: float | None = 96.0  # pixels of the frame, from cell to cell; None: no limit
    shape: Literal["square", "disk"] = "square"  # of the neighbourhood
    rim: bool = True  # whether cells at exactly the radius belong to it
    restrict_first: bool = True  # whether it applies to frames with given masks too

    # Masks to cells: the share of the cell, bilinear at its centre, or the nearest pixel there.
    label_in: Literal["area", "bilinear", "nearest"] = "area"
    fewest: int = 1  # pixels of the frame; smaller objects are left out
    fed_back: Literal["raw", "stretched"] = "raw"  # "stretched": each object's map scaled to [0, 1] by its extremes
    label_out: Literal["bilinear", "nearest"] = "bilinear"  # cells to pixels; the largest wins
    stretched_out: bool = False  # each object's map scaled to [0, 1] before objects compete

    def __post_init__(self) -> None:
        if self.resize != "native" and not self.side:
            raise BadInput(f"protocol: expected `side` in pixels for resize {self.resize!r}, found none; set it")
        if self.temperature <= 0 or self.top_k < 1 or self.context < 0 or (self.radius or 0) < 0:
            raise BadInput(
                "protocol: expected temperature > 0, top_k >= 1, context >= 0 and radius >= 0, found "
                f"{self.temperature}, {self.top_k}, {self.context} and {self.radius}"
            )

    def size(self, height: int, width: int, stride: int) -> tuple[int, int]:
        """Return height and width of the frame that the encoder sees for a picture of that size."""
        if self.resize == "native":
            return height, width
        side = self.side or 0
        if self.resize == "square":
            return side, side
        if self.resize == "short-64":
            long = side * max(height, width) // min(height, width) // 64 * 64
            return (side, long) if height <= width else (long, side)
        scale = side / min(height, width)
        up = [-(-round(length * scale, 6) // stride) * stride for length in (height, width)]
        return int(up[0]), int(up[1])

    def resized(self, picture: UInt8[np.ndarray, "H W 3"], stride: int) -> UInt8[np.ndarray, "_ _ 3"]:
        """Return the frame that the encoder sees."""
        height, width = self.size(picture.shape[0], picture.shape[1], stride)
        if (height, width) == picture.shape[:2]:
            return picture
        way = cv2.INTER_CUBIC if self.interpolation == "bicubic" else cv2.INTER_LINEAR
        return cv2.resize(picture, (width, height), interpolation=way)

    def facts(self) -> dict[str, Any]:
        """Return every constant in plain JSON."""
        return asdict(self)


# TimeCycle applies softmax to cos * sqrt(512), a temperature of .0442; it and VADeR train with .07.
_TIMECYCLE = PropagationProtocol(
    resize="square", side=480, temperature=0.07, normalised="per frame", top_k=5, context=7, padded=True, radius=None,
    label_in="bilinear", fewest=11, fed_back="stretched",
)  # fmt: skip
# DINO's radius is 12 cells for any patch size. Here and in CRW it is 12 cells of 8 px: 96 px at any stride.
_DINO = PropagationProtocol(
    resize="short-64", side=480, temperature=0.1, top_k=5, ties=True, context=7, radius=96.0, label_in="nearest",
    stretched_out=True,
)  # fmt: skip

PROTOCOLS: dict[str, PropagationProtocol] = {
    "davis/timecycle-320": replace(_TIMECYCLE, side=320),
    "davis/timecycle-480": _TIMECYCLE,
    # Padded as in its code; the temperature of its README (the code's default is .07).
    "davis/crw": PropagationProtocol(
        temperature=0.05, top_k=10, context=20, padded=True, radius=96.0, shape="disk", rim=False,
        restrict_first=False, label_in="bilinear",
    ),
    "davis/dino": _DINO,
    # 12 cells of 16 px.
    "davis/dinov3": replace(
        _DINO, resize="short-stride", side=960, interpolation="bicubic", temperature=0.2, radius=192.0, shape="disk",
        label_out="nearest",
    ),
    "davis/uvc": replace(_DINO, similarity="dot", temperature=1.0, normalised="per frame", radius=None),
}  # fmt: skip


def find_protocol(name: str) -> PropagationProtocol:
    """Find a protocol by name. Raises BadInput for an unknown name."""
    if name not in PROTOCOLS:
        raise BadInput(f"--protocol: expected one of {', '.join(PROTOCOLS)}, found {name!r}")
    return PROTOCOLS[name]
