"""The exams on patches sit in `evaluation.exams`: nearest neighbours, and clusters that no label has a part in.

Axes: B pictures, K classes, H W pixels.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from vader.encoders import DenseEncoder
from vader.evaluation.results import Measure, Result
from vader.evaluation.sitting import MIOU, Keep, Plan, Sets, encoded, labelled, segmentation_result
from vader.exams import clusters, neighbours
from vader.exams.segmentation import SegmentationScore
from vader.exams.store import Maps, Store, fill
from vader.metrics import confusion, hungarian_miou

# --- Neighbours ----------------------------------------------------------------------------------------------------

HUNGARIAN = Measure("mIoU, Hungarian", "%", "higher", 1, 100)


def nearest_neighbours(
    encoder: DenseEncoder, protocol: neighbours.NeighboursProtocol, sets: Sets, plan: Plan, keep: Keep
) -> Result:
    """Hummingbird: a memory a seed; one for all of them where it holds every patch and so depends on no seed."""
    classes, stride = len(sets.train.classes), encoder.stride
    with ExitStack() as stack:
        with plan.timed("memory"):
            memories = [stack.enter_context(one) for one in _memories(encoder, protocol, sets, plan)]
        with plan.timed("val"):
            scores = neighbours.score_neighbours(
                memories, labelled(encoder, protocol, sets, plan), classes, stride, protocol, device=plan.device,
                watch=lambda i, found: keep(sets.val.names[i], found[0]),
            )  # fmt: skip
    if len(memories) == 1:
        scores = scores * len(plan.seeds)
    found = segmentation_result(encoder, scores, sets, plan)
    matched = {HUNGARIAN: [hungarian_miou(one.confusion)[0] for one in scores]}
    if protocol.matching == "identity":
        return replace(found, values=found.values | matched)
    # What the headline is over is known only once all pictures were seen: no counts of single pictures belong to it.
    return replace(found, values=matched | found.values, paired=False)


def _memories(
    encoder: DenseEncoder, protocol: neighbours.NeighboursProtocol, sets: Sets, plan: Plan
) -> Iterator[neighbours.Memory]:
    """A generator: whoever takes them gives each back."""

    def build(pairs: Any, seed: int) -> neighbours.Memory:
        return neighbours.build_memory(
            pairs, len(sets.train), len(sets.train.classes), encoder.stride, protocol, budget=plan.budget,
            rng=np.random.default_rng(seed), folder=plan.scratch,
        )  # fmt: skip

    pictures = encoded(encoder, sets.train, protocol, plan, "train")
    most = math.inf if protocol.cells is None else protocol.cells + 4 * math.isqrt(protocol.cells)
    if len(plan.seeds) == 1 or protocol.keys // len(sets.train) >= most:
        yield build(((one, example.labels) for example, one in pictures), plan.seeds[0])
        return
    with Store(plan.budget, plan.scratch) as truths, Store(plan.budget, plan.scratch) as cells:
        fill(Maps(cells), truths, pictures)
        for seed in plan.seeds:
            yield build(zip(Maps(cells), truths, strict=True), seed)


# --- Clusters ------------------------------------------------------------------------------------------------------


def clustered(encoder: DenseEncoder, protocol: clusters.ClustersProtocol, sets: Sets, plan: Plan, keep: Keep) -> Result:
    """k-means of the val split's patches, one a seed; the train split serves a PCA alone."""
    classes = len(sets.val.classes)
    with ExitStack() as stack:
        rows, labels, first = (stack.enter_context(Store(plan.budget, plan.scratch)) for _ in range(3))

        def pairs() -> Iterator[tuple[Any, np.ndarray]]:
            for one, label in labelled(encoder, protocol, sets, plan):
                labels.append(label)
                yield one, label

        with plan.timed("features of val"):
            patches = clusters.gather_patches(pairs(), classes, encoder.stride, protocol, rows)
        scores: list[SegmentationScore] = []
        plan.budget.need(patches.beside(classes))
        with plan.timed("clusters"):
            for seed in plan.seeds:
                watch = None if scores else lambda _, found: first.append(found[0].astype(np.uint8))
                scores.append(clusters.score_clusters(patches, labels, classes, protocol, seed=seed, watch=watch))
        plan.budget.give(patches.beside(classes))
        _keep_matched(first, labels, classes, protocol.void, sets.val.names, keep)
    found = segmentation_result(encoder, [_of_classes_there(one) for one in scores], sets, plan)
    headline = next(iter(found.values))
    return replace(
        found,
        values={replace(headline, name=f"{headline.name}, Hungarian"): found.values[headline]}
        | {measure: values for measure, values in found.values.items() if measure not in (headline, MIOU)},
    )


def _keep_matched(first: Store, labels: Store, classes: int, void: int, names: tuple[str, ...], keep: Keep) -> None:
    """Keep clusters by the names of the classes that they are matched to."""
    total = sum(confusion(found, label, classes, void) for found, label in zip(first, labels, strict=True))
    matching = hungarian_miou(np.asarray(total))[2]
    to_class = np.argsort(matching)
    for name, found in zip(names, first, strict=True):
        keep(name, to_class[found])


def _of_classes_there(score: SegmentationScore) -> SegmentationScore:
    """Without what was called a class that does not occur: a cluster has to be called something."""
    counts = score.counts.copy()
    counts[:, 2, score.confusion.sum(1) == 0] = 0
    return replace(score, counts=counts)
