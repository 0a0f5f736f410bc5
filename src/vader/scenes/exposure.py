"""Simulate a camera's automatic exposure, white balance and noise.

Rendered light is the same in all pictures; that of two shots by a real camera is not. Without this, a surface has
exactly one colour in all views, and the exams of matching and propagation would reward encoders that only compare
colours (`docs/decisions/0004-scenes.md` has the figures). Axes: H W pixels.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from vader.scenes.frame import Frame

GAMMA = 2.2  # exponent from the pictures' values to light
BALANCE = 0.4  # variation of a channel's gain, relative to the exposure
NOISE = 8.0  # standard deviation in the pictures' values (0 to 255) if the exposure varies by one stop
PERIOD = (1.0, 3.0)  # seconds of a full cycle of a clip's exposure


def shoot(frame: Frame, stops: float, key: tuple[int, ...]) -> Frame:
    """Expose the frame as a single shot, up to `stops` above or below the correct exposure. `key` is the seed."""
    rng = np.random.default_rng(key)
    return _expose(frame, stops, rng.uniform(-1, 1, 4), rng)


def film(frame: Frame, stops: float, key: tuple[int, ...]) -> Frame:
    """Expose the frame as part of a clip, whose exposure varies by up to `stops` either way; `key` seeds the clip."""
    rng = np.random.default_rng(key)
    phase, period = rng.uniform(0, 2 * np.pi, 4), rng.uniform(*PERIOD, 4)
    swing = np.sin(phase + 2 * np.pi * frame.time / period)
    return _expose(frame, stops, swing, np.random.default_rng((*key, round(1000 * frame.time))))


def _expose(frame: Frame, stops: float, swing: Float[np.ndarray, "4"], rng: np.random.Generator) -> Frame:
    """Apply `swing` (-1 to 1) to the exposure and to each channel."""
    if stops == 0:
        return frame
    gains = 2.0 ** (stops * (swing[0] + BALANCE * swing[1:]))
    return replace(frame, image=_develop(frame.image, gains, NOISE * stops, rng))


def _develop(
    image: UInt8[np.ndarray, "H W 3"], gains: Float[np.ndarray, "3"], noise: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Multiply the light of the values and add noise; light is 255 (value / 255)^2.2, clipped at white."""
    values = image * (gains ** (1 / GAMMA)).astype(np.float32)
    values = np.minimum(values, 255) + rng.normal(0, noise, image.shape).astype(np.float32)
    return np.rint(values).clip(0, 255).astype(np.uint8)
