"""Named protocols: frozen, with every constant that a score depends on except seeds, trials, encoder and data.

A name is DATA-EXAM/SOURCE, such as `voc-linear/vader`. For linear probes a suffix gives the number of labelled pictures
of the train split: `voc-linear/vader:5%`, `voc-linear/vader:20`. Trial t draws its own subset, and a smaller subset is
part of each larger one of the same trial. Only the labelled pictures are used for standardisation and training; an
encoder's PCA is fitted on all pictures of the split, because it needs no labels.
"""

from dataclasses import asdict, replace
from typing import Any

from vader.errors import BadInput
from vader.exams.clips.protocols import PROTOCOLS as CLIPS
from vader.exams.clips.protocols import ClipExam
from vader.exams.labelled.clusters import PROTOCOLS as CLUSTERS
from vader.exams.labelled.clusters import ClustersProtocol
from vader.exams.labelled.neighbours import PROTOCOLS as NEIGHBOURS
from vader.exams.labelled.neighbours import NeighboursProtocol
from vader.exams.labelled.protocols import (
    EIGEN,
    SETS,
    BinnedDepth,
    Few,
    Linear,
    LinearDepth,
    LinearSegmentation,
    SquareSegmentation,
)
from vader.exams.pairs.protocols import PROTOCOLS as MATCHING
from vader.exams.pairs.protocols import MatchProtocol

Protocol = Linear | NeighboursProtocol | ClustersProtocol | ClipExam | MatchProtocol


def _listed() -> dict[tuple[str, str], Protocol]:
    found: dict[tuple[str, str], Protocol] = {}
    for data in SETS:
        linear = LinearSegmentation(name=f"{data}-linear/vader", data=data)
        found["segmentation", linear.name] = linear
        square = SquareSegmentation(name=f"{data}-linear/leopart", data=data)
        found["segmentation", square.name] = square
    found["depth", "nyu-linear/vader"] = LinearDepth(name="nyu-linear/vader", data="nyu", crop=EIGEN)
    found["depth", "nyu-linear/dinov3"] = BinnedDepth(name="nyu-linear/dinov3", data="nyu")
    found["depth", "rgbd-linear/vader"] = LinearDepth(name="rgbd-linear/vader", data="rgbd")
    found |= {("segmentation", name): one for name, one in CLUSTERS.items()}
    found |= {("neighbours", name): one for name, one in NEIGHBOURS.items()}
    full = replace(NEIGHBOURS["voc/hummingbird"], name="voc/hummingbird-full", cells=None)  # the cells of the map
    found["neighbours", full.name] = full
    found |= {("propagation", name): one for name, one in CLIPS.items()}
    return found | {("match", name): one for name, one in MATCHING.items()}


PROTOCOLS = _listed()


def find_protocol(task: str, name: str) -> Protocol:
    """Find a task's protocol by its name, with or without a suffix. Raises BadInput that lists the names."""
    tasks = sorted({known for known, _ in PROTOCOLS})
    if task not in tasks:
        raise BadInput(f"--task: expected {', '.join(tasks)}, found {task!r}")
    plain, colon, few = name.partition(":")
    if (task, plain) not in PROTOCOLS:
        names = ", ".join(known for of, known in PROTOCOLS if of == task)
        raise BadInput(f"--protocol: expected one of {names} for {task}, found {name!r}")
    found = PROTOCOLS[task, plain]
    if not colon:
        return found
    if not isinstance(found, Linear):
        raise BadInput(f"--protocol: expected a linear probe for a variant with few labels, found {name!r}")
    return replace(found, name=name, few=Few.parse(few))


def constants(protocol: Protocol) -> dict[str, Any]:
    """Return all constants of the protocol for a report; for Hummingbird also why its numbers are not the published."""
    if not isinstance(protocol, NeighboursProtocol):
        return asdict(protocol)
    note = (
        f"Numbers are not comparable with published ones: at most {protocol.keys:,} keys of one pass over the pictures "
        "as they are, without augmentation, and exact search; theirs 10,240,000 keys of two augmented epochs of square "
        "pictures, and approximate search."
    )
    return asdict(protocol) | {"note": note}
