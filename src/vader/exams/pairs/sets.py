"""Pairs of pictures for the matching exams: views of an image, rendered worlds, animals, posed frames.

Files are opened on access. Axes: H W pixels, N points of a pair. Points are (x, y) in pixels.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vader.datasets.coco import Animal, AnimalSet, open_animal_keypoints
from vader.datasets.posed import PosedSet, carry_points, open_posed
from vader.errors import BadInput, UnreadableImage
from vader.exams.pairs import (
    KeypointsProtocol,
    MatchProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
    draw_warp,
    query_cells,
    view_of,
    warp_points,
)
from vader.images.pictures import read_image
from vader.images.sources import list_images
from vader.scenes.samples import view_pair
from vader.scenes.world import SceneConfig


@dataclass(frozen=True)
class Truth:
    """Points of a pair's first picture, their positions in its second, the pixels that are 1 in the thresholds' unit,
    the pair's row of the table, and both pictures' (height, width)."""

    points: Float[np.ndarray, "N 2"]
    truths: Float[np.ndarray, "N 2"]
    scale: float
    group: str
    sizes: tuple[tuple[int, int], tuple[int, int]]


class Some(Sequence):
    """Pictures by index, read on access. Iteration skips files that cannot be read."""

    def __init__(self, count: int, read: Callable[[int], np.ndarray]) -> None:
        self.number, self.read = count, read

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]
        return self.read(range(self.number)[i])

    def __iter__(self) -> Iterator[np.ndarray]:
        for i in range(self.number):
            with suppress(UnreadableImage):  # these files are named when pairs are scored
                yield self.read(i)


@dataclass(frozen=True)
class PairSet:
    """The material of a matching exam.

    `links` holds the indices of the two pictures of each pair, `names` the names of the pairs. `picture` and `truth`
    read one, and raise UnreadableImage for a damaged file. The headline is over the first `counted` pairs. `groups` are
    the rows of the table in order, `by` what they stand for.
    """

    name: str
    links: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    picture: Callable[[int], UInt8[np.ndarray, "_ _ 3"]]
    truth: Callable[[int], Truth]
    counted: int
    by: str
    groups: tuple[str, ...]
    pictures: Sequence  # not Sequence[np.ndarray]: a type check in tests would read a picture
    told: dict[str, Any]
    sentence: str

    def __len__(self) -> int:
        return len(self.links)

    def facts(self) -> dict[str, Any]:
        """Return fingerprints and counts."""
        return {"set": self.name, "pairs": self.counted, **self.told}

    def lead(self) -> str:
        """Return a sentence with the number of pairs."""
        return self.sentence


def open_pairs(protocol: MatchProtocol, root: Path | None) -> PairSet:
    """Open the pairs of a protocol in the data at `root` (None for rendered scenes). Reads lists but no pictures.

    Raises BadInput for missing data, data that does not match its layout, and data without a pair.
    """
    if isinstance(protocol, ScenesProtocol):
        return scene_pairs(protocol)
    if root is None:
        raise BadInput(f"--protocol {protocol.name}: expected --data with a folder of pictures, found none; give one")
    if isinstance(protocol, WarpProtocol):
        return warp_pairs(protocol, root)
    if isinstance(protocol, KeypointsProtocol):
        return keypoint_pairs(protocol, open_animal_keypoints(root, "val"), _train(open_animal_keypoints, root))
    assert isinstance(protocol, PosedProtocol), protocol
    return posed_pairs(protocol, open_posed(root, "val"), _train(open_posed, root))


def _train(read: Callable[[Path, str], Any], root: Path) -> Any:
    """Open the train split, whose pictures an encoder may be fitted on; None without a list of it."""
    return read(root, "train") if (root / "train.txt").is_file() else None


# --- Views of an image ---------------------------------------------------------------------------------------------


CHANGED, ALONE = "geometry and colour", "geometry alone"


def warp_pairs(protocol: WarpProtocol, root: Path) -> PairSet:
    """Make two views of each image, then the same without colour changes. Image i has views 4 i to 4 i + 3."""
    listed = list_images(root)
    count = min(protocol.images, len(listed))
    chosen = [i * len(listed) // count for i in range(count)]

    @lru_cache(maxsize=2)
    def image(i: int) -> np.ndarray:
        return read_image(listed, chosen[i], 2 * protocol.size)

    @lru_cache(maxsize=2)
    def pair(i: int) -> Any:
        height, width = image(i).shape[:2]
        return draw_warp(protocol, width, height, i)

    def picture(n: int) -> np.ndarray:
        return view_of(protocol, image(n // 4), pair(n // 4), n % 2, colour=n % 4 < 2)

    @cache
    def truth(i: int) -> Truth:
        points, truths = warp_points(protocol, pair(i % count), i % count)
        return Truth(points, truths, 1.0, CHANGED if i < count else ALONE, (square, square))

    square = (protocol.size, protocol.size)
    links = [(4 * i + first, 4 * i + first + 1) for first in (0, 2) for i in range(count)]
    names = tuple(listed.names[i] for i in chosen)
    return PairSet(
        listed.root.name, tuple(links), names + names, picture, truth, count, "change between the views",
        (CHANGED, ALONE), Some(count, lambda i: picture(4 * i + 2)),
        {"val": f"{listed.fingerprint()[:16]} ({count} of {len(listed)} images, evenly spaced)",
         "fitted on": "the exam's own first views, their colours unchanged"},
        f"Two {protocol.size} px views of each of {count} images, {protocol.points} points for each pair.",
    )  # fmt: skip


# --- Rendered scenes -----------------------------------------------------------------------------------------------


def scene_pairs(protocol: ScenesProtocol) -> PairSet:
    """Render worlds 0, 1 ... from two viewpoints; each is rendered once and kept."""
    config = SceneConfig()
    edges = list(pairwise(protocol.angles))
    groups = tuple(f"{low:g} to {high:g} degrees" for low, high in edges)

    @cache
    def world(i: int) -> tuple[np.ndarray, np.ndarray, Truth]:
        pair = view_pair(config, protocol.seed, protocol.size, protocol.size, i)
        cells, truths = query_cells(pair.points, pair.visible, protocol.grid)
        chosen = np.sort(np.random.default_rng((protocol.seed, i, 4)).permutation(len(cells))[: protocol.points])
        w = protocol.size // protocol.grid
        points = (np.stack([cells % w, cells // w], 1) + 0.5) * protocol.grid
        group = next(g for g, (_, high) in zip(groups, edges, strict=True) if pair.angle < high or high == edges[-1][1])
        square = (protocol.size, protocol.size)
        truth = Truth(points[chosen], truths[chosen], 1.0, group, (square, square))
        return pair.first.image, pair.second.image, truth

    def picture(n: int) -> np.ndarray:
        first, second, _ = world(n // 2)
        return second if n % 2 else first

    count = protocol.pairs
    return PairSet(
        "rendered scenes", tuple((2 * i, 2 * i + 1) for i in range(count)), tuple(f"world {i}" for i in range(count)),
        picture, lambda i: world(i)[2], count, "angle between the cameras", groups, Some(count, lambda i: world(i)[0]),
        {"val": f"worlds 0 to {count - 1} of seed {protocol.seed}", "scenes": config.model_dump(mode="json"),
         "fitted on": "the exam's own first pictures"},
        f"{count} rendered worlds from two viewpoints each, at most {protocol.points} points for each pair.",
    )  # fmt: skip


# --- Animals -------------------------------------------------------------------------------------------------------


def keypoint_pairs(protocol: KeypointsProtocol, val: AnimalSet, train: AnimalSet | None) -> PairSet:
    """Make ordered pairs of animals of one class in different images. Raises BadInput without a pair."""
    rng = np.random.default_rng(protocol.seed)
    chosen: list[tuple[Animal, Animal]] = []
    kinds = sorted({one.category for one in val.animals})
    for kind in kinds:
        mine = [one for one in val.animals if one.category == kind]
        fitting = [
            (a, b)
            for a, b in itertools.permutations(mine, 2)
            if a.image != b.image
            and a.visible.shape == b.visible.shape
            and np.count_nonzero(a.visible & b.visible) >= protocol.common
        ]
        kept = np.sort(rng.permutation(len(fitting))[: protocol.pairs])
        chosen += [fitting[i] for i in kept]
    if not chosen:
        raise BadInput(
            f"{val.images.root}: expected two images of one class with {protocol.common} keypoints visible in both, "
            f"found none among {len(val.animals)} animals; annotate more animals"
        )

    @lru_cache(maxsize=32)
    def resized(n: int) -> tuple[np.ndarray, np.ndarray]:
        return to_side(val.images.image(n), protocol.side)

    @cache
    def truth(i: int) -> Truth:
        a, b = chosen[i]
        both = a.visible & b.visible
        (here, first), (there, second) = resized(a.image), resized(b.image)
        scale = float((np.array(b.box[2:]) * second).max())
        sizes = (here.shape[:2], there.shape[:2])
        return Truth(a.keypoints[both] * first, b.keypoints[both] * second, scale, a.category, sizes)

    fitted = (train or val).images
    names = val.images.names
    return PairSet(
        "animals val", tuple((a.image, b.image) for a, b in chosen),
        tuple(f"{a.category}: {names[a.image]} to {names[b.image]}" for a, b in chosen),
        lambda n: resized(n)[0], truth, len(chosen), "class", tuple(kinds),
        Some(len(fitted), lambda i: to_side(fitted.image(i), protocol.side)[0]),
        {"val": f"{val.images.fingerprint()} ({len(names)} images, {len(val.animals)} animals)",
         "fitted on": f"{fitted.split}, {fitted.fingerprint()} ({len(fitted)} images)"},
        f"{len(chosen)} pairs of animals of the same class, from {len(kinds)} classes and {len(names)} images.",
    )  # fmt: skip


def to_side(image: UInt8[np.ndarray, "H W 3"], side: int) -> tuple[UInt8[np.ndarray, "_ _ 3"], Float[np.ndarray, "2"]]:
    """Resize the image to a short side of `side` px; also return the factors that scale its points (x, y)."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = image if size == (width, height) else cv2.resize(image, size, interpolation=way)
    return resized, np.array([size[0] / width, size[1] / height])


