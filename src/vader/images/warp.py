"""Warp images by a homography and a smooth flow, with OpenCV on the CPU or with torch on a batch.

`matrix` always maps *view* pixels to *image* pixels (points, (x, y), centres at + 0.5; see `geometry.py`), so pixel p
of the view shows the image at matrix(p).

Axes: B images, H W pixels of the image, S the view's side.
"""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from vader.images.geometry import Flow, cell_centres, scaling, transform

# With 1 to 2 source pixels per view pixel, bilinear interpolation still reads every source pixel. Above that, pixels
# are averaged first; otherwise fine texture becomes noise that no feature can match.
BILINEAR_LIMIT = 2.0


def warp(image: np.ndarray, matrix: Float64[np.ndarray, "3 3"], size: int, flow: Flow | None = None) -> np.ndarray:
    """Render the size x size view of an (H, W, 3) uint8 or float32 image; outside, the image is mirrored."""
    box = None if flow else _crop_box(matrix, image.shape[0], image.shape[1], size)
    if box is not None:
        return _crop(image, box, size)
    image, matrix = _shrink(image, matrix, size)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    if flow is None:
        index_matrix = np.linalg.inv(half) @ matrix @ half  # OpenCV's origin is the centre of the first pixel
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if not matrix[2, :2].any():
            affine = (index_matrix / index_matrix[2, 2])[:2]
            return cv2.warpAffine(image, affine, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
        return cv2.warpPerspective(image, index_matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
    points = transform(matrix, flow.apply(cell_centres(size, size, 1))) - 0.5
    grid = points.astype(np.float32).reshape(size, size, 2)
    return cv2.remap(image, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _crop_box(matrix: np.ndarray, height: int, width: int, size: int) -> tuple[int, int, int, int] | None:
    """Return x0, y0, x1, y1 if the view is a crop at integer pixels that is not enlarged, else None.

    x0 > x1 if it is mirrored. Enlarged crops use `warpAffine` instead, because `resize` would not interpolate with
    pixels outside the crop.
    """
    (a, b, x), (c, d, y), (e, f, g) = matrix.tolist()
    if b or c or e or f or g != 1 or abs(a) < 1 or d < 1:
        return None
    box = (x, y, x + a * size, y + d * size)
    x0, y0, x1, y1 = whole = (round(box[0]), round(box[1]), round(box[2]), round(box[3]))
    if any(abs(w - v) > 1e-6 for w, v in zip(whole, box, strict=True)):
        return None
    return whole if min(x0, x1, y0) >= 0 and max(x0, x1) <= width and y1 <= height else None


def _crop(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    part = image[y0:y1, min(x0, x1) : max(x0, x1)]
    if max(part.shape[:2]) > BILINEAR_LIMIT * size:
        # INTER_AREA directly to the size would shift edges by up to 1/16 px where its boxes cut pixels.
        halved = [n >> _halvings(n / size) for n in part.shape[1::-1]]
        part = cv2.resize(part, halved, interpolation=cv2.INTER_AREA)
    view = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(view, 1) if x0 > x1 else view


def _halvings(scale: float) -> int:
    """Return how often to halve `scale` source pixels per view pixel until they are at most BILINEAR_LIMIT."""
    return max(0, math.ceil(math.log2(scale / BILINEAR_LIMIT)))


def _shrink(image: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Halve the image until the view's centre reads at most BILINEAR_LIMIT pixels per pixel, and adapt the matrix."""
    around = transform(matrix, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) + size / 2)
    scale = max(np.linalg.norm(around[1] - around[0]), np.linalg.norm(around[2] - around[0]))
    halvings = _halvings(float(scale))
    if not halvings:
        return image, matrix
    height, width = image.shape[:2]
    small = (max(1, width >> halvings), max(1, height >> halvings))
    shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return shrunk, scaling(small[0] / width, small[1] / height) @ matrix


def warp_batch(
    images: Float[Tensor, "B 3 H W"], matrices: Float[Tensor, "B 3 3"], size: int, supersample: int = 1
) -> Float[Tensor, "B 3 S S"]:
    """Render the views of a batch of equally large images on their device; outside, the edge is repeated.

    `supersample` averages that many points per pixel and axis: 2 replaces the averaging of `warp` for views with more
    than BILINEAR_LIMIT source pixels per pixel.
    """
    H, W = images.shape[2:]
    n = size * supersample
    centres = (torch.arange(n, device=images.device, dtype=torch.float32) + 0.5) / supersample
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    homogeneous = torch.stack([x, y, torch.ones_like(x)], -1)  # (n, n, 3)
    mapped = torch.einsum("bij,yxj->byxi", matrices.float(), homogeneous)
    points = mapped[..., :2] / mapped[..., 2:]
    grid = 2 * points / points.new_tensor([W, H]) - 1
    views = F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(views, supersample) if supersample > 1 else views
