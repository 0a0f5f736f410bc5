"""Which exam a protocol is."""

from collections.abc import Callable
from typing import Any

from vader.encoders import DenseEncoder, fit
from vader.evaluation.patchwork import clustered, nearest_neighbours
from vader.evaluation.results import Result
from vader.evaluation.sitting import Keep, Pictures, Plan, Sets, linear_depth, linear_segmentation
from vader.exams.clusters import ClustersProtocol
from vader.exams.neighbours import NeighboursProtocol
from vader.exams.protocols import LinearDepth, LinearSegmentation

SITTINGS: dict[type, Callable[..., Result]] = {
    LinearSegmentation: linear_segmentation,
    LinearDepth: linear_depth,
    NeighboursProtocol: nearest_neighbours,
    ClustersProtocol: clustered,
}


def sit(encoder: DenseEncoder, protocol: Any, sets: Sets, plan: Plan, keep: Keep) -> Result:
    """The encoder's result; `keep` is called with the first trial's prediction of every picture of the val split.

    Raises BadInput for features that are not finite and for a train split without a single labelled pixel.
    """
    plan.seconds = {}
    with plan.timed("fitting"):
        encoder = fit(encoder, Pictures(sets.train))
    return SITTINGS[type(protocol)](encoder, protocol, sets, plan, keep)
