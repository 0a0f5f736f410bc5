"""The exams know good features from useless ones, and equal loops from the definitions."""

import math

import numpy as np
import pytest
import torch
from fields import STRIDE, at_cells, fields, noise
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vader.errors import BadInput
from vader.exams.labelled import depth
from vader.exams.labelled.depth import linear_depth
from vader.exams.labelled.segmentation import linear_segmentation
from vader.finetuning.pixels import ProbeConfig, full_size

SHORT = ProbeConfig(steps=120, pictures=8, pixels=64)
BRIEF = ProbeConfig(steps=200, pictures=4, pixels=64, lr=depth.LR, weight_decay=0.0)


# --- Segmentation -------------------------------------------------------------------------------------------------


def labelled(count: int, seed: int, classes: int = 4) -> tuple[list[Tensor], list[np.ndarray]]:
    """Fields, the largest of which is a pixel's class, on 48 x 60 pixels: the best features there can be."""
    rng = np.random.default_rng(seed)
    truth = [fields(rng, classes, 48, 60) for _ in range(count)]
    return [at_cells(one) for one in truth], [one.argmax(0).astype(np.uint8) for one in truth]


TRAIN, TEST = labelled(24, 0), labelled(8, 1)


def test_separable_features_are_segmented_and_noise_is_not() -> None:
    good = linear_segmentation(*TRAIN, *TEST, 4)
    assert good.miou > 0.93  # no map at stride 4 has the boundaries exactly
    assert good.confusion.sum() == 8 * 48 * 60, "every pixel at full resolution counts"
    useless = [
        [noise(tuple(one.shape), seed + i) for i, one in enumerate(maps)]
        for seed, (maps, _) in ((0, TRAIN), (99, TEST))
    ]
    bad = linear_segmentation(useless[0], TRAIN[1], useless[1], TEST[1], 4, config=SHORT)
    assert bad.miou < 0.25
    assert bad.pixel_accuracy < 0.35


def test_channels_of_any_scale_are_the_same_to_the_probe() -> None:
    factor, shift = torch.tensor([1e-3, 1.0, 30.0, 1e3]).view(4, 1, 1), torch.tensor([5.0, 0, -70, 1e3]).view(4, 1, 1)
    scaled = [[one * factor + shift for one in maps] for maps in (TRAIN[0], TEST[0])]
    found = linear_segmentation(scaled[0], TRAIN[1], scaled[1], TEST[1], 4, config=SHORT)
    assert found.miou == pytest.approx(linear_segmentation(*TRAIN, *TEST, 4, config=SHORT).miou, abs=0.01)


def test_the_probe_reaches_what_logistic_regression_reaches() -> None:
    """On features that leave something to be wished: three mixtures of the four fields, with noise."""
    mixing = noise((3, 4), 5)
    maps = [
        [torch.einsum("cf,fhw->chw", mixing, one) + 0.3 * noise((3, 12, 15), seed + i) for i, one in enumerate(half)]
        for seed, half in ((0, TRAIN[0]), (99, TEST[0]))
    ]
    rows, classes = [], []
    for one, label in zip(maps[0], TRAIN[1], strict=True):
        rows.append(full_size(one[None], STRIDE, (48, 60))[0].flatten(1).T[::7].numpy())
        classes.append(label.ravel()[::7])
    fitted = LogisticRegression(C=1e4, max_iter=500).fit(np.concatenate(rows), np.concatenate(classes))
    hits = [
        (fitted.predict(full_size(one[None], STRIDE, (48, 60))[0].flatten(1).T.numpy()) == label.ravel()).mean()
        for one, label in zip(maps[1], TEST[1], strict=True)
    ]
    found = linear_segmentation(maps[0], TRAIN[1], maps[1], TEST[1], 4)
    assert 0.4 < found.pixel_accuracy < 0.9
    assert found.pixel_accuracy == pytest.approx(np.mean(hits), abs=0.015)


def test_void_teaches_nothing_and_costs_nothing() -> None:
    """Labels that are wrong wherever they are void: as good as without them."""
    maps, labels = TRAIN
    mixed = [label.copy() for label in labels]
    for label in mixed:
        label[:, 30:] = 255
    right = linear_segmentation(maps, mixed, *TEST, 4, config=SHORT)
    assert right.miou > 0.85
    for label in mixed:
        label[:, 30:] = 3
    assert linear_segmentation(maps, mixed, *TEST, 4, config=SHORT).miou < right.miou - 0.1, (
        "the other half matters unless void"
    )
    tested = [np.where(np.arange(60) < 30, label, 255).astype(np.uint8) for label in TEST[1]]
    assert linear_segmentation(*TRAIN, TEST[0], tested, 4, config=SHORT).confusion.sum() == 8 * 48 * 30


