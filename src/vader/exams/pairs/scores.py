"""Compute each pair's shares of right matches, and those of chance and of a perfect encoder.

Axes: M matches of all pairs together, B pairs, N points of a pair, K thresholds, h w cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from vader.reports.metrics import pck


@dataclass(frozen=True)
class Matches:
    """All matches of an encoder. `pair` is the index of each match's pair; errors are divided by `scale` (pixels)."""

    pair: Int64[np.ndarray, "M"]
    points: Float[np.ndarray, "M 2"]
    truths: Float[np.ndarray, "M 2"]
    found: Float[np.ndarray, "M 2"]
    soft: Float[np.ndarray, "M 2"]
    mutual: Bool[np.ndarray, "M"]
    scale: Float[np.ndarray, "M"]

    def errors(self, soft: bool = False) -> Float[np.ndarray, "M"]:
        """Return the distances of the best cells' centres, or of the soft-argmax, from the truth."""
        return np.linalg.norm((self.soft if soft else self.found) - self.truths, axis=1) / self.scale


def by_pair(right: Bool[np.ndarray, "M"], pair: Int64[np.ndarray, "M"], pairs: int) -> Float[np.ndarray, "B"]:
    """Return each pair's share of right matches; nan for a pair without matches."""
    count = np.bincount(pair, minlength=pairs)
    good = np.bincount(pair, right, minlength=pairs)
    return np.divide(good, count, out=np.full(pairs, np.nan), where=count > 0)


def chance(
    truths: Float[np.ndarray, "N 2"], scale: float, height: int, width: int, thresholds: Sequence[float], stride: int
) -> Float[np.ndarray, "K"]:
    """Return the expected shares of a random cell of a picture of that size; nan without points."""
    if not len(truths):
        return np.full(len(thresholds), np.nan)
    last = np.array([-(-width // stride), -(-height // stride)]) - 1
    reach = int(np.ceil(max(thresholds) * scale / stride)) + 1
    step = np.arange(-reach, reach + 1)
    # Columns and rows around each truth within reach of a threshold; cells outside the map are beyond all thresholds.
    cells = np.floor(truths / stride)[:, :, None] + step  # (N, 2, steps)
    apart = (cells + 0.5) * stride - truths[:, :, None]
    apart = np.where((cells >= 0) & (cells <= last[:, None]), apart, np.inf)
    squares = apart[:, 0, :, None] ** 2 + apart[:, 1, None, :] ** 2
    hits = [np.count_nonzero(squares <= (threshold * scale) ** 2) for threshold in thresholds]
    return np.array(hits) / (len(truths) * (last + 1).prod())


def ceiling(
    truths: Float[np.ndarray, "N 2"], scale: float, height: int, width: int, thresholds: Sequence[float], stride: int
) -> Float[np.ndarray, "K"]:
    """Return the shares of the cell nearest to the truth: the best that is possible without refinement."""
    last = np.array([-(-width // stride), -(-height // stride)]) - 1
    nearest = (np.floor(truths / stride).clip(0, last) + 0.5) * stride
    return pck(np.linalg.norm(nearest - truths, axis=1) / scale, thresholds)
