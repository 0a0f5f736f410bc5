"""Evaluate encoders by mask propagation through clips: DAVIS by J and F, CamVid by mean IoU.

Frames are read one at a time and each is encoded once. Memory holds only the protocol's context frames. Nothing is
random, so there is one trial. Axes: B objects or frames, H W pixels, K classes.
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
from vader.reports.metrics import VOID, class_iou, confusion, pixel_accuracy
from vader.runtime.progress import Progress

FITTED = 64  # frames that a PCA or a mean is fitted on, evenly spaced over all clips: about 65,000 cells
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
    """The numbers of one encoder on clips.

    `pictures` holds J&F of each object (1, B), or counts (1, B, 3, K) of each frame except the first. `scores` holds
    the DAVIS scores of each clip.
    """

    scores: tuple[ClipScore, ...] = ()


# --- Material -----------------------------------------------------------------------------------------------------


class Spread(Sequence):
    """Evenly spaced pictures of a set, read on access."""

    def __init__(self, frames: LabelledSet, most: int) -> None:
        self.frames = frames
        self.chosen = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int).tolist()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self.frames.image(self.chosen[i])


@dataclass(frozen=True, eq=False)
class Clips:
    """The clips of an exam. `frames` is the set of all their frames; it has classes if the masks are class maps."""

    name: str
    clips: tuple[Clip, ...]
    frames: LabelledSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the propagated classes; () for objects."""
        return self.frames.classes

    @property
    def pictures(self) -> Spread:
        """Frames of the clips, on which a PCA or a mean is fitted."""
        return Spread(self.frames, FITTED)

    @cached_property
    def objects(self) -> list[tuple[Clip, int]]:
        """Each object of the DAVIS clips: its clip and its label. Raises BadInput for an invalid first mask."""
        return [(clip, i) for clip in self.clips if isinstance(clip, DavisClip) for i in range(1, clip.objects + 1)]

    @cached_property
    def first_classes(self) -> list[str]:
        """The classes in the first frame. Only these can be found in later frames."""
        shown = np.unique(self.clips[0].mask(0))
        return [self.classes[k - 1] for k in shown.tolist() if k]

    def filed(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """Return the mask in the file's encoding: objects unchanged, classes from 0 with 255 for void."""
        return mask - np.uint8(1) if self.classes else mask

    def facts(self) -> dict[str, Any]:
        """Return the fingerprint of frames and masks, and which frames encoders are fitted on."""
        count = f"{len(self.clips)} clip{'s' if len(self.clips) > 1 else ''}, {len(self.frames)} frames"
        return {
            "set": self.name,
            "clips": f"{self.frames.fingerprint()} ({count})",
            "fitted on": f"{len(self.pictures)} of the frames, without labels",
        }

    def lead(self) -> str:
        """Return a sentence with the number of clips, frames, and objects or classes."""
        if self.classes:
            shown = f"{len(self.first_classes)} of {len(self.classes)} classes"
            return f"A clip of {len(self.frames)} frames. The labels of the first frame are given; they show {shown}."
        return (
            f"Clips: {len(self.clips)}, frames: {len(self.frames)}, objects: {len(self.objects)}. The masks of the "
            "first frames are given."
        )


def open_clips(protocol: ClipExam, root: Path) -> Clips:
    """Open the clips of the val split. Reads lists but no pictures. Raises BadInput for missing files."""
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


def evaluate_clips(encoder: DenseEncoder, protocol: ClipExam, clips: Clips, plan: Plan, keep: Keep) -> ClipResult:
    """Propagate masks through all clips with the encoder and score them.

    Raises BadInput for invalid frames or masks and for features that are not finite.
    """
    progress = Progress(f"{encoder.name}: ", len(clips.frames), plan.say)

    def go(clip: Clip) -> Found:
        return _propagated(encoder, clip, protocol, plan, progress)

    return _judged(encoder.name, encoder.facts, go, clips, plan, keep)


def copied(protocol: ClipExam, clips: Clips, plan: Plan, keeper: Callable[[str], Keep]) -> list[Result]:
    """Score the trivial baseline: the first frame's mask in every frame."""
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
                if one.is_cuda:  # otherwise the time of the encoder would count for the next phase
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
    """Pass the masks on and write each found mask."""
    for t, (mask, truth) in enumerate(found):
        with plan.timed("writing"):
            keep(clip.frame(t), clips.filed(mask))
        yield mask, truth


# --- Scores -------------------------------------------------------------------------------------------------------


def _judged(
    name: str, facts: dict[str, Any], go: Callable[[Clip], Found], clips: Clips, plan: Plan, keep: Keep
) -> ClipResult:
    """Score the masks that `go(clip)` yields for every clip."""
    with plan.timed("reading"):
        check_clips(clips.clips)

    def masks(clip: Clip) -> Found:
        return _kept(go(clip), clip, clips, plan, keep)

    since, before = time.monotonic(), sum(plan.seconds.values())
    # Masks are computed lazily while they are scored; the remaining time belongs to the scores.
    make = _by_classes if clips.classes else _by_objects
    values, found = make(masks, clips)
    spent = time.monotonic() - since - (sum(plan.seconds.values()) - before)
    plan.seconds["scores"] = plan.seconds.get("scores", 0.0) + spent
    return ClipResult(name, values, facts=facts, seconds=dict(plan.seconds), **found)


def _by_objects(masks: Callable[[Clip], Found], clips: Clips) -> tuple[dict[Measure, list[float]], dict[str, Any]]:
    """Compute the DAVIS table: means over all objects."""
    scores = [score_frames(masks(clip), void=VOID, official=True) for clip in clips.clips]
    table = davis_scores(scores)
    each = np.concatenate([(one.j + one.f) / 2 for one in scores])
    values = {measure: [table[name]] for name, measure in MEASURES.items()}
    return values, {"pictures": each[None], "scores": tuple(scores)}


def _by_classes(masks: Callable[[Clip], Found], clips: Clips) -> tuple[dict[Measure, list[float]], dict[str, Any]]:
    """Compute the mean IoU over classes from one confusion matrix of all frames except the first, which is given.

    A pixel predicted as void counts as a miss of its class and as a prediction of no class.
    """
    K = len(clips.classes)
    each: list[Int64[np.ndarray, "K K"]] = []
    for t, (found, truth) in enumerate(pair for clip in clips.clips for pair in masks(clip)):
        if t:
            called = np.where(found == 0, K, found.astype(np.int64) - 1)
            each.append(confusion(called, clips.filed(truth), K + 1))
    counts = np.stack([count_hits(one)[:, :K] for one in each])  # (B, 3, K)
    total = np.sum(each, axis=0)
    classes = class_iou(*counts.sum(0))
    if not counts[:, 1].any():
        raise BadInput(f"{clips.name}: expected labelled pixels after the first frame, found only void")
    values = {MIOU: [float(np.nanmean(classes))], ACCURACY: [pixel_accuracy(total)]}
    return values, {"pictures": counts[None], "classes": classes[None], "confusion": total[:K, :K]}
