"""The augmentations of published probes for pictures and their ground truth; each use of a picture is augmented again.

Axes: H W pixels of a picture, h w of a crop, S the side of a square.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped, UInt8
from torch import Tensor

from vader.datasets.example import Example, LabelledSet
from vader.errors import BadInput

TRIES = 10  # attempts at a crop within the picture
FRAME = (480, 640)  # height, width of the pictures for which `Room.border` is given

Change = Callable[[Example, np.random.Generator], Example]


class Shuffled(Sequence):
    """Epochs of examples, each epoch in its own order, with every example augmented again.

    Member e n + p is the p-th of epoch e, for n examples; it depends only on the seed, the epoch and the example.
    """

    def __init__(self, examples: Sequence, change: Change, seed: int, epochs: int) -> None:
        self.examples, self.change, self.seed, self.epochs = examples, change, seed, epochs
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.epochs * len(self.examples)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        epoch, place = divmod(range(len(self))[i], len(self.examples))
        if epoch != self.epoch:
            # numpy ignores trailing zeros of seeds, so examples count from 1.
            self.epoch, self.order = epoch, np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.examples))
        number = int(self.order[place])
        return self.change(self.examples[number], np.random.default_rng([self.seed, epoch, 1 + number]))


# --- Squares ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random crops resized to a square, as torchvision's RandomResizedCrop and RandomHorizontalFlip."""

    side: int = 448  # MkuuWaUjinga/leopart: experiments/linear_probing/configs (size_crops), eval_linear.py
    area: tuple[float, float] = (0.8, 1.0)  # share of the picture; ...: linear_finetune.py
    shape: tuple[float, float] = (3 / 4, 4 / 3)  # width to height; torchvision's default
    flip: float = 0.5  # probability; ...: linear_finetune.py


def square_crop(example: Example, rng: np.random.Generator, config: Square) -> Example:
    """Crop a random part of a labelled picture, resize it to a square, and mirror it at random."""
    assert example.labels is not None
    H, W = example.labels.shape
    top, left, height, width = crop_box(H, W, rng, config)
    part = (slice(top, top + height), slice(left, left + width))
    image, labels = to_square(example.image[part], config.side), nearest(example.labels[part], config.side)
    if rng.random() < config.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return Example(example.name, np.ascontiguousarray(image), labels=np.ascontiguousarray(labels))


def crop_box(height: int, width: int, rng: np.random.Generator, config: Square) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a crop, with uniform area and uniform logarithm of the aspect ratio.

    If none of ten draws fits, return the largest central crop with an allowed aspect ratio.
    """
    narrowest, widest = config.shape
    for _ in range(TRIES):
        area = height * width * rng.uniform(*config.area)
        shape = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, round(width / narrowest)), min(width, round(height * widest))
    return (height - h) // 2, (width - w) // 2, h, w


def to_square(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    """Resize the picture to a square, bilinearly with antialiasing, as Pillow's BILINEAR does."""
    pixels: Tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    sized = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return sized[0].permute(1, 2, 0).contiguous().numpy()


def nearest(labels: Shaped[np.ndarray, "H W"], side: int) -> Shaped[np.ndarray, "S S"]:
    """Resize labels to a square: each pixel takes the label at its centre, as Pillow's NEAREST does."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(np.int64) for length in labels.shape)
    return labels[rows[:, None], columns]


def squared(labelled: LabelledSet, side: int) -> LabelledSet:
    """Return the set with every picture and label map resized to a square."""

    def read(i: int) -> Example:
        example = labelled.read(i)
        assert example.labels is not None
        return Example(example.name, to_square(example.image, side), labels=nearest(example.labels, side))

    note = f"{labelled.note}; " if labelled.note else ""
    return LabelledSet(
        labelled.name, labelled.root, labelled.split, labelled.classes, labelled.names, read, labelled.files,
        labelled.scored, lambda i: to_square(labelled.image(i), side), f"{note}squares of {side} px",
    )  # fmt: skip


# --- Rooms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Room:
    """Augmentation of pictures with depth; facebookresearch/dinov3: dinov3/eval/depth/{transforms.py,configs/*nyu*}."""

    border: tuple[int, int, int, int] = (45, 472, 43, 608)  # top, bottom, left, right of the kept part of 480 x 640
    turn: float = 2.5  # maximum rotation in degrees, either way
    turned: float = 0.5  # probability
    flip: float = 0.5  # probability
    crop: tuple[int, int] = (416, 544)  # height, width
    coloured: float = 0.5  # probability
    gamma: tuple[float, float] = (0.9, 1.1)  # of values up to 255
    brightness: tuple[float, float] = (0.75, 1.25)
    tint: tuple[float, float] = (0.9, 1.1)  # of each channel


def room_view(example: Example, rng: np.random.Generator, config: Room) -> Example:
    """Crop a random part of a picture with depth inside its border; rotate, mirror and recolour it at random.

    The area outside a rotated picture is black and has no depth. Raises BadInput for pictures smaller than the crop.
    """
    assert example.depth is not None
    H, W = example.depth.shape
    scale = (H / FRAME[0], H / FRAME[0], W / FRAME[1], W / FRAME[1])
    top, bottom, left, right = (int(edge * by) for edge, by in zip(config.border, scale, strict=True))
    image, depth = example.image[top:bottom, left:right], example.depth[top:bottom, left:right]
    height, width = depth.shape
    h, w = config.crop
    if height < h or width < w:
        raise BadInput(
            f"{example.name}: expected a picture with at least {h} x {w} px within its border, found {height} x "
            f"{width} of {H} x {W}; use pictures of 480 x 640, as the protocol does"
        )
    if rng.random() < config.turned:
        image, depth = _turned(image, depth, rng.uniform(-config.turn, config.turn))
    if rng.random() < config.flip:
        image, depth = image[:, ::-1], depth[:, ::-1]
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    image, depth = image[y : y + h, x : x + w], depth[y : y + h, x : x + w]
    if rng.random() < config.coloured:
        values = image.astype(np.float32) ** rng.uniform(*config.gamma) * rng.uniform(*config.brightness)
        image = np.clip(np.round(values * rng.uniform(*config.tint, 3)), 0, 255).astype(np.uint8)
    return Example(example.name, np.ascontiguousarray(image), depth=np.ascontiguousarray(depth))


def _turned(image: np.ndarray, depth: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = depth.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    # Depth is not interpolated: between a chair and the wall behind it there is no surface.
    return (
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR),
        cv2.warpAffine(depth, matrix, (width, height), flags=cv2.INTER_NEAREST),
    )
