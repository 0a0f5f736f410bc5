"""What published probes do to pictures and their truth before they are encoded, anew each time a picture comes.

Axes: H W pixels of a picture, h w of a part of it, S the side of a square.
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

TRIES = 10  # at a crop that lies within the picture
FRAME = (480, 640)  # height, width of the pictures that `Room.border` is of

Change = Callable[[Example, np.random.Generator], Example]


class Shuffled(Sequence):
    """Epoch after epoch of examples, each epoch in an order of its own, every example changed anew.

    Member e n + p is the p-th of epoch e, of n examples; what it is depends on the seed, the epoch and the example.
    """

    def __init__(self, examples: Sequence, change: Change, seed: int, epochs: int) -> None:
        self.examples, self.change, self.seed, self.epochs = examples, change, seed, epochs
        self.epoch, self.order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.epochs * len(self.examples)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]
        epoch, place = divmod(range(len(self))[i], len(self.examples))
        if epoch != self.epoch:
            # Seeds that end in zeros are all the same to numpy, so examples count from 1.
            self.epoch, self.order = epoch, np.random.default_rng([self.seed, epoch, 0]).permutation(len(self.examples))
        number = int(self.order[place])
        return self.change(self.examples[number], np.random.default_rng([self.seed, epoch, 1 + number]))


# --- Squares ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random crops enlarged or reduced to a square, as torchvision's RandomResizedCrop and RandomHorizontalFlip."""

    side: int = 448  # MkuuWaUjinga/leopart: experiments/linear_probing/configs (size_crops), eval_linear.py
    area: tuple[float, float] = (0.8, 1.0)  # of the picture's; ...: linear_finetune.py
    shape: tuple[float, float] = (3 / 4, 4 / 3)  # width to height; torchvision's default
    flip: float = 0.5  # how often; ...: linear_finetune.py


def square_crop(example: Example, rng: np.random.Generator, config: Square) -> Example:
    """A random part of a labelled picture as a square, mirrored or not."""
    assert example.labels is not None
    H, W = example.labels.shape
    top, left, height, width = crop_box(H, W, rng, config)
    part = (slice(top, top + height), slice(left, left + width))
    image, labels = to_square(example.image[part], config.side), nearest(example.labels[part], config.side)
    if rng.random() < config.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return Example(example.name, np.ascontiguousarray(image), labels=np.ascontiguousarray(labels))


def crop_box(height: int, width: int, rng: np.random.Generator, config: Square) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of a picture: area uniform, the logarithm of its shape, too.

    Where none of ten fits in, the largest part in the middle that has an allowed shape.
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
    """The picture, whatever its shape, bilinearly and without aliasing: what Pillow's BILINEAR gives."""
    pixels: Tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    sized = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return sized[0].permute(1, 2, 0).contiguous().numpy()


def nearest(labels: Shaped[np.ndarray, "H W"], side: int) -> Shaped[np.ndarray, "S S"]:
    """Of each pixel of the square, the label of the pixel that its centre lies in: Pillow's NEAREST."""
    rows, columns = (((np.arange(side) + 0.5) * length / side).astype(np.int64) for length in labels.shape)
    return labels[rows[:, None], columns]


def squared(labelled: LabelledSet, side: int) -> LabelledSet:
    """The set with every picture and label map pressed into a square."""

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
    """What is done to pictures with depth; facebookresearch/dinov3: dinov3/eval/depth/{transforms.py,configs/*nyu*}."""

    border: tuple[int, int, int, int] = (45, 472, 43, 608)  # top, bottom, left, right kept of 480 x 640
    turn: float = 2.5  # degrees at most, either way
    turned: float = 0.5  # how often
    flip: float = 0.5  # how often
    crop: tuple[int, int] = (416, 544)  # height, width
    coloured: float = 0.5  # how often
    gamma: tuple[float, float] = (0.9, 1.1)  # of values up to 255
    brightness: tuple[float, float] = (0.75, 1.25)
    tint: tuple[float, float] = (0.9, 1.1)  # of each channel


def room_view(example: Example, rng: np.random.Generator, config: Room) -> Example:
    """A part of a picture with depth, without its border, perhaps turned, mirrored, in other colours.

    Beyond a turned picture all is black and has no depth. Raises BadInput for pictures smaller than the part.
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
            f"{example.name}: expected a picture with at least {h} x {w} px within its border, got {height} x {width} "
            f"of {H} x {W}; the protocol is one of pictures of 480 x 640"
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
    # Depth is not mixed: between a chair and the wall behind it there is nothing.
    return (
        cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR),
        cv2.warpAffine(depth, matrix, (width, height), flags=cv2.INTER_NEAREST),
    )
