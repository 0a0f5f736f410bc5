"""Worlds by number: a room or a landscape, a function of the config, the seed and the index alone."""

import numpy as np

from vader.scenes.kinds import KEYPOINTS
from vader.scenes.landscapes import landscape
from vader.scenes.rooms import room
from vader.scenes.things import Kind, SceneConfig, Thing, World

__all__ = ["Kind", "SceneConfig", "Thing", "World", "keypoint_names", "make_world"]

ATTEMPTS = 12
CLIP = 2.0  # seconds


def make_world(config: SceneConfig, seed: int, index: int) -> World:
    """World `index` under a seed. A draw whose camera finds its view blocked at the start or two seconds later is
    drawn again."""
    rng = np.random.default_rng((seed, index))
    settings = config.settings()
    build = {"room": room, "landscape": landscape}[settings[int(rng.integers(len(settings)))]]
    for _ in range(ATTEMPTS):
        world = build(rng, config)
        if all(world.sees(world.camera(32, 32, time), time) for time in (0.0, CLIP)):
            break
    return world


def keypoint_names(kind: str) -> tuple[str, ...]:
    """The names of a kind's keypoints, in the order of `Instance.keypoints`."""
    return KEYPOINTS[kind]
