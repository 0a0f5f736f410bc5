"""Compute the maps of large images tile by tile: the map of the whole image without its activations in memory.

Tiles overlap. At a tile's edges convolutions add zeros where the image continues. Most of this error stays near the
edge, so only the inner part of a tile counts, and the maps are blended between two inner parts.

This is not enough. Group norm, which our decoder has in every branch, divides by statistics of the whole map, so a
tile's map differs from the image's map everywhere (by 9 to 15 % of its norm on frames of DAVIS, trained weights).
`whole_statistics` first gathers them over all tiles: three passes for our decoder, one for each layer of norms. The
statistics of the image reduced to one tile's size would be cheaper, but have the same error as a tile's own (11 %).

Other layers that use a whole map (attention, squeeze and excitation) treat each tile as an image of its own.

Axes: B images, C channels, D embedding, H W pixels, h w cells.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.errors import BadInput
from vader.models.backbones import LEVEL_STRIDES
from vader.models.groupnorm import GroupNorm

TILE = 1536  # pixels; images with at most a tile's area are not tiled, such as 1920 x 1080
OVERLAP = 384  # pixels: with 256 px the error near the seams was 2 to 3 % (tf_efficientnet_lite0)
BESIDE = 256  # pixels: overlap of the tiles for the statistics, which are means over many cells
PASSES = 3  # over these tiles: our decoder has three norms in sequence
ALIGN = LEVEL_STRIDES[-1]  # tiles start at whole cells of the coarsest level, so that cells match the image's


class Span(NamedTuple):
    """A tile's pixels along one axis, and its core; the cores together are the image, without overlap."""

    start: int
    stop: int
    low: int
    high: int


def tile_for(height: int, width: int, tile: int | None = None) -> int | None:
    """Return the tile side for an image of H x W px: the given one, or the default; None for no tiles."""
    if tile is None:
        return TILE if height * width > TILE**2 else None
    return tile if max(height, width) > tile else None


def check_tile(tile: int | None, overlap: int = OVERLAP, stride: int = 4) -> None:
    """Check that a tile is larger than its overlap. Raises BadInput if not."""
    align = math.lcm(ALIGN, stride)
    least = overlap + 2 * align
    if overlap < 0 or (tile is not None and tile < least):
        raise BadInput(f"--tile: expected at least {least} px, because tiles overlap by {overlap} px, found {tile}")


def count_tiles(height: int, width: int, tile: int, overlap: int = OVERLAP, stride: int = 4) -> int:
    """Count the tiles of an image."""
    align = math.lcm(ALIGN, stride)
    return len(spans(height, tile, overlap, align)) * len(spans(width, tile, overlap, align))


def by_tiles(
    maps: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B 3 H W"],
    stride: int,
    tile: int | None = None,
    overlap: int = OVERLAP,
    passes: int = PASSES,
    norms: Sequence[GroupNorm] = (),
    normalised: bool = True,
) -> Float[Tensor, "B D h w"]:
    """Compute `maps` of the images, whole or tile by tile, on the images' device, float32.

    `maps` returns maps at `stride`. If `normalised`, they are L2-normalised, and blended maps are normalised again.
    `norms` are the group norms that it uses (`groupnorm.settable_norms`). Memory: the map and one tile. Time: one pass
    over the tiles, and `passes` more if there are norms. Raises BadInput as `check_tile` does.
    """
    H, W = images.shape[2:]
    if (side := tile_for(H, W, tile)) is None:
        return maps(images).float().to(images.device)
    check_tile(side, overlap, stride)
    if len(images) > 1:  # statistics belong to one image
        each = [by_tiles(maps, one, stride, side, overlap, passes, norms, normalised) for one in images.split(1)]
        return torch.cat(each)
    align = math.lcm(ALIGN, stride)
    ramp = max(stride, overlap // 4 // stride * stride)
    beside = min(overlap, BESIDE)
    total: Tensor | None = None

    def part_of(row: Span, column: Span) -> Tensor:
        return maps(images[..., row.start : row.stop, column.start : column.stop])

    gathered = list(product(spans(H, side, beside, align), spans(W, side, beside, align)))
    with whole_statistics(norms, part_of, gathered, passes):
        for row, column in product(spans(H, side, overlap, align), spans(W, side, overlap, align)):
            part = part_of(row, column).float().to(images.device)
            if total is None:
                total = part.new_zeros(*part.shape[:2], -(-H // stride), -(-W // stride))
            down, across = (weights(span, n, stride, ramp).to(part) for span, n in ((row, H), (column, W)))
            top, left = row.start // stride, column.start // stride
            part = part * (down[:, None] * across)
            total[..., top : top + part.shape[2], left : left + part.shape[3]] += part
    assert total is not None
    for line in total.unbind(2) if normalised else ():  # row by row, to avoid a second map in memory
        line.copy_(F.normalize(line, dim=1))
    return total


def spans(length: int, tile: int, overlap: int, align: int = ALIGN) -> list[Span]:
    """Return the smallest number of tiles over `length` px that overlap by at least `overlap` px, as small as possible.

    They start at multiples of `align`, at nearly equal distances.
    """
    tile = tile // align * align
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = tile - overlap - align  # alignment may move two tiles apart by up to `align`
    assert step > 0, "see check_tile"
    count = 1 + -(-(length - tile) // step)
    tile = -(-(length + (count - 1) * (overlap + align)) // (count * align)) * align
    starts = [-(-((length - tile) * i) // ((count - 1) * align)) * align for i in range(count)]
    stops = [min(start + tile, length) for start in starts]
    middles = [(stop + start) // 2 // align * align for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [Span(*one) for one in zip(starts, stops, [0, *middles], [*middles, length], strict=True)]


def weights(span: Span, length: int, stride: int, ramp: int) -> Float[Tensor, "cells"]:
    """Return the weights of a tile's cells: 1 in its core, falling over `ramp` px around each inner edge of the core.

    The weights of all tiles sum to 1 at every cell: one tile's weight falls as the next one's rises.
    """
    cells = torch.arange(span.start // stride, -(-span.stop // stride))
    centres = (cells + 0.5) * stride
    rise = torch.ones(len(cells)) if span.low == 0 else ((centres - span.low) / ramp + 0.5).clamp(0, 1)
    fall = torch.zeros(len(cells)) if span.high == length else ((centres - span.high) / ramp + 0.5).clamp(0, 1)
    return rise - fall


@contextmanager
def whole_statistics(
    norms: Sequence[GroupNorm],
    run: Callable[[Span, Span], object],
    tiles: Sequence[tuple[Span, Span]],
    passes: int = PASSES,
) -> Iterator[None]:
    """Set the norms to the whole image's statistics inside the block, from `passes` passes over the tiles' cores.

    `run(row, column)` computes a tile. A norm's input depends on the statistics of the norms before it, so each pass
    makes one more layer of norms exact.
    """
    try:
        for _ in range(passes if norms else 0):
            for row, column in tiles:
                for norm in norms:
                    norm.window = (*_shares(row), *_shares(column))
                run(row, column)
            for norm in norms:
                counted = norm.gathered if norm.gathered and norm.gathered.count else None
                norm.given, norm.gathered, norm.window = counted, None, None
        yield
    finally:
        for norm in norms:
            norm.given = norm.gathered = norm.window = None


def _shares(span: Span) -> tuple[float, float]:
    """Return the core's edges as shares of the tile; the last tile's padding counts, as it does for the image."""
    padded = -(-(span.stop - span.start) // ALIGN) * ALIGN
    return (span.low - span.start) / padded, (span.high - span.start) / padded if span.high < span.stop else 1.0
