"""Measure the time of J and F of one object in one frame, compared with their plain definition.

    OMP_NUM_THREADS=1 python bench/davis.py [--data ../shared/data/DAVIS --repeats 5]

The masks are those of consecutive frames of real clips (480 x 854), each scored against the next; without clips,
synthetic masks of the same size. The plain way: logical operations on whole masks, boundaries by shifted copies, and
dilation by scikit-image's disk, once with scikit-image and once with OpenCV, the fastest dilation of whole masks. All
numbers must be equal.
"""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.morphology import dilation, disk
from timing import alternate, report

from vader.datasets.davis import open_davis
from vader.reports.metrics import boundary_f, jaccard

DATA = Path(os.environ.get("VADER_DATA", Path(__file__).parents[2] / "shared" / "data")) / "DAVIS"
FRAMES = (0, 6, 12, 17)  # of each clip

Pair = tuple[np.ndarray, np.ndarray]


def real_pairs(root: Path) -> list[Pair]:
    """A few frames of every clip, each beside the next one."""
    return [(clip.mask(t) > 0, clip.mask(t + 1) > 0) for clip in open_davis(root) for t in FRAMES]


def made_up_pairs() -> list[Pair]:
    """Blobs of every size, beside the same a little moved."""
    rng, pairs = np.random.default_rng(0), []
    for share in np.linspace(0.02, 0.5, 32):
        field = cv2.GaussianBlur(rng.normal(size=(480, 854)).astype(np.float32), (0, 0), 40)
        mask = field > np.quantile(field, 1 - share)
        pairs.append((np.roll(mask, 5, 1), mask))
    return pairs


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """XOR with the right, the lower and the lower-right neighbour, where there is one."""
    result = np.zeros(mask.shape, dtype=bool)
    result[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    result[:-1] |= mask[:-1] ^ mask[1:]
    result[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return result


def plain_scores(pred: np.ndarray, truth: np.ndarray, dilate: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Pair:
    """J and F."""
    union = (pred | truth).sum()
    j = (pred & truth).sum() / union if union else 1.0
    ours, theirs = plain_boundary(pred), plain_boundary(truth)
    footprint = disk(math.ceil(0.008 * math.hypot(*pred.shape)))
    if not (ours.any() and theirs.any()):
        return j, float(not ours.any() and not theirs.any())
    precision = (ours & dilate(theirs, footprint)).sum() / ours.sum()
    recall = (theirs & dilate(ours, footprint)).sum() / theirs.sum()
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def by_skimage(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """scikit-image's dilation; its `binary_dilation`, an older name, does the same."""
    return dilation(mask.astype(np.uint8), footprint) > 0


def by_opencv(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """OpenCV's dilation of the whole mask."""
    return cv2.dilate(mask.astype(np.uint8), footprint) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    real = given.data.is_dir()
    pairs = real_pairs(given.data) if real else made_up_pairs()

    contestants: dict[str, Callable[[], list]] = {
        "ours": lambda: [(jaccard(a, b), boundary_f(a, b)) for a, b in pairs],
        "plain, OpenCV": lambda: [plain_scores(a, b, by_opencv) for a, b in pairs],
        "plain, scikit-image": lambda: [plain_scores(a, b, by_skimage) for a, b in pairs],
    }
    found = {name: np.array(run()) for name, run in contestants.items()}
    worst = max(np.abs(found["ours"] - one).max() for one in found.values())
    print(f"{len(pairs)} pairs of {'real' if real else 'made-up'} masks, largest difference {worst:.1e}")
    assert worst < 1e-6, "the contestants do not compute the same"
    times = alternate(contestants, given.repeats, warm=0)
    report(times, "ours")
    print(f"{1e3 * min(times['ours']) / len(pairs):.2f} ms for an object in a frame")


if __name__ == "__main__":
    main()
