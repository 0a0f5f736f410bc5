"""Measure how many scenes of 224 x 224 per second one core renders, with truth, and which parts take the time.

    OMP_NUM_THREADS=1 python bench/scenes.py [--size 224 --count 16 --repeats 5]

It prints processor seconds, which depend least on other processes: to make worlds and to render them (medians over
repeats of the mean over worlds), and then the shares of rendering from a profiler.
"""

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable

import cv2

from vader.scenes.render import render
from vader.scenes.world import SceneConfig, World, make_world

# What the functions that `render` calls do; one inside another (shadows in light) is taken off the outer.
STAGES = {
    "placing parts at their time": ["snapshot"],
    "casting, pixel centres": ["cast_picture"],
    "points and normals": ["Seen.__init__"],
    "light": ["lights"],
    "shadows": ["shadowed", "_soften"],
    "surfaces and sky": ["shade", "sky_colours", "developed"],
    "antialiasing of edges": ["_FineSamples.__init__", "_FineSamples.mix", "_borders"],
    "keypoints": ["instances"],
}


def processor_seconds(run: Callable[[], object], repeats: int) -> float:
    """The median over repeats, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        since = time.process_time()
        run()
        taken.append(time.process_time() - since)
    return statistics.median(taken[1:])


def shares(worlds: list[World], size: int) -> dict[str, float]:
    """The share of each stage in `render`."""
    profile = cProfile.Profile()
    profile.enable()
    for world in worlds:
        render(world, world.camera(size, size))
    profile.disable()
    spent: dict[str, float] = {}
    for (file, _, name), (_, _, _, seconds, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "scenes" in file:
            name = f"_FineSamples.{name}" if file.endswith("render.py") and name in ("__init__", "mix") else name
            name = "Seen.__init__" if file.endswith("shade.py") and name == "__init__" else name
            spent[name] = spent.get(name, 0) + seconds
    spent["lights"] -= spent.get("shadowed", 0)
    return {stage: sum(spent.get(name, 0) for name in names) / spent["render"] for stage, names in STAGES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)

    config = SceneConfig()
    worlds = [make_world(config, 0, i) for i in range(given.count)]
    making = processor_seconds(lambda: [make_world(config, 0, i) for i in range(given.count)], given.repeats)
    drawing = processor_seconds(lambda: [render(w, w.camera(given.size, given.size)) for w in worlds], given.repeats)
    parts = sum(len(world.parts) for world in worlds) / given.count
    print(f"{given.count} worlds of {parts:.0f} parts on average, {given.size} x {given.size} pixels, one core")
    print(f"{'a world':30s} {1e3 * making / given.count:8.1f} ms")
    print(f"{'a picture':30s} {1e3 * drawing / given.count:8.1f} ms")
    print(f"{'pictures of one world a second':30s} {given.count / drawing:8.1f}")
    print(f"{'worlds a second, one picture':30s} {given.count / (making + drawing):8.1f}")
    found = shares(worlds, given.size)
    for stage, share in found.items():
        print(f"  {stage:28s} {share:8.1%}")
    print(f"  {'the rest':28s} {1 - sum(found.values()):8.1%}")


if __name__ == "__main__":
    main()
