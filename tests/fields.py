"""Smooth random fields, for exams whose answer is known."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 4


def fields(rng: np.random.Generator, count: int, height: int, width: int, grid: int = 5) -> np.ndarray:
    """Smooth random fields, (count, height, width) float32."""
    coarse = rng.normal(size=(count, grid, grid)).astype(np.float32)
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])


def at_cells(values: np.ndarray) -> Tensor:
    """The mean of each cell: (C, H, W) -> (C, h, w)."""
    return F.avg_pool2d(torch.from_numpy(values)[None], STRIDE, ceil_mode=True, count_include_pad=False)[0]


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
