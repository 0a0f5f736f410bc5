"""Compute J and F of propagated masks by object, sequence and data set (DAVIS 2017, semi-supervised).

Axes: T frames, H W pixels, O objects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8

from vader.errors import BadInput
from vader.reports.metrics import VOID, boundary_f, jaccard, mask_statistics


@dataclass(frozen=True)
class ClipScore:
    """Mean J and F of each object of a clip; `ids` holds their labels. Empty if the first frame shows no object.

    `j_frames` and `f_frames` hold the values of each scored frame.
    """

    ids: tuple[int, ...]
    j: Float[np.ndarray, "O"]
    f: Float[np.ndarray, "O"]
    j_frames: Float[np.ndarray, "O T"] | None = None
    f_frames: Float[np.ndarray, "O T"] | None = None


def score_clip(predicted: Integer[np.ndarray, "T H W"], truth: Integer[np.ndarray, "T H W"]) -> ClipScore:
    """Compute J and F of the objects of the truth's first frame (labels above 0), as means over frames 2 ... T - 1.

    The first frame is given and the last is not scored, as in DAVIS. Raises BadInput for fewer than three frames.
    """
    return score_frames(zip(predicted, truth, strict=True))


def score_frames(
    pairs: Iterable[tuple[Integer[np.ndarray, "_ _"], Integer[np.ndarray, "_ _"]]],
    *,
    void: int | None = None,
    official: bool = False,
) -> ClipScore:
    """Compute `score_clip` from a stream of pairs (predicted, truth), which are not kept.

    `void` in the truth counts as background. With `official`, the objects are those of DAVIS: 1 to the largest label
    of the truth's first frame, even if a label in between does not occur. Raises BadInput for a larger label in a
    prediction and for a clip of fewer than three frames.
    """
    ids: list[int] = []
    values: list[list[tuple[float, float]]] = []
    waiting: tuple[np.ndarray, np.ndarray] | None = None  # the last frame is not scored, and known only at the end
    count = 0
    for count, (predicted, truth) in enumerate(pairs, start=1):
        if predicted.shape != truth.shape:
            raise BadInput(
                f"frame {count - 1}: expected a mask of {truth.shape[0]}x{truth.shape[1]} px, found "
                f"{predicted.shape[0]}x{predicted.shape[1]}; give masks of the size of the ground truth"
            )
        if void is not None:
            truth = np.where(truth == void, truth.dtype.type(0), truth)
        if count == 1:
            shown = [int(number) for number in np.unique(truth) if number > 0]
            ids = list(range(1, max(shown, default=0) + 1)) if official else shown
            continue
        if waiting is not None:
            values.append(_frame_scores(*waiting, ids, official, count - 2))
        waiting = predicted, truth
    if count < 3:
        raise BadInput(f"clip: expected at least 3 frames (the first and last are not scored), found {count}")
    scores = np.array(values, dtype=np.float64).reshape(len(values), len(ids), 2).transpose(2, 1, 0)
    return ClipScore(tuple(ids), scores[0].mean(1), scores[1].mean(1), scores[0], scores[1])


def _frame_scores(
    predicted: np.ndarray, truth: np.ndarray, ids: Sequence[int], official: bool, number: int
) -> list[tuple[float, float]]:
    if official and predicted.max() > len(ids):
        raise BadInput(
            f"frame {number}: expected objects 1 to {len(ids)}, as in the first mask, found {predicted.max()}; "
            "remove other labels"
        )
    pairs = [(predicted == i, truth == i) for i in ids]
    return [(jaccard(a, b), boundary_f(a, b)) for a, b in pairs]


def foreground(mask: Integer[np.ndarray, "H W"], void: int | None = VOID) -> UInt8[np.ndarray, "H W"]:
    """Merge all objects into one, as DAVIS 2016 does with those of DAVIS 2017."""
    shown = mask > 0
    return (shown if void is None else shown & (mask != void)).astype(np.uint8)


# --- Means --------------------------------------------------------------------------------------------------------


def mean_scores(scores: list[ClipScore]) -> dict[str, float]:
    """Return `j`, `f` and their mean `j_and_f` over all objects of all clips (equal weights), and `objects`."""
    j, f = (np.concatenate([np.zeros(0), *parts]) for parts in ([s.j for s in scores], [s.f for s in scores]))
    if not len(j):
        return {"j": float("nan"), "f": float("nan"), "j_and_f": float("nan"), "objects": 0.0}
    return {"j": float(j.mean()), "f": float(f.mean()), "j_and_f": float(j.mean() + f.mean()) / 2, "objects": len(j)}


def davis_scores(scores: Sequence[ClipScore]) -> dict[str, float]:
    """Compute the DAVIS table: `j_mean`, `j_recall`, `j_decay`, the same for `f`, and `j_and_f`.

    These are means over all objects with equal weights. nan without objects.
    """
    found: dict[str, float] = {}
    for letter in ("j", "f"):
        frames = [row for one in scores for row in _frames(one, letter)]
        each = [mask_statistics(row) for row in frames]
        for name in ("mean", "recall", "decay"):
            numbers = [getattr(one, name) for one in each]
            found[f"{letter}_{name}"] = float(np.mean(numbers)) if numbers else float("nan")
    return {
        **found,
        "j_and_f": (found["j_mean"] + found["f_mean"]) / 2,
        "objects": float(sum(len(s.ids) for s in scores)),
    }


def sequence_scores(scores: dict[str, ClipScore]) -> dict[str, dict[str, float]]:
    """Score every object, named SEQUENCE_ID, and, under its own name, every sequence with more than one object."""
    found = {}
    for name, score in scores.items():
        if len(score.ids) != 1:
            found[name] = davis_scores([score])
        for place, number in enumerate(score.ids):
            rows = slice(place, place + 1)
            j, f = (_frames(score, letter)[rows] for letter in ("j", "f"))
            found[f"{name}_{number}"] = davis_scores([ClipScore((number,), score.j[rows], score.f[rows], j, f)])
    return found


def _frames(score: ClipScore, letter: str) -> np.ndarray:
    rows = score.j_frames if letter == "j" else score.f_frames
    assert rows is not None, "the scores of each frame were not kept"
    return rows
