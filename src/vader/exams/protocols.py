"""Named protocols: frozen, every constant that a score depends on but for seeds, trials, encoder and data.

A name is DATA-EXAM/WHOSE: `voc-linear/vader`. Of probes with few labels a suffix says how many pictures of the train
split have labels: `voc-linear/vader:5%`, `voc-linear/vader:20`; trial t draws its own, and a smaller subset is part of
each larger one of the same trial. Standardising and training see the labelled pictures alone; a PCA that an encoder
asks for is fitted on all pictures of the split, for it needs no labels.
"""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vader.encoders.features import ProbeConfig
from vader.errors import BadInput
from vader.exams.clips.protocols import PROTOCOLS as CLIPS
from vader.exams.clips.protocols import ClipExam
from vader.exams.labelled.clusters import PROTOCOLS as CLUSTERS
from vader.exams.labelled.clusters import ClustersProtocol
from vader.exams.labelled.depth import LR, NEAREST, Crop
from vader.exams.labelled.dinov3 import BinsConfig
from vader.exams.labelled.leopart import SquareConfig
from vader.exams.labelled.neighbours import PROTOCOLS as NEIGHBOURS
from vader.exams.labelled.neighbours import NeighboursProtocol
from vader.exams.pairs.protocols import PROTOCOLS as MATCHING
from vader.exams.pairs.protocols import MatchProtocol
from vader.reports.metrics import VOID

SETS = ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
SEGMENTATION_PROBE = ProbeConfig(lr=0.03)  # by `bench/sweep.py` inside train splits: docs/protocols.md
SQUARE_PROBE, BINS_PROBE = SquareConfig(), BinsConfig()
DEPTH_PROBE = ProbeConfig(lr=LR, weight_decay=0.0)
EIGEN: Crop = (45, 471, 41, 601)  # rows and columns of 480 x 640


@dataclass(frozen=True, kw_only=True)
class Few:
    """How many pictures have labels: a share of the train split, or a number."""

    share: float | None = None
    pictures: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Few":
        """'5%' or '20'. Raises BadInput for anything else."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", text)
        if match and match[1] and 0 < float(match[1]) <= 100:
            return cls(share=float(match[1]) / 100)
        if match and match[2] and int(match[2]) > 0:
            return cls(pictures=int(match[2]))
        raise BadInput(f"--protocol: expected after : a share such as 5% or a number of pictures, got {text!r}")

    @property
    def size(self) -> float | int:
        """As `subsets.nested_subsets` takes it."""
        found = self.share if self.pictures is None else self.pictures
        assert found is not None
        return found


@dataclass(frozen=True, kw_only=True)
class LinearSegmentation:
    """The house probe; mIoU at the labels' own resolution from one confusion matrix over all pictures."""

    name: str
    data: str
    probe: ProbeConfig = SEGMENTATION_PROBE
    void: int = VOID
    features: Literal["float16", "float32"] = "float16"
    few: Few | None = None


@dataclass(frozen=True, kw_only=True)
class LinearDepth:
    """The house probe with one output; errors of the full frame and, if there is one, of the crop."""

    name: str
    data: str
    probe: ProbeConfig = DEPTH_PROBE
    nearest: float = NEAREST  # metres; predictions are clamped to it
    farthest: float = 10.0  # metres; truth beyond it is not valid, predictions are clamped to it
    crop: Crop | None = None
    features: Literal["float16", "float32"] = "float16"
    few: Few | None = None


@dataclass(frozen=True, kw_only=True)
class SquareSegmentation:
    """Leopart's probe, whose features are computed anew in each of its 25 epochs; mIoU of squares of 448 px from one
    confusion matrix over all pictures. Not comparable with scores at the labels' own resolution."""

    name: str
    data: str
    probe: SquareConfig = SQUARE_PROBE
    void: int = VOID
    features: Literal["float16", "float32"] = "float32"
    few: Few | None = None
    note: str = (
        "Theirs, of VOC and COCO, kept the best of 25 epochs by the first val batches; this is the last epoch's. "
        "Trials share their crops and differ in first weights."
    )


@dataclass(frozen=True, kw_only=True)
class BinnedDepth:
    """DINOv3's probe of depth; errors of each picture, then their mean, in the crop and in the full frame."""

    name: str
    data: str
    probe: BinsConfig = BINS_PROBE
    crop: Crop = EIGEN
    features: Literal["float16", "float32"] = "float32"
    few: Few | None = None
    note: str = (
        "Learns from the 795 labelled pictures; theirs from the 24 thousand raw ones of BTS. Numbers are not theirs. "
        "Trials share their crops and differ in first weights."
    )

    @property
    def farthest(self) -> float:
        """Metres; truth beyond it is not scored."""
        return self.probe.farthest


Linear = LinearSegmentation | LinearDepth | SquareSegmentation | BinnedDepth
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
    full = replace(NEIGHBOURS["voc/hummingbird"], name="voc/hummingbird-full", cells=None)  # the map's own cells
    found["neighbours", full.name] = full
    found |= {("propagation", name): one for name, one in CLIPS.items()}
    return found | {("match", name): one for name, one in MATCHING.items()}


PROTOCOLS = _listed()


def find_protocol(task: str, name: str) -> Protocol:
    """The protocol of a task by its name, perhaps with a suffix of few labels. Raises BadInput listing the names."""
    tasks = sorted({known for known, _ in PROTOCOLS})
    if task not in tasks:
        raise BadInput(f"--task: expected {', '.join(tasks)}, got {task!r}")
    plain, colon, few = name.partition(":")
    if (task, plain) not in PROTOCOLS:
        names = ", ".join(known for of, known in PROTOCOLS if of == task)
        raise BadInput(f"--protocol: expected for {task} one of {names}, got {name!r}")
    found = PROTOCOLS[task, plain]
    if not colon:
        return found
    if not isinstance(found, Linear):
        raise BadInput(f"--protocol: {plain} has no variant with few labels, got {name!r}; linear probes have")
    return replace(found, name=name, few=Few.parse(few))


def constants(protocol: Protocol) -> dict[str, Any]:
    """All that the protocol fixes, for a report; of Hummingbird also why its numbers are not the published ones."""
    if not isinstance(protocol, NeighboursProtocol):
        return asdict(protocol)
    note = (
        f"Numbers are not comparable with published ones: at most {protocol.keys:,} keys of one pass over the pictures "
        "as they are, without augmentation, and exact search; theirs 10,240,000 keys of two augmented epochs of square "
        "pictures, and approximate search."
    )
    return asdict(protocol) | {"note": note}
