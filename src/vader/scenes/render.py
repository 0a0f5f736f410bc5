"""Render a world as seen by a camera: the picture, and the ground truth of each pixel.

Ground truth is sampled at pixel centres; colours at borders of parts are averaged over four points of a pixel. Axes:
H W pixels, N points, P parts, E pixels at borders of parts.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Integer

from vader.scenes.camera import Camera
from vader.scenes.cast import Snapshot, cast_picture, cast_pixels, meet
from vader.scenes.frame import Frame, Instance
from vader.scenes.shade import Seen, developed, lights, order_by_part, shade, sky_colours
from vader.scenes.things import World

SAMPLES = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)])  # within a pixel
SKIN, SKIN_LIMIT = 0.08, 0.2  # depth up to which keypoints inside their object are visible: share of its size, metres


def render(world: World, camera: Camera, time: float = 0.0) -> Frame:
    """Render the picture and its ground truth at a time of the clip, in seconds."""
    scene = world.snapshot(time)
    depth, parts = cast_picture(scene, camera)
    height, width = parts.shape
    hit, edges = np.flatnonzero(parts >= 0), np.flatnonzero(_borders(parts))
    fine = _FineSamples(scene, camera, parts, edges)
    which = np.concatenate([parts.ravel()[hit], fine.which])
    distance = np.concatenate([depth.ravel()[hit], fine.depth])
    rays = _rays(camera)
    order = order_by_part(which)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    seen = Seen(scene, camera, which[order], distance[order], np.concatenate([rays[hit], fine.rays])[order])
    lit = lights(world, scene, seen)[back]
    lit[: len(hit)] = _soften(lit[: len(hit)], hit, parts, edges)
    shown = shade(world, scene, camera, seen, lit[order])[back]

    image = np.zeros((height * width, 3), np.float32)
    sky = np.zeros(len(image), bool)
    sky[parts.ravel() < 0] = True
    sky[edges[fine.sky > 0]] = True
    image[sky] = sky_colours(world.sky, rays[sky])
    backdrop = image[edges]
    image[hit] = shown[: len(hit)]
    image[edges] = fine.mix(image[edges], shown[len(hit) :], backdrop)

    view = np.zeros((height * width, 3), np.float32)
    view[hit] = seen.facing[back[: len(hit)]] @ camera.pose[:3, :3].astype(np.float32)
    return Frame(
        image=developed(image).reshape(height, width, 3),
        classes=world.classes[parts],
        instances=world.numbers[parts],
        depth=depth.astype(np.float32),
        normals=view.reshape(height, width, 3),
        parts=parts,
        camera=camera,
        time=time,
        objects=instances(world, scene, camera, time),
    )


def instances(world: World, scene: Snapshot, camera: Camera, time: float) -> tuple[Instance, ...]:
    """Return all objects with their keypoints as the camera sees them."""
    things = [thing for thing in world.things if thing.number > 0]
    if not things:
        return ()
    points = np.concatenate([thing.points(time) for thing in things])
    deep = [min(SKIN * float(np.linalg.norm(thing.box)), SKIN_LIMIT) for thing in things]
    tolerance = np.repeat(deep, [len(thing.keypoints) for thing in things])
    pixels, depth = camera.project(points)
    x, y = pixels.T
    in_front = depth > 0
    visible = in_front & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    nearest, _ = cast_pixels(scene, camera, pixels[visible])
    visible[visible] = nearest > depth[visible] - tolerance[visible]
    found, start = [], 0
    for thing in things:
        own = slice(start, start + len(thing.keypoints))
        found.append(Instance(thing.number, thing.kind, pixels[own], visible[own], in_front[own]))
        start += len(thing.keypoints)
    return tuple(found)


def _rays(camera: Camera) -> Float32[np.ndarray, "HW 3"]:
    """Return `Camera.directions` of all pixels in faster float32, only for colours."""
    u = ((np.arange(camera.width) + 0.5 - camera.width / 2) / camera.focal)[:, None] * camera.pose[:3, 0]
    v = ((np.arange(camera.height) + 0.5 - camera.height / 2) / camera.focal)[:, None] * camera.pose[:3, 1]
    rays = (v + camera.pose[:3, 2]).astype(np.float32)[:, None] + u.astype(np.float32)
    return rays.reshape(-1, 3)


def _soften(
    lit: Float32[np.ndarray, "N"], hit: Integer[np.ndarray, "N"], parts: Integer[np.ndarray, "H W"],
    edges: Integer[np.ndarray, "E"],
) -> Float32[np.ndarray, "N"]:  # fmt: skip
    """Soften the edges of shadows over a pixel or two, within parts."""
    strength, weight = np.zeros(parts.size, np.float32), np.zeros(parts.size, np.float32)
    strength[hit], weight[hit] = lit, 1
    weight[edges] = 0
    blurred = cv2.blur((strength * weight).reshape(parts.shape), (3, 3)).ravel()
    total = cv2.blur(weight.reshape(parts.shape), (3, 3)).ravel()
    inner = weight > 0
    strength[inner] = blurred[inner] / total[inner]
    return strength[hit]


# --- Where parts meet ----------------------------------------------------------------------------------------------


def _borders(parts: Integer[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the pixels with another part to the left, right, above or below."""
    found = np.zeros(parts.shape, bool)
    across, down = parts[:, 1:] != parts[:, :-1], parts[1:] != parts[:-1]
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found