# --- Posed frames --------------------------------------------------------------------------------------------------


def posed_pairs(protocol: PosedProtocol, val: PosedSet, train: PosedSet | None) -> PairSet:
    """Pair frames by their cameras' distance. Raises BadInput without a pair."""
    rng = np.random.default_rng(protocol.seed)
    count = len(val.poses)
    apart = {(a, b): val.distance(a, b) for a in range(count) for b in range(a + 1, count)}
    bins = [f"{low:g} to {high:g} m" for low, high in pairwise(protocol.edges)]
    chosen: list[tuple[tuple[int, int], str]] = []
    for (low, high), group in zip(pairwise(protocol.edges), bins, strict=True):
        mine = [link for link, metres in apart.items() if low <= metres < high]
        chosen += [(mine[i], group) for i in np.sort(rng.permutation(len(mine))[: protocol.pairs])]
    if not chosen:
        raise BadInput(
            f"{val.frames.root}: expected two frames of val whose cameras are less than {protocol.edges[-1]:g} m apart,"
            f" found none among {count}; list more in val.txt"
        )

    @lru_cache(maxsize=64)
    def depth(n: int) -> np.ndarray:
        found = val.frames[n].depth
        assert found is not None, "frames with poses have depth"
        return found

    @cache
    def truth(i: int) -> Truth:
        (a, b), group = chosen[i]
        height, width = depth(a).shape
        middle = protocol.grid // 2
        columns, rows = np.meshgrid(np.arange(middle, width, protocol.grid), np.arange(middle, height, protocol.grid))
        pixels = np.stack([columns.ravel(), rows.ravel()], 1)
        at, seen = carry_points(
            pixels, (depth(a), depth(b)), (val.poses[a], val.poses[b]), val.intrinsics, protocol.near, protocol.far
        )
        kept = np.flatnonzero(seen)
        if len(kept) < protocol.fewest:
            kept = kept[:0]
        kept = np.sort(np.random.default_rng((protocol.seed, i)).permutation(kept)[: protocol.points])
        return Truth(pixels[kept] + 0.5, at[kept], 1.0, group, (depth(a).shape, depth(b).shape))

    fitted = (train or val).frames
    names = val.frames.names
    return PairSet(
        "posed RGB-D val", tuple(link for link, _ in chosen),
        tuple(f"{names[a]} to {names[b]}" for (a, b), _ in chosen),
        val.frames.image, truth, len(chosen), "distance between the cameras", tuple(bins),
        Some(len(fitted), fitted.image),
        {"val": f"{val.frames.fingerprint()} ({count} frames)",
         "fitted on": f"{fitted.split}, {fitted.fingerprint()} ({len(fitted)} frames)"},
        f"{len(chosen)} pairs of {count} frames, at most {protocol.points} points for each pair.",
    )  # fmt: skip
