"""The numbers of an encoder, and the intervals of differences between two encoders.

Axes: T trials, B pictures, K classes, R draws of the bootstrap, M measures of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int64

from vader.reports.metrics import class_iou
from vader.reports.tables import Cell, Column, Row, Table

DRAWS = 1000
INTERVAL = (2.5, 97.5)  # percentiles
FEWEST = 5  # pictures that an interval needs: with one it has no width, with a few it is far too narrow
TOLD = 0.01  # share of pixels with an unusable (not unknown) depth above which a table's note reports them
VIDEOS = ("camvid", "rgbd")  # kinds of sets that are, or may be, frames of a video


@dataclass(frozen=True)
class Measure:
    """A column of the table; `scale` converts shares to per cent."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    scale: float = 1.0

    @property
    def column(self) -> Column:
        """The column of a table."""
        return Column(name=self.name, unit=self.unit, better=self.better, digits=self.digits)


@dataclass(frozen=True)
class Result:
    """One encoder's numbers. `values` has each measure's value of every trial; the first measure is the headline.

    `pictures` has each trial's numbers of each picture: counts (T, B, 3, K) for segmentation, or RMSE (T, B) for
    depth. `pixels` counts the val split's depth pixels: valid ones, and others by the reason why they are not valid.
    """

    name: str
    values: dict[Measure, list[float]]
    pictures: np.ndarray
    facts: dict[str, Any]
    seconds: dict[str, float]
    skipped: int = 0
    classes: Float[np.ndarray, "T K"] | None = None  # IoU of each class
    confusion: Int64[np.ndarray, "K K"] | None = None  # of the first trial
    paired: bool = True  # whether the headline is a function of `pictures`
    pixels: dict[str, int] = field(default_factory=dict)


def mean_iou(counts: np.ndarray, scored: Sequence[int] = ()) -> np.ndarray:
    """Compute from (..., 3, K) hits, truths and predictions the (...) mean IoU over the classes of `scored` (none: all)
    that occur in truth or prediction; nan if none does."""
    each = class_iou(*(counts[..., i, :] for i in range(3)))
    if len(scored):
        each = each[..., list(scored)]
    occurring = (~np.isnan(each)).sum(-1)
    return np.divide(np.nan_to_num(each).sum(-1), occurring, out=np.full(occurring.shape, np.nan), where=occurring > 0)


def resampled(pictures: np.ndarray, scored: Sequence[int] = (), seed: int = 0) -> Float[np.ndarray, "R"]:
    """Return the headline of `DRAWS` bootstrap samples of the pictures, each the mean over the trials.

    The same seed draws the same pictures, so differences between encoders are paired. All are nan if fewer than
    `FEWEST` pictures have anything to score.
    """
    B = pictures.shape[1]
    if (np.isfinite(pictures[0]) if pictures.ndim == 2 else pictures[0, :, 1].sum(-1) > 0).sum() < FEWEST:
        return np.full(DRAWS, np.nan)
    weights = np.random.default_rng(seed).multinomial(B, np.full(B, 1 / B), size=DRAWS).astype(np.float64)  # (R, B)
    if pictures.ndim == 2:  # one number for each picture, nan if there is nothing to score
        known = np.isfinite(pictures[0])
        weights = weights[:, known]
        total = weights.sum(1)
        means = np.divide(weights @ pictures[:, known].T, total[:, None], where=total[:, None] > 0,
                          out=np.full((DRAWS, len(pictures)), np.nan))  # fmt: skip
        return means.mean(1)
    found = [weights @ trial.reshape(B, -1).astype(np.float64) for trial in pictures]
    return np.mean([mean_iou(one.reshape(DRAWS, *pictures.shape[2:]), scored) for one in found], axis=0)


@dataclass(frozen=True)
class Difference:
    """First minus second encoder: the difference of their means over trials, and the interval of 95 % of the draws."""

    first: str
    second: str
    value: float
    low: float
    high: float


def differences(
    names: Sequence[str], means: Sequence[float], draws: Sequence[Float[np.ndarray, "R"]], scale: float = 1.0
) -> list[Difference]:
    """Compute the difference of every pair, earlier minus later; the interval is nan if no draw has a value."""
    found = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            apart = draws[i] - draws[j]
            known = apart[np.isfinite(apart)]
            low, high = np.percentile(known, INTERVAL) * scale if len(known) else (np.nan, np.nan)
            found.append(Difference(names[i], names[j], scale * (means[i] - means[j]), float(low), float(high)))
    return found


def result_table(title: str, results: Sequence[Result], note: str = "") -> Table:
    """Make a row for each encoder and a column for each measure; the note also reports depths that are left out."""
    measures = list(results[0].values)
    rows = tuple(
        Row(name=one.name, cells=tuple(Cell.of([m.scale * v for v in one.values[m]]) for m in measures))
        for one in results
    )
    note = " ".join(part for part in (note, _left_out(results[0].pixels)) if part)
    return Table(title=title, subject="encoder", columns=tuple(m.column for m in measures), rows=rows, note=note)


def _left_out(pixels: dict[str, int]) -> str:
    """Return a sentence on pixels whose depth was measured but is not scored, if they are many."""
    total = sum(pixels.values())
    shares = {name: count / total for name, count in pixels.items() if name not in ("valid", "unknown") and count}
    told = [f"{100 * share:.1f} % are {name}" for name, share in shares.items() if share > TOLD]
    return f"Some pixels of the val split are not scored: {' and '.join(told)}." if told else ""


def difference_table(measure: Column, found: Sequence[Difference], pictures: int, kind: str = "") -> Table:
    """Make a row for each pair of encoders; `kind` is the name of the data set."""
    columns = tuple(
        Column(name=name, unit=measure.unit, digits=measure.digits + 1) for name in ("difference", "from", "to")
    )
    rows = tuple(
        Row(name=f"{one.first} − {one.second}", cells=tuple(Cell(mean=v) for v in (one.value, one.low, one.high)))
        for one in found
    )
    note = (
        f"Differences of the mean {measure.name} over trials. 95 % of {DRAWS} bootstrap draws of the {pictures} "
        "pictures, the same for both encoders, are between the two numbers. Trials are not resampled."
    )
    if any(np.isnan(one.low) for one in found):
        note = (
            f"Differences of the mean {measure.name} over trials. There are no intervals, because fewer than {FEWEST} "
            "pictures have anything to score."
        )
    elif kind in VIDEOS:
        note += " Neighbouring frames of a video are not independent; for such pictures the interval is too narrow."
    return Table(title=f"Differences in {measure.name}", subject="pair", columns=columns, rows=rows, note=note)
