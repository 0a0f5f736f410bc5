"""Two maps against the exact flow between their pictures: nearest neighbours of the first map's own cells.

Axes: D embedding, H W pixels, h w cells, N queries, K thresholds. Points are (x, y) in pixels, centres at + 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vader.errors import BadInput
from vader.images.finding import Refine, parabola
from vader.images.geometry import cell_centres, read_cells
from vader.reports.metrics import pck

THRESHOLDS = (1, 2, 4, 8)  # pixels
QUERIES = 200
ANGLES = (0, 15, 30, 60, 180)  # edges of bins, degrees: Probe3D's for ScanNet


@dataclass(frozen=True)
class MatchScore:
    """`errors` of the queries in pixels, and the shares of queries at or below each threshold: `shares` as found,
    `chance` of a cell at random, `ceiling` of the cell nearest to the truth (what a perfect encoder reaches without
    refinement). `floor` is the largest error of the nearest cell, stride / sqrt 2. Without queries, shares are nan."""

    thresholds: tuple[float, ...]
    shares: Float[np.ndarray, "K"]
    chance: Float[np.ndarray, "K"]
    ceiling: Float[np.ndarray, "K"]
    floor: float
    errors: Float[np.ndarray, "N"]


def match_scores(
    first_map: Float[Tensor, "D h w"],
    second_map: Float[Tensor, "D h2 w2"],
    points: Float[np.ndarray, "H W 2"],
    visible: Bool[np.ndarray, "H W"],
    stride: int,
    thresholds: Sequence[float] = THRESHOLDS,
    queries: int = QUERIES,
    rng: np.random.Generator | None = None,
    refine: Refine = "cell",
) -> MatchScore:
    """Find up to `queries` cells of the first map in the second, by the largest product of normalised embeddings.

    `points` are where the first picture's pixels lie in the second one, `visible` whether they are seen there. The
    prediction is the best cell's centre; `refine="parabola"` moves it by up to half a cell to the top of parabolas
    through the neighbours' similarities. `rng` (by default of seed 0) chooses the queries. Raises BadInput for points
    whose size does not fit the first map.
    """
    H, W = visible.shape
    if tuple(-(-side // stride) for side in (H, W)) != tuple(first_map.shape[1:]):
        raise BadInput(
            f"points: expected those of a picture of {tuple(first_map.shape[1:])} cells at stride {stride}, got {H}x{W}"
        )
    cells, wanted = query_cells(points, visible, stride)
    rng = rng or np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(cells))[:queries])
    cells, wanted = cells[chosen], wanted[chosen]
    rows = read_cells(first_map[None], torch.from_numpy(cells)[None])[0]  # (N, D)
    _, h, w = second_map.shape
    similar = rows.float() @ second_map.flatten(1).float()  # (N, hw)
    best = similar.argmax(1)
    centres = cell_centres(h, w, stride)
    found = centres[best.numpy()]
    if refine == "parabola":
        found = found + stride * parabola(similar.reshape(-1, h, w), best)
    errors = np.linalg.norm(found - wanted, axis=1)
    every = np.linalg.norm(centres[None] - wanted[:, None], axis=2)  # (N, hw), of every answer there is
    return MatchScore(
        thresholds=tuple(float(t) for t in thresholds),
        shares=pck(errors, thresholds),
        chance=pck(every.reshape(-1), thresholds),
        ceiling=pck(every.min(1), thresholds),
        floor=stride / math.sqrt(2),
        errors=errors,
    )


def query_cells(
    points: Float[np.ndarray, "H W 2"], visible: Bool[np.ndarray, "H W"], stride: int
) -> tuple[Int64[np.ndarray, "N"], Float[np.ndarray, "N 2"]]:
    """The cells whose centres the second picture shows (row-major), and where.

    At an even stride a centre lies between four pixels, and its point is their points' mean. A cell is left out if one
    of the four is not visible, or if they land more than a stride apart: then they are not of one surface.
    """
    H, W = visible.shape
    w = -(-W // stride)
    rows, columns = (_beside(side, stride) for side in (H, W))  # (h, 2), (w, 2)
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    corners = points[y, x].reshape(len(rows), len(columns), 4, 2)
    seen = visible[y, x].all((2, 3))
    spread = np.where(seen, np.ptp(np.where(seen[..., None, None], corners, 0), 2).max(2), np.inf)
    row, column = np.nonzero(seen & (spread <= stride))
    return row * w + column, corners[row, column].mean(1).astype(np.float64)


def _beside(side: int, stride: int) -> Int64[np.ndarray, "cells 2"]:
    """The pixels on both sides of each cell's centre along one axis (the same twice if a pixel's centre is the cell's);
    cells whose centre lies beyond the picture are left out."""
    centre = (np.arange(-(-side // stride)) + 0.5) * stride - 0.5
    pair = np.stack([np.floor(centre), np.ceil(centre)], 1).astype(np.int64)
    return pair[pair[:, 1] < side]


# --- By angle -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AngleBin:
    """The mean over the `pairs` of pictures whose cameras' axes are `low` to `high` degrees apart (low included, high
    only in the last bin); pairs without queries are not among them."""

    low: float
    high: float
    pairs: int
    shares: Float[np.ndarray, "K"]
    chance: Float[np.ndarray, "K"]
    ceiling: Float[np.ndarray, "K"]


def by_angle(angles: Sequence[float], scores: Sequence[MatchScore], edges: Sequence[float] = ANGLES) -> list[AngleBin]:
    """The pairs' scores, grouped by their cameras' angle. A bin without pairs has nan; angles beyond the edges count
    nowhere. Raises BadInput unless there is an angle for each score."""
    if len(angles) != len(scores):
        raise BadInput(f"angles: expected one for each of {len(scores)} scores, got {len(angles)}")
    bins = []
    for low, high in pairwise(edges):
        last = high == edges[-1]
        members = [
            score
            for angle, score in zip(angles, scores, strict=True)
            if low <= angle and (angle < high or (last and angle == high)) and len(score.errors)
        ]
        shares, chance, ceiling = (
            np.mean([getattr(score, what) for score in members], 0) if members else np.full(_width(scores), np.nan)
            for what in ("shares", "chance", "ceiling")
        )
        bins.append(AngleBin(float(low), float(high), len(members), shares, chance, ceiling))
    return bins


def _width(scores: Sequence[MatchScore]) -> int:
    return len(scores[0].thresholds) if scores else 0
