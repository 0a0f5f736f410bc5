"""Intersect rays with all parts of a world, for whole pictures, single pixels, and shadows.

Axes: P parts, N rays, H W pixels. Rays are scaled as in `Camera.directions`: their parameter is the depth.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from vader.scenes.camera import Camera
from vader.scenes.shapes import Shape, intersect

CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
EDGES = np.array([(i, j) for i in range(8) for j in range(i) if (CORNERS[i] != CORNERS[j]).sum() == 1])
IN_FRONT = 0.01  # metres; anything closer to the camera's plane is not visible


@dataclass(frozen=True)
class Snapshot:
    """All parts at one time: poses to the world, maps from the world to each part's unit coordinates, and the corners
    of the parts' bounds. `owner` is the object of each part, `casts` whether the part casts a shadow."""

    shapes: tuple[Shape, ...]
    tapers: Float[np.ndarray, "P 2"]
    poses: Float[np.ndarray, "P 4 4"]
    units: Float[np.ndarray, "P 3 4"]
    corners: Float[np.ndarray, "P 8 3"]
    owner: Integer[np.ndarray, "P"]
    casts: Bool[np.ndarray, "P"]

    def taper(self, part: int) -> tuple[float, float]:
        """Return the taper for `shapes.intersect`."""
        return float(self.tapers[part, 0]), float(self.tapers[part, 1])


def snapshot(
    shapes: tuple[Shape, ...], sizes: Float[np.ndarray, "P 3"], tapers: Float[np.ndarray, "P 2"],
    poses: Float[np.ndarray, "P 4 4"], owner: Integer[np.ndarray, "P"], casts: Bool[np.ndarray, "P"],
) -> Snapshot:  # fmt: skip
    """Make a snapshot of parts with half `sizes` at `poses`."""
    turns = poses[:, :3, :3].transpose(0, 2, 1) / sizes[:, :, None]
    units = np.concatenate([turns, -turns @ poses[:, :3, 3:]], 2)
    reach = sizes.copy()
    reach[:, :2] *= np.maximum(tapers, 1)
    reach[[shape in ("disc", "panel") for shape in shapes], 2] = 0
    corners = poses[:, None, :3, :3] @ (CORNERS * reach[:, None])[..., None]
    return Snapshot(shapes, tapers, poses, units, corners[..., 0] + poses[:, None, :3, 3], owner, casts)


