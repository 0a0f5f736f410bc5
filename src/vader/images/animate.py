"""Encode frames as an animation that browsers play without controls. Axes: T frames, H W pixels."""

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vader.errors import BadInput


def animate(
    frames: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    fps: float = 8,
    kind: Literal["webp", "gif"] = "webp",
    quality: int | None = 80,
) -> bytes:
    """Encode frames (H, W, 3) of one size as an animated WebP or GIF that repeats forever.

    `quality` is WebP's, 0 to 100, or None for lossless; a GIF has 256 colours for each frame, and its times are rounded
    to 10 ms. Equal neighbours may be stored as one longer frame. Raises BadInput for no frames, different sizes, or a
    rate that browsers do not play.
    """
    if not len(frames):
        raise BadInput("animation: expected at least one frame, found none")
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise BadInput(f"animation: expected frames of one size, found {sorted(sizes)}; crop or resize them first")
    if not 0 < fps <= 50:  # browsers slow down higher rates
        raise BadInput(f"animation: expected a rate above 0 and up to 50 frames/s, found {fps:g}")
    first, *others = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    file, duration = BytesIO(), max(1, round(1000 / fps))
    if kind == "gif":
        first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0, disposal=1)
    else:
        first.save(
            file, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, method=4,
            lossless=quality is None, quality=75 if quality is None else quality,
        )  # fmt: skip
    return file.getvalue()