class _FineSamples:
    """The hits of four rays through each pixel on a border. Parts that are not hit at the pixel's centre are shaded
    once (`which`, `depth`, `rays`) and weighted by the number of rays that hit them."""

    def __init__(
        self, scene: Snapshot, camera: Camera, parts: Integer[np.ndarray, "H W"], edges: Integer[np.ndarray, "E"]
    ) -> None:
        own = parts.ravel()[edges]
        rays = (
            camera.directions(camera.pixels()[edges])[:, None] + (SAMPLES / camera.focal) @ camera.pose[:3, :2].T
        )  # (E, 4, 3)
        nearest = np.full(rays.shape[:2], np.inf)
        winner = np.full(rays.shape[:2], -1, np.int32)
        for part, rows in _nearby(parts, edges):
            t = meet(scene, part, camera.centre, rays[rows])
            nearer = t < nearest[rows]
            nearest[rows] = np.where(nearer, t, nearest[rows])
            winner[rows] = np.where(nearer, part, winner[rows])
        other = (winner != own[:, None]) & (winner >= 0)
        row, sample = np.nonzero(other)
        key = row * (len(scene.shapes) + 1) + winner[other]
        _, first, self.target = np.unique(key, return_index=True, return_inverse=True)
        self.row = row
        self.which = winner[other][first]
        self.depth = nearest[other][first]
        self.rays = rays[row[first], sample[first]].astype(np.float32)
        self.kept = (winner == own[:, None]).sum(1)
        self.sky = (winner == -1).sum(1) * (own != -1)

    def mix(
        self, centre: Float32[np.ndarray, "E 3"], shown: Float32[np.ndarray, "M 3"],
        backdrop: Float32[np.ndarray, "E 3"],
    ) -> Float32[np.ndarray, "E 3"]:  # fmt: skip
        """Return the pixels' mean colours, from those at their centres, of the other parts, and of the sky."""
        total = centre * self.kept[:, None] + backdrop * self.sky[:, None]
        np.add.at(total, self.row, shown[self.target])
        return (total / len(SAMPLES)).astype(np.float32)


def _nearby(parts: Integer[np.ndarray, "H W"], edges: Integer[np.ndarray, "E"]) -> list[tuple[int, np.ndarray]]:
    """Return for each part the rows of `edges` whose pixel or one of its eight neighbours shows it."""
    wide = np.pad(parts, 1, mode="edge")
    y, x = np.divmod(edges, parts.shape[1])
    around = np.stack([wide[y + i, x + j] for i in range(3) for j in range(3)], 1)  # (E, 9)
    around.sort(axis=1)
    fresh = np.ones(around.shape, bool)
    fresh[:, 1:] = around[:, 1:] != around[:, :-1]
    rows, columns = np.nonzero(fresh & (around >= 0))
    found = around[rows, columns]
    order = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.diff(found[order], prepend=-1))
    groups = np.split(rows[order], starts[1:])  # a single empty group if there are no borders
    return [(int(found[order[start]]), group) for start, group in zip(starts, groups, strict=False)]
