"""The exams know good features from useless ones, and equal loops from the definitions."""

import math
from dataclasses import replace

import cv2
import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vader.errors import BadInput
from vader.exams import depth, propagation
from vader.exams.depth import linear_depth
from vader.exams.features import ProbeConfig, full_size
from vader.exams.matching import by_angle, match_scores, query_cells
from vader.exams.propagation import PropagationProtocol, carry_through, copy_first, mean_scores, propagate, score_clip
from vader.exams.segmentation import linear_segmentation
from vader.geometry import cell_centres

STRIDE = 4
SHORT = ProbeConfig(steps=120, pictures=8, pixels=64)
BRIEF = ProbeConfig(steps=200, pictures=4, pixels=64, lr=depth.LR, weight_decay=0.0)


def fields(rng: np.random.Generator, count: int, height: int, width: int, grid: int = 5) -> np.ndarray:
    """Smooth random fields, (count, height, width) float32."""
    coarse = rng.normal(size=(count, grid, grid)).astype(np.float32)
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])


def at_cells(values: np.ndarray) -> Tensor:
    """The mean of each cell: (C, H, W) -> (C, h, w)."""
    return F.avg_pool2d(torch.from_numpy(values)[None], STRIDE, ceil_mode=True, count_include_pad=False)[0]


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
        (lambda maps, labels: (maps[:-1], labels), "label map for each of 23 pictures, got 24"),
        (lambda maps, labels: (maps, [labels[0][:40], *labels[1:]]), "give labels the size of the picture"),
        (lambda maps, labels: (maps, [np.full_like(labels[0], 4), *labels[1:]]), "classes 0 to 3"),
        (lambda maps, labels: (maps, [np.full_like(one, 255) for one in labels]), "none of 24 pictures"),
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


# --- Propagation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "radius", "restrict_first"),
    [("square", 8.0, True), ("disk", 10.0, True), ("disk", 6.0, False), ("square", None, True)],
)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_propagation_equals_loops_over_all_pairs(shape, radius, restrict_first: bool, chunk: int) -> None:
    maps = F.normalize(noise((6, 5, 5, 4), 0), dim=1)
    first = noise((20, 3), 1).softmax(1)
    protocol = PropagationProtocol(
        context=3, top_k=4, temperature=0.07, radius=radius, shape=shape, restrict_first=restrict_first
    )
    found = carry_through(maps, first, protocol, 4, chunk)
    cells = math.inf if radius is None else radius / 4
    expected = oracles.propagate(
        maps.double().numpy(), first.numpy().reshape(5, 4, 3), 3, 4, 0.07, cells, shape == "disk", restrict_first
    )
    assert found.numpy() == pytest.approx(expected.reshape(6, 20, 3), abs=1e-5)


def moving_disks(frames: int = 9, size: int = 64) -> tuple[np.ndarray, Tensor]:
    """Two disks on their ways over a ground that stays; features that say how much of each thing a cell shows."""
    y, x = np.mgrid[:size, :size] + 0.5
    ground = fields(np.random.default_rng(0), 4, size, size)
    truth = np.zeros((frames, size, size), dtype=np.uint8)
    maps = []
    for t in range(frames):
        truth[t][(x - 16 - 3 * t) ** 2 + (y - 20) ** 2 < 11**2] = 5
        truth[t][(x - 46) ** 2 + (y - 44 + 2 * t) ** 2 < 9**2] = 9
        values = np.concatenate([ground * (truth[t] == 0), 3 * np.stack([truth[t] == 5, truth[t] == 9])])
        maps.append(F.normalize(at_cells(values.astype(np.float32)), dim=0))
    return truth, torch.stack(maps)


def test_features_that_know_the_objects_follow_them() -> None:
    truth, maps = moving_disks()
    predicted = propagate(maps, truth[0])
    assert (predicted[0] == truth[0]).all()
    assert predicted.dtype == truth.dtype
    score = score_clip(predicted, truth)
    assert score.ids == (5, 9)
    still = score_clip(copy_first(truth[0], len(truth)), truth)
    useless = score_clip(propagate(F.normalize(noise(tuple(maps.shape), 3), dim=1), truth[0]), truth)
    assert score.j.min() > 0.8
    assert score.f.min() > 0.9
    assert still.j.max() < 0.6
    assert useless.j.max() < 0.3


