"""Metrics of masks, depths and matches, implemented from their definitions.

Axes: H W pixels, N points, K classes or thresholds, T frames. Labels and masks are numpy arrays; a label map holds a
class (or `ignore`) in each pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, Integer

from vader.errors import BadInput

VOID = 255  # the label of pixels that are not scored
DELTA = 1.25  # maximum ratio of depths for which `delta1` counts a pixel
TOLERANCE = 0.008  # of the boundary measure, as a share of the picture's diagonal
RECALLED = 0.5  # a frame is recalled if its J or F is above this
QUARTERS = 4  # bins of a clip; the decay compares the first and the last

# --- Labels -------------------------------------------------------------------------------------------------------


def confusion(
    pred: Integer[np.ndarray, "*shape"], truth: Integer[np.ndarray, "*shape"], classes: int, ignore: int = VOID
) -> Int64[np.ndarray, "K K"]:
    """Count the pixels of class i (row) predicted as class j (column); matrices of several pictures add up.

    Pixels whose truth is `ignore` are left out. Raises BadInput for a truth that is neither a class nor `ignore`.
    """
    kept = truth != ignore
    wanted, given = truth[kept].astype(np.int64), pred[kept].astype(np.int64)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < classes):
        raise BadInput(
            f"labels: expected classes 0 to {classes - 1} or {ignore} for void, found values from {wanted.min()} to "
            f"{wanted.max()}; check the number of classes"
        )
    assert not given.size or (given.min() >= 0 and given.max() < classes), "a prediction is not a class"
    return np.bincount(wanted * classes + given, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def miou(confusion: Int64[np.ndarray, "K K"], present_only: bool = True) -> tuple[float, Float[np.ndarray, "K"]]:
    """Compute the mean intersection over union and that of each class: hits / (truths + predictions - hits).

    A class that is neither in the truth nor predicted has nan; the mean leaves it out, or counts it as 0 with
    `present_only=False`. The mean over no classes is nan.
    """
    each = class_iou(np.diag(confusion), confusion.sum(1), confusion.sum(0))
    occurs = ~np.isnan(each)
    counted = each[occurs] if present_only else np.nan_to_num(each)
    return (float(counted.mean()) if occurs.any() else float("nan")), each


def class_iou(hits: np.ndarray, truths: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Compute each class's intersection over union from counts of pixels; nan where neither truth nor prediction is."""
    hits, truths, predicted = (counts.astype(np.float64) for counts in (hits, truths, predicted))
    union = truths + predicted - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def hungarian_miou(
    confusion: Int64[np.ndarray, "K K"],
) -> tuple[float, Float[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """Compute mean IoU, each class's IoU and its predicted label, with the best one-to-one matching of labels.

    The mean is over the classes that occur in the truth, and the largest of all matchings. A label matched to a class
    that does not occur only loses its pixels for the other classes. Such classes have nan. The mean is therefore at
    least `miou` of the matrix itself.
    """
    from scipy.optimize import linear_sum_assignment  # the import takes longer than computing all scores

    truths, calls = confusion.sum(1), confusion.sum(0)
    union = truths[:, None] + calls - confusion
    each = np.divide(confusion, union, out=np.zeros(confusion.shape), where=union > 0)
    _, labels = linear_sum_assignment(each, maximize=True)
    best = np.where(truths > 0, each[np.arange(len(each)), labels], np.nan)
    return (float(np.nanmean(best)) if truths.any() else float("nan")), best, labels.astype(np.int64)


def pixel_accuracy(confusion: Int64[np.ndarray, "K K"]) -> float:
    """Return the share of counted pixels with the right class; nan if no pixel is counted."""
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
    """Compute errors over the valid pixels, whose truth is above 0; all nan if there are none.

    The prediction is not clamped here. A predicted depth of 0 or below is not within any factor.
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
    """Compute J: intersection over union of two masks; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that differ from their right, lower or lower-right neighbour; the edge of the mask repeats."""
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def boundary_f(pred: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"], tolerance: float = TOLERANCE) -> float:
    """Compute F: the harmonic mean of the shares of each boundary within ceil(tolerance * diagonal) px of the other.

    1 if neither mask has a boundary, 0 if only one has.
    """
    radius = int(np.ceil(tolerance * np.hypot(*pred.shape)))
    window = _window(pred, truth)
    ours, theirs = boundary(pred[window]), boundary(truth[window])
    lengths = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not all(lengths):
        return float(not any(lengths))
    pitch = ours.shape[1] + radius
    a, b = _packed(ours, pitch), _packed(theirs, pitch)
    precision = (a & _dilated(b, radius, pitch)).bit_count() / lengths[0]
    recall = (b & _dilated(a, radius, pitch)).bit_count() / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _window(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> tuple[slice, slice]:
    """Return the rectangle around both masks with a margin of one pixel if possible; it contains all boundaries."""
    x, y, width, height = cv2.boundingRect((a | b).view(np.uint8))
    return slice(max(0, y - 1), y + height + 1), slice(max(0, x - 1), x + width + 1)


def _packed(mask: Bool[np.ndarray, "h w"], pitch: int) -> int:
    """Pack the mask into one long integer: pixel (column j, row i) is bit i * pitch + j; bits between rows are 0."""
    rows = np.zeros((mask.shape[0], pitch), dtype=bool)
    rows[:, : mask.shape[1]] = mask
    return int.from_bytes(np.packbits(rows, bitorder="little").tobytes(), "little")


def _dilated(mask: int, radius: int, pitch: int) -> int:
    """Dilate a packed mask by the disk of all offsets up to `radius`; `pitch` leaves as many bits between rows.

    The bits between rows are undefined in the result.
    """
    # A shift moves thirty pixels at a time; the same dilation with bytes takes two to three times as long.
    wider = [mask]  # by 0, 1, 2 ... pixels to the left and right
    for dx in range(1, radius + 1):
        wider.append(wider[-1] | mask << dx | mask >> dx)
    result = wider[radius]
    for dy in range(1, radius + 1):
        row = wider[math.isqrt(radius**2 - dy**2)]
        result |= row << dy * pitch | row >> dy * pitch
    return result


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of one object's J or F over the frames of a clip: the mean, the share of frames above 0.5, and the
    decrease from the first to the last quarter of the clip."""

    mean: float
    recall: float
    decay: float


def mask_statistics(values: Float[np.ndarray, "T"]) -> MaskStatistics:
    """Compute the three DAVIS 2017 numbers of a score over frames; all nan without frames.

    The quarters end at round(linspace(1, T, 5)), halves rounded up, and include both ends, so neighbouring quarters
    share a frame. The public evaluation package stores these ends in 8 bits, so above 256 frames its decay uses other
    frames or is nan; this function does not have that limit.
    """
    if not len(values):
        return MaskStatistics(float("nan"), float("nan"), float("nan"))
    ends = np.floor(np.linspace(1, len(values), QUARTERS + 1) + 0.5 + 1e-10).astype(np.int64) - 1
    first, last = values[: ends[1] + 1], values[ends[-2] :]
    return MaskStatistics(float(values.mean()), float((values > RECALLED).mean()), float(first.mean() - last.mean()))


# --- Matches ------------------------------------------------------------------------------------------------------


def pck(errors: Float[np.ndarray, "N"], thresholds: Sequence[float]) -> Float[np.ndarray, "K"]:
    """Return the share of errors at or below each threshold (same unit); a nan is a miss, the share of nothing is nan.

    For thresholds as shares of an object's size, divide the errors by that size.
    """
    if not len(errors):
        return np.full(len(thresholds), np.nan)
    return np.array([(errors <= threshold).mean() for threshold in thresholds], dtype=np.float64)
