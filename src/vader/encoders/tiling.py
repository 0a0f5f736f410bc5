"""Images larger than the memory allows, tile by tile: the whole image's map, without its activations.

Tiles overlap, and what convolutions add at their edges (zeros, where the image goes on) reaches into them, most of it
not far: only the inner part of a tile counts, and between two inner parts the maps are blended.

That alone does not do. GroupNorm, which our decoder has in every branch, divides by statistics of the whole map, so a
tile's map differs from the image's everywhere (by 9 to 15 % of its norm on frames of DAVIS, trained weights). `gather`
takes them over all tiles first. The input of a norm that has others beneath it depends on their statistics, so each
pass over the tiles makes one more layer of norms exact: three passes our decoder. Statistics of the image reduced to
one tile's size would cost less, and were as wrong as a tile's own (11 %).

Other layers that look at a whole map (attention, squeeze and excitation) see each tile as an image of its own.

Axes: B images, C channels, D embedding, G groups, H W pixels, h w cells.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vader.encoders.dense import DenseEncoder
from vader.errors import BadInput
from vader.models.backbones import LEVEL_STRIDES

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


def tiled(
    encoder: DenseEncoder, images: Float[Tensor, "B 3 H W"], tile: int | None = None, overlap: int = OVERLAP
) -> Float[Tensor, "B D h w"]:
    """The encoder's L2-normalised maps, on the images' device, large images by tiles of `tile` px (None: chosen).

    Raises BadInput for a tile that its overlap leaves nothing of.
    """
    return by_tiles(encoder.embed, images, encoder.stride, tile, overlap)


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
    embed: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B 3 H W"],
    stride: int,
    tile: int | None = None,
    overlap: int = OVERLAP,
    passes: int = PASSES,
) -> Float[Tensor, "B D h w"]:
    """`embed` of the images, of a whole one or tile by tile, on the images' device, float32 and L2-normalised.

    `embed` gives normalised maps at `stride`. Memory: the map and one tile. Time: `passes` + 1 times the tiles', or
    once for networks without GroupNorm. Raises BadInput as `check_tile` does.
    """
    H, W = images.shape[2:]
    if (side := tile_for(H, W, tile)) is None:
        return embed(images).float().to(images.device)
    check_tile(side, overlap, stride)
    align = math.lcm(ALIGN, stride)
    rows, columns = spans(H, side, overlap, align), spans(W, side, overlap, align)
    ramp = max(stride, overlap // 4 // stride * stride)
    beside = min(overlap, BESIDE)
    norms = gather(embed, images, spans(H, side, beside, align), spans(W, side, beside, align), passes)
    total: Tensor | None = None
    for row, column in _pairs(rows, columns):
        with norms:
            part = embed(images[..., row.start : row.stop, column.start : column.stop]).float().to(images.device)
        if total is None:
            total = part.new_zeros(*part.shape[:2], -(-H // stride), -(-W // stride))
        down, across = (weights(span, n, stride, ramp).to(part) for span, n in ((row, H), (column, W)))
        top, left = row.start // stride, column.start // stride
        part *= down[:, None] * across
        total[..., top : top + part.shape[2], left : left + part.shape[3]] += part
    assert total is not None
    for line in total.unbind(2):  # row by row, for a second map would be as large as the first
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


class Moments:
    """Mean and variance of a norm's groups over parts of its map, as if over all at once (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = 0, torch.zeros(()).double(), torch.zeros(()).double()

    def add(self, part: Float[Tensor, "B C h w"], groups: int) -> None:
        """Take a part into account."""
        flat = part.float().reshape(len(part), groups, -1)  # (B, G, values)
        variance, mean = (x.double().cpu() for x in torch.var_mean(flat, 2, correction=0))
        new, old = flat.shape[2], self.count
        apart = mean - self.mean
        self.count += new
        self.mean = self.mean + apart * new / self.count
        self.spread = self.spread + variance * new + apart.square() * old * new / self.count

    def normalise(self, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """What GroupNorm makes of values (B, C, ...) by these moments."""
        scale = (self.spread / self.count + eps).rsqrt()  # (B, G)
        each = values.shape[1] // scale.shape[1]
        scale, mean = (x.repeat_interleave(each, 1).float().to(values.device) for x in (scale, self.mean))  # (B, C)
        shift = -mean * scale
        if weight is not None:
            scale, shift = scale * weight, shift * weight
        if bias is not None:
            shift = shift + bias
        shape = (*scale.shape, *[1] * (values.dim() - 2))
        return torch.addcmul(shift.view(shape), values.float(), scale.view(shape))


class Norms(TorchFunctionMode):
    """While it is entered, calls of group_norm take the moments `known`, in the order of the calls, or the map's own.

    With a `window` (top, bottom, left, right as shares of the map) it gathers the moments within, one pass over all
    tiles after which `known` are those.
    """

    def __init__(self, known: list[Moments] | None = None) -> None:
        super().__init__()
        self.known, self.gathered = known or [], list[Moments]()
        self.window: tuple[float, float, float, float] | None = None
        self.calls = 0

    def __enter__(self) -> "Norms":
        self.calls = 0
        super().__enter__()
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.group_norm:
            return func(*args, **(kwargs or {}))
        return self._norm(*args, **(kwargs or {}))

    def _norm(
        self, values: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        call, self.calls = self.calls, self.calls + 1
        if self.window is not None and values.dim() == 4:
            if call == len(self.gathered):
                self.gathered.append(Moments())
            h, w = values.shape[2:]
            top, bottom, left, right = (round(share * n) for share, n in zip(self.window, (h, h, w, w), strict=True))
            self.gathered[call].add(values[:, :, top:bottom, left:right], num_groups)
        if call < len(self.known) and values.dim() == 4:
            return self.known[call].normalise(values, weight, bias, eps)
        return F.group_norm(values, num_groups, weight, bias, eps)


def gather(
    embed: Callable[[Tensor], Tensor], images: Tensor, rows: list[Span], columns: list[Span], passes: int = PASSES
) -> Norms:
    """The norms' moments over the whole of the images, by `passes` passes over the tiles' cores."""
    norms = Norms()
    for _ in range(passes):
        for row, column in _pairs(rows, columns):
            norms.window = (*_shares(row), *_shares(column))
            with norms:
                embed(images[..., row.start : row.stop, column.start : column.stop])
            if not norms.calls:
                return Norms()  # there is nothing to gather
        norms = Norms(norms.gathered)
    return norms


def _shares(span: Span) -> tuple[float, float]:
    """The core's edges as shares of the tile; the last tile is padded, as the image would be, and that counts."""
    padded = -(-(span.stop - span.start) // ALIGN) * ALIGN
    return (span.low - span.start) / padded, (span.high - span.start) / padded if span.high < span.stop else 1.0


def _pairs(rows: list[Span], columns: list[Span]) -> Iterator[tuple[Span, Span]]:
    return ((row, column) for row in rows for column in columns)
