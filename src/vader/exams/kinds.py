"""Define each kind of exam, and evaluate one encoder with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vader.datasets.opening import open_splits
from vader.encoders import DenseEncoder, fit
from vader.encoders.features import Overflow, extract, lost_in_half
from vader.errors import BadInput
from vader.exams.clips.evaluation import copied, evaluate_clips, open_clips
from vader.exams.clips.pages import clip_pages
from vader.exams.clips.protocols import ClipExam
from vader.exams.labelled.clusters import ClustersProtocol
from vader.exams.labelled.leopart import check_stride
from vader.exams.labelled.linear import Sets, linear_depth, linear_segmentation
from vader.exams.labelled.neighbours import NeighboursProtocol
from vader.exams.labelled.pages import class_charts, class_tables, example_groups
from vader.exams.labelled.patchwise import clustered, nearest_neighbours, settled
from vader.exams.labelled.protocols import BinnedDepth, LinearDepth, LinearSegmentation, SquareSegmentation
from vader.exams.labelled.published import binned_depth, open_squares, square_segmentation
from vader.exams.pairs.evaluation import match_pairs, pair_baselines
from vader.exams.pairs.pages import pair_pages
from vader.exams.pairs.protocols import KeypointsProtocol, PosedProtocol, ScenesProtocol, WarpProtocol
from vader.exams.pairs.sets import open_pairs
from vader.exams.plan import Keep, Material, Plan
from vader.exams.results import Result
from vader.reports.report import Group
from vader.reports.tables import Table

TRIED = 4  # pictures on which storage in float16 is tested


def no_rows(protocol: Any, material: Any, plan: Plan, keeper: Callable[[str], Keep]) -> list[Result]:
    """Return no baseline rows: some exams need an encoder for every row."""
    return []


@dataclass(frozen=True)
class Exam:
    """A kind of exam.

    `open(protocol, root)` reads lists but no pictures and raises BadInput for missing files. `run` returns an encoder's
    result and calls `keep` with predictions. `pages(results, protocol, material, folder, folders, pictures)` makes
    further tables, and figures if `pictures`. `baselines(protocol, material, plan, keeper)` makes the rows without an
    encoder; `keeper(name)` returns the `keep` of a row. `seeded` is False if nothing is random; then there is one
    trial, whatever number is requested. `settled(protocol, material)` returns the reason if this holds only for some
    protocols and data. `needs_data` says whether a root is required.
    """

    open: Callable[[Any, Path], Any]
    run: Callable[..., Result]
    pages: Callable[..., tuple[list[Table], list[Group]]]
    baselines: Callable[..., list[Result]] = no_rows
    seeded: bool = True
    settled: Callable[[Any, Any], str] = lambda protocol, material: ""
    needs_data: bool = True


def open_sets(protocol: Any, root: Path) -> Sets:
    """Open the two splits of the protocol's data set."""
    return Sets(*open_splits(protocol.data, root))


def label_pages(
    results: Sequence[Result], protocol: Any, sets: Sets, folder: Path, folders: dict[str, str], pictures: bool = True
) -> tuple[list[Table], list[Group]]:
    """Make the tables and charts of classes, and show the best and worst pictures."""
    if not pictures:
        return class_tables(results, sets), []
    groups = [*class_charts(results, sets, folder)]
    groups += [example_groups(one, protocol, sets, folder, folders[one.name]) for one in results]
    return class_tables(results, sets), groups


def _of_labels(run: Callable[..., Result]) -> Exam:
    return Exam(open_sets, run, label_pages)


_MATCH = Exam(open_pairs, match_pairs, pair_pages, pair_baselines, seeded=False)

EXAMS: dict[type, Exam] = {
    LinearSegmentation: _of_labels(linear_segmentation),
    LinearDepth: _of_labels(linear_depth),
    SquareSegmentation: Exam(open_squares, square_segmentation, label_pages),
    BinnedDepth: _of_labels(binned_depth),
    NeighboursProtocol: Exam(open_sets, nearest_neighbours, label_pages, settled=settled),
    ClustersProtocol: _of_labels(clustered),
    ClipExam: Exam(open_clips, evaluate_clips, clip_pages, copied, seeded=False),
    WarpProtocol: _MATCH,
    KeypointsProtocol: _MATCH,
    PosedProtocol: _MATCH,
    ScenesProtocol: replace(_MATCH, needs_data=False),
}


def evaluate_one(encoder: DenseEncoder, protocol: Any, material: Material, plan: Plan, keep: Keep) -> Result:
    """Evaluate one encoder; `keep` is called with the first trial's prediction of every scored picture.

    If the protocol stores features in float16, a few pictures first test that float16 does not harm them. If a later
    picture overflows, the encoder is evaluated again in float32. The facts of the result record the type that was used.

    Raises BadInput for features that are not finite and for a train split without labelled pixels.
    """
    plan.seconds = {}
    take = EXAMS[type(protocol)].run
    with plan.timed("fitting"):
        encoder = fit(encoder, material.pictures)
    if getattr(protocol, "features", "float32") != "float16":
        return take(encoder, protocol, material, plan, keep)
    with plan.timed("fitting"):
        lost = lost_in_half(_some_maps(encoder, material.pictures))
    if not lost:
        try:
            return take(_told(encoder, "float16"), protocol, material, plan, keep)
        except Overflow:
            lost = "overflow"
    wider = replace(protocol, features="float32")
    return take(_told(encoder, f"float32: float16 would {lost}"), wider, material, plan, keep)


def _some_maps(encoder: DenseEncoder, pictures: Sequence) -> Iterator[Tensor]:
    """Yield the maps of evenly spaced pictures of the split. The choice depends only on the number of pictures."""
    for i in np.unique(np.linspace(0, len(pictures) - 1, TRIED).astype(int)):
        yield from extract(encoder, [pictures[int(i)]])


def _told(encoder: DenseEncoder, features: str) -> DenseEncoder:
    return replace(encoder, facts=encoder.facts | {"features": features})


def try_out(encoders: Sequence[DenseEncoder], protocol: Any, material: Material) -> None:
    """Encode one picture with every encoder, so that a broken encoder is reported before a long evaluation starts.

    Raises BadInput for features that are not finite and for a stride that the protocol does not support.
    """
    picture = material.pictures[0]
    for encoder in encoders:
        if isinstance(protocol, SquareSegmentation):
            check_stride(encoder, protocol.probe)
        while encoder.unfitted is not None:
            encoder = encoder.unfitted
        extract(encoder, [picture])


def check_few(protocol: Any, material: Any) -> None:
    """Raise BadInput if the protocol needs more labelled pictures than the train split has."""
    few = getattr(protocol, "few", None)
    if few and (few.pictures or 0) > (count := len(material.train)):
        raise BadInput(
            f"--protocol {protocol.name}: expected at most {count} labelled pictures, the size of the train split of "
            f"{material.name} in {material.train.root}, found {few.pictures}; use fewer, or a share such as 10%"
        )
