"""The contents of a world, their motion, and the positions of its cameras.

Units are metres, seconds and radians; z points up. Axes: P parts, K keypoints.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vader.scenes.camera import Camera, look_at
from vader.scenes.cast import Snapshot, cast_pixels, snapshot
from vader.scenes.frame import CLASSES, KINDS
from vader.scenes.kinds import INDOORS, OUTDOORS
from vader.scenes.shapes import Joint, Part, moved
from vader.scenes.textures import Colour, SurfaceTable, matrix

Kind = Literal["mug", "table", "chair", "lamp", "tree", "house", "car", "animal"]
VIEW_ARC = 1.75  # angle that contains all viewpoints, about the first camera's direction


class SceneConfig(BaseModel):
    """The difficulty of scenes. Numbers of objects and of clutter are drawn from inclusive ranges; there are fewer if
    they do not fit without contact. Rooms have no houses or cars, landscapes have no mugs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: Literal["mixed", "room", "landscape"] = "mixed"
    objects: tuple[int, int] = (3, 7)
    clutter: tuple[int, int] = (2, 6)
    kinds: tuple[Kind, ...] = get_args(Kind)
    texture: float = Field(1.0, ge=0, le=1)  # contrast of the patterns; 0: flat colours
    haze: float = Field(0.3, ge=0, le=1)  # outdoors; 1: objects 20 m away lose two thirds of their contrast
    shadows: bool = True
    spread: float = Field(1.0, ge=0, le=1)  # variation of the cameras' distance, height, direction and movement
    exposure: float = Field(0.25, ge=0, le=2)  # stops on both sides of the correct one; balance and noise follow

    @model_validator(mode="after")
    def _fits(self) -> "SceneConfig":
        for name in ("objects", "clutter"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected 0 <= least <= most, found ({low}, {high})")
        if not self.kinds:
            raise ValueError(f"kinds: expected one or more of {', '.join(KINDS)}, found none")
        if not self.settings():
            raise ValueError(f"kinds: expected one that a {self.setting} can have, found {', '.join(self.kinds)}")
        return self

    def settings(self) -> list[str]:
        """Return the settings to draw from: those requested in which at least one of the kinds occurs."""
        fitting = [name for name, kinds in (("room", INDOORS), ("landscape", OUTDOORS)) if set(kinds) & set(self.kinds)]
        return fitting if self.setting == "mixed" else [name for name in fitting if name == self.setting]


@dataclass(frozen=True)
class Thing:
    """An object, a piece of clutter, or a part of the ground or the walls. `box` is its half length, half width and
    height; it moves by reach sin(2 pi time / period) metres along its own x axis."""

    kind: str
    number: int  # 0 for stuff
    parts: tuple[Part, ...]
    keypoints: Float[np.ndarray, "K 3"]
    place: Float[np.ndarray, "4 4"]
    box: tuple[float, float, float]
    reach: float = 0.0
    period: float = 10.0
    riding: tuple[tuple[int, Joint], ...] = ()  # keypoints that move with a joint

    def travelled(self, time: float) -> float:
        """Return the distance in metres from its place."""
        return float(self.reach * np.sin(2 * np.pi * time / self.period))

    def pose(self, time: float) -> Float[np.ndarray, "4 4"]:
        """Return the pose from its frame to the world."""
        return self.place @ moved((self.travelled(time), 0.0, 0.0))

    def points(self, time: float) -> Float[np.ndarray, "K 3"]:
        """Return its keypoints in the world."""
        local = self.keypoints.copy()
        for number, joint in self.riding:
            turn = joint.pose(self.travelled(time))
            local[number] = turn[:3, :3] @ local[number] + turn[:3, 3]
        pose = self.pose(time)
        return local @ pose[:3, :3].T + pose[:3, 3]


@dataclass(frozen=True)
class Light:
    """A lamp or the sun, and the ambient light from above and from below."""

    where: Float[np.ndarray, "3"]  # a position, or the unit direction to the sun
    distant: bool
    colour: Colour
    above: Colour
    below: Colour


@dataclass(frozen=True)
class Sky:
    """Linear colours, the share of clouds, and the haze per metre."""

    zenith: Colour
    horizon: Colour
    clouds: float
    phase: float
    haze: float


@dataclass(frozen=True)
class Path:
    """The path of a camera around `focus`: it swings `sway` radians to both sides and approaches by a share of its
    distance.

    `zoom` is the focal length divided by the geometric mean of the picture's sides.
    """

    focus: Float[np.ndarray, "3"]
    azimuth: float
    distance: float
    height: float
    zoom: float
    sway: float = 0.0
    dolly: float = 0.0
    period: float = 9.0

    def at(self, width: int, height: int, time: float = 0.0) -> Camera:
        """Return the camera at a time."""
        wave = np.sin(2 * np.pi * time / self.period)
        azimuth, distance = self.azimuth + self.sway * wave, self.distance * (1 - self.dolly * wave)
        eye = np.array([
            self.focus[0] + distance * np.cos(azimuth), self.focus[1] + distance * np.sin(azimuth), self.height
        ])  # fmt: skip
        return look_at(eye, self.focus, float(self.zoom * np.sqrt(width * height)), width, height)


@dataclass(frozen=True)
class World:
    """A scene at all times. `walls` limits the cameras' positions: (x0, y0, x1, y1)."""

    things: tuple[Thing, ...]
    light: Light
    sky: Sky
    path: Path
    walls: tuple[float, float, float, float]
    config: SceneConfig

    def camera(self, width: int, height: int, time: float = 0.0) -> Camera:
        """Return the world's own camera, which moves slowly; `time` in seconds."""
        return self.path.at(width, height, time)

    def viewpoints(self, width: int, height: int, count: int, rng: np.random.Generator) -> list[Camera]:
        """Return cameras around the scene's middle at time 0, over slightly more than a right angle, in random order.

        Each has a free view of the middle. A camera with a blocked view is drawn again, finally closer to the world's
        own camera.
        """
        angles = VIEW_ARC * ((rng.permutation(count) + rng.uniform(0, 1, count)) / count - 0.5)
        return [self._viewpoint(width, height, float(angle), rng) for angle in angles]

    def _viewpoint(self, width: int, height: int, angle: float, rng: np.random.Generator) -> Camera:
        path, spread = self.path, self.config.spread
        for attempt in range(12):
            path = replace(
                self.path,
                azimuth=self.path.azimuth + angle * (1 - attempt / 12) + float(rng.normal(0, 0.02)),
                distance=self.path.distance * float(1 + spread * rng.uniform(-0.1, 0.1)),
                height=self.path.height * float(1 + spread * rng.uniform(-0.15, 0.15)),
            )
            if self.sees(path.at(32, 32)):
                break
        else:
            path = replace(self.path, height=self.path.height * float(1 + spread * rng.uniform(0, 0.05)))
        return path.at(width, height)

    def sees(self, camera: Camera, time: float = 0.0) -> bool:
        """Return whether a camera is between the walls, outside all objects, and sees the middle in most pixels."""
        x, y, z = camera.centre
        x0, y0, x1, y1 = self.walls
        if not (x0 + 0.15 < x < x1 - 0.15 and y0 + 0.15 < y < y1 - 0.15):
            return False
        for thing in self.things:
            if thing.kind in ("ground", "wall"):
                continue
            local = np.linalg.inv(thing.pose(time)) @ (x, y, z, 1.0)
            if (np.abs(local[:2]) < np.add(thing.box[:2], 0.3)).all() and local[2] < thing.box[2] + 0.2:
                return False
        distance = float(np.linalg.norm(self.path.focus - camera.centre))
        steps = (np.arange(7) + 0.5) / 7
        grid = np.stack(np.meshgrid(steps * camera.width, steps * camera.height), -1).reshape(-1, 2)
        depth, _ = cast_pixels(self.snapshot(time), camera, grid)
        return bool((depth > 0.6 * distance).mean() > 0.7 and (depth > 0.3 * distance).mean() > 0.95)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All things' parts; `Frame.parts` has indices into this."""
        return tuple(part for thing in self.things for part in thing.parts)

    @cached_property
    def owner(self) -> np.ndarray:
        """(P,) the index of each part's thing."""
        return np.repeat(np.arange(len(self.things)), [len(thing.parts) for thing in self.things])

    @cached_property
    def classes(self) -> np.ndarray:
        """(P + 1,) the class of each part; the last is the sky's, so that part -1 is the sky."""
        owned = [CLASSES.index(thing.kind) for thing in self.things]
        return np.append(np.array(owned)[self.owner], CLASSES.index("sky")).astype(np.uint8)

    @cached_property
    def numbers(self) -> np.ndarray:
        """(P + 1,) the instance of each part, 0 for stuff and, at the end, for the sky."""
        return np.append(np.array([thing.number for thing in self.things])[self.owner], 0).astype(np.uint16)

    @cached_property
    def surfaces(self) -> SurfaceTable:
        """The surfaces of the parts."""
        return SurfaceTable([part.surface for part in self.parts])

    @cached_property
    def patterns(self) -> Float[np.ndarray, "P 3 3"]:
        """The maps from each part's frame to its pattern's coordinates."""
        return np.stack([matrix(part.surface, part.size, part.shape in ("panel", "disc")) for part in self.parts])

    @cached_property
    def _still(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sizes, tapers, poses in their things, and whether parts cast shadows."""
        parts = self.parts
        casts = np.array([self.things[o].kind not in ("ground", "wall") for o in self.owner])
        sizes, tapers = np.array([p.size for p in parts], float), np.array([p.taper for p in parts], float)
        return sizes, tapers, np.stack([p.pose for p in parts]), casts

    def poses(self, time: float) -> Float[np.ndarray, "P 4 4"]:
        """Return the poses from each part's frame to the world."""
        things = np.stack([thing.pose(time) for thing in self.things])
        local = self._still[2]
        for number, part in enumerate(self.parts):
            if part.joint is not None:
                local = local.copy() if local is self._still[2] else local
                local[number] = part.joint.pose(self.things[self.owner[number]].travelled(time)) @ part.pose
        return things[self.owner] @ local

    def snapshot(self, time: float) -> Snapshot:
        """Return all parts at a time, ready for rays."""
        sizes, tapers, _, casts = self._still
        shapes = tuple(part.shape for part in self.parts)
        return snapshot(shapes, sizes, tapers, self.poses(time), self.owner, casts)
