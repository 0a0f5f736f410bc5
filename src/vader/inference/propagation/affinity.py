"""Compute the similarities between a frame's cells and those of earlier frames, and select the largest.

The cells of a map are queries in tiles. With a radius, the keys of a tile are a window around it in each context frame,
so that nothing outside is computed. Axes: F context frames, D embedding, h w cells of a map, N queries of a tile, M
keys, K neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vader.inference.propagation.protocols import PropagationProtocol

GROUP = 64  # similarities that are compared within a group first
AT_ONCE = 1 << 20  # similarities in memory at a time: 4 MiB fit in a CPU cache
AT_ONCE_GPU = 1 << 26  # 256 MiB


# --- The two steps ------------------------------------------------------------------------------------------------


def affinity(
    queries: Float[Tensor, "N D"],
    keys: Float[Tensor, "M D"],
    bias: Float[Tensor, "N M"] | None = None,
    out: Float[Tensor, "N M"] | None = None,
) -> Float[Tensor, "N M"]:
    """Return the products of all pairs plus `bias`, which is -inf for keys out of bounds; written to `out` if given."""
    if bias is None:
        return torch.mm(queries, keys.T, out=out)
    return torch.addmm(bias, queries, keys.T, out=out)


def top_k(similar: Float[Tensor, "N M"], k: int) -> tuple[Float[Tensor, "N K"], Int64[Tensor, "N K"]]:
    """Return each row's k largest values in descending order, and their indices; fewer if the row is shorter.

    The k largest values are in the k groups with the largest maxima. One vectorised pass finds these, in a tenth of the
    time of `topk` on all values.
    """
    rows, count = similar.shape
    if count % GROUP or count // GROUP <= k:
        values, which = similar.topk(min(k, count), dim=1)
        return values, which
    groups = similar.view(rows, GROUP, -1)  # a group consists of every (M / GROUP)-th value
    leading = groups.amax(1).topk(k, dim=1).indices
    members = groups.gather(2, leading.unsqueeze(1).expand(-1, GROUP, -1)).flatten(1)  # (N, GROUP k)
    values, place = members.topk(k, dim=1)
    return values, place.div(k, rounding_mode="floor") * groups.shape[2] + leading.gather(1, place % k)


# --- Tiles and windows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """The rows top <= y < bottom and the columns left <= x < right of a map."""

    top: int
    bottom: int
    left: int
    right: int

    def cells(self, width: int, device: torch.device) -> Int64[Tensor, "N"]:
        """Return the indices of the box's cells, row by row in a map of that width."""
        y = torch.arange(self.top, self.bottom, device=device)
        x = torch.arange(self.left, self.right, device=device)
        return (y[:, None] * width + x).flatten()

    def of(self, maps: Float[Tensor, "h w D"]) -> Float[Tensor, "N D"]:
        """Return the box's part of a map, as a view if possible."""
        return maps[self.top : self.bottom, self.left : self.right].reshape(-1, maps.shape[2])

    def grown(self, by: int, h: int, w: int) -> "Box":
        """Return the box extended by `by` cells on each side, within the map."""
        return Box(max(0, self.top - by), min(h, self.bottom + by), max(0, self.left - by), min(w, self.right + by))


def tiles(h: int, w: int, rows: int, columns: int) -> Iterator[Box]:
    """Divide the map into boxes of at most rows x columns."""
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            yield Box(top, min(h, top + rows), left, min(w, left + columns))


def tile_shape(w: int, chunk: int, bounded: bool) -> tuple[int, int]:
    """Return rows and columns of tiles of at most `chunk` cells. Square tiles have the smallest window around them."""
    if bounded:
        side = max(1, int(chunk**0.5))
        return side, side
    return max(1, chunk // w), min(w, chunk)


def bounds(
    tile: Box, window: Box, radius: float, protocol: PropagationProtocol, device: torch.device
) -> Float[Tensor, "N M"]:
    """Return 0 where a cell of the window is within `radius` cells of a cell of the tile, else -inf."""
    dy, dx = (
        (torch.arange(*a, device=device)[:, None] - torch.arange(*b, device=device)).float()
        for a, b in (
            ((tile.top, tile.bottom), (window.top, window.bottom)),
            ((tile.left, tile.right), (window.left, window.right)),
        )
    )
    dy, dx = dy[:, None, :, None], dx[None, :, None, :]  # (rows, columns, rows of the window, columns of the window)
    far = dy.square() + dx.square() if protocol.shape == "disk" else torch.maximum(dy.abs(), dx.abs())
    limit = radius**2 if protocol.shape == "disk" else radius
    near = far <= limit if protocol.rim else far < limit
    bias = torch.zeros(near.shape, device=device).masked_fill_(~near, -torch.inf)
    return bias.view(bias.shape[0] * bias.shape[1], -1)


# --- One tile against the context ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """The part of some context frames that a tile is compared with: their indices, a common window, its bounds."""

    frames: tuple[int, ...]
    window: Box
    bias: Float[Tensor, "N M"] | None


def views(
    tile: Box, h: int, w: int, free: Sequence[bool], radius: float | None, protocol: PropagationProtocol,
    device: torch.device,
) -> list[View]:  # fmt: skip
    """Use all of context frame f if `free[f]`, else the cells within `radius` cells."""
    whole, found = Box(0, h, 0, w), []
    bound = tuple(f for f, one in enumerate(free) if not one and radius is not None)
    loose = tuple(f for f in range(len(free)) if f not in bound)
    if bound:
        assert radius is not None
        window = tile.grown(int(radius), h, w)
        found.append(View(bound, window, bounds(tile, window, radius, protocol, device)))
    if loose:
        found.append(View(loose, whole, None))
    return found


def similarities(
    queries: Float[Tensor, "N D"], keys: Sequence[Float[Tensor, "h w D"]], view: View
) -> Iterator[tuple[tuple[int, ...], Float[Tensor, "N f M"]]]:
    """Yield the indices of a few context frames and the similarities to their windows; -inf pads the last group.

    Each yielded tensor is overwritten by the next step.
    """
    window = view.window
    count = (window.bottom - window.top) * (window.right - window.left)
    padded = -(-count // GROUP) * GROUP
    at_once = AT_ONCE if queries.device.type == "cpu" else AT_ONCE_GPU
    step = max(1, min(len(view.frames), at_once // (len(queries) * padded)))
    space = queries.new_empty(len(queries) * step * padded)
    for start in range(0, len(view.frames), step):
        frames = view.frames[start : start + step]
        similar = space[: len(queries) * len(frames) * padded].view(len(queries), len(frames), padded)
        similar[..., count:] = -torch.inf
        for place, frame in enumerate(frames):
            affinity(queries, window.of(keys[frame]), view.bias, out=similar[:, place, :count])
        yield frames, similar
