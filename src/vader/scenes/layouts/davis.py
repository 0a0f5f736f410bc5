"""DAVIS 2017: JPEGImages and Annotations/480p/SEQUENCE/00000 ..., ImageSets/2017.

The pictures form clips of `CLIP` frames at ten frames per second; the last clip may be shorter, with at least two
frames. Annotations show the objects of the clip's first frame, 1 to n in order of their numbers in the world. Objects
that appear later are background, as in DAVIS. A world whose first frame shows no object is skipped. The folder is named
480p for every size, because readers look there.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vader.errors import BadInput
from vader.images.encode import colour_map, jpeg, palette_png
from vader.scenes.exposure import film
from vader.scenes.layouts.order import Layout, Made, Order, put, put_lists, spend
from vader.scenes.render import render
from vader.scenes.samples import FRAMES_PER_SECOND
from vader.scenes.world import World, make_world, moments

CLIP = 24
TRIES = 20


def palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the colours of DAVIS's annotations: VOC's for 0 to 21, but 191 instead of 192; then greys."""
    colours = colour_map()
    colours[colours == 192] = 191
    colours[22:] = np.arange(22, 256)[:, None]
    return colours


def clips(count: int) -> list[int]:
    """Return the lengths of the clips for `count` frames (at least two)."""
    full, rest = divmod(count, CLIP)
    lengths = [CLIP] * full + ([rest] if rest else [])
    if rest == 1:  # a clip has at least two frames
        lengths[-2:] = [CLIP - 1, 2]
    return lengths


def clip_count(count: int) -> int:
    """Return the number of clips for `count` frames."""
    return len(clips(count))


def locate(count: int, index: int) -> tuple[int, int]:
    """Return the clip, and the frame in it, of picture `index` of `count`."""
    starts = np.cumsum([0, *clips(count)])
    clip = int(np.searchsorted(starts, index, side="right")) - 1
    return clip, index - int(starts[clip])


@lru_cache(maxsize=2)  # a process renders the frames of a clip in order
def opening(order: Order, clip: int) -> tuple[World, tuple[int, ...]]:
    """Return a clip's world and the numbers of the objects in its first frame."""
    lengths = clips(order.count)
    times = moments((lengths[clip] - 1) / FRAMES_PER_SECOND)
    for attempt in range(TRIES):
        index = clip + attempt * len(lengths)  # no world is used for two clips
        world = make_world(order.config, order.seed, index, times)
        shown = np.unique(render(world, world.camera(order.width, order.height)).instances)
        if shown.any():
            return world, tuple(int(number) for number in shown if number)
    raise BadInput(f"--set: expected scenes with objects for the clips, found {TRIES} worlds without visible objects")


def make(order: Order, folder: Path, index: int) -> Made:
    """Write one frame and its annotation."""
    clip, t = locate(order.count, index)
    world, numbers = opening(order, clip)
    time = t / FRAMES_PER_SECOND
    frame = render(world, world.camera(order.width, order.height, time), time)
    frame = film(frame, order.config.exposure, (order.seed, clip, 2))
    annotation = np.zeros(frame.instances.shape, np.uint8)
    for new, number in enumerate(numbers, 1):
        annotation[frame.instances == number] = new
    place = f"480p/{_name(clip)}/{t:05d}"
    put(folder / f"JPEGImages/{place}.jpg", jpeg(frame.image))
    put(folder / f"Annotations/{place}.png", palette_png(annotation, palette()))
    return Made(f"JPEGImages/{place}.jpg", frame.camera)


def collect(order: Order, folder: Path, records: Iterable[None]) -> None:
    """Write the lists of sequences."""
    spend(records)
    put_lists(folder / "ImageSets" / "2017", [_name(clip) for clip in range(clip_count(order.count))])


def _name(clip: int) -> str:
    return f"scene-{clip:04d}"


LAYOUT = Layout(make, collect, names={}, least=2, parts=clip_count)
