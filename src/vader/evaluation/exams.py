"""What sitting each kind of protocol is made of, and one encoder's way through it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vader.datasets.opening import open_labelled
from vader.encoders import DenseEncoder, fit
from vader.evaluation.clip_pages import clip_pages
from vader.evaluation.clips import copied, open_clips, sit_clips
from vader.evaluation.label_pages import class_charts, class_tables, example_groups
from vader.evaluation.material import Material
from vader.evaluation.pair_pages import pair_pages
from vader.evaluation.pair_sets import open_pairs
from vader.evaluation.pairs import match_pairs, pair_baselines
from vader.evaluation.patchwork import clustered, nearest_neighbours
from vader.evaluation.published import binned_depth, open_squares, square_segmentation
from vader.evaluation.results import Result
from vader.evaluation.sitting import Keep, Plan, Sets, linear_depth, linear_segmentation
from vader.exams.clusters import ClustersProtocol
from vader.exams.matching.protocols import (
    KeypointsProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
)
from vader.exams.neighbours import NeighboursProtocol
from vader.exams.propagation.exam import ClipExam
from vader.exams.protocols import BinnedDepth, LinearDepth, LinearSegmentation, SquareSegmentation
from vader.report import Group
from vader.tables import Table


def no_rows(protocol: Any, material: Any, plan: Plan, keeper: Callable[[str], Keep]) -> list[Result]:
    """Exams without a row that no encoder is needed for."""
    return []


@dataclass(frozen=True)
class Exam:
    """A kind of exam.

    `open(protocol, root)` reads lists and opens no picture; BadInput for what is missing. `sit` gives an encoder's
    result and calls `keep` with predictions. `pages(results, protocol, material, folder, folders)` makes further tables
    and figures; `baselines(protocol, material, plan, keeper)` the rows without an encoder, where
    `keeper(name)` is the `keep` of a row. Where nothing is drawn at random `seeded` is False, and there is one trial
    however many are asked for. `needs_data`: whether there has to be a root.
    """

    open: Callable[[Any, Path], Any]
    sit: Callable[..., Result]
    pages: Callable[..., tuple[list[Table], list[Group]]]
    baselines: Callable[..., list[Result]] = no_rows
    seeded: bool = True
    needs_data: bool = True


def open_sets(protocol: Any, root: Path) -> Sets:
    """The two splits of the protocol's data set."""
    return Sets(*(open_labelled(protocol.data, root, split) for split in ("train", "val")))


def label_pages(
    results: Sequence[Result], protocol: Any, sets: Sets, folder: Path, folders: dict[str, str]
) -> tuple[list[Table], list[Group]]:
    """Classes, and the best and worst pictures."""
    groups = [*class_charts(results, sets, folder)]
    groups += [example_groups(one, protocol, sets, folder, folders[one.name]) for one in results]
    return class_tables(results, sets), groups


def _of_labels(sit: Callable[..., Result]) -> Exam:
    return Exam(open_sets, sit, label_pages)


_MATCH = Exam(open_pairs, match_pairs, pair_pages, pair_baselines, seeded=False)

EXAMS: dict[type, Exam] = {
    LinearSegmentation: _of_labels(linear_segmentation),
    LinearDepth: _of_labels(linear_depth),
    SquareSegmentation: Exam(open_squares, square_segmentation, label_pages),
    BinnedDepth: _of_labels(binned_depth),
    NeighboursProtocol: _of_labels(nearest_neighbours),
    ClustersProtocol: _of_labels(clustered),
    ClipExam: Exam(open_clips, sit_clips, clip_pages, copied, seeded=False),
    WarpProtocol: _MATCH,
    KeypointsProtocol: _MATCH,
    PosedProtocol: _MATCH,
    ScenesProtocol: replace(_MATCH, needs_data=False),
}


def sit(encoder: DenseEncoder, protocol: Any, material: Material, plan: Plan, keep: Keep) -> Result:
    """The encoder's result; `keep` is called with the first trial's prediction of every picture that is scored.

    Raises BadInput for features that are not finite and for a train split without a single labelled pixel.
    """
    plan.seconds = {}
    with plan.timed("fitting"):
        encoder = fit(encoder, material.pictures)
    return EXAMS[type(protocol)].sit(encoder, protocol, material, plan, keep)
