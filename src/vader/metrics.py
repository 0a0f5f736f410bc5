"""Scores of masks, depths and matches, written from their definitions.

Axes: H W pixels, N points, K classes or thresholds. Labels and masks are numpy arrays; a label map holds a class (or
`ignore`) in each pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, Integer, UInt8

from vader.errors import BadInput

VOID = 255  # the label of pixels that no score counts
DELTA = 1.25  # the ratio of depths within which `delta1` counts a pixel
TOLERANCE = 0.008  # of the boundary measure, as a share of the picture's diagonal

# --- Labels -------------------------------------------------------------------------------------------------------


def confusion(
    pred: Integer[np.ndarray, "*shape"], truth: Integer[np.ndarray, "*shape"], classes: int, ignore: int = VOID
) -> Int64[np.ndarray, "K K"]:
    """How many pixels of class i (row) were called j (column); matrices of several pictures add up.

    Pixels whose truth is `ignore` are left out. Raises BadInput for a truth that is neither a class nor `ignore`.
    """
    kept = truth != ignore
    wanted, given = truth[kept].astype(np.int64), pred[kept].astype(np.int64)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < classes):
        raise BadInput(
            f"labels: expected classes 0 to {classes - 1} or {ignore} for void, got values from {wanted.min()} to "
            f"{wanted.max()}; check the number of classes"
        )
    assert not given.size or (given.min() >= 0 and given.max() < classes), "a prediction is no class"
    return np.bincount(wanted * classes + given, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def miou(confusion: Int64[np.ndarray, "K K"], present_only: bool = True) -> tuple[float, Float[np.ndarray, "K"]]:
    """Mean intersection over union of the classes, and each class's: hits / (truths + predictions - hits).

    A class that is neither in the truth nor predicted has nan; the mean leaves it out, or with `present_only=False`
    counts it 0. The mean of nothing is nan.
    """
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    each = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    counted = each[union > 0] if present_only else np.nan_to_num(each)
    return (float(counted.mean()) if union.any() else float("nan")), each


def pixel_accuracy(confusion: Int64[np.ndarray, "K K"]) -> float:
    """The share of counted pixels whose class was found; nan if none was counted."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


# --- Depth --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepthErrors:
    """`rmse` in the depth's unit; `abs_rel` the mean of |error| / truth; `delta1` the share within a factor 1.25."""

    rmse: float
    abs_rel: float
    delta1: float


def depth_errors(
    pred: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*shape"], valid: Bool[np.ndarray, "*shape"]
) -> DepthErrors:
    """Errors over the valid pixels, whose truth is above 0; all nan if there are none.

    The prediction is taken as it is: whoever predicts clamps. One that is not above 0 is not within any factor.
    """
    p, t = pred[valid].astype(np.float64), truth[valid].astype(np.float64)
    if not t.size:
        return DepthErrors(float("nan"), float("nan"), float("nan"))
    assert (t > 0).all(), "a depth of 0 or less is no valid truth"
    error = np.abs(p - t)
    close = (p < DELTA * t) & (t < DELTA * p)
    return DepthErrors(float(np.sqrt((error**2).mean())), float((error / t).mean()), float(close.mean()))


# --- Masks (DAVIS 2017) -------------------------------------------------------------------------------------------


def jaccard(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> float:
    """J: intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels that differ from their right, lower or lower-right neighbour; beyond the edge the mask goes on."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def boundary_f(pred: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"], tolerance: float = TOLERANCE) -> float:
    """F: harmonic mean of the shares of each boundary that lie within ceil(tolerance * diagonal) px of the other.

    1 if neither mask has a boundary, 0 if one of them has none.
    """
    ours, theirs = boundary(pred), boundary(truth)
    if not (ours.any() and theirs.any()):
        return float(not ours.any() and not theirs.any())
    disk = _disk(int(np.ceil(tolerance * np.hypot(*pred.shape))))
    precision = np.count_nonzero(ours & _dilate(theirs, disk)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _dilate(ours, disk)) / np.count_nonzero(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _disk(radius: int) -> UInt8[np.ndarray, "side side"]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


def _dilate(mask: Bool[np.ndarray, "H W"], disk: UInt8[np.ndarray, "side side"]) -> Bool[np.ndarray, "H W"]:
    return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)


# --- Matches ------------------------------------------------------------------------------------------------------


def pck(errors: Float[np.ndarray, "N"], thresholds: Sequence[float]) -> Float[np.ndarray, "K"]:
    """The share of errors at or below each threshold (same unit); a nan is a miss, the share of nothing is nan.

    For thresholds that are shares of an object's size, divide the errors by that size.
    """
    if not len(errors):
        return np.full(len(thresholds), np.nan)
    return np.array([(errors <= threshold).mean() for threshold in thresholds], dtype=np.float64)
