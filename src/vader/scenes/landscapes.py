"""Landscapes: a plain with hills and sometimes a road; houses and trees in the distance, cars and animals closer."""

from collections.abc import Callable
from functools import partial

import numpy as np

from vader.scenes.kinds import BUILD
from vader.scenes.model import Model
from vader.scenes.paints import Family, Paints, shade
from vader.scenes.placing import Floor, Rectangle, Spot, put, seen
from vader.scenes.rooms import clutter
from vader.scenes.shapes import rotated
from vader.scenes.things import Light, Path, SceneConfig, Sky, Thing, World

ORDER = ("car", "house", "tree", "animal", "lamp", "table", "chair")  # order of placement
# Distance of each kind behind the middle in metres: minimum, maximum.
DEPTHS = {
    "car": (-2.0, 4.0), "house": (5.0, 11.0), "tree": (0.5, 10.0), "animal": (-4.0, 2.0), "lamp": (-2.5, 4.0),
    "table": (-4.2, -0.5), "chair": (-4.5, -1.0), "clutter": (-4.0, 8.0),
}  # fmt: skip
ROAD = 2.9  # metres, half its width
LITTER: tuple[Family, ...] = ("stone", "stone", "wood", "toy", "paint")
GROUNDS = ((0.16, 0.32), (0.16, 0.32), (0.16, 0.32), (0.09, 0.12), (0.55, 0.6))  # hues: grass, three times; sand; snow


