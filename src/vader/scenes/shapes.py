"""The solids of scenes: intersections with rays, and surface normals.

Every shape has unit coordinates, in which it fills [-1, 1] along each axis (a taper above 1 extends beyond); a part
scales it by its half sizes and rotates it. A ray's parameter does not change under such a map, so one formula for each
shape is enough for all sizes. `block`: a box whose cross-section shrinks to the top by `taper` (x, y): 1 a box, 0 a
roof or a pyramid. `ball`. `cone`: a solid whose radius goes from 1 at the bottom to taper[0] at the top: 1 a cylinder.
`shell`: the side of a cone only, visible from both sides. `disc`: in the plane z = 0, with a hole of radius taper[0].
`panel`: a square in that plane.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from vader.scenes.textures import Surface

Shape = Literal["block", "ball", "cone", "shell", "disc", "panel"]
NEAR = 1e-6  # a smaller ray parameter is behind the origin
Triple = tuple[Any, Any, Any]  # x, y, z: arrays or numpy's scalars, which broadcast


@dataclass(frozen=True)
class Joint:
    """A rotation about the y direction through `pivot`, in the object's frame, after the object has moved s metres:
    spin s + swing sin(stride s + phase), radians. Wheels spin, legs swing."""

    pivot: tuple[float, float, float]
    spin: float = 0.0
    swing: float = 0.0
    stride: float = 0.0
    phase: float = 0.0

    def pose(self, travelled: float) -> Float[np.ndarray, "4 4"]:
        """Return the rotation after that many metres."""
        angle = self.spin * travelled + self.swing * np.sin(self.stride * travelled + self.phase)
        return moved(self.pivot) @ rotated("y", float(angle)) @ moved((-self.pivot[0], -self.pivot[1], -self.pivot[2]))


@dataclass(frozen=True)
class Part:
    """One shape of an object: half sizes in metres, and the pose from its own frame to the object's."""

    shape: Shape
    size: tuple[float, float, float]
    surface: Surface
    pose: Float[np.ndarray, "4 4"]
    taper: tuple[float, float] = (1.0, 1.0)
    joint: Joint | None = None


def moved(by: tuple[float, float, float]) -> Float[np.ndarray, "4 4"]:
    """Return the pose of a translation."""
    pose = np.eye(4)
    pose[:3, 3] = by
    return pose


def rotated(axis: Literal["x", "y", "z"], angle: float) -> Float[np.ndarray, "4 4"]:
    """Return the pose of a right-handed rotation about an axis, in radians."""
    pose = np.eye(4)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cosine, sine = np.cos(angle), np.sin(angle)
    pose[i, i], pose[i, j], pose[j, i], pose[j, j] = cosine, -sine, sine, cosine
    return pose


