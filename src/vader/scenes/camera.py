"""A pinhole camera that converts pixels to rays and points to pixels.

Axes: N points, H W pixels. World and camera coordinates are in metres. The camera looks along its z axis; x points
right and y down. Pixels are (x, y), centres at + 0.5 (`geometry.py`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vader.images.geometry import cell_centres


@dataclass(frozen=True)
class Camera:
    """`pose` (4, 4) maps camera to world coordinates; `focal` is in pixels; the principal point is in the middle."""

    pose: Float[np.ndarray, "4 4"]
    focal: float
    width: int
    height: int

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        """The position of the camera in the world."""
        return self.pose[:3, 3]

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """The matrix from camera coordinates to homogeneous pixels."""
        return np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1.0]])

    def pixels(self) -> Float[np.ndarray, "N 2"]:
        """Return the centres of all pixels, row by row."""
        return cell_centres(self.height, self.width, 1)

    def directions(self, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
        """Return world directions of the rays through pixels, scaled so that a ray's parameter is the depth along z."""
        flat = (pixels - (self.width / 2, self.height / 2)) / self.focal
        return flat @ self.pose[:3, :2].T + self.pose[:3, 2]

    def project(self, points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
        """Project world points to pixels and depth along z in metres. Pixels are valid if the depth is above 0."""
        local = (points - self.centre) @ self.pose[:3, :3]
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        return local[:, :2] / safe[:, None] * self.focal + (self.width / 2, self.height / 2), depth


def look_at(
    eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], focal: float, width: int, height: int,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Camera:  # fmt: skip
    """Make a camera at `eye` that looks at `target`, with the world's z axis up; it must not look along z."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return Camera(pose, focal, width, height)
