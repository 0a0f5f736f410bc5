"""Evaluate one encoder with linear probes.

The features of the train split are computed once and the heads of all trials are trained together. The features of the
val split are scored in one pass and not kept. Axes: T trials, B pictures, K classes, H W pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vader.datasets.example import Example, LabelledSet
from vader.encoders import DenseEncoder
from vader.encoders.store import Maps, Store, encode, fill
from vader.errors import BadInput
from vader.exams.labelled import depth, segmentation
from vader.exams.labelled.protocols import Few, LinearDepth, LinearSegmentation
from vader.exams.plan import Keep, Plan
from vader.exams.results import Measure, Result, mean_iou
from vader.finetuning.heads import Picked
from vader.finetuning.subsets import nested_subsets
from vader.runtime.progress import Progress


@dataclass(frozen=True)
class Sets:
    """The two splits of a data set: the `Material` of exams with labels."""

    train: LabelledSet
    val: LabelledSet

    @property
    def name(self) -> str:
        """The name of the data set."""
        return self.val.name

    @property
    def pictures(self) -> "Pictures":
        """The pictures of the train split."""
        return Pictures(self.train)

    @property
    def scored(self) -> tuple[int, ...]:
        """The classes of the headline measure; () for all."""
        return self.val.scored

    def facts(self) -> dict[str, Any]:
        """Return fingerprints and counts of both splits."""
        found = {"set": self.train.name}
        for split in (self.train, self.val):
            found |= {split.split: f"{split.fingerprint()} ({len(split)} pictures)"}
            found |= {f"{split.split}, note": split.note} if split.note else {}
        return found

    def lead(self) -> str:
        """Return a sentence with the number of pictures."""
        return f"{len(self.train)} pictures for training, {len(self.val)} for scoring."


class Pictures(Sequence):
    """The pictures of a labelled set without labels, read on access."""

    def __init__(self, labelled: LabelledSet) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self.labelled.image(range(len(self))[i])

    def __iter__(self) -> Iterator:
        return (self.labelled.image(i) for i in range(len(self)))


def _trained(
    encoder: DenseEncoder, protocol: Any, sets: Sets, plan: Plan, train: Callable[..., Any], of_depth: bool
) -> Any:
    """Call `train` with the train split's maps, truths and subsets."""
    subsets = few_pictures(protocol.few, sets.train.names, plan.seeds)
    used = sorted(set().union(*subsets)) if subsets else range(len(sets.train))
    places = {number: place for place, number in enumerate(used)}
    mine = [[places[number] for number in subset] for subset in subsets] if subsets else None
    truths, cells = (Store(plan.budget, plan.scratch, len(used)) for _ in range(2))
    with truths, cells:
        maps = Maps(cells)
        with plan.timed("features of train"):
            fill(maps, truths, encoded(encoder, Picked(sets.train, list(used)), protocol, plan, "train"), of_depth)
        with plan.timed("heads"):
            try:
                return train(maps, truths, mine)
            except BadInput as fault:
                raise BadInput(f"{sets.train.root}, train split: {fault}") from None


def few_pictures(few: Few | None, names: Sequence[str], seeds: Sequence[int]) -> list[list[int]] | None:
    """Return each trial's labelled pictures; None: all. Raises BadInput if there are too few pictures."""
    if few is None:
        return None
    return [nested_subsets(names, [few.size], seed)[few.size].tolist() for seed in seeds]


def encoded(
    encoder: DenseEncoder, examples: Sequence, protocol: Any, plan: Plan, split: str
) -> Iterator[tuple[Example, torch.Tensor]]:
    progress = Progress(f"{encoder.name}, {split}: ", len(examples), plan.say)
    # `kinds.evaluate_one` has set the type of the features in the protocol, once for each encoder.
    return encode(encoder, examples, batch=plan.batch, dtype=getattr(torch, protocol.features), progress=progress)


# --- Linear segmentation -------------------------------------------------------------------------------------------

MIOU, MIOU_ALL = Measure("mIoU", "%", "higher", 1, 100), Measure("mIoU of all classes", "%", "higher", 1, 100)
ACCURACY = Measure("pixel accuracy", "%", "higher", 1, 100)


