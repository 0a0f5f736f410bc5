"""Divide a picture into few large patches: the mean of its map in each, and the share of each class.

Patches divide the picture evenly, whatever its size and the map's stride. Their edges may cut cells and pixels, which
then count by the area inside. Axes: C channels, L classes, H W pixels, h w cells, gh gw patches.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from vader.errors import BadInput
from vader.reports.metrics import VOID

SLIVER = 1e-9  # of a pixel; a smaller overlap is a rounding error


def grid_of(size: tuple[int, ...], cells: int) -> tuple[int, int]:
    """Return rows and columns of about `cells` nearly square patches of a picture of `size` (height, width)."""
    height, width = size
    return max(1, round(math.sqrt(cells * height / width))), max(1, round(math.sqrt(cells * width / height)))


@lru_cache(maxsize=64)
def overlaps(parts: int, length: int, step: int) -> Float[Tensor, "parts count"]:
    """Return the share of each of `parts` equal parts of [0, length] that is in each piece [step j, step (j + 1)]."""
    ends = np.arange(parts + 1) * length / parts
    starts = np.arange(0, length, step, dtype=np.float64)
    shared = np.minimum(ends[1:, None], starts + step) - np.maximum(ends[:-1, None], starts)
    shared[shared < SLIVER] = 0
    return torch.from_numpy((shared / shared.sum(1, keepdims=True)).astype(np.float32))


def pool_to(
    one: Float[Tensor, "C h w"], size: tuple[int, ...], stride: int, cells: int | None
) -> Float[Tensor, "gh gw C"]:
    """Average the map of a picture of `size` (height, width) over about `cells` patches that follow its shape.

    There are never more patches along a side than the map has cells; `cells=None` gives one patch for each cell. The
    part of the map outside the picture does not count.
    """
    C, h, w = one.shape
    rows, columns = (h, w) if cells is None else (min(a, b) for a, b in zip(grid_of(size, cells), (h, w), strict=True))
    down, across = overlaps(rows, size[0], stride), overlaps(columns, size[1], stride)
    cut = one.float().permute(1, 2, 0)  # (h, w, C), a view of the maps of `extract`
    narrow = torch.einsum("gh,hx->gx", down.to(cut.device), cut.reshape(h, w * C)).view(rows, w, C)
    return across.to(cut.device) @ narrow


def patch_labels(
    label: Integer[np.ndarray, "H W"], classes: int, grid: tuple[int, ...], void: int = VOID
) -> Float[Tensor, "gh gw L"]:
    """Return the mean of the pixels' one-hot labels in each patch, without void; zeros if all pixels are void."""
    down, across = overlaps(grid[0], label.shape[0], 1), overlaps(grid[1], label.shape[1], 1)
    shares = torch.zeros(grid[0], grid[1], classes)
    for kind in np.unique(label[label != void]):  # a picture shows few of the classes
        inside = torch.from_numpy(label == kind).float()
        shares[..., int(kind)] = down @ inside @ across.T
    total = shares.sum(2, keepdim=True)
    return shares / total.where(total > 0, torch.ones(()))


def check_pair(
    number: int, one: Float[Tensor, "C h w"], label: Integer[np.ndarray, "H W"], classes: int, stride: int, void: int
) -> None:
    """Raise BadInput unless the map covers the labels' picture and the labels are classes or void."""
    cells = tuple(-(-side // stride) for side in label.shape)
    if cells != tuple(one.shape[1:]):
        raise BadInput(
            f"picture {number}: expected {cells} cells for labels of {label.shape} at stride {stride}, found "
            f"{tuple(one.shape[1:])}; give labels the size of the picture"
        )
    known = label[label != void]
    if known.size and not (known.min() >= 0 and known.max() < classes):
        raise BadInput(
            f"labels, picture {number}: expected classes 0 to {classes - 1} or {void} for void, found {known.min()} to "
            f"{known.max()}; check the number of classes"
        )
