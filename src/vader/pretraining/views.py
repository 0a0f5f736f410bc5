"""An image -> two views, each with its map to the image -> matched points (sections 3.1 and 3.2, "Sampling views").

A view is a homography (crop, flip, optional affine and perspective parts), an optional smooth flow, and a change of
colours. A view depends on (seed, epoch, image, view) only, not on workers, batches or processes. Matches are computed
from the maps in continuous coordinates; images of coordinates are never resampled.

Axes: P matched points of a pair, N points, S a view's side in pixels, h w its cells. Points are (x, y).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vader.errors import BadInput
from vader.images.colour import Colour
from vader.images.geometry import Flow, cell_centres, from_corners, inside, transform, translation
from vader.images.warp import warp

REDRAWS = 10  # of view 2, while it shares too few cells; after that both views use view 1's geometry


class ViewConfig(BaseModel):
    """Settings of the views. The defaults are those of MoCo v2 ("aug-plus"); names with `p_` are probabilities.

    Further options, all off by default: `degrees` and `shear` (of an affine part, in degrees), `perspective` (corners
    move by up to this share of half the side), `elastic` (Lipschitz bound of a smooth flow, at most 0.5), `p_solarise`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(224, ge=32, multiple_of=32)
    pairing: Literal["different", "same", "unmatched"] = "different"  # the paper's Table 3
    min_shared: int = Field(32, ge=1)  # cells of view 1 that view 2 must also show
    scale: tuple[float, float] = (0.2, 1.0)  # the crop's share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    p_flip: float = Field(0.5, ge=0, le=1)
    p_jitter: float = Field(0.8, ge=0, le=1)
    brightness: float = Field(0.4, ge=0, le=1)
    contrast: float = Field(0.4, ge=0, le=1)
    saturation: float = Field(0.4, ge=0, le=1)
    hue: float = Field(0.1, ge=0, le=0.5)
    p_grey: float = Field(0.2, ge=0, le=1)
    p_blur: float = Field(0.5, ge=0, le=1)
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur, pixels
    p_solarise: float = Field(0.0, ge=0, le=1)
    degrees: float = Field(0.0, ge=0, le=180)
    shear: float = Field(0.0, ge=0, le=45)
    perspective: float = Field(0.0, ge=0, le=0.6)  # beyond 2/3 a view may show the horizon
    elastic: float = Field(0.0, ge=0, le=0.5)

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> "ViewConfig":
        # A blur extends three sigma to each side, and must not extend beyond the view.
        for name, above, most in (("scale", 0.0, 1.0), ("ratio", 0.0, 1e3), ("sigma", -1e-9, self.size / 4)):
            low, high = getattr(self, name)
            if not above < low <= high <= most:
                least = "0 <=" if above < 0 else "0 <"
                raise ValueError(f"{name}: expected {least} low <= high <= {most:g}, found {low:g} and {high:g}")
        return self


