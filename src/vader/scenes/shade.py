"""Compute the colours of the points that rays hit: surfaces, light, shadows, haze, sky.

Colours are linear until `developed`. Axes: N points, P parts.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from vader.scenes.camera import Camera
from vader.scenes.cast import Snapshot, shadowed
from vader.scenes.shapes import normals
from vader.scenes.textures import colours, noise
from vader.scenes.things import Sky, World

SHINE = 40.0  # exponent of the specular reflection
FAR = 90.0  # metres at which the plain blends into the horizon


class Seen:
    """The points that rays of a camera hit, sorted by part: `which` part, `depth`, `points` in the world, `rays` from
    the camera (unit vectors), normals `facing` it, and `groups`, the rows of each part. Float32 is enough for colours.
    """

    def __init__(
        self, scene: Snapshot, camera: Camera, which: Integer[np.ndarray, "N"], depth: Float[np.ndarray, "N"],
        rays: Float32[np.ndarray, "N 3"],
    ) -> None:  # fmt: skip
        self.which, self.depth = which, depth.astype(np.float32)
        self.points = self.depth[:, None] * rays
        self.points += camera.centre.astype(np.float32)
        self.rays = unit(rays)
        self.groups = runs(which)
        self.facing = outward(scene, self.groups, self.points)
        self.facing *= -np.sign(np.einsum("ni,ni->n", self.facing, self.rays))[:, None]


def order_by_part(which: Integer[np.ndarray, "N"]) -> Integer[np.ndarray, "N"]:
    """Return the order that sorts points by part."""
    return np.argsort(which.astype(np.int16), kind="stable")  # numpy sorts short integers by counting


def runs(which: Integer[np.ndarray, "N"]) -> list[tuple[int, slice]]:
    """Return the parts that occur in a sorted list, and the rows of each."""
    starts = np.flatnonzero(np.diff(which, prepend=-2, append=-2)).tolist()
    return [(int(which[a]), slice(a, b)) for a, b in pairwise(starts)]


def outward(
    scene: Snapshot, groups: list[tuple[int, slice]], points: Float[np.ndarray, "N 3"]
) -> Float32[np.ndarray, "N 3"]:
    """Return unit normals in the world at points sorted by part; those of flat parts are along their own z."""
    found = np.zeros(points.shape, np.float32)
    units = scene.units.astype(points.dtype)
    for part, rows in groups:
        turn, shift = units[part, :, :3], units[part, :, 3]
        local = points[rows] @ turn.T + shift
        # A gradient transforms by the transpose of the map of its argument.
        found[rows] = normals(scene.shapes[part], scene.taper(part), local) @ turn
    return unit(found)


def unit(vectors: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
    """Scale to length 1."""
    return vectors / np.sqrt(np.einsum("ni,ni->n", vectors, vectors))[:, None]


def lights(world: World, scene: Snapshot, seen: Seen) -> Float32[np.ndarray, "N"]:
    """Return the strength of the light at each point: the cosine of its angle, 0 in shadow, less far from a lamp."""
    light = world.light
    if light.distant:
        strength = np.maximum(seen.facing @ light.where.astype(np.float32), 0)
    else:
        way = light.where.astype(np.float32) - seen.points
        square = np.einsum("ni,ni->n", way, way)
        cosine = np.einsum("ni,ni->n", seen.facing, way) / np.sqrt(square)
        strength = np.maximum(cosine, 0) * np.float32(1.6) / (1 + square * np.float32(1 / 2.6**2))
    if world.config.shadows:
        towards = np.flatnonzero(strength > 0)
        clear = seen.points[towards] + np.float32(1e-3) * seen.facing[towards]  # off their own surface
        strength[towards[shadowed(scene, clear, light.where, light.distant)]] = 0
    return strength


def shade(
    world: World, scene: Snapshot, camera: Camera, seen: Seen, lit: Float32[np.ndarray, "N"]
) -> Float32[np.ndarray, "N 3"]:
    """Return linear colours: surface times light, a reflection, the surface's own glow, haze."""
    light, surfaces, which = world.light, world.surfaces, seen.which
    q, sideways = _patterns(world, scene, seen)
    slant = np.maximum(np.abs(np.einsum("ni,ni->n", seen.facing, seen.rays)), np.float32(0.15))
    pixel = seen.depth / (slant * surfaces.scale[which] * np.float32(camera.focal))
    albedo = colours(surfaces, which, q, sideways, pixel)

    above, below, colour = (np.array(c, np.float32) for c in (light.above, light.below, light.colour))
    received = (0.5 + 0.5 * seen.facing[:, 2:]) * (above - below) + below
    received += lit[:, None] * colour
    received += surfaces.glow[which][:, None]
    shown = albedo * received
    glossy = np.flatnonzero((surfaces.gloss[which] > 0) & (lit > 0))
    where = light.where.astype(np.float32)
    way = np.broadcast_to(where, (len(glossy), 3)) if light.distant else where - seen.points[glossy]
    half = unit(unit(way) - seen.rays[glossy])
    shine = np.maximum(np.einsum("ni,ni->n", half, seen.facing[glossy]), 0) ** np.float32(SHINE)
    shown[glossy] += (surfaces.gloss[which[glossy]] * shine)[:, None]
    if light.distant:
        haze = np.float32(world.sky.haze) * seen.depth + (seen.depth * np.float32(1 / FAR)) ** 3
        horizon = np.array(world.sky.horizon, np.float32)
        shown = (shown - horizon) * np.exp(-haze)[:, None] + horizon
    return shown


