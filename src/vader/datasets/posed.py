"""Frames with depth, poses and common intrinsics, and the positions of one frame's points in another.

Beside the files of `rgbd.py` (NAME.color.jpg, NAME.depth.png, train.txt, val.txt) there are NAME.pose.txt, 4 x 4 from
camera to world in metres, and camera-intrinsics.txt, 3 x 3. Intrinsics have pixel centres at integers; here, as
everywhere, a centre is at + 0.5. Axes: H W pixels, N points, T frames. Points are (x, y) in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64

from vader.datasets.example import LabelledSet
from vader.datasets.rgbd import open_rgbd
from vader.errors import BadInput

INTRINSICS = "camera-intrinsics.txt"
HOW = (
    f"put {INTRINSICS} (3 x 3, for the pictures' size) and NAME.color.jpg, NAME.depth.png, NAME.pose.txt (4 x 4, "
    "camera to world, metres) side by side, and list NAMEs in train.txt and val.txt"
)
RIGID = 1e-3  # tolerance of a pose's rotation matrix
EDGE = 1  # pixels around a point whose depths must agree with that of the point


@dataclass(frozen=True)
class PosedSet:
    """A split's pictures with depth and poses."""

    frames: LabelledSet
    intrinsics: Float64[np.ndarray, "3 3"]
    poses: Float64[np.ndarray, "T 4 4"]

    def distance(self, a: int, b: int) -> float:
        """Return the distance between two frames' cameras in metres."""
        return float(np.linalg.norm(self.poses[a, :3, 3] - self.poses[b, :3, 3]))


def open_posed(root: Path, split: str) -> PosedSet:
    """Read lists, intrinsics and poses but no pictures. Raises BadInput for missing files and invalid poses."""
    frames = open_rgbd(root, split)
    paths = [root / f"{name}.pose.txt" for name in frames.names]
    intrinsics = _numbers(root / INTRINSICS, (3, 3))
    if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0 and (intrinsics[2] == (0, 0, 1)).all()):
        raise BadInput(
            f"{root / INTRINSICS}: expected rows (fx, 0, cx), (0, fy, cy), (0, 0, 1), found {intrinsics.tolist()}"
        )
    poses = np.stack([_pose(path) for path in paths])
    return PosedSet(replace(frames, name="posed", files=(*frames.files, root / INTRINSICS, *paths)), intrinsics, poses)


def _numbers(path: Path, shape: tuple[int, int]) -> Float64[np.ndarray, "_ _"]:
    try:
        found = np.array([[float(word) for word in line.split()] for line in path.read_text().splitlines() if line])
    except FileNotFoundError:
        raise BadInput(f"expected {path}, which does not exist; {HOW}") from None
    except (OSError, ValueError) as fault:
        raise BadInput(f"{path}: expected {shape[0]} rows of {shape[1]} numbers, found other text: {fault}") from None
    if found.shape != shape or not np.isfinite(found).all():
        raise BadInput(f"{path}: expected {shape[0]} x {shape[1]} finite numbers, found shape {found.shape}; {HOW}")
    return found


def _pose(path: Path) -> Float64[np.ndarray, "4 4"]:
    pose = _numbers(path, (4, 4))
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > RIGID or np.linalg.det(turn) < 0 or (pose[3] != (0, 0, 0, 1)).any():
        raise BadInput(f"{path}: expected a pose from camera to world, found {pose.tolist()}; leave the frame out")
    return pose


# --- From one frame to another -------------------------------------------------------------------------------------


def carry_points(
    pixels: Sequence[tuple[int, int]] | np.ndarray,
    depths: tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]],
    poses: tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "4 4"]],
    intrinsics: Float64[np.ndarray, "3 3"],
    near: float,
    far: float,
) -> tuple[Float64[np.ndarray, "N 2"], Bool[np.ndarray, "N"]]:
    """Return where in the second frame the surface at the first frame's pixels (column, row) is, and if it is visible.

    A point is visible if its depth is known, no neighbouring pixel's depth differs by more than the tolerance, it is
    inside the second picture, and its distance agrees with the depth there. The tolerance is the larger of `near`
    metres and `far` times the depth.
    """
    column, row = np.asarray(pixels, dtype=np.int64).reshape(-1, 2).T
    first, second = (depth.astype(np.float64) for depth in depths)
    z = first[row, column]
    rays = np.stack([column, row, np.ones_like(row)], 1) @ np.linalg.inv(intrinsics).T
    world = (rays * z[:, None]) @ poses[0][:3, :3].T + poses[0][:3, 3]
    there = (world - poses[1][:3, 3]) @ poses[1][:3, :3]  # the inverse of a rotation is its transpose
    depth = there[:, 2]
    projected = there @ intrinsics.T
    front = (z > 0) & (depth > 0)
    at = np.full((len(z), 2), np.nan)
    at[front] = projected[front, :2] / projected[front, 2:] + 0.5
    height, width = second.shape
    inside = front & (at >= 0).all(1) & (at[:, 0] < width) & (at[:, 1] < height)
    seen = inside & _smooth(first, near, far)[row, column]
    x, y = np.floor(at[seen]).astype(np.int64).T
    measured = second[y, x]
    apart = np.abs(measured - depth[seen])
    seen[seen] = (measured > 0) & (apart <= np.maximum(near, far * depth[seen]))
    return at, seen


def _smooth(depth: Float64[np.ndarray, "H W"], near: float, far: float) -> Bool[np.ndarray, "H W"]:
    """Return the pixels whose known neighbouring depths are on the same surface."""
    kernel = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    most = cv2.dilate(depth, kernel)
    least = cv2.erode(np.where(depth > 0, depth, np.inf), kernel)
    tolerance = np.maximum(near, far * depth)
    return (depth > 0) & (most - depth <= tolerance) & (depth - least <= tolerance)
