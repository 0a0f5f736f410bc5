"""An object under construction: parts, keypoints and its bounding box, in its own frame.

Units are metres; the origin is on the floor under the object's middle, x forward, y to its left, z up.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from vader.scenes.shapes import Joint, Part, Shape, along, moved
from vader.scenes.textures import Surface

Point = tuple[float, float, float]


@dataclass
class Model:
    """An object in its own frame: parts, keypoints in the order of `KEYPOINTS`, and the box (half length, half width,
    height) that it occupies on the floor."""

    parts: list[Part] = field(default_factory=list)
    keypoints: list[Point] = field(default_factory=list)
    room: Point = (0.0, 0.0, 0.0)
    riding: list[tuple[int, Joint]] = field(default_factory=list)  # keypoints that move with a joint
    shelf: tuple[float, float, float] | None = None  # half sizes and height of a top on which small things can stand

    def add(
        self, shape: Shape, at: Point, size: Point, surface: Surface, turn: Float[np.ndarray, "4 4"] | None = None,
        taper: tuple[float, float] | None = None, joint: Joint | None = None,
    ) -> None:  # fmt: skip
        """Add a part with its middle, half sizes and rotation. By default a disc has no hole, other shapes no taper."""
        if taper is None:
            taper = (0.0, 1.0) if shape == "disc" else (1.0, 1.0)
        pose = moved(at) if turn is None else moved(at) @ turn
        self.parts.append(Part(shape, size, surface, pose, taper, joint))

    def limb(
        self, start: Point, end: Point, radii: tuple[float, float], surface: Surface, joint: Joint | None = None
    ) -> None:
        """Add a round rod from start to end, with the radii of its ends."""
        a, b = np.array(start, float), np.array(end, float)
        half = float(np.linalg.norm(b - a)) / 2
        taper = (radii[1] / radii[0], 1.0)
        self.parts.append(Part("cone", (radii[0], radii[0], half), surface, along(a, b), taper, joint))


def corners(x: float, y: float, z: float, front: float = 0.0) -> list[Point]:
    """Return (front left, front right, rear left, rear right) at distances x, y from the middle, shifted by `front`."""
    return [(front + x, y, z), (front + x, -y, z), (front - x, y, z), (front - x, -y, z)]
