"""The eight kinds of objects: their builders, the settings they occur in, and the names of their keypoints.

Objects of a kind differ between rooms and outdoors (desk lamps and street lamps, cats and cows).
"""

from collections.abc import Callable

import numpy as np

from vader.scenes.furniture import chair, lamp, mug, table
from vader.scenes.model import Model
from vader.scenes.outdoors import animal, car, house, tree
from vader.scenes.paints import Paints

INDOORS = ("mug", "table", "chair", "lamp", "tree", "animal")
OUTDOORS = ("table", "chair", "lamp", "tree", "house", "car", "animal")
WHEELS = ("front_left", "front_right", "rear_left", "rear_right")

KEYPOINTS: dict[str, tuple[str, ...]] = {
    "mug": ("rim_left", "rim_right", "rim_back", "base_left", "base_right", "base_back", "handle"),
    "table": tuple(f"{level}_{corner}" for level in ("top", "foot") for corner in WHEELS),
    "chair": (*(f"{level}_{corner}" for level in ("seat", "foot") for corner in WHEELS), "back_left", "back_right"),
    "lamp": (
        "base", "base_left", "base_right", "pole_middle", "pole_top", "head_top", "head_left", "head_right",
    ),
    "tree": ("base", "trunk_top", "crown_top", "crown_front", "crown_back", "crown_left", "crown_right"),
    "house": (
        *(f"{level}_{corner}" for level in ("base", "eaves") for corner in WHEELS), "ridge_left", "ridge_right", "door",
    ),
    "car": (
        *(f"wheel_{corner}" for corner in WHEELS), "headlight_left", "headlight_right", "taillight_left",
        "taillight_right", *(f"roof_{corner}" for corner in WHEELS),
    ),
    "animal": (
        "nose", "left_ear", "right_ear", "withers", "tail_base", "tail_tip", *(f"paw_{corner}" for corner in WHEELS),
    ),
}  # fmt: skip

BUILD: dict[str, Callable[[np.random.Generator, Paints, bool], Model]] = {
    "mug": mug, "table": table, "chair": chair, "lamp": lamp, "tree": tree, "house": house, "car": car,
    "animal": animal,
}  # fmt: skip
