"""Four exams on rendered scenes that no encoder was trained on, and the encoders that they evaluate.

The exams of `demo.py` are linear segmentation and depth (to 10 m), propagation of the first frame's masks, and matching
between viewpoints; each has a baseline without features. Propagation and matching use clips whose exposure varies like
a camera's, and optionally the same clips at one exposure (`..._plain`), where surfaces keep their colours.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from vader.encoders import DenseEncoder
from vader.encoders.features import extract
from vader.exams.clips.scores import mean_scores, score_clip
from vader.exams.labelled.depth import linear_depth
from vader.exams.labelled.protocols import DEPTH_PROBE
from vader.exams.labelled.segmentation import linear_segmentation
from vader.exams.pairs import ANGLES, THRESHOLDS, MatchScore, by_angle, match_scores
from vader.finetuning.pixels import ProbeConfig
from vader.inference.propagation import PropagationProtocol, copy_first, propagate
from vader.scenes.exposure import film
from vader.scenes.frame import CLASSES, Frame
from vader.scenes.samples import ViewPair, clips, processes, reexposed, stills, view_pairs
from vader.scenes.world import SceneConfig

SEED = 20_201_213  # of the exams' worlds; training images have seeds from 0 on
FARTHEST = 10.0  # metres, as NYU-Depth's exams have it
RADIUS = 96 / 480  # of propagation, in heights of the picture: DINO's 12 cells of 8 px at 480p
MATCHED = THRESHOLDS.index(4)  # the demo's column: found within 4 px
ANGLE_NAMES = [f"{low}-{high}°" if high < 180 else f"{low}° and more" for low, high in pairwise(ANGLES)]


@dataclass(frozen=True)
class Counts:
    """The number of images of each exam, and their sides in pixels."""

    train: int = 160  # of segmentation and depth
    test: int = 80
    clips: int = 8
    frames: int = 10
    rate: float = 5.0  # frames a second; at 10 the first mask copied gets J .63, which leaves little to tell apart
    pairs: int = 48
    size: int = 128
    clip_size: tuple[int, int] = (256, 160)  # width, height
    probe_steps: int = ProbeConfig().steps


SMALL = Counts(  # to see whether it works
    train=8, test=4, clips=2, frames=3, pairs=3, size=64, clip_size=(128, 96), probe_steps=20,
)  # fmt: skip


@dataclass(frozen=True)
class Sets:
    """The exams' images with their truth."""

    counts: Counts
    train: list[Frame]
    test: list[Frame]
    clips: list[list[Frame]]
    pairs: list[ViewPair]
    plain_clips: list[list[Frame]]  # the same at one exposure
    plain_pairs: list[ViewPair]

    @cached_property
    def fingerprint(self) -> str:
        """Names the pictures and their truth."""
        every = [*self.train, *self.test, *(f for c in self.clips for f in c)]
        every += [frame for pair in self.pairs for frame in (pair.first, pair.second)]
        digest = hashlib.sha256()
        for frame in every:
            for array in (frame.image, frame.classes, frame.instances, frame.depth):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def make_sets(counts: Counts, config: SceneConfig, workers: int = 1) -> Sets:
    """Render the exams' worlds; each set has a seed of its own, so no world is in two of them."""
    width, height = counts.clip_size
    n = counts.size
    plain = config.model_copy(update={"exposure": 0.0})
    with processes(workers) as over:  # which take seconds to start: once for all
        plain_clips = clips(plain, SEED + 2, counts.clips, width, height, counts.frames, counts.rate, over)
        plain_pairs = view_pairs(plain, SEED + 3, counts.pairs, n, n, over)
        train = stills(config, SEED, counts.train, n, n, over)
        test = stills(config, SEED + 1, counts.test, n, n, over)
    return Sets(
        counts,
        train=train,
        test=test,
        clips=[[film(f, config.exposure, (SEED + 2, i, 2)) for f in clip] for i, clip in enumerate(plain_clips)],
        pairs=[reexposed(pair, config.exposure, (SEED + 3, i)) for i, pair in enumerate(plain_pairs)],
        plain_clips=plain_clips,
        plain_pairs=plain_pairs,
    )


def images_of(frames: Iterable[Frame]) -> list[np.ndarray]:
    """Their pictures."""
    return [frame.image for frame in frames]


def masks_of(clip: list[Frame]) -> np.ndarray:
    """(T, H, W) the instances."""
    return np.stack([frame.instances for frame in clip])


def propagation(counts: Counts) -> PropagationProtocol:
    """DINO's, its radius scaled to the clips' height."""
    return PropagationProtocol(radius=RADIUS * counts.clip_size[1])


