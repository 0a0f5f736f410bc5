"""Surfaces: colours mixed by procedural patterns in each part's own coordinates, so that patterns move with the part.

A pattern is a function of q, the point in the part's frame divided by the surface's scale, with the grain of the
pattern along q0 and its rows along q2. Colours are linear; pictures show their square roots. Axes: N points.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float32, Integer

Pattern = Literal["plain", "noise", "stripes", "checks", "wood", "brick", "spots"]
PATTERNS: tuple[Pattern, ...] = ("plain", "noise", "stripes", "checks", "wood", "brick", "spots")
Colour = tuple[float, float, float]

TILE = 256  # pixels of the periodic noise image that all surfaces share
MARGIN = 2
TILE_UNITS = 16.0  # its width in q
ROW, BLOCK = 512, 512 * 8192  # points that OpenCV reads at once; rows and columns must be below 32,767
# Solid noise as a sum of three flat ones, each projected along its own oblique line, so no upright face has streaks.
PROJECTIONS = np.array(
    [[[1, 0, 0.37], [0, 1, 0.53]], [[0.41, 0.9, 0], [-0.29, 0.1, 1]], [[0.95, -0.2, 0.25], [0.13, 0.45, -0.9]]],
    np.float32,
)


@dataclass(frozen=True)
class Surface:
    """Two linear colours mixed by a pattern of size `scale` (metres). `grain` is the noise on top, `gloss` the strength
    of the specular reflection, `glow` the share of its colour that it emits."""

    colour: Colour
    second: Colour
    pattern: Pattern = "plain"
    scale: float = 0.2
    phase: Colour = (0.0, 0.0, 0.0)
    grain: float = 0.1
    gloss: float = 0.0
    glow: float = 0.0


def matrix(surface: Surface, size: tuple[float, float, float], flat: bool) -> Float[np.ndarray, "3 3"]:
    """Return the map from a part's frame (metres) to q. Grain is along the longest side; bricks are always level."""
    if surface.pattern == "brick":
        order = [0, 2, 1] if flat else [0, 1, 2]
    else:
        longest = int(np.argmax(size))
        order = [longest, (longest + 1) % 3, (longest + 2) % 3]
    return np.eye(3)[order] / surface.scale


@lru_cache(maxsize=1)
def _tile() -> np.ndarray:
    """Return four octaves of value noise, periodic in both directions, with mean 0, deviation 1, and a margin for
    reading beyond its edge."""
    rng = np.random.default_rng(20)
    total = np.zeros((TILE, TILE), np.float32)
    for octave in range(4):
        cells = int(TILE_UNITS) << octave
        lattice = np.pad(rng.random((cells, cells), np.float32), 2, mode="wrap")
        step = TILE // cells
        fine = cv2.resize(lattice, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * step : -2 * step, 2 * step : -2 * step] * 0.55**octave
    return np.pad((total - total.mean()) / total.std(), MARGIN, mode="wrap")


