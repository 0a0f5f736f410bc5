"""Images larger than the memory allows, tile by tile: the whole image's map, without its activations.

Tiles overlap. What convolutions add at a tile's edges (zeros, where the image goes on) reaches into it, but most of it
not far: only the inner part of a tile counts, and between two inner parts the maps are blended.

That alone is not enough. Group norm, which our decoder has in every branch, divides by statistics of the whole map, so
a tile's map differs from the image's everywhere (by 9 to 15 % of its norm on frames of DAVIS, trained weights).
`whole_statistics` gathers them over all tiles first: three passes for our decoder, one for each layer of norms. The
statistics of the image reduced to one tile's size would cost less, and were as wrong as a tile's own (11 %).

Other layers that look at a whole map (attention, squeeze and excitation) see each tile as an image of its own.

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

TILE = 1536  # pixels; images of no more than a tile's go whole, as 1920 x 1080 does
OVERLAP = 384  # pixels: with 256 lines near the seams were wrong by 2 to 3 %, of tf_efficientnet_lite0
BESIDE = 256  # pixels: overlap of the tiles that moments are gathered from, which are means over many cells
PASSES = 3  # over these, for so many norms our decoder has above each other
ALIGN = LEVEL_STRIDES[-1]  # tiles begin at whole cells of the coarsest level, so that these lie as the image's do


class Span(NamedTuple):
    """A tile's pixels along one axis, and its core: cores lie side by side and together are the image."""

    start: int
    stop: int
    low: int
    high: int


def tile_for(height: int, width: int, tile: int | None = None) -> int | None:
    """The side of the tiles that an image of H x W px goes by: as asked, or chosen; None if it goes whole."""
    if tile is None:
        return TILE if height * width > TILE**2 else None
    return tile if max(height, width) > tile else None


def check_tile(tile: int | None, overlap: int = OVERLAP, stride: int = 4) -> None:
    """Raises BadInput for tiles of which their overlap leaves nothing."""
    align = math.lcm(ALIGN, stride)
    least = overlap + 2 * align
    if overlap < 0 or (tile is not None and tile < least):
        raise BadInput(f"--tile: expected at least {least} px, for tiles overlap by {overlap} px, got {tile}")


def count_tiles(height: int, width: int, tile: int, overlap: int = OVERLAP, stride: int = 4) -> int:
    """How many tiles an image has."""
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
    """`maps` of the images, of a whole one or tile by tile, on the images' device, float32.

    `maps` gives maps at `stride`, L2-normalised ones if `normalised` says so: blends of them are normalised again.
    `norms` are the group norms that it uses (`groupnorm.settable_norms`). Memory: the map and one tile. Time: one pass
    over the tiles, and `passes` more if there are norms. Raises BadInput as `check_tile` does.
    """
    H, W = images.shape[2:]
    if (side := tile_for(H, W, tile)) is None:
        return maps(images).float().to(images.device)
    check_tile(side, overlap, stride)
    if len(images) > 1:  # statistics are an image's own
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
    for line in total.unbind(2) if normalised else ():  # row by row: a second map would be as large as the first
        line.copy_(F.normalize(line, dim=1))
    return total


def spans(length: int, tile: int, overlap: int, align: int = ALIGN) -> list[Span]:
    """As few tiles over `length` px as overlap by `overlap` px at least, and no larger than it takes.

    They begin at multiples of `align`, at nearly equal steps.
    """
    tile = tile // align * align
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = tile - overlap - align  # placing at multiples of `align` may move two tiles apart by as much
    assert step > 0, "see check_tile"
    count = 1 + -(-(length - tile) // step)
    tile = -(-(length + (count - 1) * (overlap + align)) // (count * align)) * align
    starts = [-(-((length - tile) * i) // ((count - 1) * align)) * align for i in range(count)]
    stops = [min(start + tile, length) for start in starts]
    middles = [(stop + start) // 2 // align * align for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [Span(*one) for one in zip(starts, stops, [0, *middles], [*middles, length], strict=True)]


def weights(span: Span, length: int, stride: int, ramp: int) -> Float[Tensor, "cells"]:
    """How much each of a tile's cells counts: 1 in its core, falling over `ramp` px about each inner edge of it.

    Those of all tiles sum to 1 at every cell, for what one falls the next one rises.
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
    """Within it, the norms have the statistics of the whole image, gathered by `passes` passes over its tiles' cores.

    `run(row, column)` computes a tile. The input of a norm that has others beneath it depends on their statistics, so
    each pass makes one more layer of norms exact.
    """
    try:
        for _ in range(passes if norms else 0):
            for row, column in tiles:
                for norm in norms:
                    norm.window = (*_shares(row), *_shares(column))
                run(row, column)
            for norm in norms:
                norm.given, norm.gathered, norm.window = norm.gathered, None, None
        yield
    finally:
        for norm in norms:
            norm.given = norm.gathered = norm.window = None


def _shares(span: Span) -> tuple[float, float]:
    """The core's edges as shares of the tile; the last tile is padded, as the image would be, and that counts."""
    padded = -(-(span.stop - span.start) // ALIGN) * ALIGN
    return (span.low - span.start) / padded, (span.high - span.start) / padded if span.high < span.stop else 1.0
