"""Cityscapes: leftImg8bit and gtFine / {train,val} / CITY / CITY_NUMBER_FRAME_...; 19 classes, other ids are void."""

from pathlib import Path

from vader.datasets.example import VOID, LabelledSet
from vader.datasets.files import Pairs, find_root, id_table, labelled, listed
from vader.errors import BadInput

HOW = (
    "register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip, and unpack both into one folder"
)
# The labelIds of the evaluated classes, in the order of their train ids.
IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
LAST = 33
ENDING, TRUTH = "_leftImg8bit.png", "_gtFine_labelIds.png"


def open_cityscapes(root: Path, split: str) -> LabelledSet:
    """`root` has leftImg8bit and gtFine; examples are sorted by their names, CITY/CITY_NUMBER_FRAME."""
    place = find_root(root, "leftImg8bit", ("cityscapes",), HOW)
    folder, truths = place / "leftImg8bit" / split, place / "gtFine" / split
    # Names from both folders, so that a missing picture is an error and not skipped.
    names = tuple(sorted(listed(folder, "*/*", ENDING) | listed(truths, "*/*", TRUTH)))
    if not names:
        raise BadInput(f"expected pictures {folder}/CITY/*{ENDING}, found none; {HOW}")
    pairs = Pairs(
        names,
        tuple(folder / f"{name}{ENDING}" for name in names),
        tuple(truths / f"{name}{TRUTH}" for name in names),
    )
    table = id_table(dict.fromkeys(range(LAST + 1), VOID) | {number: k for k, number in enumerate(IDS.values())})
    return labelled("cityscapes", place, split, tuple(IDS), pairs.exist(HOW), table=table)