def test_the_chunk_changes_nothing() -> None:
    truth, maps = moving_disks(4)
    assert (propagate(maps, truth[0], chunk=13) == propagate(maps, truth[0], chunk=4096)).all()


def test_an_object_may_not_jump_beyond_the_radius() -> None:
    """It moves 40 px between two frames; a radius of 16 px forbids to follow."""
    truth = np.zeros((3, 64, 64), dtype=np.uint8)
    truth[0, 8:16, 8:16] = truth[1:, 8:16, 48:56] = 1
    maps = torch.stack([at_cells(np.stack([t == 1, t == 0]).astype(np.float32)) for t in truth])
    anywhere = propagate(maps, truth[0], PropagationProtocol(radius=None))
    assert (anywhere == truth).mean() > 0.99
    assert not propagate(maps, truth[0], PropagationProtocol(radius=16))[1:].any()


def test_sides_that_no_stride_divides() -> None:
    truth, maps = moving_disks(3, 62)
    assert score_clip(propagate(maps, truth[0]), truth).j.min() > 0.8
    with pytest.raises(BadInput, match="16x16 cells"):
        propagate(maps, truth[0][:40])


def test_clips_are_scored_without_their_first_and_last_frame() -> None:
    truth, _ = moving_disks(5)
    predicted = truth.copy()
    predicted[0] = predicted[-1] = 0
    assert score_clip(predicted, truth).j.tolist() == [1, 1]
    predicted[2][predicted[2] == 5] = 0
    score = score_clip(predicted, truth)
    assert score.j == pytest.approx([2 / 3, 1])
    assert score.f == pytest.approx([2 / 3, 1])
    with pytest.raises(BadInput, match="at least 3 frames"):
        score_clip(predicted[:2], truth[:2])


def test_objects_count_the_same_whatever_their_clips() -> None:
    one = propagation.ClipScore((1,), np.array([0.2]), np.array([0.4]))
    three = propagation.ClipScore((1, 2, 3), np.array([0.6, 0.6, 1.0]), np.array([0.8, 0.8, 0.8]))
    none = score_clip(np.zeros((3, 8, 8), dtype=np.uint8), np.zeros((3, 8, 8), dtype=np.uint8))
    found = mean_scores([one, three, none])
    assert found == pytest.approx({"j": 0.6, "f": 0.7, "j_and_f": 0.65, "objects": 4})
    assert math.isnan(mean_scores([none])["j"])


# --- Matching -----------------------------------------------------------------------------------------------------

PERIODS = (24.0, 48.0, 96.0, 400.0)


def waves(points: np.ndarray) -> Tensor:
    """A smooth embedding of points, (N, 16), normalised: the nearer, the more alike."""
    angles = torch.cat([torch.tensor(points, dtype=torch.float32) * (2 * math.pi / period) for period in PERIODS], 1)
    return F.normalize(torch.cat([angles.sin(), angles.cos()], 1), dim=1)


H, W = 62, 80
GRID = np.stack(np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5), 2)
TURN = np.array([[0.96, -0.2], [0.22, 1.02]])


def moved(points: np.ndarray) -> np.ndarray:
    return points @ TURN.T + (4.3, -6.1)


