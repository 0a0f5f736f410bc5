"""Find the points of one picture in another, from their two maps alone, in three ways.

These are the nearest cell, the nearest cell with a mutual check, and a place between cells (parabola, soft-argmax).
Axes: D embedding, h w cells of the first map, v u of the second, N points, n of them at a time, K cells of a window.
Points are (x, y) in pixels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vader.images.geometry import cell_centres, read_at

Refine = Literal["cell", "parabola"]
CHUNK = 1024  # points at a time: their similarities to 25,000 cells need 100 MB


@dataclass(frozen=True)
class Found:
    """`cells` are the most similar cells of the second map (row-major), `points` their centres; `parabola` and `soft`
    are refined between cells; `mutual` marks points for which the search back ends in the cell where it started."""

    cells: Int64[np.ndarray, "N"]
    points: Float[np.ndarray, "N 2"]
    parabola: Float[np.ndarray, "N 2"]
    soft: Float[np.ndarray, "N 2"]
    mutual: Bool[np.ndarray, "N"]


def find(
    first_map: Float[Tensor, "D h w"],
    second_map: Float[Tensor, "D v u"],
    points: Float[np.ndarray, "N 2"],
    stride: int,
    temperature: float,
    window: int,
) -> Found:
    """Find points of the first picture in the second by the product of embeddings.

    The first map is read bilinearly at the points and normalised again, so that the points can be the same for encoders
    of all strides. The answers are cells of the second map, normalised by the encoder. `temperature` and `window`
    (cells on each side of the best) belong to the soft-argmax.
    """
    _, v, u = second_map.shape
    first, second = first_map.float(), second_map.float()
    centres, back = cell_centres(v, u, stride), first.flatten(1)
    keys = second.flatten(1)  # (D, vu)
    home = cells_at(points, first.shape[1], first.shape[2], stride)
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(points), CHUNK):
        some = torch.tensor(points[start : start + CHUNK], dtype=torch.float32)
        queries = F.normalize(read_at(first[None], some[None], stride)[0], dim=1)  # (n, D)
        similar, best = nearest_cells(queries, second)
        returned = (keys[:, best].T @ back).argmax(1).numpy()
        similar, at = similar.reshape(-1, v, u), centres[best.numpy()]
        parts.append(
            (
                best.numpy(),
                at,
                at + stride * parabola(similar, best),
                at + stride * soft_argmax(similar, best, temperature, window),
                returned == home[start : start + CHUNK],
            )
        )
    if not parts:
        none = np.zeros((0, 2))
        return Found(np.zeros(0, np.int64), none, none, none, np.zeros(0, bool))
    return Found(*(np.concatenate(some) for some in zip(*parts, strict=True)))


def nearest_cells(
    queries: Float[Tensor, "n D"], second_map: Float[Tensor, "D v u"]
) -> tuple[Float[Tensor, "n _"], Int64[Tensor, "n"]]:
    """Compute the similarities of queries to all cells of a map, and the most similar cell of each (row-major)."""
    similar = queries @ second_map.flatten(1)
    return similar, similar.argmax(1)


def cells_at(points: Float[np.ndarray, "N 2"], h: int, w: int, stride: int) -> Int64[np.ndarray, "N"]:
    """Return the cells (row-major) that contain the points; the outermost cells for points outside the map."""
    column, row = np.floor(points / stride).astype(np.int64).T
    return row.clip(0, h - 1) * w + column.clip(0, w - 1)


def soft_argmax(
    similar: Float[Tensor, "n v u"], best: Int64[Tensor, "n"], temperature: float, window: int
) -> Float[np.ndarray, "n 2"]:
    """Return the offset (x, y) in cells from the best cell to the mean of the cells around it, weighted by the softmax
    of similarity / temperature over the window's cells inside the map."""
    _, v, u = similar.shape
    row, column = best // u, best % u
    step = torch.arange(-window, window + 1)
    dy, dx = (some.reshape(-1) for some in torch.meshgrid(step, step, indexing="ij"))  # (K,)
    y, x = row[:, None] + dy, column[:, None] + dx  # (n, K)
    there = (y >= 0) & (y < v) & (x >= 0) & (x < u)
    flat = y.clamp(0, v - 1) * u + x.clamp(0, u - 1)
    around = similar.flatten(1).gather(1, flat).masked_fill(~there, -torch.inf)
    weights = (around / temperature).softmax(1)
    return torch.stack([weights @ dx.float(), weights @ dy.float()], 1).double().numpy()


def parabola(similar: Float[Tensor, "n v u"], best: Int64[Tensor, "n"]) -> Float[np.ndarray, "n 2"]:
    """Return the offset (x, y) in cells to the top of the parabola through a cell and its neighbours; 0 at edges."""
    _, v, u = similar.shape
    n, row, column = torch.arange(len(best)), best // u, best % u
    moves = []
    for along, length, dy, dx in ((column, u, 0, 1), (row, v, 1, 0)):
        inner = (along > 0) & (along < length - 1)
        here = similar[n, row, column]
        before = similar[n, (row - dy).clamp_min(0), (column - dx).clamp_min(0)]
        after = similar[n, (row + dy).clamp_max(v - 1), (column + dx).clamp_max(u - 1)]
        bend = 2 * here - before - after  # not negative, because `here` is the largest
        move = torch.where(inner & (bend > 0), (after - before) / (2 * bend.clamp_min(1e-12)), 0.0)
        moves.append(move.clamp(-0.5, 0.5))
    return torch.stack(moves, 1).double().numpy()