def along(start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """Return the pose with its origin in the middle of start and end and its z axis from start to end."""
    z = (end - start) / np.linalg.norm(end - start)
    x = np.cross((0.0, 1.0, 0.0) if abs(z[1]) < 0.9 else (1.0, 0.0, 0.0), z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    pose[:3, 3] = (start + end) / 2
    return pose


# --- Where a ray meets a shape -------------------------------------------------------------------------------------


def intersect(shape: Shape, taper: tuple[float, float], origin: Triple, direction: Triple) -> np.ndarray:
    """Return the smallest t > 0 with origin + t direction on the shape, in unit coordinates; inf without a hit.

    Rays start outside solids. A zero in a direction is replaced by a tiny number, so that divisions give no NaN.
    """
    dx, dy, dz = (d + 1e-30 for d in direction)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if shape == "block":
            return _block(taper, origin, (dx, dy, dz))
        if shape == "ball":
            return _ball(origin, (dx, dy, dz))
        if shape in ("cone", "shell"):
            return _cone(taper[0], origin, (dx, dy, dz), caps=shape == "cone")
        return _flat(shape, taper[0], origin, (dx, dy, dz))


def _block(taper: tuple[float, float], origin: Triple, direction: Triple) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    inverse = 1 / dz
    a, b = (-1 - oz) * inverse, (1 - oz) * inverse
    enter, leave = np.minimum(a, b), np.maximum(a, b)
    for o, d, top in ((ox, dx, taper[0]), (oy, dy, taper[1])):
        if top == 1:
            inverse = 1 / d
            a, b = (-1 - o) * inverse, (1 - o) * inverse
            enter, leave = np.maximum(enter, np.minimum(a, b)), np.minimum(leave, np.maximum(a, b))
            continue
        lean, middle = (1 - top) / 2, (1 + top) / 2  # the sides are where +-o + lean z = middle
        for sign in (1, -1):
            slope = sign * d + lean * dz
            t = (middle - sign * o - lean * oz) / slope
            enter = np.maximum(enter, np.where(slope < 0, t, -np.inf))
            leave = np.minimum(leave, np.where(slope > 0, t, np.inf))
    return np.where((enter <= leave) & (enter > NEAR), enter, np.inf)


def _ball(origin: Triple, direction: Triple) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1
    t = -(b + np.sqrt(b * b - a * c)) / a  # NaN for a miss, which fails every comparison
    return np.where(t > NEAR, t, np.inf)


def _cone(top: float, origin: Triple, direction: Triple, caps: bool) -> np.ndarray:
    """Side: x² + y² = w², w = middle - lean z. The mirrored half of the cone is beyond |z| = 1."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    lean, middle = (1 - top) / 2, (1 + top) / 2
    w, dw = middle - lean * oz, -lean * dz
    a = dx * dx + dy * dy - dw * dw
    b = ox * dx + oy * dy - w * dw
    root = np.sqrt(b * b - a * (ox * ox + oy * oy - w * w))
    first = np.full(np.broadcast(a, root).shape, np.inf)
    for t in (-(b + root) / a, (root - b) / a):
        good = (np.abs(oz + t * dz) <= 1) & (t > NEAR) & (t < first)
        first = np.where(good, t, first)
    if caps:  # only the one that a ray from outside can enter through
        side = -np.sign(dz)
        t = (side - oz) / dz
        x, y = ox + t * dx, oy + t * dy
        good = (x * x + y * y <= (middle - lean * side) ** 2) & (t > NEAR) & (t < first)
        first = np.where(good, t, first)
    return first


def _flat(shape: Shape, hole: float, origin: Triple, direction: Triple) -> np.ndarray:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    t = -oz / dz
    x, y = ox + t * dx, oy + t * dy
    if shape == "panel":
        good = (np.abs(x) <= 1) & (np.abs(y) <= 1)
    else:
        square = x * x + y * y
        good = (square <= 1) & (square >= hole * hole)
    return np.where(good & (t > NEAR), t, np.inf)


def normals(shape: Shape, taper: tuple[float, float], points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Return outward normals of any length at points on a shape, in unit coordinates; flat shapes have +z."""
    if shape == "ball":
        return points
    found = np.zeros_like(points)
    x, y, z = points.T
    if shape == "block":
        lean, middle = np.subtract(1, taper) / 2, np.add(1, taper) / 2
        over = np.abs(points)  # distance of each point beyond its pair of faces; 0 on a face
        over -= (*middle, 1)
        if lean.any():
            over[:, :2] += z[:, None] * lean
        face = over.argmax(1)
        rows = np.arange(len(points))
        found[rows, face] = np.sign(points[rows, face])
        found[:, 2] += np.append(lean, 0.0)[face]
    elif shape in ("cone", "shell"):
        lean = (1 - taper[0]) / 2
        radius = (1 + taper[0]) / 2 - lean * z
        found[:, 0], found[:, 1], found[:, 2] = x, y, lean * radius
        if shape == "cone":
            cap = np.abs(np.hypot(x, y) - radius) > np.abs(np.abs(z) - 1)
            found[cap] = 0
            found[cap, 2] = np.sign(z[cap])
    else:
        found[:, 2] = 1
    return found
