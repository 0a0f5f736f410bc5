"""ADE20K of the scene parsing challenge 2016: images and annotations / {training,validation}; 150 classes.

Labels are 1..150, and 0 for all else, which is void here: class k has id k - 1.
"""

from pathlib import Path

from vader.datasets.example import VOID, LabelledSet
from vader.datasets.files import Pairs, find_root, id_table, labelled, listed, read_lines
from vader.errors import BadInput

HOW = "download http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, unpack it and give its folder"
CLASSES = 150
FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(root: Path, split: str) -> LabelledSet:
    """Open ADEChallengeData2016 or its parent. objectInfo150.txt names the classes; without it, "class 1" to 150."""
    place = find_root(root, "images", ("ADEChallengeData2016",), HOW)
    folder, truths = (place / part / FOLDERS[split] for part in ("images", "annotations"))
    # Names from both folders, so that a missing picture is an error and not skipped.
    names = tuple(sorted(listed(folder, "*", ".jpg") | listed(truths, "*", ".png")))
    if not names:
        raise BadInput(f"expected pictures {folder}/*.jpg, found none; {HOW}")
    pairs = Pairs(
        names,
        tuple(folder / f"{name}.jpg" for name in names),
        tuple(truths / f"{name}.png" for name in names),
    )
    info = place / "objectInfo150.txt"
    classes = _names(info) if info.is_file() else tuple(f"class {k}" for k in range(1, CLASSES + 1))
    table = id_table({0: VOID} | {k + 1: k for k in range(CLASSES)})
    lists = (info,) if info.is_file() else ()
    return labelled("ade20k", place, split, classes, pairs.exist(HOW), table=table, lists=lists)


def _names(info: Path) -> tuple[str, ...]:
    """Read the last column of a table with a header line: the synonyms of each class, separated by commas.

    A class is named by its first synonym; if that is already used ("screen" occurs twice), by all of them.
    """
    names: list[str] = []
    for line in read_lines(info, HOW)[1:]:
        synonyms = line.split("\t")[-1].strip()
        first = synonyms.split(",")[0].strip()
        names.append(
            first if first not in names else synonyms if synonyms not in names else f"{first} {len(names) + 1}"
        )
    if len(names) != CLASSES:
        raise BadInput(f"expected a header and {CLASSES} classes in {info}, found {len(names)} classes; {HOW}")
    return tuple(names)
