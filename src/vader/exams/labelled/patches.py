"""A picture as few large patches: its map averaged over each, and what share of each is of which class.

Patches divide the picture evenly, whatever its sides and the map's stride, so their edges may cut cells and pixels,
which then count by the area inside. Axes: C channels, L classes, H W pixels, h w cells, gh gw patches.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from vader.errors import BadInput
from vader.reports.metrics import VOID

SLIVER = 1e-9  # of a pixel: an overlap below it is rounding


def grid_of(size: tuple[int, ...], cells: int) -> tuple[int, int]:
    """Rows and columns of about `cells` nearly square patches of a picture of `size` (height, width)."""
    height, width = size
    return max(1, round(math.sqrt(cells * height / width))), max(1, round(math.sqrt(cells * width / height)))


@lru_cache(maxsize=64)
def overlaps(parts: int, length: int, step: int) -> Float[Tensor, "parts count"]:
    """What share of each of `parts` equal parts of [0, length] lies in each piece [step j, step (j + 1)]."""
    ends = np.arange(parts + 1) * length / parts
    starts = np.arange(0, length, step, dtype=np.float64)
    shared = np.minimum(ends[1:, None], starts + step) - np.maximum(ends[:-1, None], starts)
    shared[shared < SLIVER] = 0
    return torch.from_numpy((shared / shared.sum(1, keepdims=True)).astype(np.float32))


def pool_to(
    one: Float[Tensor, "C h w"], size: tuple[int, ...], stride: int, cells: int | None
) -> Float[Tensor, "gh gw C"]:
    """The map of a picture of `size` (height, width) averaged over about `cells` patches that keep its shape.

    Never more patches than the map has cells either way; with `cells=None` as many. What of the map lies outside the
    picture does not count.
    """
    C, h, w = one.shape
    rows, columns = (h, w) if cells is None else (min(a, b) for a, b in zip(grid_of(size, cells), (h, w), strict=True))
    down, across = overlaps(rows, size[0], stride), overlaps(columns, size[1], stride)
    cut = one.float().permute(1, 2, 0)  # (h, w, C), a view of `extract`'s maps
    narrow = torch.einsum("gh,hx->gx", down.to(cut.device), cut.reshape(h, w * C)).view(rows, w, C)
    return across.to(cut.device) @ narrow


def patch_labels(
    label: Integer[np.ndarray, "H W"], classes: int, grid: tuple[int, ...], void: int = VOID
) -> Float[Tensor, "gh gw L"]:
    """The mean of the pixels' one-hot labels in each patch, void left out; zeros where all is void."""
    down, across = overlaps(grid[0], label.shape[0], 1), overlaps(grid[1], label.shape[1], 1)
    shares = torch.zeros(grid[0], grid[1], classes)
    for kind in np.unique(label[label != void]):  # a picture holds few of the classes
        inside = torch.from_numpy(label == kind).float()
        shares[..., int(kind)] = down @ inside @ across.T
    total = shares.sum(2, keepdim=True)
    return shares / total.where(total > 0, torch.ones(()))


def check_pair(
    number: int, one: Float[Tensor, "C h w"], label: Integer[np.ndarray, "H W"], classes: int, stride: int, void: int
) -> None:
    """Raises BadInput unless the map covers the labels' picture and the labels are classes or void."""
    cells = tuple(-(-side // stride) for side in label.shape)
    if cells != tuple(one.shape[1:]):
        raise BadInput(
            f"picture {number}: it has {tuple(one.shape[1:])} cells at stride {stride}, its labels {label.shape} would "
            f"have {cells}; give labels the size of the picture"
        )
    known = label[label != void]
    if known.size and not (known.min() >= 0 and known.max() < classes):
        raise BadInput(
            f"labels, picture {number}: expected classes 0 to {classes - 1} or {void} for void, got {known.min()} to "
            f"{known.max()}; check the number of classes"
        )
