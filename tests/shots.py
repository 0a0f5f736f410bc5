"""A small clip of two squares that move, its masks, and what stepping through it by hand gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vader.datasets.davis import mask_png
from vader.encoders import fit, open_encoder
from vader.images.encode import colour_map, png
from vader.inference.propagation import find_protocol, propagate_frames

H, W, T = 40, 64, 9


def shot(number: int, height: int = H, width: int = W) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its mask: a red and a blue square that move over a noisy ground."""
    picture = np.random.default_rng(5).integers(90, 150, (height // 4, width // 4, 3)).astype(np.uint8)
    picture, mask = picture.repeat(4, 0).repeat(4, 1), np.zeros((height, width), np.uint8)
    for label, (top, left, colour) in {
        1: (4, 4 + 2 * number, (220, 30, 20)),
        2: (24, 40 - 2 * number, (20, 40, 230)),
    }.items():
        picture[top : top + 12, left : left + 12], mask[top : top + 12, left : left + 12] = colour, label
    return picture, mask


def write_clip(place: Path) -> Path:
    """A folder of 9 frames, shot8.png ... shot16.png."""
    place.mkdir()
    for number in range(T):
        (place / f"shot{number + 8}.png").write_bytes(png(shot(number)[0]))
    return place


def write_first(path: Path) -> Path:
    """The first frame's mask."""
    path.write_bytes(mask_png(shot(0)[1]))
    return path


def masks_of(out: Path) -> dict[str, np.ndarray]:
    """Indices of the PNGs, which are all indexed."""
    found = {}
    for path in sorted((out / "masks").iterdir()):
        with Image.open(path) as image:
            assert image.mode == "P"
            assert np.array_equal(
                np.array(image.getpalette()).reshape(-1, 3), colour_map()[: len(image.getpalette()) // 3]
            )
            found[path.stem] = np.asarray(image)
    return found


def by_hand(frames: list[np.ndarray], masks: dict[int, np.ndarray], model: str = "rgb", **way: Any) -> list[np.ndarray]:
    """The masks of frames by the exam's own function."""
    protocol = replace(find_protocol("davis/dino"), **way)
    encoder = open_encoder(model)
    if encoder.pending is not None:
        encoder = fit(encoder, [protocol.resized(frame, encoder.stride) for frame in frames])
    return list(propagate_frames(encoder, frames, masks, protocol))


SIZED: dict[str, Any] = {"resize": "short-stride", "side": H}  # what --size 40 makes of a protocol


def same(out: Path, expected: dict[str, np.ndarray]) -> bool:
    """Whether these are the masks, all of them."""
    found = masks_of(out)
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
