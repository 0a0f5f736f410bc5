"""Derive ground truth from frames: the flow of each point, and masks as boxes and run lengths.

Axes: H W pixels.
"""

import numpy as np
from jaxtyping import Bool, Float

from vader.scenes.cast import cast_pixels
from vader.scenes.frame import Frame
from vader.scenes.shade import order_by_part, outward, runs
from vader.scenes.things import World

SAME = 5e-5  # metres by which a ray may miss its point: float32 depth has an error of about 1e-7, more on oblique ones


def flow(world: World, first: Frame, second: Frame) -> tuple[Float[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Return where, in pixels of `second`, the surface point at the centre of each pixel of `first` is at second's
    time, and whether it is visible there.

    Each point moves with its part. A ray from the second camera to its new position tests whether the point is hit;
    thin parts must show the same side. NaN, and not visible, for the sky and for points behind the second camera.
    Points outside the second picture have a position but are not visible.
    """
    height, width = first.parts.shape
    points = np.full((height * width, 2), np.nan)
    visible = np.zeros(height * width, bool)
    hit = np.flatnonzero(first.parts >= 0)
    hit = hit[order_by_part(first.parts.ravel()[hit])]
    groups = runs(first.parts.ravel()[hit])
    before, after = world.snapshot(first.time), world.snapshot(second.time)
    rays = first.camera.directions(first.camera.pixels()[hit])
    start = first.camera.centre + first.depth.ravel()[hit, None].astype(float) * rays
    end = np.empty_like(start)
    for part, rows in groups:
        motion = after.poses[part] @ np.linalg.inv(before.poses[part])
        end[rows] = start[rows] @ motion[:3, :3].T + motion[:3, 3]
    pixels, depth = second.camera.project(end)
    x, y = pixels.T
    front = depth > 0
    inside = front & (x >= 0) & (x < second.camera.width) & (y >= 0) & (y < second.camera.height)
    side_before = np.einsum("ni,ni->n", outward(before, groups, start), first.camera.centre - start) > 0
    side_after = np.einsum("ni,ni->n", outward(after, groups, end), second.camera.centre - end) > 0
    inside &= side_before == side_after
    nearest, _ = cast_pixels(after, second.camera, pixels[inside])
    inside[inside] = np.abs(nearest - depth[inside]) < SAME + 2e-6 * depth[inside]
    points[hit[front]] = pixels[front]
    visible[hit] = inside
    return points.reshape(height, width, 2), visible.reshape(height, width)


def boxes(frame: Frame) -> dict[int, tuple[int, int, int, int]]:
    """Return the pixel box (x0, y0, x1, y1), half open, of the visible part of each instance."""
    found = {}
    for number in np.unique(frame.instances):
        if number:
            rows, columns = np.nonzero(frame.instances == number)
            found[int(number)] = (
                int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
            )  # fmt: skip
    return found


def rle(mask: Bool[np.ndarray, "H W"]) -> dict[str, list[int]]:
    """Return COCO's uncompressed run lengths: down the columns, zeros and ones in turn, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return {"counts": counts.tolist(), "size": list(mask.shape)}
