"""Open a labelled set by its kind and folder."""

import os
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
    """Open the "train" or "val" split of a set, one of `KINDS`, below `root`. Reads lists but no pictures.

    Raises `BadInput` for unknown names, for a missing folder, list or file (with how to get it), and for an empty
    split; `MissingExtra` for a missing library.
    """
    if kind not in KINDS:
        raise BadInput(f"expected a kind of data set ({', '.join(KINDS)}), found {kind!r}")
    if split not in ("train", "val"):
        raise BadInput(f"expected a split, train or val, found {split!r}")
    try:
        return KINDS[kind](Path(root), split)
    except OSError as fault:
        raise BadInput(f"cannot read {fault.filename or root}: {fault.strerror or fault}") from fault


def open_splits(kind: str, root: Path) -> tuple[LabelledSet, LabelledSet]:
    """Open the "train" and the "val" split for an exam. Raises like `open_labelled` and `check_apart`."""
    train, val = (open_labelled(kind, root, split) for split in ("train", "val"))
    check_apart(train, val)
    return train, val


def check_apart(train: LabelledSet, val: LabelledSet) -> None:
    """Raise `BadInput` for a picture in both splits, also under different names or links."""
    known = {os.path.realpath(path): name for path, name in zip(train.pictures, train.names, strict=True)}
    both = [
        (known[place], name, place)
        for path, name in zip(val.pictures, val.names, strict=True)
        if (place := os.path.realpath(path)) in known
    ]
    if both:
        mine, other, place = both[0]
        more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
        raise BadInput(
            f"{val.root}: expected each picture in one split, found {place} as {mine} in train and as {other} in "
            f"val{more}; keep it in one split"
        )
