"""COCO 2017: {train,val}2017/000000000001.jpg ... and annotations/{instances,keypoints}_{train,val}2017.json.

Categories 1 to 8 are the kinds. Every visible object is annotated, iscrowd 0, with one polygon for each piece. Polygons
follow the edges of pixels and give the mask exactly (so small objects and objects with holes need no run lengths).
`area` counts the pixels of the mask; boxes are [left, top, width, height] from the edge of the picture.

Keypoints are COCO's: indices of pixels, so the centre of the first pixel is (0, 0), half a pixel less than ours. They
are rounded to hundredths and not to whole pixels. v is 2 for a visible point, 1 for a hidden point in the picture, 0
(with x = y = 0) for one outside. A point inside its object is visible up to 8 % of the object's size, at most 20 cm,
below the surface that the camera sees (`frame.Instance`), because those of paws and poles are inside. The keypoints
file has the same annotations, with each category's own keypoints.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vader.images.encode import jpeg
from vader.scenes.frame import KINDS, Instance
from vader.scenes.layouts.order import Layout, Made, Order, put, split_of
from vader.scenes.layouts.outlines import polygons
from vader.scenes.truth import boxes
from vader.scenes.world import keypoint_names

NAMES = {kind: i + 1 for i, kind in enumerate(KINDS)}
CORNERS = ("front_left", "front_right", "rear_right", "rear_left")  # in circular order
SIDES = ("left", "back", "right")


def _ring(level: str) -> list[str]:
    return [f"{level}_{a} {level}_{b}" for a, b in zip(CORNERS, CORNERS[1:] + CORNERS[:1], strict=True)]


def _posts(upper: str, lower: str) -> list[str]:
    return [f"{upper}_{corner} {lower}_{corner}" for corner in CORNERS]


SKELETONS = {  # pairs of keypoints that are connected by lines
    "mug": [f"{level}_{a} {level}_{b}" for level in ("rim", "base") for a, b in (SIDES[:2], SIDES[1:], SIDES[::2])]
    + [f"rim_{side} base_{side}" for side in SIDES] + ["rim_left handle", "rim_right handle"],
    "table": _ring("top") + _posts("top", "foot"),
    "chair": [*_ring("seat"), *_posts("seat", "foot"), "back_left back_right"]
    + [f"back_{side} seat_rear_{side}" for side in ("left", "right")],
    "lamp": [
        "base_left base", "base base_right", "base pole_middle", "pole_middle pole_top", "pole_top head_top",
        "head_top head_left", "head_top head_right",
    ],
    "tree": ["base trunk_top"]
    + [f"{end} crown_{side}" for end in ("trunk_top", "crown_top") for side in ("front", "back", "left", "right")],
    "house": [*_ring("base"), *_ring("eaves"), *_posts("eaves", "base"), "ridge_left ridge_right"]
    + [f"ridge_{side} eaves_{end}_{side}" for side in ("left", "right") for end in ("front", "rear")],
    "car": _ring("wheel") + _ring("roof")
    + [f"{light}_{side} {level}_{end}_{side}" for light, end in (("headlight", "front"), ("taillight", "rear"))
       for side in ("left", "right") for level in ("wheel", "roof")],
    "animal": ["left_ear nose", "right_ear nose", "nose withers", "withers tail_base", "tail_base tail_tip"]
    + [f"{end} paw_{part}_{side}" for end, part in (("withers", "front"), ("tail_base", "rear"))
       for side in ("left", "right")],
}  # fmt: skip


def make(order: Order, folder: Path, index: int) -> Made:
    """Write a picture; the record is its annotations with keypoints, without ids."""
    frame = order.frame(index)
    picture = f"{split_of(index, order.count)}2017/{_file(index)}"
    put(folder / picture, jpeg(frame.image))
    annotations, found = [], boxes(frame)
    for one in frame.objects:
        if one.number not in found:
            continue
        mask = frame.instances == one.number
        left, top, right, bottom = found[one.number]
        keypoints = _keypoints(one, order)
        annotations.append(
            {
                "segmentation": [[x for corner in polygon for x in corner] for polygon in polygons(mask)],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "image_id": index + 1,
                "bbox": [left, top, right - left, bottom - top],
                "category_id": NAMES[one.kind],
                "keypoints": keypoints,
                "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
            }
        )
    return Made(picture, frame.camera, annotations)


def collect(order: Order, folder: Path, records: Iterable[list[dict[str, Any]]]) -> None:
    """Write the annotations; ids are consecutive over all pictures."""
    images: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    number = 0
    for index, record in enumerate(records):
        split = split_of(index, order.count)
        size = {"width": order.width, "height": order.height}
        images[split].append({"id": index + 1, "file_name": _file(index), "license": 1} | size)
        for annotation in record:
            number += 1
            annotations[split].append(annotation | {"id": number})
    for split in ("train", "val"):
        (folder / f"{split}2017").mkdir(exist_ok=True)
        for task in ("instances", "keypoints"):
            text = _file_text(task, images[split], annotations[split])
            put(folder / "annotations" / f"{task}_{split}2017.json", text)


def _file_text(task: str, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> str:
    categories: list[dict[str, Any]] = []
    for kind, number in NAMES.items():
        category: dict[str, Any] = {"supercategory": "object", "id": number, "name": kind}
        if task == "keypoints":
            names = list(keypoint_names(kind))
            lines = [[names.index(name) + 1 for name in pair.split()] for pair in SKELETONS[kind]]  # counted from 1
            category |= {"keypoints": names, "skeleton": lines}
        categories.append(category)
    if task == "instances":
        annotations = [
            {name: value for name, value in one.items() if name not in ("keypoints", "num_keypoints")}
            for one in annotations
        ]
    return json.dumps(
        {
            "info": {"description": "rendered scenes", "version": "1.0", "year": 2017, "contributor": "vader"},
            "licenses": [{"id": 1, "name": "CC0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
    )


def _keypoints(one: Instance, order: Order) -> list[float]:
    """Return [x, y, v, ...] in COCO's convention."""
    flat: list[float] = []
    for (x, y), visible, in_front in zip(one.keypoints.tolist(), one.visible, one.in_front, strict=True):
        if in_front and 0 <= x <= order.width and 0 <= y <= order.height:
            flat += [round(x - 0.5, 2), round(y - 0.5, 2), 2 if visible else 1]
        else:
            flat += [0, 0, 0]
    return flat


def _file(index: int) -> str:
    return f"{index + 1:012d}.jpg"


LAYOUT = Layout(make, collect, NAMES)
