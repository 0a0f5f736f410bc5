"""Cityscapes: leftImg8bit and gtFine / {train,val} / CITY / CITY_NUMBER_000019_...

Worlds are landscapes by default. Ids, names and colours are those of Cityscapes. Classes that it lacks become "static",
and animals "dynamic" (its evaluation ignores both, and so clutter and furniture here). Only cars have instances:
26000, 26001 ...; all other classes have their plain id in instanceIds too.

Polygons pass through pixel centres. Painted in order, as Cityscapes' own tools do, they give labelIds exactly. These
tools count every polygon "car" as one instance. If a car is visible in several pieces, the largest is a "car" and the
others are "cargroup", which has no number: these are plain 26 in instanceIds, too.

Legend: H W pixels.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Integer

from vader.images.encode import png
from vader.scenes.frame import CLASSES, Frame
from vader.scenes.layouts.order import Layout, Made, Order, put, spend, split_of
from vader.scenes.layouts.outlines import pieces, traced

# Cityscapes' name, id and colour for each of our classes.
LABELS: dict[str, tuple[str, int, tuple[int, int, int]]] = {
    "clutter": ("static", 4, (0, 0, 0)),
    "ground": ("terrain", 22, (152, 251, 152)),
    "wall": ("wall", 12, (102, 102, 156)),
    "sky": ("sky", 23, (70, 130, 180)),
    "mug": ("static", 4, (0, 0, 0)),
    "table": ("static", 4, (0, 0, 0)),
    "chair": ("static", 4, (0, 0, 0)),
    "lamp": ("pole", 17, (153, 153, 153)),
    "tree": ("vegetation", 21, (107, 142, 35)),
    "house": ("building", 11, (70, 70, 70)),
    "car": ("car", 26, (0, 0, 142)),
    "animal": ("dynamic", 5, (111, 74, 0)),
}
CITIES = {"train": ("northfield", "eastfield"), "val": ("southfield",)}  # each city belongs to one split
SNIPPET = 19  # index of the labelled frame of a snippet


def name(index: int, count: int) -> tuple[str, str, str]:
    """Return (split, city, start of the file names) of picture `index` of `count`."""
    split = split_of(index, count)
    city = CITIES[split][index % len(CITIES[split])]
    return split, city, f"{city}_{index:06d}_{SNIPPET:06d}"


def make(order: Order, folder: Path, index: int) -> Made:
    """Write the files of one picture."""
    frame = order.frame(index)
    objects, cars = _polygons(frame)
    ids = np.array([LABELS[one][1] for one in CLASSES], np.uint8)[frame.classes]
    instances = ids.astype(np.uint16)
    for k, car in enumerate(cars):
        instances[car] = LABELS["car"][1] * 1000 + k
    colours = np.array([(*LABELS[one][2], 255) for one in CLASSES], np.uint8)[frame.classes]
    text = {"imgHeight": order.height, "imgWidth": order.width, "objects": objects}
    split, city, beginning = name(index, order.count)
    picture = f"leftImg8bit/{split}/{city}/{beginning}_leftImg8bit.png"
    put(folder / picture, png(frame.image))
    truth = folder / "gtFine" / split / city
    put(truth / f"{beginning}_gtFine_labelIds.png", png(ids))
    put(truth / f"{beginning}_gtFine_instanceIds.png", png(instances))
    put(truth / f"{beginning}_gtFine_color.png", png(colours))
    put(truth / f"{beginning}_gtFine_polygons.json", json.dumps(text, indent=4) + "\n")
    return Made(picture, frame.camera)


def collect(order: Order, folder: Path, records: Iterable[None]) -> None:
    """Make the folders of both splits, which readers expect; Cityscapes has no lists."""
    spend(records)
    for kind in ("leftImg8bit", "gtFine"):
        for split in CITIES:
            (folder / kind / split).mkdir(parents=True, exist_ok=True)


def _polygons(frame: Frame) -> tuple[list[dict[str, Any]], list[Bool[np.ndarray, "H W"]]]:
    """Return polygons in painting order, and the pixels of the "car" polygons in that order.

    A polygon fills its holes, so larger polygons come first: a region in a hole is smaller than the one around it.
    """
    regions = _regions(frame)
    found = []  # (minus the pixels with holes filled, the region, label, polygon, its pixels if it is a car)
    for region in np.unique(regions):
        parts = sorted(pieces(regions == region), key=lambda part: -int(part[0].sum()))
        label = LABELS[CLASSES[int(region) >> 16]][0]
        for i, (piece, (x, y)) in enumerate(parts):
            corners = traced(piece)
            filled = int(cv2.fillPoly(np.zeros(piece.shape, np.uint8), [np.array(corners)], 1).sum())
            polygon = [[left + x, top + y] for left, top in corners]
            car = np.zeros(regions.shape if label == "car" and i == 0 else 0, bool)
            if car.size:
                car[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
            found.append((-filled, int(region), "cargroup" if label == "car" and i else label, polygon, car))
    found.sort(key=lambda item: item[:2])
    objects = [{"label": label, "polygon": polygon} for _, _, label, polygon, _ in found]
    return objects, [car for _, _, label, _, car in found if label == "car"]


def _regions(frame: Frame) -> Integer[np.ndarray, "H W"]:
    """Return a number for each object and each class of stuff: class * 2**16 + instance."""
    return (frame.classes.astype(np.int64) << 16) | frame.instances.astype(np.int64)


LAYOUT = Layout(make, collect, {one: label[1] for one, label in LABELS.items()}, setting="landscape")