def linear_segmentation(
    encoder: DenseEncoder, protocol: LinearSegmentation, sets: Sets, plan: Plan, keep: Keep
) -> Result:
    """Evaluate linear probes of segmentation, one for each seed."""
    classes = len(sets.train.classes)

    def train(maps: Maps, labels: Store, subsets: list[list[int]] | None) -> Any:
        return segmentation.train_probes(
            maps, labels, classes, seeds=plan.seeds, configs=[protocol.probe] * len(plan.seeds), subsets=subsets,
            stride=encoder.stride, ignore=protocol.void, device=plan.device,
        )  # fmt: skip

    probes = _trained(encoder, protocol, sets, plan, train, of_depth=False)
    with plan.timed("val"):
        scores = segmentation.score_probes(
            probes, labelled(encoder, protocol, sets, plan), classes, stride=encoder.stride, ignore=protocol.void,
            device=plan.device, watch=lambda i, found: keep(sets.val.names[i], found[0]),
        )  # fmt: skip
    return segmentation_result(encoder, scores, sets, plan)


def labelled(encoder: DenseEncoder, protocol: Any, sets: Sets, plan: Plan) -> Iterator[tuple[torch.Tensor, Any]]:
    for example, one in encoded(encoder, sets.val, protocol, plan, "val"):
        yield one, example.labels


def segmentation_result(
    encoder: DenseEncoder, scores: Sequence[segmentation.SegmentationScore], sets: Sets, plan: Plan
) -> Result:
    """Make the result from the trials' scores. Raises BadInput if the val split has no labelled pixel."""
    counts = np.stack([one.counts for one in scores])
    if not counts.any():
        raise BadInput(f"{sets.val.root}: expected labelled pixels in the val split, found only void")
    scored = sets.val.scored
    headline = Measure(f"mIoU-{len(scored)}", "%", "higher", 1, 100) if scored else MIOU
    values = {headline: [float(mean_iou(one.sum(0), scored)) for one in counts]}
    if scored:
        values[MIOU_ALL] = [one.miou for one in scores]
    values[ACCURACY] = [one.pixel_accuracy for one in scores]
    return Result(
        encoder.name, values, counts, encoder.facts, dict(plan.seconds), scores[0].skipped,
        classes=np.stack([one.iou for one in scores]), confusion=scores[0].confusion,
    )  # fmt: skip


# --- Linear depth --------------------------------------------------------------------------------------------------


def linear_depth(encoder: DenseEncoder, protocol: LinearDepth, sets: Sets, plan: Plan, keep: Keep) -> Result:
    """Evaluate linear probes of depth, one for each seed."""
    crops = [None] if protocol.crop is None else [None, protocol.crop]

    def train(maps: Maps, depths: Store, subsets: list[list[int]] | None) -> Any:
        return depth.train_probes(
            maps, depths, seeds=plan.seeds, configs=[protocol.probe] * len(plan.seeds), subsets=subsets,
            stride=encoder.stride, farthest=protocol.farthest, device=plan.device,
        )  # fmt: skip

    probes = _trained(encoder, protocol, sets, plan, train, of_depth=True)
    pairs = (
        (one, np.asarray(example.depth, dtype=np.float32))
        for example, one in encoded(encoder, sets.val, protocol, plan, "val")
    )
    with plan.timed("val"):
        scores = depth.score_probes(
            probes, pairs, stride=encoder.stride, farthest=protocol.farthest, crops=crops, device=plan.device,
            watch=lambda i, found: keep(sets.val.names[i], found[0]),
        )  # fmt: skip
    return depth_result(encoder, scores, ("", ", Eigen crop")[: len(crops)], sets, plan)


def depth_result(
    encoder: DenseEncoder,
    scores: Sequence[Sequence[depth.DepthScore]],
    suffixes: Sequence[str],
    sets: Sets,
    plan: Plan,
    pooled: bool = True,
) -> Result:
    """Make the result from the trials' scores in each crop, named by `suffixes`. The first crop gives the headline.

    Raises BadInput if the val split has no pixel with a valid depth.
    """
    values: dict[Measure, list[float]] = {}
    for number, suffix in enumerate(suffixes):
        mine = [one[number] for one in scores]
        values[Measure(f"RMSE{suffix}", "m", "lower", 3)] = [one.rmse for one in mine]
        if pooled:
            values[Measure(f"RMSE pooled{suffix}", "m", "lower", 3)] = [one.pooled_rmse for one in mine]
        values[Measure(f"abs-rel{suffix}", "", "lower", 3)] = [one.abs_rel for one in mine]
        values[Measure(f"δ1{suffix}", "%", "higher", 1, 100)] = [one.delta1 for one in mine]
    errors = np.stack([one[0].errors[:, 0] for one in scores])
    if not np.isfinite(errors).any():
        raise BadInput(f"{sets.val.root}: expected valid depths in the val split, found none within the range")
    first = scores[0][0]
    return Result(
        encoder.name, values, errors, encoder.facts, dict(plan.seconds), first.skipped, pixels=first.pixels
    )  # fmt: skip