def _patterns(world: World, scene: Snapshot, seen: Seen) -> tuple[Float32[np.ndarray, "N 3"], Float32[np.ndarray, "N"]]:
    """Return points in pattern coordinates, and whether (above 0) surfaces there face along the first axis."""
    turns = world.patterns @ scene.poses[:, :3, :3].transpose(0, 2, 1)  # (P, 3, 3), world to pattern
    shifts = (world.surfaces.phase - (turns @ scene.poses[:, :3, 3:])[..., 0]).astype(np.float32)
    turns = turns.astype(np.float32)
    q = np.empty(seen.points.shape, np.float32)
    sideways = np.zeros(len(q), np.float32)
    for part, rows in seen.groups:
        q[rows] = seen.points[rows] @ turns[part].T + shifts[part]
        if world.parts[part].surface.pattern == "brick":
            across = np.abs(seen.facing[rows] @ turns[part, :2].T)
            sideways[rows] = across[:, 0] - across[:, 1]
    return q, sideways


def sky_colours(sky: Sky, rays: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, "N 3"]:
    """Return linear colours of the sky along rays: bluer at the top, with clouds on a plane far above."""
    rays = unit(rays)
    up = np.clip(rays[:, 2], 0, 1)
    share = np.minimum(1, 1.6 * up)[:, None] ** np.float32(0.7)
    horizon = np.array(sky.horizon, np.float32)
    found = share * (np.array(sky.zenith, np.float32) - horizon) + horizon
    if sky.clouds > 0 and len(rays):
        flat = rays[:, :2] / (up + 0.12)[:, None]
        q = np.column_stack([flat * 1.3, np.zeros(len(flat), np.float32)]) + np.float32(sky.phase)
        cloud = np.clip((noise(q) - 0.9 + sky.clouds) * 0.7, 0, 0.85) * np.minimum(1, up * 6)
        found += cloud.astype(np.float32)[:, None] * (0.97 - found)
    return found


def developed(linear: Float32[np.ndarray, "N 3"]) -> UInt8[np.ndarray, "N 3"]:
    """Convert linear light to values by a square root, with a soft limit at white."""
    bright = linear > 0.6
    linear[bright] = 1 - 0.4 * np.exp((0.6 - linear[bright]) / 0.4)
    return (np.sqrt(np.maximum(linear, 0)) * 255 + 0.5).astype(np.uint8)
