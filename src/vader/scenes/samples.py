"""Sets of rendered pictures for exams: stills, clips, and pairs of viewpoints, each determined by its seed.

Worlds of a seed are numbered from 0; use different seeds for training and exams. Axes: H W pixels, T frames.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vader.scenes.camera import Camera
from vader.scenes.exposure import film, shoot
from vader.scenes.frame import Frame
from vader.scenes.render import render
from vader.scenes.truth import flow
from vader.scenes.world import SceneConfig, make_world

FRAMES_PER_SECOND = 10

Mapper = Callable[..., Iterator[Any]]  # called like `map`


@dataclass(frozen=True)
class ViewPair:
    """One world from two viewpoints: the position in `second` of each pixel of `first`, whether it is visible there,
    and the angle between the cameras' axes in degrees."""

    first: Frame
    second: Frame
    points: Float[np.ndarray, "H W 2"]
    visible: Bool[np.ndarray, "H W"]
    angle: float


def still(config: SceneConfig, seed: int, width: int, height: int, index: int) -> Frame:
    """Render world `index` from its own camera at time 0."""
    world = make_world(config, seed, index)
    return shoot(render(world, world.camera(width, height)), config.exposure, (seed, index, 2))


def clip(config: SceneConfig, seed: int, width: int, height: int, frames: int, rate: float, index: int) -> list[Frame]:
    """Render world `index` over time, at `rate` frames per second. Its camera has a free view at 0 and at 2 seconds."""
    world = make_world(config, seed, index)
    times = [t / rate for t in range(frames)]
    rendered = [render(world, world.camera(width, height, time), time) for time in times]
    return [film(frame, config.exposure, (seed, index, 2)) for frame in rendered]


def view_pair(config: SceneConfig, seed: int, width: int, height: int, index: int) -> ViewPair:
    """Render world `index` from two viewpoints, chosen from a few random ones so that the angle fits the index.

    The desired angles cover 0 to 90 degrees evenly as the index grows, so a set has pairs of every angle.
    """
    world = make_world(config, seed, index)
    cameras = world.viewpoints(width, height, 6, np.random.default_rng((seed, index, 1)))
    wanted = 90 * ((index * 0.618034) % 1)  # multiples of the golden ratio fill an interval evenly for every count
    pairs = [(a, b) for i, a in enumerate(cameras) for b in cameras[i + 1 :]]
    a, b = min(pairs, key=lambda pair: abs(angle_between(*pair) - wanted))
    first, second = render(world, a), render(world, b)
    points, visible = flow(world, first, second)
    return reexposed(ViewPair(first, second, points, visible, angle_between(a, b)), config.exposure, (seed, index))


def reexposed(pair: ViewPair, stops: float, key: tuple[int, ...]) -> ViewPair:
    """Expose a pair rendered with `exposure=0` as two shots."""
    first, second = (shoot(getattr(pair, side), stops, (*key, k)) for k, side in ((2, "first"), (3, "second")))
    return replace(pair, first=first, second=second)


def angle_between(first: Camera, second: Camera) -> float:
    """Return the angle between two cameras' axes in degrees."""
    cosine = float(first.pose[:3, 2] @ second.pose[:3, 2])
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@contextmanager
def processes(workers: int) -> Iterator[Mapper]:
    """Yield a mapper for `stills`, `clips` and `view_pairs`: `map`, or one that distributes calls over processes."""
    if workers <= 1:
        yield map
        return
    # Forked processes would inherit locks held by torch's threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield partial(pool.map, chunksize=4)


def stills(config: SceneConfig, seed: int, count: int, width: int, height: int, over: Mapper = map) -> list[Frame]:
    """Render the first frames of worlds 0 to count - 1."""
    return list(over(partial(still, config, seed, width, height), range(count)))


def clips(
    config: SceneConfig,
    seed: int,
    count: int,
    width: int,
    height: int,
    frames: int,
    rate: float = FRAMES_PER_SECOND,
    over: Mapper = map,
) -> list[list[Frame]]:
    """Render clips of worlds 0 to count - 1."""
    return list(over(partial(clip, config, seed, width, height, frames, rate), range(count)))


def view_pairs(
    config: SceneConfig, seed: int, count: int, width: int, height: int, over: Mapper = map
) -> list[ViewPair]:
    """Render pairs of viewpoints of worlds 0 to count - 1."""
    return list(over(partial(view_pair, config, seed, width, height), range(count)))
