"""Constants of the exams on labelled pictures."""

import re
from dataclasses import dataclass
from typing import Literal

from vader.errors import BadInput
from vader.exams.labelled.depth import LR, NEAREST, Crop
from vader.exams.labelled.dinov3 import BinsConfig
from vader.exams.labelled.leopart import SquareConfig
from vader.finetuning.pixels import ProbeConfig
from vader.reports.metrics import VOID

SETS = ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
SEGMENTATION_PROBE = ProbeConfig(lr=0.03)  # chosen by `bench/sweep.py` inside train splits: docs/protocols.md
SQUARE_PROBE, BINS_PROBE = SquareConfig(), BinsConfig()
DEPTH_PROBE = ProbeConfig(lr=LR, weight_decay=0.0)
EIGEN: Crop = (45, 471, 41, 601)  # rows and columns of 480 x 640


@dataclass(frozen=True, kw_only=True)
class Few:
    """The number of pictures with labels: a share of the train split, or a count."""

    share: float | None = None
    pictures: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Few":
        """Parse '5%' or '20'. Raises BadInput for anything else."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", text)
        if match and match[1] and 0 < float(match[1]) <= 100:
            return cls(share=float(match[1]) / 100)
        if match and match[2] and int(match[2]) > 0:
            return cls(pictures=int(match[2]))
        raise BadInput(f"--protocol: expected a share such as 5% or a number of pictures after :, found {text!r}")

    @property
    def size(self) -> float | int:
        """The size as `subsets.nested_subsets` expects it."""
        found = self.share if self.pictures is None else self.pictures
        assert found is not None
        return found


@dataclass(frozen=True, kw_only=True)
class LinearSegmentation:
    """The probe of vader; mIoU at the labels' own resolution from one confusion matrix over all pictures."""

    name: str
    data: str
    probe: ProbeConfig = SEGMENTATION_PROBE
    void: int = VOID
    features: Literal["float16", "float32"] = "float16"
    few: Few | None = None


@dataclass(frozen=True, kw_only=True)
class LinearDepth:
    """The probe of vader with one output; errors of the full frame and, if there is one, of the crop."""

    name: str
    data: str
    probe: ProbeConfig = DEPTH_PROBE
    nearest: float = NEAREST  # metres, lower bound of predictions
    farthest: float = 10.0  # metres, upper bound of valid true depths and of predictions
    crop: Crop | None = None
    features: Literal["float16", "float32"] = "float16"
    few: Few | None = None


@dataclass(frozen=True, kw_only=True)
class SquareSegmentation:
    """Leopart's probe, whose features are computed again in each of its 25 epochs; mIoU of squares of 448 px from one
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
    """DINOv3's probe of depth; means of each picture's errors, in the crop and in the full frame."""

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
        """Metres; pixels with a larger true depth are not scored."""
        return self.probe.farthest


Linear = LinearSegmentation | LinearDepth | SquareSegmentation | BinnedDepth
