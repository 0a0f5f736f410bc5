"""Masks propagated through clips sit in `evaluation.exams`: DAVIS by J and F, CamVid by mean IoU.

Frames come one by one, each is encoded once, and no more of a clip is held than the protocol's context. Nothing is
drawn at random, so there is one trial. Axes: B objects or frames, H W pixels, K classes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt8

from vader.datasets.clips import Clip, LabelledClip, check_clips
from vader.datasets.davis import DavisClip, davis_year, labelled_frames, open_davis
from vader.datasets.example import LabelledSet
from vader.datasets.opening import open_labelled
from vader.encoders import DenseEncoder
from vader.errors import BadInput
from vader.exams.clips.protocols import ClipExam
from vader.exams.clips.scores import ClipScore, davis_scores, score_frames
from vader.exams.labelled.linear import ACCURACY, MIOU
from vader.exams.labelled.segmentation import count_hits
from vader.exams.plan import Keep, Plan
from vader.exams.results import Measure, Result
from vader.inference.propagation import Propagator
from vader.inference.propagation.clip import see
from vader.reports.metrics import VOID, confusion, pixel_accuracy
from vader.runtime.progress import Progress

FITTED = 64  # frames that a PCA or a mean is fitted on, spread evenly over all clips: 65,000 cells
COPIED = "first mask copied"
MEASURES = {
    "j_and_f": Measure("J&F", "%", "higher", 1, 100),
    "j_mean": Measure("J mean", "%", "higher", 1, 100),
    "j_recall": Measure("J recall", "%", "higher", 1, 100),
    "j_decay": Measure("J decay", "%", "lower", 1, 100),
    "f_mean": Measure("F mean", "%", "higher", 1, 100),
    "f_recall": Measure("F recall", "%", "higher", 1, 100),
    "f_decay": Measure("F decay", "%", "lower", 1, 100),
}

Found = Iterator[tuple[Integer[np.ndarray, "H W"], Integer[np.ndarray, "H W"]]]  # masks (found, true), frame by frame


@dataclass(frozen=True)
class ClipResult(Result):
    """`pictures` are J&F of each object (1, B), or counts (1, B, 3, K) of each frame but the first; `scores` DAVIS's
    of each clip."""

    scores: tuple[ClipScore, ...] = ()


# --- Material -----------------------------------------------------------------------------------------------------


class Spread(Sequence):
    """Some pictures of a set, evenly spread over it, read when asked for."""

    def __init__(self, frames: LabelledSet, most: int) -> None:
        self.frames = frames
        self.chosen = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self.frames.image(self.chosen[i])


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of an exam; `frames` are all of theirs as one set, which has classes where masks are class maps."""

    name: str
    clips: tuple[Clip, ...]
    frames: LabelledSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are propagated; () for objects."""
        return self.frames.classes

    @property
    def pictures(self) -> Spread:
        """Frames of the clips: what a PCA and a mean are fitted on."""
        return Spread(self.frames, FITTED)

    @cached_property
    def objects(self) -> list[tuple[Clip, int]]:
        """Each object of DAVIS's clips: its clip and label. Raises BadInput for what is wrong with a first mask."""
        return [(clip, i) for clip in self.clips if isinstance(clip, DavisClip) for i in range(1, clip.objects + 1)]

    @cached_property
    def first_classes(self) -> list[str]:
        """The classes that the first frame shows, and that alone can be found again."""
        shown = np.unique(self.clips[0].mask(0))
        return [self.classes[k - 1] for k in shown.tolist() if k]

    def filed(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """A mask as it is written: objects as they are, classes from 0 with 255 for void."""
        return mask - np.uint8(1) if self.classes else mask

    def facts(self) -> dict[str, Any]:
        """The frames' and masks' fingerprint, and what encoders are fitted on."""
        count = f"{len(self.clips)} clip{'s' if len(self.clips) > 1 else ''}, {len(self.frames)} frames"
        return {
            "set": self.name,
            "clips": f"{self.frames.fingerprint()} ({count})",
            "fitted on": f"{len(self.pictures)} of the frames, without labels",
        }

    def lead(self) -> str:
        """How many clips, frames and objects or classes."""
        if self.classes:
            shown = f"{len(self.first_classes)} of {len(self.classes)} classes"
            return f"A clip of {len(self.frames)} frames; the first one's labels, which show {shown}, are given."
        return (
            f"Clips: {len(self.clips)}, frames: {len(self.frames)}, objects: {len(self.objects)}; the first "
            "frames' masks are given."
        )


def open_clips(protocol: ClipExam, root: Path) -> Clips:
    """The val split's clips. Reads lists, opens no picture. Raises BadInput for what is missing."""
    if protocol.data == "camvid":
        labelled = open_labelled("camvid", root, "val")
        return Clips("CamVid val", (LabelledClip(labelled),), labelled)
    try:
        year = 2016 if protocol.data == "davis-2016" else davis_year(root)
        clips = open_davis(root, "val", year)
        return Clips(f"DAVIS {year} val", clips, labelled_frames(root, clips, "val", year))
    except OSError as fault:
        raise BadInput(f"cannot read {fault.filename or root}: {fault.strerror or fault}") from fault


# --- Ways through a clip ------------------------------------------------------------------------------------------


def sit_clips(encoder: DenseEncoder, protocol: ClipExam, clips: Clips, plan: Plan, keep: Keep) -> ClipResult:
    """The encoder's masks of all clips, scored.

    Raises BadInput for what is wrong with frames and masks, and for features that are not finite.
    """
    progress = Progress(f"{encoder.name}: ", len(clips.frames), plan.say)

    def go(clip: Clip) -> Found:
        return _propagated(encoder, clip, protocol, plan, progress)

    return _judged(encoder.name, encoder.facts, go, clips, plan, keep)


def copied(protocol: ClipExam, clips: Clips, plan: Plan, keeper: Callable[[str], Keep]) -> list[Result]:
    """The row that costs nothing: the first frame's mask in every frame."""
    plan.seconds = {}
    facts = {"source": "none", "note": "the first frame's mask, unchanged, in every frame"}
    return [_judged(COPIED, facts, lambda clip: _copied(clip, plan), clips, plan, keeper(COPIED))]


def _propagated(encoder: DenseEncoder, clip: Clip, protocol: ClipExam, plan: Plan, progress: Progress) -> Found:
    way, stride = protocol.way, encoder.stride
    propagator = Propagator(way, stride=stride, size=way.size(*clip.size, stride), out=clip.size)
    for t in range(len(clip)):
        with plan.timed("reading"):
            picture, truth = clip.image(t), clip.mask(t)
        try:
            with plan.timed("encoder"):
                one = see(encoder, picture, way, plan.device)
                if one.is_cuda:  # else the next phase would wait for it
                    torch.cuda.synchronize(one.device)
            with plan.timed("propagation"):
                found = propagator.step(one, None if t else truth)
        except BadInput as fault:
            raise BadInput(f"{encoder.name}, {clip.name}: {fault}") from None
        progress(1)
        yield found, truth


def _copied(clip: Clip, plan: Plan) -> Found:
    first = clip.mask(0)
    first = np.where(first == VOID, np.uint8(0), first)
    for t in range(len(clip)):
        with plan.timed("reading"):
            truth = clip.mask(t)
        yield first, truth


def _kept(found: Found, clip: Clip, clips: Clips, plan: Plan, keep: Keep) -> Found:
    """The same, each mask found written on its way."""
    for t, (mask, truth) in enumerate(found):
        with plan.timed("writing"):
            keep(clip.frame(t), clips.filed(mask))
        yield mask, truth


# --- Scores -------------------------------------------------------------------------------------------------------


def _judged(
    name: str, facts: dict[str, Any], go: Callable[[Clip], Found], clips: Clips, plan: Plan, keep: Keep
) -> ClipResult:
    """The result of a way through the clips; `go(clip)` is it."""
    with plan.timed("reading"):
        check_clips(clips.clips)

    def masks(clip: Clip) -> Found:
        return _kept(go(clip), clip, clips, plan, keep)

    since, before = time.monotonic(), sum(plan.seconds.values())
    # Masks are found while they are scored; what is left of the time is the scores'.
    make = _by_classes if clips.classes else _by_objects
    values, found = make(masks, clips)
    spent = time.monotonic() - since - (sum(plan.seconds.values()) - before)
    plan.seconds["scores"] = plan.seconds.get("scores", 0.0) + spent
    return ClipResult(name, values, facts=facts, seconds=dict(plan.seconds), **found)


def _by_objects(masks: Callable[[Clip], Found], clips: Clips) -> tuple[dict[Measure, list[float]], dict[str, Any]]:
    """DAVIS's table: means over all objects."""
    scores = [score_frames(masks(clip), void=VOID, official=True) for clip in clips.clips]
    table = davis_scores(scores)
    each = np.concatenate([(one.j + one.f) / 2 for one in scores])
    values = {measure: [table[name]] for name, measure in MEASURES.items()}
    return values, {"pictures": each[None], "scores": tuple(scores)}


def _by_classes(masks: Callable[[Clip], Found], clips: Clips) -> tuple[dict[Measure, list[float]], dict[str, Any]]:
    """Mean IoU over the classes from one confusion matrix of all frames but the first, which is given.

    A pixel that is called void counts as missed for its class, and for none as called.
    """
    K = len(clips.classes)
    each: list[Int64[np.ndarray, "K K"]] = []
    for t, (found, truth) in enumerate(pair for clip in clips.clips for pair in masks(clip)):
        if t:
            called = np.where(found == 0, K, found.astype(np.int64) - 1)
            each.append(confusion(called, clips.filed(truth), K + 1))
    counts = np.stack([count_hits(one)[:, :K] for one in each])  # (B, 3, K)
    total = np.sum(each, axis=0)
    hits, truths, said = counts.sum(0).astype(np.float64)
    union = truths + said - hits
    classes = np.divide(hits, union, out=np.full(K, np.nan), where=union > 0)
    if not truths.any():
        raise BadInput(f"{clips.name}: expected labelled pixels after the first frame, found void alone")
    values = {MIOU: [float(np.nanmean(classes))], ACCURACY: [pixel_accuracy(total)]}
    return values, {"pictures": counts[None], "classes": classes[None], "confusion": total[:K, :K]}
