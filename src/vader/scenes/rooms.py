"""Rooms: floor, walls, pictures and a window; furniture on the floor, mugs and desk lamps on tables."""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from vader.scenes.kinds import BUILD
from vader.scenes.model import Model
from vader.scenes.paints import Family, Paints, shade
from vader.scenes.placing import Floor, Spot, put, seen
from vader.scenes.shapes import Part, moved, rotated
from vader.scenes.things import Light, Path, SceneConfig, Sky, Thing, World

ORDER = ("table", "chair", "lamp", "tree", "animal", "mug")  # order of placement
TOYS: tuple[Family, ...] = ("toy", "toy", "paint", "wood", "stone")


class Room:
    """A room under construction. The camera is at azimuth `side` of the middle, at `distance`."""

    def __init__(self, rng: np.random.Generator, config: SceneConfig) -> None:
        self.rng, self.config, self.paints = rng, config, Paints(rng, config.texture)
        self.half = (float(rng.uniform(2.6, 3.2)), float(rng.uniform(2.6, 3.2)))
        self.height = float(rng.uniform(2.6, 3.1))
        self.side = float(rng.uniform(0, 2 * np.pi))
        self.close = {"mug", "table"} <= set(config.kinds) and rng.random() < 0.6  # a view of a table top
        spread = config.spread
        low, high = (1.2, 1.5) if self.close else (2.0, 2.35)
        middle = (low + high) / 2
        self.distance = middle + spread * float(rng.uniform(low - middle, high - middle))
        x, y = self.half
        self.floor = Floor((-x + 0.06, -y + 0.06, x - 0.06, y - 0.06))
        self.tops: list[tuple[Thing, Model, Floor]] = []
        self.things: list[Thing] = []

    def spot(self) -> Spot:
        """Draw a visible spot away from the cameras, with any heading."""
        rng = self.rng
        while True:
            ahead = rng.uniform(-0.5, 2.3)
            across = rng.uniform(-0.5, 0.5) * (self.distance + ahead)
            x, y = seen(self.side, ahead, across)
            if ahead > -0.2 or np.hypot(x, y) < 0.8:
                return x, y, float(rng.uniform(0, 2 * np.pi))

    def furnish(self) -> None:
        """Place objects, largest first."""
        rng, config = self.rng, self.config
        fitting: list[str] = [kind for kind in ORDER if kind in config.kinds]
        count = int(rng.integers(config.objects[0], config.objects[1] + 1))
        drawn: list[str] = [fitting[int(rng.integers(len(fitting)))] for _ in range(count)]
        if self.close:
            drawn = [*("table", "mug", "mug")[:count], *drawn[3:]]
        for kind in sorted(drawn, key=ORDER.index):
            self.place(kind, sum(thing.number > 0 for thing in self.things) + 1)
        for _ in range(int(rng.integers(config.clutter[0], config.clutter[1] + 1))):
            self.drop()

    def place(self, kind: str, number: int) -> None:
        """Place one object if there is a free spot."""
        rng = self.rng
        model = BUILD[kind](rng, self.paints, False)
        small = kind == "mug" or (kind == "lamp" and model.room[2] < 0.8)
        reach = 0.0
        if kind in ("mug", "animal", "chair"):
            reach = float(rng.uniform(*{"mug": (0.03, 0.1), "animal": (0.25, 0.5), "chair": (0, 0.12)}[kind]))
            reach *= 1 if rng.random() < 0.5 else -1
        if small and self.tops:
            self.on_top(model, kind, number, reach)
            return
        first = kind == "table" and not self.tops
        spot = self.floor.find(
            model.room, self.middle if first else self.chair if kind == "chair" else self.spot, reach
        )
        if spot is None:
            return
        thing = put(model, kind, number, spot, reach=reach, period=float(rng.uniform(6, 10)))
        self.things.append(thing)
        if model.shelf is not None:
            x, y, _ = model.shelf
            self.tops.append((thing, model, Floor((-x, -y, x, y), 0.02)))

    def middle(self) -> Spot:
        """Draw a spot near the middle."""
        around = 0.05 if self.close else 0.5
        x, y = self.rng.uniform(-around, around, 2)
        return float(x), float(y), float(self.rng.uniform(0, 2 * np.pi))

    def chair(self) -> Spot:
        """Draw any spot, often beside a table and facing it."""
        x, y, heading = self.spot()
        if self.tops and self.rng.random() < 0.7:
            to = self.tops[int(self.rng.integers(len(self.tops)))][0].place[:2, 3]
            out = self.rng.uniform(0.75, 1.1)
            away = self.side + self.rng.uniform(1.1, 5.2)  # not between the table and the camera
            x, y = to[0] + out * np.cos(away), to[1] + out * np.sin(away)
            heading = away + np.pi + self.rng.normal(0, 0.25)
        return float(x), float(y), float(heading)

    def on_top(self, model: Model, kind: str, number: int, reach: float) -> None:
        """Place an object on one of the tables, most often the first; mugs and lamps that cannot slide do not move."""
        chosen = 0 if self.rng.random() < 0.7 else int(self.rng.integers(len(self.tops)))
        under, table, floor = self.tops[chosen]
        x0, y0, x1, y1 = floor.limits

        def anywhere() -> Spot:
            x, y = self.rng.uniform((x0, y0), (x1, y1))
            return float(x), float(y), float(self.rng.uniform(0, 2 * np.pi))

        for way in (reach, 0.0):
            spot = floor.find(model.room, anywhere, way)
            if spot is not None:
                assert table.shelf is not None
                thing = put(model, kind, number, spot, table.shelf[2], way, float(self.rng.uniform(5, 8)))
                self.things.append(replace(thing, place=under.place @ thing.place))
                return

    def drop(self) -> None:
        """Place a piece of clutter on the floor or on a table."""
        rng = self.rng
        if self.tops and rng.random() < 0.35:
            self.on_top(clutter(rng, self.paints, 0.035, 0.08, TOYS), "clutter", 0, 0.0)
            return
        model = clutter(rng, self.paints, 0.08, 0.22, TOYS)
        spot = self.floor.find(model.room, self.spot)
        if spot is not None:
            self.things.append(put(model, "clutter", 0, spot))

    def shell(self) -> list[Thing]:
        """Return the floor, sometimes with a rug, the ceiling, and walls with pictures, a window, a door."""
        rng, paints = self.rng, self.paints
        (x, y), high = self.half, self.height
        ground, walls = Model(), Model()
        ground.add("panel", (0, 0, 0), (x, y, 1), paints.draw("floor"))
        if rng.random() < 0.5:
            rug, turn = paints.draw("fabric", 2.0), rotated("z", float(rng.uniform(0, 3)))
            a, b = rng.uniform(0.8, 1.4, 2)
            if rng.random() < 0.5:
                ground.add("disc", (0, 0, 0.004), (a, a, 1), rug)
            else:
                ground.add("panel", (0, 0, 0.004), (a, b, 1), rug, turn)
        paper, trim = paints.draw("wallpaper"), paints.plain(0.1, 0.05, float(rng.uniform(0.7, 0.95)))
        walls.add("panel", (0, 0, high), (x, y, 1), paints.plain(0.1, 0.04, 0.93))
        for number in range(4):
            angle = number * np.pi / 2
            far, wide = (x, y) if number % 2 == 0 else (y, x)
            turn = rotated("z", angle) @ rotated("y", -np.pi / 2) @ rotated("z", np.pi / 2)
            middle = np.array([far * np.cos(angle), far * np.sin(angle), high / 2])
            walls.parts.append(Part("panel", (wide, high / 2, 1), paper, _at(middle, turn)))
            low = np.array([middle[0], middle[1], 0.05])
            walls.parts.append(Part("block", (wide, 0.05, 0.02), trim, _at(low, turn)))
            self.hang(walls, turn, middle * (1, 1, 0), wide, number)
        none = np.zeros((0, 3))
        stuff = [("ground", ground), ("wall", walls)]
        return [Thing(kind, 0, tuple(model.parts), none, np.eye(4), (0, 0, 0)) for kind, model in stuff]

    def hang(
        self, walls: Model, turn: Float[np.ndarray, "4 4"], foot: Float[np.ndarray, "3"], wide: float, number: int
    ) -> None:
        """Put pictures, windows and doors side by side on one wall."""
        rng, paints = self.rng, self.paints
        frame = paints.draw("wood") if rng.random() < 0.5 else paints.plain(0.1, 0.05, float(rng.uniform(0.1, 0.95)))
        for place in np.linspace(-0.62, 0.62, 3) * wide:
            draw = rng.random()
            if draw < 0.4:
                continue
            across = turn[:3, 0] * (place + rng.uniform(-0.1, 0.1))
            if draw < 0.75:
                a, b, level = float(rng.uniform(0.22, 0.5)), float(rng.uniform(0.2, 0.42)), 1.55
                inside = paints.draw("toy", float(rng.uniform(0.6, 2.0)))
            elif draw < 0.9:
                a, b, level = 0.5, 0.6, 1.6
                inside = paints.make(shade(0.58, 0.15, 1), shade(0.58, 0.4, 1), "noise", 0.8, glow=0.8)
            else:
                a, b, level = 0.42, 1.0, 1.0
                inside = paints.draw("wood", 2.0)
            at = foot + across + (0, 0, level)
            walls.parts.append(Part("block", (a + 0.04, b + 0.04, 0.02), frame, _at(at, turn)))
            walls.parts.append(Part("block", (a, b, 0.03), inside, _at(at, turn)))

    def world(self) -> World:
        """Return the furnished room with the lamp under its ceiling and its camera."""
        rng, spread = self.rng, self.config.spread
        self.furnish()
        focus = np.array([0, 0, 0.45 + 0.1 * float(rng.uniform(-1, 1))])
        eye = 1.5 + spread * float(rng.uniform(-0.25, 0.3))
        if self.close:
            top = self.things[0].box[2] if self.things and self.things[0].kind == "table" else 0.6
            focus, eye = np.array([0, 0, top + 0.05]), top + 0.55 + spread * float(rng.uniform(-0.2, 0.25))
        path = Path(
            focus, self.side, self.distance, eye, 0.85 + 0.12 * spread * float(rng.uniform(-1, 1)),
            sway=float(rng.choice([-1, 1]) * (0.1 + 0.12 * spread * rng.random())), dolly=0.08 * spread,
        )  # fmt: skip
        warm = float(rng.uniform(0, 0.3))
        power = float(rng.uniform(0.75, 1.0))
        lamp = np.array([*rng.uniform(-1.2, 1.2, 2), self.height - 0.15])
        fill = float(rng.uniform(0.3, 0.42))
        light = Light(
            lamp, False, (power, power * (1 - 0.25 * warm), power * (1 - 0.7 * warm)), (fill, fill, fill * 1.03),
            (0.75 * fill, 0.72 * fill, 0.68 * fill),
        )  # fmt: skip
        x, y = self.half
        things = (*self.shell(), *self.things)
        return World(things, light, Sky((0, 0, 0), (0, 0, 0), 0, 0, 0), path, (-x, -y, x, y), self.config)