@dataclass(frozen=True)
class View:
    """One view: `matrix` maps its pixels, after `flow`, to the image's pixels; `colour` is its change of colours."""

    matrix: Float64[np.ndarray, "3 3"]
    flow: Flow | None
    colour: Colour

    def to_image(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Map points of the view to the image."""
        return transform(self.matrix, self.flow.apply(points) if self.flow else points)

    def from_image(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Map points of the image to the view (outside [0, S] if the view does not show them)."""
        moved = transform(np.linalg.inv(self.matrix), points)
        return self.flow.invert(moved) if self.flow else moved


@dataclass(frozen=True)
class Pair:
    """Two views of one image, and the cells of view 1 that both show.

    `cells` are row-major indices into view 1's map. `points` are the centres of these cells in view 2, in pixels.
    """

    views: tuple[View, View]
    cells: Int64[np.ndarray, "N"]
    points: Float64[np.ndarray, "N 2"]


def generator(seed: int, epoch: int, image: int, stream: int) -> np.random.Generator:
    """Return the random generator of one purpose: streams 0 and 1 draw the views, stream 2 the matches."""
    return np.random.default_rng((seed, epoch, image, stream))


def draw_pair(config: ViewConfig, width: int, height: int, stride: int, seed: int, epoch: int, image: int) -> Pair:
    """Draw two views of an image of width x height pixels; redraw view 2 until they share `min_shared` cells.

    Raises BadInput if two views of the same geometry also share too few (extreme affine or perspective settings).
    """
    rng = generator(seed, epoch, image, 1)
    first = draw_view(config, width, height, generator(seed, epoch, image, 0))
    second = draw_view(config, width, height, rng)
    if config.pairing == "same":
        second = replace(second, matrix=first.matrix, flow=first.flow)
    for redraws in range(1 + REDRAWS):
        if redraws and config.pairing != "same":
            second = draw_view(config, width, height, rng)
        cells, points = shared_cells(first, second, config.size, stride, width, height)
        if len(cells) >= config.min_shared:
            return Pair((first, second), cells, points)
    second = replace(second, matrix=first.matrix, flow=first.flow)
    cells, points = shared_cells(first, second, config.size, stride, width, height)
    if len(cells) < config.min_shared:
        raise BadInput(
            f"an image of {width}x{height} px gives no two {config.size} px views that share {config.min_shared} cells "
            f"(best: {len(cells)}); lower min_shared, degrees, shear or perspective"
        )
    return Pair((first, second), cells, points)


def shared_cells(
    first: View, second: View, size: int, stride: int, width: int, height: int
) -> tuple[Int64[np.ndarray, "N"], Float64[np.ndarray, "N 2"]]:
    """Return the cells of the first view whose centres the second view also shows, and their points in it.

    Centres outside the image have no match (rotations and perspective show areas beyond its edge).
    """
    n = size // stride
    if first.flow is None and second.flow is None and _is_crop(first.matrix) and _is_crop(second.matrix):
        (a, _, x), (_, d, y), _ = first.matrix.tolist()
        x0, x1, y0, y1 = min(x, x + a * size), max(x, x + a * size), y, y + d * size
        if min(x0, y0) >= 0 and x1 <= width + 1e-6 and y1 <= height + 1e-6:
            return _shared_by_crops(first.matrix, second.matrix, size, stride)
    centres = cell_centres(n, n, stride)
    in_image = first.to_image(centres)
    in_second = second.from_image(in_image)
    shared = np.flatnonzero(inside(in_second, size, size) & inside(in_image, width, height))
    return shared, in_second.take(shared, axis=0)


def _is_crop(matrix: Float64[np.ndarray, "3 3"]) -> bool:
    """Tell whether a view's map is a crop, flipped left to right or not: columns and rows are independent."""
    (_, b, _), (c, d, _), (e, f, g) = matrix.tolist()
    return not (b or c or e or f) and g == 1 and d > 0


def _shared_by_crops(
    first: Float64[np.ndarray, "3 3"], second: Float64[np.ndarray, "3 3"], size: int, stride: int
) -> tuple[Int64[np.ndarray, "N"], Float64[np.ndarray, "N 2"]]:
    """Compute `shared_cells` for crops and flips: columns and rows apart, so 2 n numbers instead of n squared."""
    n = size // stride
    along = (np.arange(n) + 0.5) * stride
    x, y = ((along * first[i, i] + (first[i, 2] - second[i, 2])) / second[i, i] for i in (0, 1))
    columns, rows = (np.flatnonzero((v >= 0) & (v <= size)) for v in (x, y))
    points = np.empty((len(rows), len(columns), 2))
    points[..., 0], points[..., 1] = x[columns], y[rows, None]
    return (rows[:, None] * n + columns).ravel(), points.reshape(-1, 2)


def choose_matches(
    pair: Pair, config: ViewConfig, stride: int, count: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "P"], Float64[np.ndarray, "P 2"]]:
    """Choose `count` of a pair's matches at random: cells of view 1 (queries) and points in view 2 (keys).

    No match is repeated if there are enough. With `pairing="unmatched"` cells and points are independent.
    """
    chosen = rng.choice(len(pair.cells), count, replace=len(pair.cells) < count)
    if config.pairing == "unmatched":
        cells = (config.size // stride) ** 2
        return rng.integers(cells, size=count), rng.uniform(0, config.size, (count, 2))
    return pair.cells[chosen], pair.points[chosen]


def render(image: np.ndarray, view: View, size: int) -> np.ndarray:
    """Return the view's pixels, (S, S, 3), before the change of colours."""
    return warp(image, view.matrix, size, view.flow)


# --- Drawing one view ----------------------------------------------------------------------------------------------


def draw_view(config: ViewConfig, width: int, height: int, rng: np.random.Generator) -> View:
    """Draw a view of an image of width x height pixels."""
    S = config.size
    x, y, w, h = draw_crop(config, width, height, rng)
    across = w / S
    if rng.random() < config.p_flip:  # the view's left edge is the crop's right edge
        x, across = x + w, -across
    matrix = np.array([[across, 0, x], [0, h / S, y], [0, 0, 1.0]])
    if config.degrees or config.shear:
        matrix = matrix @ _draw_affine(config, rng)
    if config.perspective:
        matrix = matrix @ _draw_perspective(config, rng)
    flow = _draw_flow(config, rng) if config.elastic else None
    return View(matrix, flow, draw_colour(config, rng))


def draw_crop(config: ViewConfig, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a crop (x, y, width, height) in whole pixels: torchvision's RandomResizedCrop, 10 tries, then the centre."""
    for _ in range(10):
        area = width * height * rng.uniform(*config.scale)
        ratio = math.exp(rng.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    ratio = min(max(width / height, config.ratio[0]), config.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def draw_colour(config: ViewConfig, rng: np.random.Generator) -> Colour:
    """Draw a change of colours: jitter in a random order, grey, blur, solarise."""
    jitter, grey, blur, solarise = rng.random(4).tolist()
    colour = Colour(
        grey=grey < config.p_grey,
        sigma=rng.uniform(*config.sigma) if blur < config.p_blur else 0.0,
        solarise=solarise < config.p_solarise,
    )
    if jitter >= config.p_jitter:
        return colour
    b, c, s, h = rng.uniform(-1, 1, 4).tolist()
    first, second, third, fourth = rng.permutation(4).tolist()
    factors = (1 + b * config.brightness, 1 + c * config.contrast, 1 + s * config.saturation, h * config.hue)
    return replace(colour, order=(first, second, third, fourth), factors=factors)


def _draw_affine(config: ViewConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation and a shear about the view's centre."""
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    shear = math.tan(math.radians(rng.uniform(-config.shear, config.shear)))
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1.0]])
    half = config.size / 2
    return translation(half, half) @ turn @ translation(-half, -half)


def _draw_perspective(config: ViewConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw a homography that moves each corner inwards by its own share, as in torchvision's RandomPerspective."""
    S = config.size
    corners = np.array([[0, 0], [S, 0], [S, S], [0, S]], dtype=np.float64)
    inwards = np.sign(S / 2 - corners) * rng.uniform(0, config.perspective * S / 2, (4, 2))
    return from_corners(corners, corners + inwards)


def _draw_flow(config: ViewConfig, rng: np.random.Generator, waves: int = 4) -> Flow:
    """Draw a few long waves in random directions, scaled to the requested Lipschitz bound."""
    direction, turns = rng.uniform(0, 2 * math.pi, waves), rng.uniform(0.5, 2, waves)
    length = 2 * math.pi * turns / config.size
    frequency = np.stack([np.cos(direction) * length, np.sin(direction) * length], 1)
    flow = Flow(rng.normal(size=(waves, 2)), frequency, rng.uniform(0, 2 * math.pi, waves))
    return replace(flow, amplitude=flow.amplitude * config.elastic / flow.lipschitz)