def evaluate_on(encoder: DenseEncoder, sets: Sets, seed: int, plain: bool = False) -> dict[str, float | list[float]]:
    """One encoder's numbers; `seed` is the probes'. With `plain` also those at one exposure."""
    train, test = (extract(encoder, images_of(frames), dtype=torch.float16) for frames in (sets.train, sets.test))
    told = probes(sets, seed, train, test)
    exams = [("", sets.clips, sets.pairs), ("_plain", sets.plain_clips, sets.plain_pairs)]
    for suffix, some, pairs in exams[: 1 + plain]:
        scores = [score_clip(carried(encoder, clip, sets.counts), masks_of(clip)) for clip in some]
        found = summary(sets, mean_scores(scores), match_all(encoder, pairs))
        told |= {key + suffix: value for key, value in found.items()}
    return told


def probes(
    sets: Sets, seed: int, train: list[torch.Tensor], test: list[torch.Tensor]
) -> dict[str, float | list[float]]:
    """Linear segmentation and depth on given features."""
    labels = [[frame.classes for frame in frames] for frames in (sets.train, sets.test)]
    depths = [[frame.depth for frame in frames] for frames in (sets.train, sets.test)]
    steps = sets.counts.probe_steps
    segmented = linear_segmentation(
        train, labels[0], test, labels[1], len(CLASSES), seed=seed, config=ProbeConfig(steps=steps)
    )
    deep = linear_depth(
        train, depths[0], test, depths[1], seed=seed, farthest=FARTHEST, config=replace(DEPTH_PROBE, steps=steps)
    )
    return {
        "miou": segmented.miou, "pixel_accuracy": segmented.pixel_accuracy, "class_iou": segmented.iou.tolist(),
        "depth_rmse": deep.rmse, "depth_delta1": deep.delta1,
    }  # fmt: skip


def carried(encoder: DenseEncoder, clip: list[Frame], counts: Counts) -> np.ndarray:
    """(T, H, W) the first frame's instances, propagated."""
    maps = torch.stack(extract(encoder, images_of(clip), embed=True))
    return propagate(maps, clip[0].instances, propagation(counts), stride=encoder.stride)


def match_all(encoder: DenseEncoder, pairs: list[ViewPair]) -> list[MatchScore]:
    """Every pair's matches."""
    first, second = (
        extract(encoder, [getattr(p, side).image for p in pairs], embed=True) for side in ("first", "second")
    )
    return [
        match_scores(a, b, pair.points, pair.visible, encoder.stride, rng=np.random.default_rng(number))
        for number, (a, b, pair) in enumerate(zip(first, second, pairs, strict=True))
    ]


def summary(sets: Sets, propagated: dict[str, float], found: list[MatchScore]) -> dict[str, float | list[float]]:
    """The numbers of propagation and matching as the tables have them."""
    usable = [score for score in found if len(score.errors)]
    bins = by_angle([pair.angle for pair in sets.pairs], found)
    return {
        "j": propagated["j"], "f": propagated["f"],
        "match": float(np.mean([score.shares[MATCHED] for score in usable])),
        "match_within": np.mean([score.shares for score in usable], 0).tolist(),  # 1, 2, 4, 8 px
        "match_by_angle": [float(one.shares[MATCHED]) for one in bins],
        "match_within_by_angle": [one.shares.tolist() for one in bins],
        "pairs_by_angle": [float(one.pairs) for one in bins],
    }  # fmt: skip


def nothing(sets: Sets, seed: int) -> dict[str, float | list[float]]:
    """What no features at all get: the same cell everywhere, the first masks copied, a cell at random."""
    blank = [
        [torch.zeros(1, -(-f.image.shape[0] // 4), -(-f.image.shape[1] // 4)) for f in frames]
        for frames in (sets.train, sets.test)
    ]
    copied = [score_clip(copy_first(clip[0].instances, len(clip)), masks_of(clip)) for clip in sets.clips]
    colour = DenseEncoder("none", 4, 1, lambda x: torch.ones(len(x), 1, -(-x.shape[2] // 4), -(-x.shape[3] // 4)))
    chance = [
        MatchScore(s.thresholds, s.chance, s.chance, s.ceiling, s.floor, s.errors)
        for s in match_all(colour, sets.pairs)
    ]
    told = summary(sets, mean_scores(copied), chance)  # neither looks at the pictures: at one exposure it is the same
    return {**probes(sets, seed, *blank), **told, **{key + "_plain": value for key, value in told.items()}}