class Landscape:
    """A landscape under construction. The camera is at azimuth `side` of the middle, at `distance`."""

    def __init__(self, rng: np.random.Generator, config: SceneConfig) -> None:
        self.rng, self.config, self.paints = rng, config, Paints(rng, config.texture)
        self.side = float(rng.uniform(0, 2 * np.pi))
        self.distance = 8.6 + 1.2 * config.spread * float(rng.uniform(-1, 1))
        self.floor = Floor((-60, -60, 60, 60), 0.15)
        self.things: list[Thing] = []
        self.heading = self.side + np.pi / 2 + float(rng.uniform(-0.55, 0.55))  # of the road
        self.offset = float(rng.uniform(-0.5, 2.5))
        self.lanes = 0  # cars on the road

    def spot(self, kind: str) -> Spot:
        """Draw a visible spot at a distance that suits the kind; houses and furniture roughly face the camera."""
        rng = self.rng
        ahead = float(rng.uniform(*DEPTHS[kind]))
        across = float(rng.uniform(-0.46, 0.46)) * (self.distance + ahead)
        x, y = seen(self.side, ahead, across)
        heading = float(rng.uniform(0, 2 * np.pi))
        if kind == "house":
            heading = self.side + float(rng.uniform(-0.9, 0.9))
        if kind == "animal":
            heading = self.side + float(rng.choice([-1, 1]) * rng.uniform(0.7, 2.2))
        return x, y, heading

    def spotter(self, kind: str) -> Callable[[], Spot]:
        """Return a function that draws spots for a kind."""
        return partial(self.spot, kind)

    def lane(self) -> Spot:
        """Draw a spot in one of the two lanes of the road."""
        way = 1 if self.lanes % 2 == 0 else -1
        x, y = seen(self.side, self.offset, 0)
        along, across = -way * float(self.rng.uniform(0.5, 2.8)), -1.35 * way  # towards the middle
        cosine, sine = float(np.cos(self.heading)), float(np.sin(self.heading))
        heading = self.heading + (0 if way == 1 else np.pi)
        return x + along * cosine - across * sine, y + along * sine + across * cosine, float(heading)

    def fill(self) -> None:
        """Place objects, largest first, then clutter."""
        rng, config = self.rng, self.config
        fitting = [kind for kind in ORDER if kind in config.kinds]
        count = int(rng.integers(config.objects[0], config.objects[1] + 1))
        drawn = sorted((fitting[int(rng.integers(len(fitting)))] for _ in range(count)), key=ORDER.index)
        number = 1
        for kind in drawn:
            number += self.place(kind, number)
        for _ in range(int(rng.integers(config.clutter[0], config.clutter[1] + 1))):
            model = clutter(rng, self.paints, 0.25, 0.6, LITTER)
            spot = self.floor.find(model.room, self.spotter("clutter"))
            if spot is not None:
                self.things.append(put(model, "clutter", 0, spot))

    def place(self, kind: str, number: int) -> bool:
        """Place one object; return False if there is no free spot."""
        rng = self.rng
        model = BUILD[kind](rng, self.paints, True)
        reach, draw = 0.0, self.spotter(kind)
        if kind == "car" and self.lanes < 2:
            reach, draw = float(rng.uniform(2.4, 4.0)), self.lane
        if kind == "animal":
            reach = float(rng.uniform(0.7, 1.4))
        spot = self.floor.find(model.room, draw, reach)
        if spot is None:
            return False
        if kind == "car" and reach:
            self.lanes += 1
        if kind == "car" and self.lanes == 1:  # later objects keep off the road
            x, y = seen(self.side, self.offset, 0)
            self.floor.taken.append(Rectangle(x, y, self.heading, 12.0, 0.2))
        self.things.append(put(model, kind, number, spot, reach=reach, period=float(rng.uniform(8, 12))))
        return True

    def ground(self) -> Thing:
        """Return the plain, the hills around it, and a road if there are cars."""
        rng, paints, model = self.rng, self.paints, Model()
        hues = GROUNDS[int(rng.integers(len(GROUNDS)))]
        hue, snow = float(rng.uniform(*hues)), hues[0] > 0.5
        saturation, value = (0.06, 0.93) if snow else (float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.5, 0.7)))
        first = shade(hue, saturation, value)
        second = shade(hue + float(rng.normal(0, 0.02)), saturation * 0.9, value * float(rng.uniform(0.5, 0.75)))
        plain = paints.make(first, second, "noise", float(rng.uniform(0.7, 2.5)))
        model.add("disc", (0, 0, 0), (160, 160, 1), plain)
        for _ in range(int(rng.integers(5, 11))):
            angle, far = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(70, 120))
            wide, high = float(rng.uniform(22, 45)), float(rng.uniform(5, 15))
            hill = paints.make(first, shade(hue, saturation, value * 0.6), "noise", float(rng.uniform(4, 9)))
            turn = rotated("z", angle + np.pi / 2)
            model.add("ball", (far * np.cos(angle), far * np.sin(angle), 0), (wide, 0.5 * wide, high), hill, turn)
        if self.lanes:
            light, dark = (shade(0.6, 0.05, float(v)) for v in rng.uniform(0.32, 0.5, 2))
            tar = paints.make(light, dark, "noise", 0.3)
            white = paints.plain(0.1, 0.05, 0.9)
            x, y = seen(self.side, self.offset, 0)
            turn = rotated("z", self.heading)
            model.add("panel", (x, y, 0.004), (90, ROAD, 1), tar, turn)
            for step in range(-5, 6):
                at = (x + 3 * step * np.cos(self.heading), y + 3 * step * np.sin(self.heading), 0.007)
                model.add("panel", at, (0.7, 0.07, 1), white, turn)
        return Thing("ground", 0, tuple(model.parts), np.zeros((0, 3)), np.eye(4), (0, 0, 0))

    def world(self) -> World:
        """Return the finished landscape with its weather and camera."""
        rng, spread = self.rng, self.config.spread
        self.fill()
        focus = np.array([0, 0, 1.25 + 0.2 * float(rng.uniform(-1, 1))])
        path = Path(
            focus, self.side, self.distance, 2.1 + 0.6 * spread * float(rng.uniform(-1, 1)),
            0.95 + 0.12 * spread * float(rng.uniform(-1, 1)),
            sway=float(rng.choice([-1, 1]) * (0.06 + 0.1 * spread * rng.random())), dolly=0.08 * spread,
        )  # fmt: skip
        light, sky = self.weather()
        return World((self.ground(), *self.things), light, sky, path, (-99, -99, 99, 99), self.config)

    def weather(self) -> tuple[Light, Sky]:
        """Draw a blue sky, an overcast one, or a low warm sun, which is beside or behind the camera."""
        rng = self.rng
        mood = int(rng.choice(3, p=[0.5, 0.25, 0.25]))
        azimuth = self.side + float(rng.uniform(-1.9, 1.9))
        elevation = float((rng.uniform(0.55, 1.1), rng.uniform(0.6, 1.2), rng.uniform(0.3, 0.5))[mood])
        sun = np.array([
            np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
        ])  # fmt: skip
        haze = self.config.haze * float(rng.uniform(0.2, 1.0)) / 20
        phase = float(rng.uniform(0, 90))
        if mood == 0:
            blue = float(rng.uniform(0.56, 0.62))
            light = Light(sun, True, (1.2, 1.13, 1.0), (0.3, 0.35, 0.43), (0.16, 0.16, 0.14))
            sky = Sky(shade(blue, 0.7, 0.88), shade(blue, 0.18, 0.97), float(rng.uniform(0, 0.8)), phase, haze)
        elif mood == 1:
            light = Light(sun, True, (0.5, 0.5, 0.5), (0.52, 0.54, 0.58), (0.27, 0.27, 0.27))
            sky = Sky(shade(0.6, 0.08, 0.72), shade(0.6, 0.04, 0.9), 0.6, phase, haze)
        else:
            light = Light(sun, True, (1.3, 0.9, 0.55), (0.25, 0.27, 0.36), (0.15, 0.12, 0.1))
            sky = Sky(shade(0.62, 0.45, 0.72), shade(0.085, 0.38, 0.98), float(rng.uniform(0, 0.8)), phase, haze)
        return light, sky


def landscape(rng: np.random.Generator, config: SceneConfig) -> World:
    """Make a landscape about the origin."""
    return Landscape(rng, config).world()
