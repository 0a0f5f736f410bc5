"""Colour and depth side by side: NAME.color.jpg (or .png) and NAME.depth.png; train.txt and val.txt list the NAMEs.

Depth is 16-bit, in millimetres, registered to the colour picture and of its size; 0 and 65535 are unknown.
"""

from pathlib import Path

from vader.datasets.example import LabelledSet
from vader.datasets.files import Pairs, find_root, picture_file, read_lines, with_depth

HOW = (
    "put NAME.color.jpg and NAME.depth.png (16 bits, millimetres, of the picture's size) side by side and list the "
    "NAMEs of each split in train.txt and val.txt"
)


def open_rgbd(root: Path, split: str) -> LabelledSet:
    """Open a folder with the lists; NAMEs may contain folders."""
    find_root(root, f"{split}.txt", (), HOW)
    chosen = root / f"{split}.txt"
    names = tuple(read_lines(chosen, HOW))
    pairs = Pairs(
        names,
        tuple(picture_file(root / f"{name}.color") for name in names),
        tuple(root / f"{name}.depth.png" for name in names),
    )
    return with_depth("rgbd", root, split, pairs.sound(chosen).exist(HOW), lists=(chosen,))
