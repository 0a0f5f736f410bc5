"""The exams of things that move, masks through clips and points found again, against loops from the definitions."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from fields import at_cells, fields, noise
from torch import Tensor

from vader.errors import BadInput
from vader.exams.clips.scores import ClipScore, mean_scores, score_clip
from vader.exams.pairs import by_angle, match_scores, query_cells
from vader.images.geometry import cell_centres
from vader.inference.propagation import PropagationProtocol, carry_through, copy_first, propagate

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
    one = ClipScore((1,), np.array([0.2]), np.array([0.4]))
    three = ClipScore((1, 2, 3), np.array([0.6, 0.6, 1.0]), np.array([0.8, 0.8, 0.8]))
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
