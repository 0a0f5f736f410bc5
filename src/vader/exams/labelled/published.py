"""Evaluate one encoder with probes of other papers, whose random crops need new features while the heads learn.

Axes: T trials, H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vader.datasets.example import Example, LabelledSet
from vader.datasets.opening import open_splits
from vader.encoders import DenseEncoder
from vader.encoders.store import Store
from vader.exams.labelled import dinov3 as bins
from vader.exams.labelled import leopart as square
from vader.exams.labelled import segmentation
from vader.exams.labelled.linear import Sets, depth_result, encoded, few_pictures, labelled, segmentation_result
from vader.exams.labelled.protocols import BinnedDepth, SquareSegmentation
from vader.exams.plan import Keep, Plan
from vader.exams.results import Result
from vader.finetuning.augment import squared
from vader.finetuning.heads import Picked
from vader.finetuning.pixels import LinearProbe
from vader.runtime.progress import Progress


def _groups(protocol: Any, sets: Sets, plan: Plan) -> list[tuple[list[int], list[int]]]:
    """Return pairs (pictures of the train split, seeds of the heads that learn from them): one pair, or with few labels
    one for each seed."""
    subsets = few_pictures(protocol.few, sets.train.names, plan.seeds)
    if subsets is None:
        return [(list(range(len(sets.train))), list(plan.seeds))]
    return [(subset, [seed]) for subset, seed in zip(subsets, plan.seeds, strict=True)]


# --- Segmentation --------------------------------------------------------------------------------------------------


def open_squares(protocol: SquareSegmentation, root: Path) -> Sets:
    """Open the two splits; the val split is resized to squares, in which it is scored and shown."""
    train, val = open_splits(protocol.data, root)
    return Sets(train, squared(val, protocol.probe.views.side))


def square_segmentation(
    encoder: DenseEncoder, protocol: SquareSegmentation, sets: Sets, plan: Plan, keep: Keep
) -> Result:
    """Evaluate Leopart's probes, one for each seed. Raises BadInput for a stride that does not divide the square."""
    classes, config = len(sets.train.classes), protocol.probe
    groups = _groups(protocol, sets, plan)
    size = [min(config.batch, len(some)) for some, _ in groups]
    total = config.epochs * sum(len(some) // n * n for n, (some, _) in zip(size, groups, strict=True))
    progress = Progress(f"{encoder.name}, train: ", total, plan.say)
    probes: list[LinearProbe] = []
    with plan.timed("features and heads"):
        for some, seeds in groups:
            probes += square.train_probes(
                encoder, Picked(sets.train, some), classes, seeds=seeds, config=config, ignore=protocol.void,
                batch=plan.batch, device=plan.device, dtype=getattr(torch, protocol.features), progress=progress,
            )  # fmt: skip
    with plan.timed("val"):
        scores = segmentation.score_probes(
            probes, labelled(encoder, protocol, sets, plan), classes, stride=encoder.stride, ignore=protocol.void,
            device=plan.device, watch=lambda i, found: keep(sets.val.names[i], found[0]),
        )  # fmt: skip
    found = segmentation_result(encoder, scores, sets, plan)
    return replace(found, facts=found.facts | {"learning rate of the probe": config.rate(encoder)})


# --- Depth ---------------------------------------------------------------------------------------------------------


def binned_depth(encoder: DenseEncoder, protocol: BinnedDepth, sets: Sets, plan: Plan, keep: Keep) -> Result:
    """Evaluate DINOv3's probes, one for each seed; the headline is that of the Eigen crop, as in the source."""
    config, groups = protocol.probe, _groups(protocol, sets, plan)
    progress = Progress(f"{encoder.name}, train: ", len(groups) * config.steps * config.batch, plan.say)
    probes: list[LinearProbe] = []
    for some, seeds in groups:
        with Store(plan.budget, plan.scratch) as pictures, Store(plan.budget, plan.scratch) as depths:
            with plan.timed("reading train"):
                known = Known(sets.train, some, pictures, depths)
            with plan.timed("features and heads"):
                probes += bins.train_probes(
                    encoder, known, seeds=seeds, config=config, batch=plan.batch, device=plan.device,
                    dtype=getattr(torch, protocol.features), progress=progress,
                )  # fmt: skip
    with plan.timed("val"):
        scores = bins.score_probes(
            probes, _both_ways(encoder, protocol, sets, plan), config, stride=encoder.stride,
            crops=[protocol.crop, None], device=plan.device,
            watch=lambda i, found: keep(sets.val.names[i], found[0]),
        )  # fmt: skip
    return depth_result(encoder, scores, (", Eigen crop", ""), sets, plan, pooled=False)


class Known(Sequence):
    """Examples with depth, read once because training uses them hundreds of times; in memory or in a file."""

    def __init__(self, whole: LabelledSet, members: Sequence[int], pictures: Store, depths: Store) -> None:
        self.names, self.pictures, self.depths = [whole.names[i] for i in members], pictures, depths
        for example in Picked(whole, members):
            pictures.append(example.image)
            depths.append(np.asarray(example.depth, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        return Example(self.names[i], self.pictures[i], depth=self.depths[i])


class Mirrored(Sequence):
    """Every example, each followed by its mirrored picture."""

    def __init__(self, whole: LabelledSet) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return 2 * len(self.whole)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        number, mirrored = divmod(range(len(self))[i], 2)
        if not mirrored:
            return self.whole[number]
        image = np.ascontiguousarray(self.whole.image(number)[:, ::-1])
        return Example(self.whole.names[number], image)


def _both_ways(
    encoder: DenseEncoder, protocol: BinnedDepth, sets: Sets, plan: Plan
) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    """Yield the map, the map of the mirrored picture, and the depths of each picture of the val split."""
    ways = encoded(encoder, Mirrored(sets.val), protocol, plan, "val, both ways")
    for (example, one), (_, mirrored) in zip(ways, ways, strict=True):
        yield one, mirrored, np.asarray(example.depth, dtype=np.float32)
