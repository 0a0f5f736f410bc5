"""What a camera's automatics do to a rendered picture: exposure, white balance and noise.

Rendered light is the same from everywhere; two shots of a real camera are not. Without this a surface has exactly one
colour in all views, and the exams of matching and propagation would reward encoders that only compare colours
(`docs/decisions/0004-scenes.md` has the figures). Axes: H W pixels.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from vader.scenes.frame import Frame

GAMMA = 2.2  # of the pictures' values over light
BALANCE = 0.4  # how much a channel's gain varies beside the exposure
NOISE = 8.0  # standard deviation in the pictures' values (0 to 255) for an exposure that varies by a whole stop
PERIOD = (1.0, 3.0)  # seconds in which a filming camera's exposure swings there and back


def shoot(frame: Frame, stops: float, key: tuple[int, ...]) -> Frame:
    """The frame as a shot by itself: its exposure lies up to `stops` above or below the right one. `key` seeds it."""
    rng = np.random.default_rng(key)
    return _expose(frame, stops, rng.uniform(-1, 1, 4), rng)


def film(frame: Frame, stops: float, key: tuple[int, ...]) -> Frame:
    """The frame as one of a clip, whose exposure swings up to `stops` to both sides; `key` is the clip's."""
    rng = np.random.default_rng(key)
    phase, period = rng.uniform(0, 2 * np.pi, 4), rng.uniform(*PERIOD, 4)
    swing = np.sin(phase + 2 * np.pi * frame.time / period)
    return _expose(frame, stops, swing, np.random.default_rng((*key, round(1000 * frame.time))))


def _expose(frame: Frame, stops: float, swing: Float[np.ndarray, "4"], rng: np.random.Generator) -> Frame:
    """`swing` (-1 to 1) is that of the exposure and of each channel."""
    if stops == 0:
        return frame
    gains = 2.0 ** (stops * (swing[0] + BALANCE * swing[1:]))
    return replace(frame, image=_develop(frame.image, gains, NOISE * stops, rng))


def _develop(
    image: UInt8[np.ndarray, "H W 3"], gains: Float[np.ndarray, "3"], noise: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Values with their light multiplied, and noise: 255 (value / 255)^2.2 is light, too much of it is white."""
    values = image * (gains ** (1 / GAMMA)).astype(np.float32)
    values = np.minimum(values, 255) + rng.normal(0, noise, image.shape).astype(np.float32)
    return np.rint(values).clip(0, 255).astype(np.uint8)
