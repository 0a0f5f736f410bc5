"""Worlds by number: a room or a landscape, determined by the config, the seed and the index."""

import numpy as np

from vader.scenes.kinds import KEYPOINTS
from vader.scenes.landscapes import landscape
from vader.scenes.rooms import room
from vader.scenes.things import Kind, SceneConfig, Thing, World

__all__ = ["Kind", "SceneConfig", "Thing", "World", "keypoint_names", "make_world"]

ATTEMPTS = 12
CLIP = 2.0  # seconds
STEP = 0.5  # seconds between tests of the view along a clip


def moments(seconds: float) -> tuple[float, ...]:
    """Return the times at which the camera's view must be free in a clip of that length: every half second, at the end,
    and at `CLIP`, as for the other worlds of its seed."""
    return (*np.arange(0, seconds, STEP).tolist(), seconds, CLIP)


def make_world(config: SceneConfig, seed: int, index: int, times: tuple[float, ...] = (0.0, CLIP)) -> World:
    """Make world `index` of a seed. If the camera's view is blocked at one of the times (seconds), draw again; after
    `ATTEMPTS` draws return the last of those that are blocked least often."""
    rng = np.random.default_rng((seed, index))
    settings = config.settings()
    build = {"room": room, "landscape": landscape}[settings[int(rng.integers(len(settings)))]]
    best, most = None, -1
    for _ in range(ATTEMPTS):
        world = build(rng, config)
        free = sum(world.sees(world.camera(32, 32, time), time) for time in times)
        if free >= most:
            best, most = world, free
        if free == len(times):
            break
    assert best is not None
    return best


def keypoint_names(kind: str) -> tuple[str, ...]:
    """Return the names of a kind's keypoints, in the order of `Instance.keypoints`."""
    return KEYPOINTS[kind]
