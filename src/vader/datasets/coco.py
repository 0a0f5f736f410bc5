"""Animals' keypoints: images/, keypoints.json as COCO has it, and train.txt and val.txt with files' names.

Axes: P keypoints of an animal. Coordinates are (x, y) in pixels, as COCO has them: from the image's upper left edge,
so that the centre of the first pixel is at 0.5.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vader.datasets.example import Example, LabelledSet
from vader.datasets.files import Pairs, find_root, read_lines
from vader.errors import BadInput
from vader.images.decode import decode

ANNOTATIONS = "keypoints.json"
VISIBLE = 2  # COCO's flag; 1 is labelled but hidden, 0 not labelled
HOW = (
    f"put images/, {ANNOTATIONS} (COCO's format: images, annotations with bbox and keypoints, categories) and "
    "train.txt and val.txt (a file's name a line) side by side"
)


@dataclass(frozen=True)
class Animal:
    """One annotated animal: the number of its image, its class, its box (x, y, width, height) and its keypoints."""

    image: int
    category: str
    box: tuple[float, float, float, float]
    keypoints: Float[np.ndarray, "P 2"]
    visible: Bool[np.ndarray, "P"]


@dataclass(frozen=True)
class AnimalSet:
    """A split: its images, in the list's order and without labels of pixels, and the animals in the file's order."""

    images: LabelledSet
    animals: tuple[Animal, ...]


def open_animal_keypoints(root: Path, split: str) -> AnimalSet:
    """Reads the annotations, opens no image. Raises BadInput for missing files and for entries that do not fit."""
    place = find_root(root, ANNOTATIONS, (), HOW)
    chosen = place / f"{split}.txt"
    names = tuple(read_lines(chosen, HOW))
    paths = tuple(place / "images" / name for name in names)
    Pairs(names, paths, ()).sound(chosen).exist(HOW)
    animals = _animals(_read(place / ANNOTATIONS), names, place / ANNOTATIONS)
    kinds = tuple(dict.fromkeys(one.category for one in animals))
    files = (chosen, place / ANNOTATIONS, *paths)
    images = LabelledSet(
        "animals", place, split, kinds, names, lambda i: Example(names[i], decode(paths[i])), files,
        picture=lambda i: decode(paths[i]),
    )  # fmt: skip
    return AnimalSet(images, animals)


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise BadInput(f"{path}: expected JSON in COCO's format, cannot read it: {fault}") from None
    known = table if isinstance(table, dict) else {}
    if lacking := [key for key in ("images", "annotations", "categories") if not isinstance(known.get(key), list)]:
        raise BadInput(f"{path}: expected images, annotations and categories, {', '.join(lacking)} is not there; {HOW}")
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
        raise BadInput(f"{path}: expected an entry for every listed image, {min(unknown)} has none")
    return tuple(found)


def _animal(one: dict[str, Any], numbers: dict[Any, int], kinds: dict[Any, tuple[str, int]]) -> Animal:
    name, count = kinds[one["category_id"]]
    x, y, width, height = (float(side) for side in one["bbox"])
    points = np.array(one["keypoints"], dtype=np.float64).reshape(count, 3)
    if not (np.isfinite(points).all() and width > 0 and height > 0):
        raise ValueError("a keypoint that is not finite or an empty box")
    return Animal(numbers[one["image_id"]], name, (x, y, width, height), points[:, :2], points[:, 2] == VISIBLE)


def _each(entries: list[Any], path: Path, read: Callable[[Any], Any]) -> list[Any]:
    """`read` of every entry. Raises BadInput naming the first that it fails on."""
    found = []
    for i, one in enumerate(entries):
        try:
            found.append(read(one))
        except (KeyError, TypeError, ValueError) as fault:
            told = str(one)[:120]
            raise BadInput(f"{path}: entry {i} is not as COCO has keypoints ({fault!r}): {told}") from None
    return found