def noise(q: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N"]:
    """Return smooth solid noise with features of size 1 and finer, mean 0, deviation 1 over space."""
    total = np.empty(len(q), np.float32)
    for start in range(0, len(q), BLOCK):
        total[start : start + BLOCK] = _noise(q[start : start + BLOCK])
    return total


def _noise(q: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N"]:
    """Compute `noise` for one block."""
    count = len(q)
    rows = -(-count // ROW)
    x, y, total = np.zeros((3, rows * ROW), np.float32)
    for projection in PROJECTIONS:
        flat = q @ (projection.T * np.float32(TILE / TILE_UNITS))
        flat += np.float32(MARGIN) - np.floor(flat * np.float32(1 / TILE)) * np.float32(TILE)
        x[:count], y[:count] = flat.T
        total += cv2.remap(_tile(), x.reshape(rows, ROW), y.reshape(rows, ROW), cv2.INTER_LINEAR).ravel()
    return total[:count] * np.float32(3**-0.5)


def mixture(
    pattern: Pattern, q: Float32[np.ndarray, "N 3"], sideways: Float32[np.ndarray, "N"],
    n: Float32[np.ndarray, "N"], pixel: Float32[np.ndarray, "N"],
) -> Float32[np.ndarray, "N"]:  # fmt: skip
    """Return the share of the second colour, 0 to 1. `n` is the noise there, `pixel` the width of a pixel in q,
    `sideways` above 0 where bricks are along q1 and not q0. Details below a pixel fade to their mean."""
    if pattern == "plain":
        return np.zeros_like(n)
    crisp = np.clip(1.2 - 2.0 * pixel, 0, 1)
    sharp = 1 / np.maximum(0.12, 3 * pixel)  # edges one pixel wide
    if pattern == "noise":
        wave = 0.38 * n
    elif pattern == "spots":
        wave = np.clip((n - 0.35) * np.minimum(sharp, 8) * 0.6, -0.5, 0.5)
    elif pattern == "stripes":
        wave = np.clip(np.sin(6.2832 * (q[:, 0] + 0.05 * n)) * sharp * 0.4, -0.5, 0.5)
    elif pattern == "checks":
        waves = np.clip(np.sin(3.1416 * q) * sharp[:, None] * 0.8, -1, 1)
        wave = 0.5 * waves[:, 0] * waves[:, 1] * waves[:, 2]
    elif pattern == "wood":
        rings = np.hypot(q[:, 1] * 0.8, q[:, 2] + 0.7)
        wave = 0.32 * np.sin(6.2832 * (1.7 * rings + 0.3 * n)) + 0.16 * n
    else:
        return _bricks(np.where(sideways > 0, q[:, 1], q[:, 0]), q[:, 2], n, crisp)
    return np.clip(0.5 + wave * crisp, 0, 1)


def _bricks(u: np.ndarray, v: np.ndarray, n: np.ndarray, crisp: np.ndarray) -> np.ndarray:
    """Rows of bricks, half a unit high and one unit long; mortar has the second colour."""
    row = np.floor(2 * v)
    u = u + 0.5 * (row % 2)
    column = np.floor(u)
    edge = np.minimum(np.minimum(u - column, column + 1 - u), 0.5 * np.minimum(2 * v - row, row + 1 - 2 * v))
    mortar = np.clip((0.06 - edge) * 30, 0, 1) * crisp
    shade = (row * 7 + column * 13) % 5 / 5
    return np.clip(mortar * 0.85 + (1 - mortar) * (0.15 + 0.2 * (shade - 0.4) + 0.05 * n), 0, 1)


def colours(
    surfaces: "SurfaceTable", which: Integer[np.ndarray, "N"], q: Float32[np.ndarray, "N 3"],
    sideways: Float32[np.ndarray, "N"], pixel: Float32[np.ndarray, "N"],
) -> Float32[np.ndarray, "N 3"]:  # fmt: skip
    """Return linear colours at points of surfaces `which`; `pixel` is the width of a pixel in q (see `mixture`)."""
    pattern = surfaces.pattern[which]
    stretched = q.copy()
    stretched[pattern == PATTERNS.index("wood"), 0] *= 0.15  # fibres
    n = noise(stretched)
    mixed = np.zeros_like(n)
    for number in np.flatnonzero(np.bincount(pattern)):
        at = np.flatnonzero(pattern == number)
        mixed[at] = mixture(PATTERNS[number], q[at], sideways[at], n[at], pixel[at])
    found = surfaces.colour[which] + mixed[:, None] * surfaces.difference[which]
    found *= (1 + surfaces.grain[which] * n * np.clip(1.2 - pixel, 0, 1))[:, None]
    return np.maximum(found, 0, out=found)


class SurfaceTable:
    """Surfaces as arrays, indexed by number."""

    def __init__(self, surfaces: list[Surface]) -> None:
        self.colour = np.array([s.colour for s in surfaces], np.float32)
        self.difference = np.array([s.second for s in surfaces], np.float32) - self.colour
        self.pattern = np.array([PATTERNS.index(s.pattern) for s in surfaces])
        self.phase = np.array([s.phase for s in surfaces], np.float32)
        self.scale = np.array([s.scale for s in surfaces], np.float32)
        self.grain = np.array([s.grain for s in surfaces], np.float32)
        self.gloss = np.array([s.gloss for s in surfaces], np.float32)
        self.glow = np.array([s.glow for s in surfaces], np.float32)