def test_segmentation_follows_its_seed() -> None:
    same = [linear_segmentation(*TRAIN, *TEST, 4, seed=seed, config=SHORT).confusion for seed in (1, 1, 2)]
    assert (same[0] == same[1]).all()
    assert (same[0] != same[2]).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda maps, labels: (maps[:-1], labels), "label map for each of 23 pictures, found 24"),
        (lambda maps, labels: (maps, [labels[0][:40], *labels[1:]]), "give labels the size of the picture"),
        (lambda maps, labels: (maps, [np.full_like(labels[0], 4), *labels[1:]]), "classes 0 to 3"),
        (lambda maps, labels: (maps, [np.full_like(one, 255) for one in labels]), "found none in 24 pictures"),
        (lambda maps, labels: ([], []), "each of 0 pictures"),
    ],
)
def test_sets_that_do_not_fit_are_refused(change, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        linear_segmentation(*change(*TRAIN), *TEST, 4)


# --- Depth --------------------------------------------------------------------------------------------------------


def with_depth(count: int, seed: int) -> tuple[list[Tensor], list[np.ndarray]]:
    """Depths that are a linear function of three channels at stride 4."""
    maps, depths = [], []
    for i in range(count):
        one = torch.from_numpy(fields(np.random.default_rng((seed, i)), 3, 12, 15))
        maps.append(one)
        value = full_size(one[None], STRIDE, (46, 59))[0]
        depths.append((6 + 0.8 * value[0] - 0.5 * value[1] + 0.1 * value[2]).clamp_min(0.1).numpy())
    return maps, depths


NEAR, FAR = with_depth(16, 0), with_depth(6, 1)


def test_a_linear_depth_is_recovered() -> None:
    found = linear_depth(*NEAR, *FAR, config=BRIEF)
    assert found.rmse < 0.02
    assert found.pooled_rmse < 0.02
    assert found.abs_rel < 0.005
    assert found.delta1 > 0.999


@pytest.mark.parametrize(
    ("wrong", "farthest"), [((math.inf, math.nan, 0.0, -3.0), math.inf), ((500.0, math.inf), 100.0)]
)
def test_invalid_depths_are_neither_learnt_nor_scored(wrong: tuple[float, ...], farthest: float) -> None:
    def spoil(depths: list[np.ndarray], seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        values = [rng.choice(np.array(wrong, dtype=np.float32), one.shape) for one in depths]
        return [np.where(rng.random(d.shape) < 0.4, v, d) for d, v in zip(depths, values, strict=True)]

    found = linear_depth(NEAR[0], spoil(NEAR[1], 0), FAR[0], spoil(FAR[1], 1), farthest=farthest, config=BRIEF)
    assert found.rmse < 0.02


def test_without_features_the_depth_is_the_median() -> None:
    """What the L1 minimises; the ridge regression that it starts from would say the mean."""
    rng = np.random.default_rng(0)
    depths = [np.exp(rng.normal(size=(32, 32))).astype(np.float32) for _ in range(20)]
    maps = [torch.zeros(2, 8, 8) for _ in depths]
    probe = depth.train_probe(maps, depths, config=BRIEF)
    predicted = depth.predict_depth(probe, maps[0], STRIDE, (32, 32))
    assert np.ptp(predicted) < 1e-6
    median, mean = np.median(np.stack(depths)), np.mean(np.stack(depths))
    assert predicted[0, 0] == pytest.approx(median, rel=0.03)
    assert mean > 1.5 * median
    score = linear_depth(maps, depths, maps, depths, config=BRIEF)
    assert score.pooled_rmse == pytest.approx(math.sqrt(np.mean((np.stack(depths) - predicted[0, 0]) ** 2)), rel=1e-4)


def test_rmse_of_pictures_is_not_that_of_pixels() -> None:
    """One picture of few valid pixels, far off, beside one of many that is right."""
    maps = [torch.zeros(1, 8, 8)] * 2
    depths = [np.full((32, 32), 2.0), np.zeros((32, 32))]
    depths[1][0, :8] = 5.0
    found = linear_depth(maps[:1], depths[:1], maps, depths, config=BRIEF)
    assert found.rmse == pytest.approx((0 + 3) / 2, abs=1e-3)
    assert found.pooled_rmse == pytest.approx(math.sqrt(8 * 9 / (1024 + 8)), abs=1e-3)


def test_depth_follows_its_seed() -> None:
    first, second, third = (depth.train_probe(*NEAR, seed=seed, config=BRIEF).weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