def perfect_pair() -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Maps that say where in the second picture each cell is, and the exact flow."""
    points = moved(GRID)
    visible = (points >= 0).all(2) & (points[..., 0] <= W) & (points[..., 1] <= H)
    centres = cell_centres(16, 20, 4)
    first, second = waves(moved(centres)), waves(centres)
    return first.T.reshape(-1, 16, 20), second.T.reshape(-1, 16, 20), points, visible


def test_perfect_features_find_every_point_and_noise_is_at_chance() -> None:
    first, second, points, visible = perfect_pair()
    found = match_scores(first, second, points, visible, 4)
    assert len(found.errors) == 200
    assert found.floor == pytest.approx(4 / math.sqrt(2))
    assert found.shares == pytest.approx(found.ceiling, abs=0.02)
    assert found.shares[2:] == pytest.approx(1)
    assert found.shares[0] == pytest.approx(math.pi / 16, abs=0.08), "a disk of 1 px in a cell of 4 x 4"
    fine = match_scores(first, second, points, visible, 4, refine="parabola")
    assert fine.errors.mean() < 0.5 * found.errors.mean()
    assert fine.shares[0] > 0.6
    scores = [
        match_scores(first, noise((16, 16, 20), seed), points, visible, 4, rng=np.random.default_rng(seed))
        for seed in range(20)
    ]
    assert np.mean([s.shares for s in scores], 0) == pytest.approx(found.chance, abs=0.02)


def test_matching_equals_a_loop_over_cells() -> None:
    first, second, points, visible = perfect_pair()
    first = F.normalize(first + 0.35 * noise(tuple(first.shape), 0), dim=0)
    cells, wanted = query_cells(points, visible, 4)
    assert wanted == pytest.approx(moved(cell_centres(16, 20, 4)[cells]), abs=1e-9)
    found = match_scores(first, second, points, visible, 4, queries=10**6)
    for share, within in zip(found.shares, (1, 2, 4, 8), strict=True):
        assert share == pytest.approx(oracles.pck(first.numpy(), second.numpy(), cells, wanted, 4, within))
    assert 0.2 < found.shares[2] < 0.95


def test_queries_are_seen_and_of_one_surface() -> None:
    points = GRID.copy()
    points[:, 42:] += 30  # the edge of a surface runs through the centres of the cells of column 10
    visible = np.ones((H, W), dtype=bool)
    visible[:20] = False
    cells, wanted = query_cells(points, visible, 4)
    assert set(cells // 20) == set(range(5, 15)), "rows 0 to 4 are hidden, row 15 has its centre at the very edge"
    assert set(cells % 20) == set(range(20)) - {10}
    assert wanted[0].tolist() == [2, 22]
    odd, at = query_cells(GRID, visible, 3)
    assert at == pytest.approx(cell_centres(21, 27, 3)[odd]), "at an odd stride a pixel's centre is the cell's"


def test_few_or_no_visible_points() -> None:
    first, second, points, visible = perfect_pair()
    none = match_scores(first, second, points, np.zeros_like(visible), 4)
    assert len(none.errors) == 0
    assert np.isnan(none.shares).all()
    with pytest.raises(BadInput, match="16, 20"):
        match_scores(first, second, points[:40], visible[:40], 4)


def test_queries_follow_the_generator() -> None:
    first, second, points, visible = perfect_pair()
    noisy = F.normalize(first + 0.3 * noise(tuple(first.shape), 0), dim=0)
    same = [
        match_scores(noisy, second, points, visible, 4, queries=20, rng=np.random.default_rng(s)).errors
        for s in (1, 1, 2)
    ]
    assert (same[0] == same[1]).all()
    assert (same[0] != same[2]).any()


def test_scores_by_angle() -> None:
    first, second, points, visible = perfect_pair()
    good = match_scores(first, second, points, visible, 4)
    bad = replace(good, shares=np.zeros(4))
    none = match_scores(first, second, points, np.zeros_like(visible), 4)
    bins = by_angle([3.0, 14.9, 15.0, 20.0, 180.0, 181.0], [good, bad, good, none, bad, good])
    assert [(b.low, b.high, b.pairs) for b in bins] == [(0, 15, 2), (15, 30, 1), (30, 60, 0), (60, 180, 1)]
    assert bins[0].shares == pytest.approx(good.shares / 2)
    assert bins[1].shares == pytest.approx(good.shares)
    assert np.isnan(bins[2].shares).all()
    assert bins[3].chance == pytest.approx(good.chance)
    with pytest.raises(BadInput, match="each of 1 scores"):
        by_angle([], [good])
