"""Place things on a floor without contact: draw rectangles until one is free."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from vader.scenes.model import Model
from vader.scenes.shapes import moved, rotated
from vader.scenes.things import Thing

Spot = tuple[float, float, float]  # x, y, heading
TRIES = 60


def seen(side: float, ahead: float, across: float) -> tuple[float, float]:
    """Return the floor point at a distance behind the middle and to the side, as seen by a camera at azimuth `side`."""
    cosine, sine = np.cos(side), np.sin(side)
    return float(-ahead * cosine - across * sine), float(-ahead * sine + across * cosine)


@dataclass(frozen=True)
class Rectangle:
    """The floor area of an object: its middle, its heading, half its length and its width, in metres and radians."""

    x: float
    y: float
    heading: float
    length: float
    width: float

    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Return its corners in the world."""
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        local = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (self.length, self.width)
        return local @ np.array([[cosine, sine], [-sine, cosine]]) + (self.x, self.y)

    def touches(self, other: "Rectangle", gap: float) -> bool:
        """Return whether the gap between the two is below about `gap`: no axis of either separates them."""
        reach = np.hypot(self.length, self.width) + np.hypot(other.length, other.width) + gap
        if np.hypot(self.x - other.x, self.y - other.y) > reach:
            return False
        mine, others = self.corners(), other.corners()
        for heading in (self.heading, other.heading):
            for angle in (heading, heading + np.pi / 2):
                axis = np.array([np.cos(angle), np.sin(angle)])
                a, b = mine @ axis, others @ axis
                if a.min() - gap > b.max() or b.min() - gap > a.max():
                    return False
        return True


@dataclass
class Floor:
    """The objects placed at one height, and the rectangle (x0, y0, x1, y1) that contains all of them."""

    limits: tuple[float, float, float, float]
    gap: float = 0.08
    taken: list[Rectangle] = field(default_factory=list)

    def find(self, box: tuple[float, float, float], draw: Callable[[], Spot], reach: float = 0.0) -> Spot | None:
        """Draw spots with `draw` until a box that moves `reach` both ways fits; the spot is then reserved."""
        x0, y0, x1, y1 = self.limits
        for _ in range(TRIES):
            x, y, heading = draw()
            wanted = Rectangle(x, y, heading, box[0] + abs(reach), box[1])
            corners = wanted.corners()
            inside = (corners > (x0, y0)).all() and (corners < (x1, y1)).all()
            if inside and not any(wanted.touches(other, self.gap) for other in self.taken):
                self.taken.append(wanted)
                return x, y, heading
        return None


def put(
    model: Model, kind: str, number: int, spot: Spot, height: float = 0.0, reach: float = 0.0, period: float = 10.0
) -> Thing:
    """Place a model at a spot, `height` above the floor."""
    place = moved((spot[0], spot[1], height)) @ rotated("z", spot[2])
    keypoints = np.array(model.keypoints, float).reshape(-1, 3)
    room = (float(model.room[0]), float(model.room[1]), float(model.room[2]))
    return Thing(kind, number, tuple(model.parts), keypoints, place, room, reach, period, tuple(model.riding))