def rectangles(scene: Snapshot, camera: Camera) -> Float[np.ndarray, "P 4"]:
    """Return bounds (x0, y0, x1, y1) of each part in the picture, in pixels; empty (x0 > x1) behind the camera."""
    pixels, depth = camera.project(scene.corners.reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    front = depth > IN_FRONT
    bounds = np.concatenate([pixels.min(1), pixels.max(1)], 1)
    for part in np.flatnonzero(
        front.any(1) & ~front.all(1)
    ):  # clip at the camera's plane: the outline passes through the points where edges cross it
        a, b = EDGES[front[part, EDGES[:, 0]] != front[part, EDGES[:, 1]]].T
        share = (IN_FRONT - depth[part, a]) / (depth[part, b] - depth[part, a])
        start, end = scene.corners[part, a], scene.corners[part, b]
        cut, _ = camera.project(start + share[:, None] * (end - start))
        outline = np.concatenate([pixels[part, front[part]], cut])
        bounds[part] = (*outline.min(0), *outline.max(0))
    bounds[~front.any(1)] = (np.inf, np.inf, -np.inf, -np.inf)
    return bounds


def cast_picture(scene: Snapshot, camera: Camera) -> tuple[Float[np.ndarray, "H W"], Integer[np.ndarray, "H W"]]:
    """Return depth and part at the centre of each pixel; inf and -1 where nothing is hit."""
    depth = np.full((camera.height, camera.width), np.inf)
    parts = np.full((camera.height, camera.width), -1, np.int32)
    u = (np.arange(camera.width) + 0.5 - camera.width / 2) / camera.focal
    v = ((np.arange(camera.height) + 0.5 - camera.height / 2) / camera.focal)[:, None]
    turns = scene.units[:, :, :3] @ camera.pose[:3, :3]  # rays are affine in the pixel, in each part's frame too
    origins = scene.units[:, :, :3] @ camera.centre + scene.units[:, :, 3]
    # A pixel can show a part only if its centre is within the part's bounds.
    limits = (camera.width, camera.height, camera.width, camera.height)
    bounds = np.clip(np.ceil(rectangles(scene, camera) - 0.5), 0, limits).astype(int)
    for part, (x0, y0, x1, y1) in enumerate(bounds.tolist()):
        if x0 >= x1 or y0 >= y1:
            continue
        turn, a, b = turns[part], u[x0:x1], v[y0:y1]
        direction = tuple(turn[i, 0] * a + (turn[i, 1] * b + turn[i, 2]) for i in range(3))
        t = intersect(scene.shapes[part], scene.taper(part), tuple(origins[part]), direction)
        window = depth[y0:y1, x0:x1]
        nearer = t < window
        np.copyto(window, t, where=nearer)
        np.copyto(parts[y0:y1, x0:x1], part, where=nearer)
    return depth, parts


def cast_pixels(
    scene: Snapshot, camera: Camera, pixels: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N"], Integer[np.ndarray, "N"]]:
    """Return depth and part at any points of the picture's plane; inf and -1 where nothing is hit."""
    depth, parts = np.full(len(pixels), np.inf), np.full(len(pixels), -1, np.int32)
    directions = camera.directions(pixels)
    order = np.argsort(pixels[:, 1], kind="stable")
    x, y = pixels[order, 0], pixels[order, 1]
    for part, (x0, y0, x1, y1) in enumerate(rectangles(scene, camera)):
        if x0 > x1:
            continue
        low, high = np.searchsorted(y, y0, "left"), np.searchsorted(y, y1, "right")
        rows = order[low:high][(x[low:high] >= x0) & (x[low:high] <= x1)]
        if len(rows):
            t = meet(scene, part, camera.centre, directions[rows])
            nearer = t < depth[rows]
            depth[rows[nearer]], parts[rows[nearer]] = t[nearer], part
    return depth, parts


def meet(
    scene: Snapshot, part: int, origin: Float[np.ndarray, "*N 3"], direction: Float[np.ndarray, "*M 3"]
) -> Float[np.ndarray, "*K"]:
    """Return the smallest t > 0 at which world rays hit a part; origin or direction may be a single vector."""
    unit = scene.units[part].astype(origin.dtype, copy=False)
    turn, shift = unit[:, :3].T, unit[:, 3]
    start, along = origin @ turn + shift, direction @ turn
    o, d = (start[..., 0], start[..., 1], start[..., 2]), (along[..., 0], along[..., 1], along[..., 2])
    return intersect(scene.shapes[part], scene.taper(part), o, d)


# --- Shadows -------------------------------------------------------------------------------------------------------


def shadowed(
    scene: Snapshot, points: Float[np.ndarray, "N 3"], light: Float[np.ndarray, "3"], distant: bool
) -> Bool[np.ndarray, "N"]:
    """Return whether a part that casts shadows is between each point and the light: a direction if `distant`, else a
    position.

    A part can only shade points that are within its bounds as seen from the light. So points and parts are first
    compared in the light's own picture plane, object by object.
    """
    dark, light = np.zeros(len(points), bool), light.astype(points.dtype)
    u, v = _seen_from(light, distant, points)
    corner_u, corner_v = _seen_from(light, distant, scene.corners.reshape(-1, 3).astype(points.dtype))
    corner_u, corner_v = corner_u.reshape(-1, 8), corner_v.reshape(-1, 8)
    low_u, high_u, low_v, high_v = corner_u.min(1), corner_u.max(1), corner_v.min(1), corner_v.max(1)
    for members in _objects(scene):
        near = np.flatnonzero(
            (u >= low_u[members].min()) & (u <= high_u[members].max())
            & (v >= low_v[members].min()) & (v <= high_v[members].max())
        )  # fmt: skip
        for part in members.tolist() if len(near) else ():
            near_u, near_v = u[near], v[near]
            rows = near[
                (near_u >= low_u[part]) & (near_u <= high_u[part])
                & (near_v >= low_v[part]) & (near_v <= high_v[part]) & ~dark[near]
            ]  # fmt: skip
            if not len(rows):
                continue
            if distant:
                dark[rows] = np.isfinite(meet(scene, part, points[rows], light))
            else:
                dark[rows] = meet(scene, part, points[rows], light - points[rows]) < 1
    return dark


def _objects(scene: Snapshot) -> Iterator[np.ndarray]:
    """Yield the indices of the parts of each object that cast shadows."""
    numbers = np.flatnonzero(scene.casts)
    owners = scene.owner[numbers]
    for owner in np.unique(owners):
        yield numbers[owners == owner]


def _seen_from(
    light: Float[np.ndarray, "3"], distant: bool, points: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Return where the rays from the light through points hit a level plane; NaN for points not below the light."""
    if distant:
        shift = points[:, 2] / light[2]
        return points[:, 0] - shift * light[0], points[:, 1] - shift * light[1]
    below = light[2] - points[:, 2]
    below[below < 1e-3] = np.nan
    return (points[:, 0] - light[0]) / below, (points[:, 1] - light[1]) / below