def clutter(rng: np.random.Generator, paints: Paints, least: float, most: float, families: tuple[Family, ...]) -> Model:
    """Build a loose block, ball, cylinder or cone of half sizes from `least` to `most`."""
    model = Model()
    surface = paints.draw(families[int(rng.integers(len(families)))], min(1.0, 3 * most))
    x, y, z = (float(v) for v in rng.uniform(least, most, 3))
    shape: Literal["block", "ball", "cone"] = ("block", "ball", "cone")[int(rng.integers(3))]
    draw = rng.random()
    if shape == "block":
        model.add("block", (0, 0, z), (x, y, z), surface, taper=(1, 1) if draw < 0.6 else (float(rng.random()), 1))
    elif shape == "ball":
        if draw < 0.6:
            y = z = x
        model.add("ball", (0, 0, z), (x, y, z), surface)
    else:
        y = x
        model.add("cone", (0, 0, z), (x, x, z), surface, taper=(0.0 if draw < 0.4 else float(rng.uniform(0.6, 1)), 1))
    model.room = (x, y, 2 * z)
    return model


def room(rng: np.random.Generator, config: SceneConfig) -> World:
    """Make a furnished room of about 6 x 6 x 3 m, centred at the origin."""
    return Room(rng, config).world()


def _at(where: Float[np.ndarray, "3"], turn: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    return moved((float(where[0]), float(where[1]), float(where[2]))) @ turn
