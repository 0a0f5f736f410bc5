"""A user's own pictures and masks: images/, masks/ and classes.txt in one folder.

The mask of images/A/B.jpg is masks/A/B.png, an indexed or grey PNG of the picture's size. The class on line n of
classes.txt has id n - 1; 255 is void. Each line of train.txt and val.txt names a picture below images/, with or without
its suffix. Without these lists, pictures are sorted by the SHA-256 of their names and the first fifth is for
validation. This split is the same on every machine, and adding or removing a picture moves at most one other picture
between the splits. In that case every mask needs a picture, too.
"""

import hashlib
import os
from pathlib import Path

from vader.datasets.example import LabelledSet
from vader.datasets.files import Pairs, find_root, labelled, listed, read_classes, read_lines
from vader.errors import BadInput
from vader.images.sources import list_images

HOW = "put pictures into images/, a mask PNG for each into masks/, and class names, one on each line, into classes.txt"
SEED = "vader 0"  # prefix of each name in the hash
VAL_SHARE = 0.2


def open_folder(root: Path, split: str) -> LabelledSet:
    """Open a folder with images/, masks/ and classes.txt."""
    find_root(root, "images", (), HOW)
    for part in ("masks", "classes.txt"):
        find_root(root, part, (), HOW)
    pictures: dict[str, str] = {}  # by the name that picture and mask share
    for picture in list_images(root / "images").names:
        name = os.path.splitext(picture)[0]
        if name in pictures:
            raise BadInput(
                f"{root / 'images'}: expected one picture for each mask, found {pictures[name]} and {picture}; keep one"
            )
        pictures[name] = picture
    names, lists, note = _split(root, split, pictures)
    pairs = Pairs(
        tuple(names),
        tuple(root / "images" / pictures[name] for name in names),
        tuple(root / "masks" / f"{name}.png" for name in names),
    )
    pairs.sound(lists[0] if lists else root).exist(HOW)
    own = root / "classes.txt"
    return labelled("folder", root, split, read_classes(own), pairs, lists=(own, *lists), note=note)


def _split(root: Path, split: str, pictures: dict[str, str]) -> tuple[list[str], tuple[Path, ...], str]:
    """Return (names, lists that were read, note)."""
    paths = {part: root / f"{part}.txt" for part in ("train", "val")}
    if any(path.is_file() for path in paths.values()):
        found = {
            part: [_named(line, pictures, path) for line in read_lines(path, _ask(paths))]
            for part, path in paths.items()
        }
        if both := set(found["train"]) & set(found["val"]):
            raise BadInput(f"{paths['train']} and {paths['val']} both name {min(both)}; list each picture in one")
        return found[split], (paths[split],), f"{split}.txt"
    if lone := listed(root / "masks", "**/*", ".png") - pictures.keys():
        raise BadInput(
            f"{root / 'masks' / min(lone)}.png has no picture below {root / 'images'}; add it, remove the mask, or "
            "name the pictures to use in train.txt and val.txt"
        )
    if len(pictures) < 2:
        raise BadInput(f"expected at least 2 pictures in {root / 'images'} to split, found {len(pictures)}; {HOW}")
    order = sorted(pictures, key=lambda name: hashlib.sha256(os.fsencode(f"{SEED}/{name}")).digest())
    held = max(1, round(VAL_SHARE * len(order)))
    names = sorted(order[:held] if split == "val" else order[held:])
    note = f"no train.txt and val.txt: {held} of {len(order)} pictures, by a hash of their names, are for validation"
    return names, (), note


def _ask(paths: dict[str, Path]) -> str:
    return f"write both {paths['train'].name} and {paths['val'].name}, or neither"


def _named(line: str, pictures: dict[str, str], source: Path) -> str:
    """Return the picture's name without suffix."""
    for name in (line, os.path.splitext(line)[0]):
        if name in pictures and (name == line or pictures[name] == line):
            return name
    raise BadInput(f"{source}: expected names of pictures below {source.parent / 'images'}, found {line}")
