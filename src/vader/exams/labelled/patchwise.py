"""Evaluate one encoder with the exams on patches: nearest neighbours, and clusters without labels.

Axes: B pictures, K classes, H W pixels.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from vader.encoders import DenseEncoder
from vader.encoders.store import Maps, Store, fill
from vader.exams.labelled import clusters, neighbours
from vader.exams.labelled.linear import MIOU, Sets, encoded, labelled, segmentation_result
from vader.exams.labelled.nearest import BUDGET, least_budget, tile
from vader.exams.labelled.segmentation import SegmentationScore
from vader.exams.plan import Keep, Plan
from vader.exams.results import Result
from vader.reports.metrics import confusion, hungarian_miou

# --- Neighbours ----------------------------------------------------------------------------------------------------


def nearest_neighbours(
    encoder: DenseEncoder, protocol: neighbours.NeighboursProtocol, sets: Sets, plan: Plan, keep: Keep
) -> Result:
    """Evaluate with Hummingbird: one memory for each seed, or one trial if the memory holds every patch.

    Search uses part of the plan's memory, at most 256 MiB. Raises BadInput if that is too little for any search.
    """
    classes, stride, budget = len(sets.train.classes), encoder.stride, plan.budget
    tile(1, encoder.channels, protocol.neighbours, budget.limit)  # raise before the train split is encoded
    share = max(least_budget(encoder.channels, protocol.neighbours), min(BUDGET, budget.limit // 4))
    with ExitStack() as stack:
        with plan.timed("memory"), budget.reserved(share):
            memories = [stack.enter_context(one) for one in _memories(encoder, protocol, sets, plan)]
        left = min(BUDGET, budget.limit - budget.held) if plan.device == "cpu" else BUDGET  # a GPU has its own memory
        with plan.timed("val"):
            scores = neighbours.score_neighbours(
                memories, labelled(encoder, protocol, sets, plan), classes, stride, protocol, budget=left,
                device=plan.device, watch=lambda i, found: keep(sets.val.names[i], found[0]),
            )  # fmt: skip
    found = segmentation_result(encoder, scores, sets, plan)
    headline = next(iter(found.values))
    matched = {
        replace(headline, name=f"{headline.name}, Hungarian"): [_matched_iou(one, sets.val.scored) for one in scores]
    }
    if protocol.matching == "identity":
        return replace(found, values=found.values | matched)
    # The classes of the headline are known only after all pictures, so counts of single pictures do not determine it.
    return replace(found, values=matched | found.values, paired=False)


def _matched_iou(score: SegmentationScore, scored: tuple[int, ...]) -> float:
    """Match clusters to all classes and return the mean over those of `scored` (none: all) that occur in the truth."""
    mean, each, _ = hungarian_miou(score.confusion)
    return float(np.nanmean(each[list(scored)])) if scored else mean


def holds_all(protocol: neighbours.NeighboursProtocol, pictures: int) -> bool:
    """Return whether the memory holds every patch of `pictures` pictures, so that nothing depends on a seed."""
    return protocol.cells is not None and protocol.keys // pictures >= protocol.cells + 4 * math.isqrt(protocol.cells)


def settled(protocol: neighbours.NeighboursProtocol, sets: Sets) -> str:
    """Return why one trial is enough, for the report; "" if it is not."""
    if not holds_all(protocol, len(sets.train)):
        return ""
    return "The memory holds every patch of the train split, so nothing is random and there is one trial."


def _memories(
    encoder: DenseEncoder, protocol: neighbours.NeighboursProtocol, sets: Sets, plan: Plan
) -> Iterator[neighbours.Memory]:
    """Yield one memory for each seed. The caller frees each of them."""

    def build(pairs: Any, seed: int) -> neighbours.Memory:
        return neighbours.build_memory(
            pairs, len(sets.train), len(sets.train.classes), encoder.stride, protocol, budget=plan.budget,
            rng=np.random.default_rng(seed), folder=plan.scratch,
        )  # fmt: skip

    pictures = encoded(encoder, sets.train, protocol, plan, "train")
    if len(plan.seeds) == 1 or holds_all(protocol, len(sets.train)):
        yield build(((one, example.labels) for example, one in pictures), plan.seeds[0])
        return
    truths, cells = (Store(plan.budget, plan.scratch, len(sets.train)) for _ in range(2))
    with truths, cells:
        fill(Maps(cells), truths, pictures)
        for seed in plan.seeds:
            yield build(zip(Maps(cells), truths, strict=True), seed)


# --- Clusters ------------------------------------------------------------------------------------------------------


def clustered(encoder: DenseEncoder, protocol: clusters.ClustersProtocol, sets: Sets, plan: Plan, keep: Keep) -> Result:
    """Evaluate k-means on the val split's patches, once for each seed. The train split is used only for a PCA."""
    classes = len(sets.val.classes)
    with ExitStack() as stack:
        stores = (Store(plan.budget, plan.scratch, len(sets.val)) for _ in range(3))
        rows, labels, first = (stack.enter_context(one) for one in stores)

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
    """Write the predictions, with clusters replaced by their matched classes."""
    total = sum(confusion(found, label, classes, void) for found, label in zip(first, labels, strict=True))
    matching = hungarian_miou(np.asarray(total))[2]
    to_class = np.argsort(matching)
    for name, found in zip(names, first, strict=True):
        keep(name, to_class[found])


def _of_classes_there(score: SegmentationScore) -> SegmentationScore:
    """Remove predictions of classes that do not occur in the truth: every cluster has to match some class."""
    counts = score.counts.copy()
    counts[:, 2, score.confusion.sum(1) == 0] = 0
    return replace(score, counts=counts)
