"""Keypoints of animals: images/, keypoints.json in COCO's format, and file names in train.txt and val.txt.

Axes: P keypoints of an animal. Coordinates are (x, y) in pixels from the image's upper left edge, as in COCO, so the
centre of the first pixel is at 0.5.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vader.datasets.example import Example, Instance, LabelledSet
from vader.datasets.files import Pairs, find_root, read_lines
from vader.errors import BadInput
from vader.images.decode import decode

ANNOTATIONS = "keypoints.json"
VISIBLE = 2  # COCO's flag; 1 is labelled but hidden, 0 is not labelled
HOW = (
    f"put images/, {ANNOTATIONS} (COCO's format: images, annotations with bbox and keypoints, categories) and "
    "train.txt and val.txt (a file name on each line) side by side"
)


@dataclass(frozen=True, kw_only=True)
class Animal(Instance):
    """An annotated animal: an instance with keypoints, and the index of its image."""

    image: int
    keypoints: Float[np.ndarray, "P 2"]
    visible: Bool[np.ndarray, "P"]


@dataclass(frozen=True)
class AnimalSet:
    """A split: its images in the list's order, with their animals as instances, and all animals in the file's order."""

    images: LabelledSet
    animals: tuple[Animal, ...]


def open_animal_keypoints(root: Path, split: str) -> AnimalSet:
    """Read the annotations but no images. Raises BadInput for missing files and invalid entries."""
    place = find_root(root, ANNOTATIONS, (), HOW)
    chosen = place / f"{split}.txt"
    names = tuple(read_lines(chosen, HOW))
    paths = tuple(place / "images" / name for name in names)
    Pairs(names, paths, ()).sound(chosen).exist(HOW)
    animals = _animals(_read(place / ANNOTATIONS), names, place / ANNOTATIONS)
    kinds = tuple(dict.fromkeys(one.category for one in animals))
    files = (chosen, place / ANNOTATIONS, *paths)
    shown: list[list[Instance]] = [[] for _ in names]
    for one in animals:
        shown[one.image].append(one)
    images = LabelledSet(
        "animals", place, split, kinds, names,
        lambda i: Example(names[i], decode(paths[i]), instances=tuple(shown[i])), files,
        picture=lambda i: decode(paths[i]),
    )  # fmt: skip
    return AnimalSet(images, animals)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise BadInput(f"{path}: expected JSON in COCO's format, found an unreadable file: {fault}") from None
    known = table if isinstance(table, dict) else {}
    if lacking := [key for key in ("images", "annotations", "categories") if not isinstance(known.get(key), list)]:
        raise BadInput(f"{path}: expected images, annotations and categories, found no {', '.join(lacking)}; {HOW}")
    return table


def _animals(table: dict[str, Any], names: tuple[str, ...], path: Path) -> tuple[Animal, ...]:
    places = {name: i for i, name in enumerate(names)}
    images = _each(table["images"], path, lambda one: (one["id"], one["file_name"]))
    kinds = dict(_each(table["categories"], path, lambda one: (one["id"], (one["name"], len(one["keypoints"])))))
    numbers = {number: places[name] for number, name in images if name in places}
    found = _each(
        [one for one in table["annotations"] if not isinstance(one, dict) or one.get("image_id") in numbers],
        path,
        lambda one: _animal(one, numbers, kinds),
    )
    if unknown := set(names) - {name for _, name in images}:
        raise BadInput(f"{path}: expected an entry for every listed image, found none for {min(unknown)}")
    return tuple(found)


def _animal(one: dict[str, Any], numbers: dict[Any, int], kinds: dict[Any, tuple[str, int]]) -> Animal:
    name, count = kinds[one["category_id"]]
    x, y, width, height = (float(side) for side in one["bbox"])
    points = np.array(one["keypoints"], dtype=np.float64).reshape(count, 3)
    if not (np.isfinite(points).all() and width > 0 and height > 0):
        raise ValueError("a keypoint is not finite, or the box is empty")
    return Animal(
        image=numbers[one["image_id"]], category=name, box=(x, y, width, height), keypoints=points[:, :2],
        visible=points[:, 2] == VISIBLE,
    )  # fmt: skip


def _each(entries: list[Any], path: Path, read: Callable[[Any], Any]) -> list[Any]:
    """Apply `read` to every entry. Raises BadInput with the first entry on which it fails."""
    found = []
    for i, one in enumerate(entries):
        try:
            found.append(read(one))
        except (KeyError, TypeError, ValueError) as fault:
            told = str(one)[:120]
            raise BadInput(f"{path}: expected COCO keypoints in entry {i}, found {told} ({fault!r})") from None
    return found
