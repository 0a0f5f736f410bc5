"""Two views of an image whose warp is known: the pairs of `warp-pck`.

Axes: S a view's side, N points. Points are (x, y) in a view's pixels.
"""

import numpy as np
from jaxtyping import Float64, UInt8

from vader.exams.pairs.protocols import WarpProtocol
from vader.images.colour import paint
from vader.images.geometry import cell_centres
from vader.pretraining.views import Pair, ViewConfig, choose_matches, draw_pair, generator, render


def draw_warp(protocol: WarpProtocol, width: int, height: int, number: int) -> Pair:
    """Draw two views of image `number` that share enough cells for every point."""
    config = ViewConfig(size=protocol.size, min_shared=protocol.points)
    return draw_pair(config, width, height, protocol.grid, protocol.seed, 0, number)


def view_of(
    protocol: WarpProtocol, image: UInt8[np.ndarray, "H W 3"], pair: Pair, k: int, colour: bool
) -> UInt8[np.ndarray, "S S 3"]:
    """Render the pixels of view k (0 or 1), with or without the colour change."""
    pixels = render(image, pair.views[k], protocol.size)
    return paint(pixels, pair.views[k].colour) if colour else pixels


def warp_points(
    protocol: WarpProtocol, pair: Pair, number: int
) -> tuple[Float64[np.ndarray, "N 2"], Float64[np.ndarray, "N 2"]]:
    """Draw the pair's points in view 1 and return them with their positions in view 2."""
    config = ViewConfig(size=protocol.size)
    rng = generator(protocol.seed, 0, number, 2)
    cells, points = choose_matches(pair, config, protocol.grid, protocol.points, rng)
    n = protocol.size // protocol.grid
    return cell_centres(n, n, protocol.grid)[cells], points
