"""Coordinates: pixel centres, cells, homographies, smooth flows, and interpolation of maps at points.

These conventions hold in the whole package:

* points are (x, y), in pixels; the centre of the pixel in column j, row i is (j + 0.5, i + 0.5);
* an image of width W and height H spans [0, W] x [0, H];
* the cell in column k, row l of a map at stride s has its centre at (s (k + 0.5), s (l + 0.5)).

Axes: B images, N points, D embedding, h w cells, K waves of a flow. Coordinates of views are numpy float64 (worker
processes draw them, and they must be exact to 0.05 px); maps are torch tensors.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

FLOW_ITERATIONS = 40  # reduce the initial error by 0.5 ** 40, below float64's resolution of a pixel


@lru_cache(maxsize=16)
def cell_centres(h: int, w: int, stride: float) -> Float64[np.ndarray, "hw 2"]:
    """Return the centres (x, y) in pixels of the h x w cells of a map at `stride`, row by row."""
    x, y = np.meshgrid((np.arange(w) + 0.5) * stride, (np.arange(h) + 0.5) * stride)
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    centres.setflags(write=False)  # the cached array is shared
    return centres


def transform(matrix: Float64[np.ndarray, "3 3"], points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
    """Map the points by the homography `matrix`."""
    if not matrix[2, :2].any():  # affine, without division for each point
        moved = points @ np.ascontiguousarray(matrix[:2, :2].T / matrix[2, 2])  # strided arrays halve numpy's speed
        moved += matrix[:2, 2] / matrix[2, 2]
        return moved
    mapped = points @ matrix[:, :2].T + matrix[:, 2]  # (N, 3)
    return mapped[:, :2] / mapped[:, 2:]


def translation(x: float, y: float) -> Float64[np.ndarray, "3 3"]:
    """Return the homography that moves points by (x, y)."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def scaling(x: float, y: float) -> Float64[np.ndarray, "3 3"]:
    """Return the homography that scales by x and y about the origin; -1 mirrors."""
    return np.diag([float(x), float(y), 1.0])


def from_corners(source: Float64[np.ndarray, "4 2"], target: Float64[np.ndarray, "4 2"]) -> Float64[np.ndarray, "3 3"]:
    """Return the homography that maps four source points to four target points (direct linear transform)."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solution = np.linalg.solve(np.array(rows, dtype=np.float64), target.reshape(-1).astype(np.float64))
    return np.append(solution, 1.0).reshape(3, 3)


@dataclass(frozen=True)
class Flow:
    """A smooth displacement in closed form, p -> p + sum_k a_k sin(w_k . p + phase_k), exact at any point.

    `amplitude` (K, 2) in pixels, `frequency` (K, 2) in radians per pixel, `phase` (K,). It is invertible if its
    Lipschitz bound, sum_k |a_k| |w_k|, is below 1; callers that draw flows keep it at most 0.5.
    """

    amplitude: Float64[np.ndarray, "K 2"]
    frequency: Float64[np.ndarray, "K 2"]
    phase: Float64[np.ndarray, "K"]

    @property
    def lipschitz(self) -> float:
        """An upper bound of how fast the displacement changes with its input."""
        return float((np.linalg.norm(self.amplitude, axis=1) * np.linalg.norm(self.frequency, axis=1)).sum())

    def displacement(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Return each point's displacement in pixels."""
        return np.sin(points @ self.frequency.T + self.phase) @ self.amplitude

    def apply(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Return the moved points."""
        return points + self.displacement(points)

    def invert(self, points: Float64[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Return the points that `apply` moves to `points`, by fixed-point iteration."""
        assert self.lipschitz < 1, "the flow is too strong to be invertible"
        origin = points
        for _ in range(FLOW_ITERATIONS):
            origin = points - self.displacement(origin)
        return origin


def inside(points: Float64[np.ndarray, "N 2"], width: float, height: float) -> np.ndarray:
    """Return (N,) whether each point is in [0, width] x [0, height]."""
    x, y = points.T
    return np.asarray((x >= 0) & (x <= width) & (y >= 0) & (y <= height))


def read_at(
    maps: Float[Tensor, "B D h w"], points: Float[Tensor, "B N 2"], stride: float, nearest: bool = False
) -> Float[Tensor, "B N D"]:
    """Read the maps at points in pixels: bilinearly between cell centres, or from the nearest cell.

    Outside the outermost cell centres the outermost cells are used, because there is nothing to interpolate with.
    """
    h, w = maps.shape[-2:]
    extent = points.new_tensor([w * stride, h * stride])
    grid = (2 * points / extent - 1).unsqueeze(1)  # (B, 1, N, 2), -1 and 1 are the outer edges of the outer cells
    mode = "nearest" if nearest else "bilinear"
    values = F.grid_sample(maps, grid.to(maps.dtype), mode=mode, padding_mode="border", align_corners=False)
    return values[:, :, 0].transpose(1, 2)  # (B, N, D)


def read_cells(maps: Float[Tensor, "B D h w"], cells: Tensor) -> Float[Tensor, "B N D"]:
    """Read the maps at cells given as row-major indices (B, N)."""
    flat = maps.flatten(2)  # (B, D, hw)
    index = cells.unsqueeze(1).expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2)
