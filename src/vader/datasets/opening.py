"""A kind of labelled set and its folder -> the set."""

from collections.abc import Callable
from pathlib import Path

from vader.datasets import ade20k, camvid, cityscapes, folder, nyu, rgbd, voc
from vader.datasets.example import LabelledSet
from vader.errors import BadInput

KINDS: dict[str, Callable[[Path, str], LabelledSet]] = {
    "voc": voc.open_voc,
    "voc-animals": voc.open_animals,
    "cityscapes": cityscapes.open_cityscapes,
    "camvid": camvid.open_camvid,
    "ade20k": ade20k.open_ade20k,
    "folder": folder.open_folder,
    "nyu": nyu.open_nyu,
    "nyu-filled": nyu.open_filled,
    "rgbd": rgbd.open_rgbd,
}


def open_labelled(kind: str, root: Path, split: str) -> LabelledSet:
    """The "train" or "val" split of the set of one of `KINDS` below `root`. Reads lists, opens no picture.

    Raises `BadInput` for unknown words, for a folder, list or file that is missing (with how to get it), and for an
    empty split; `MissingExtra` for a library that is not installed.
    """
    if kind not in KINDS:
        raise BadInput(f"expected a kind of data set ({', '.join(KINDS)}), came {kind!r}")
    if split not in ("train", "val"):
        raise BadInput(f"expected a split, train or val, came {split!r}")
    try:
        return KINDS[kind](Path(root), split)
    except OSError as fault:
        raise BadInput(f"cannot read {fault.filename or root}: {fault.strerror or fault}") from fault
