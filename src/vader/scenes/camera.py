"""A pinhole camera: pixels <-> rays, points <-> pixels.

Axes: N points, H W pixels. World and camera coordinates are in metres; the camera looks along its z axis, x points
right and y down. Pixels are (x, y), centres at + 0.5 (`geometry.py`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vader.images.geometry import cell_centres


@dataclass(frozen=True)
class Camera:
    """`pose` (4, 4) takes camera to world coordinates; `focal` is in pixels, the principal point in the middle."""

    pose: Float[np.ndarray, "4 4"]
    focal: float
    width: int
    height: int

    @property
    def centre(self) -> Float[np.ndarray, "3"]:
        """Where the camera stands, in the world."""
        return self.pose[:3, 3]

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """The matrix from camera coordinates to homogeneous pixels."""
        return np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1.0]])

    def pixels(self) -> Float[np.ndarray, "N 2"]:
        """The centres of all pixels, row by row."""
        return cell_centres(self.height, self.width, 1)

    def directions(self, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
        """World directions of the rays through pixels, scaled so that a ray's parameter is the depth along z."""
        flat = (pixels - (self.width / 2, self.height / 2)) / self.focal
        return flat @ self.pose[:3, :2].T + self.pose[:3, 2]

    def project(self, points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N"]]:
        """World points -> pixels and depth along z, metres. Pixels mean nothing where the depth is not above 0."""
        local = (points - self.centre) @ self.pose[:3, :3]
        depth = local[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        return local[:, :2] / safe[:, None] * self.focal + (self.width / 2, self.height / 2), depth


def look_at(
    eye: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], focal: float, width: int, height: int,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Camera:  # fmt: skip
    """A camera at `eye` that looks at `target`; the world's z axis points up, and is not the viewing direction."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return Camera(pose, focal, width, height)
