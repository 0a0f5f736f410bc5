"""Compare two maps with the exact flow between their pictures: nearest neighbours of the first map's own cells.

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
from vader.images.finding import Refine, nearest_cells, parabola
from vader.images.geometry import cell_centres, read_cells
from vader.reports.metrics import pck

THRESHOLDS = (1, 2, 4, 8)  # pixels
QUERIES = 200
ANGLES = (0, 15, 30, 60, 180)  # bin edges in degrees, from Probe3D for ScanNet


@dataclass(frozen=True)
class MatchScore:
    """Scores of the matches of one pair.

    `errors` of the queries are in pixels. `shares`, `chance` and `ceiling` are shares of queries with an error at or
    below each threshold: of the prediction, of a random cell, and of the cell nearest to the truth (the best that is
    possible without refinement). `floor` is the largest error of the nearest cell, stride / sqrt 2. Without queries,
    shares are nan.
    """

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
    """Find up to `queries` cells of the first map in the second by the largest product of normalised embeddings.

    `points` are the positions of the first picture's pixels in the second, `visible` whether they are visible there.
    The prediction is the best cell's centre; `refine="parabola"` moves it by up to half a cell to the maximum of
    parabolas through the neighbours' similarities. `rng` (default: seed 0) draws the queries. Raises BadInput for
    points whose size does not fit the first map.
    """
    H, W = visible.shape
    if tuple(-(-side // stride) for side in (H, W)) != tuple(first_map.shape[1:]):
        raise BadInput(
            f"points: expected those of {tuple(first_map.shape[1:])} cells at stride {stride}, found {H}x{W} px"
        )
    cells, wanted = query_cells(points, visible, stride)
    rng = rng or np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(cells))[:queries])
    cells, wanted = cells[chosen], wanted[chosen]
    rows = read_cells(first_map[None], torch.from_numpy(cells)[None])[0]  # (N, D)
    _, h, w = second_map.shape
    similar, best = nearest_cells(rows.float(), second_map.float())  # (N, hw)
    centres = cell_centres(h, w, stride)
    found = centres[best.numpy()]
    if refine == "parabola":
        found = found + stride * parabola(similar.reshape(-1, h, w), best)
    errors = np.linalg.norm(found - wanted, axis=1)
    every = np.linalg.norm(centres[None] - wanted[:, None], axis=2)  # (N, hw), errors of all possible answers
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
    """Return the cells whose centres are visible in the second picture (row-major), and their positions there.

    At an even stride a centre is between four pixels, and its position is the mean of theirs. A cell is left out if one
    of the four is not visible, or if their positions are more than a stride apart, because then they are on different
    surfaces.
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
    """Return the pixels on both sides of each cell's centre along one axis (the same pixel twice if the centres are
    equal). Cells whose centre is outside the picture are left out."""
    centre = (np.arange(-(-side // stride)) + 0.5) * stride - 0.5
    pair = np.stack([np.floor(centre), np.ceil(centre)], 1).astype(np.int64)
    return pair[pair[:, 1] < side]


# --- By angle -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AngleBin:
    """The mean over the `pairs` of pictures whose cameras' axes are `low` to `high` degrees apart (`high` is included
    only in the last bin). Pairs without queries do not count."""

    low: float
    high: float
    pairs: int
    shares: Float[np.ndarray, "K"]
    chance: Float[np.ndarray, "K"]
    ceiling: Float[np.ndarray, "K"]


def by_angle(angles: Sequence[float], scores: Sequence[MatchScore], edges: Sequence[float] = ANGLES) -> list[AngleBin]:
    """Group the pairs' scores by their cameras' angle. A bin without pairs has nan; angles outside the edges do not
    count. Raises BadInput unless there is an angle for each score."""
    if len(angles) != len(scores):
        raise BadInput(f"angles: expected one for each of {len(scores)} scores, found {len(angles)}")
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
