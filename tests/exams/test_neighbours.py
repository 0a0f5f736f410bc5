"""The neighbours exam against loops from the definitions, a case done by hand, and its own budget of bytes."""

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vader.encoders.store import Budget
from vader.errors import BadInput
from vader.exams.labelled import neighbours
from vader.exams.labelled.nearest import _packed, nearest, tile
from vader.exams.labelled.neighbours import (
    NeighboursProtocol,
    build_memory,
    classify,
    favour_rare,
    label_maps,
    neighbours_segmentation,
    score_neighbours,
    vote,
)
from vader.exams.labelled.patches import grid_of, overlaps, patch_labels, pool_to

FINE = NeighboursProtocol(name="test", data="test", cells=12, neighbours=5, temperature=0.1, features="float32")


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fields(rng: np.random.Generator, classes: int, count: int) -> tuple[list[Tensor], list[np.ndarray]]:
    """Smooth fields at stride 4, the largest of which is a pixel's class, on 48 x 60 pixels."""
    maps, labels = [], []
    for _ in range(count):
        coarse = rng.normal(size=(classes, 5, 5)).astype(np.float32)
        whole = np.stack([cv2.resize(one, (60, 48), interpolation=cv2.INTER_CUBIC) for one in coarse])
        maps.append(F.avg_pool2d(torch.from_numpy(whole)[None], 4)[0])
        labels.append(whole.argmax(0).astype(np.uint8))
    return maps, labels


TRAIN, TEST = fields(np.random.default_rng(0), 4, 16), fields(np.random.default_rng(1), 4, 5)

# --- Patches ------------------------------------------------------------------------------------------------------


def shared(a: float, b: float, c: float, d: float) -> float:
    return max(0.0, min(b, d) - max(a, c))


def test_grids_keep_the_pictures_shape() -> None:
    assert grid_of((512, 512), 1024) == (32, 32)
    assert grid_of((375, 500), 1024) == (28, 37)
    assert grid_of((500, 375), 1024) == (37, 28)
    assert grid_of((10, 4000), 16) == (1, 80)


@pytest.mark.parametrize(("size", "cells"), [((32, 48), 6), ((33, 46), 12), ((37, 29), 30), ((33, 46), None)])
def test_pooling_equals_loops_over_areas(size: tuple[int, int], cells: int | None) -> None:
    H, W = size
    one = noise((3, -(-H // 4), -(-W // 4)), 0)
    found = pool_to(one.half(), size, 4, cells)
    gh, gw = found.shape[:2]
    assert (gh, gw) == (one.shape[1:] if cells is None else grid_of(size, cells))
    for g in range(gh):
        for f in range(gw):
            total, area = torch.zeros(3), 0.0
            for i in range(one.shape[1]):
                for j in range(one.shape[2]):
                    share = shared(g * H / gh, (g + 1) * H / gh, 4 * i, min(4 * i + 4, H))
                    share *= shared(f * W / gw, (f + 1) * W / gw, 4 * j, min(4 * j + 4, W))
                    total += share * one[:, i, j]
                    area += share
            assert area == pytest.approx(H * W / gh / gw)
            assert found[g, f].numpy() == pytest.approx((total / area).numpy(), abs=3e-3)


def test_a_map_is_never_pooled_to_more_cells_than_it_has() -> None:
    one = noise((2, 3, 4), 0)
    assert torch.allclose(pool_to(one, (96, 128), 32, 1024), one.permute(1, 2, 0))


def test_patches_know_the_share_of_each_class() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, 1, 2, 4, 255], dtype=np.uint8), (13, 17))
    label[:5, :6] = 255
    found = patch_labels(label, 5, (3, 4)).numpy()
    for g in range(3):
        for f in range(4):
            counts = np.zeros(256)
            for i in range(13):
                for j in range(17):
                    down = shared(g * 13 / 3, (g + 1) * 13 / 3, i, i + 1)
                    counts[label[i, j]] += down * shared(f * 17 / 4, (f + 1) * 17 / 4, j, j + 1)
            assert found[g, f] == pytest.approx(counts[:5] / max(counts[:5].sum(), 1e-9), abs=1e-6)
    assert found[0, 0].sum() == 0, "nothing but void"
    assert found[..., 3].sum() == 0


def test_overlaps_leave_nothing_out() -> None:
    for parts, length, step in ((32, 375, 4), (37, 500, 1), (28, 375, 16), (7, 7, 4)):
        found = overlaps(parts, length, step)
        assert found.sum(1).numpy() == pytest.approx(1, abs=1e-6)
        sides = [min(step, length - step * j) for j in range(found.shape[1])]
        assert (found.sum(0) * length / parts).numpy() == pytest.approx(np.array(sides), rel=1e-5)


# --- Search -------------------------------------------------------------------------------------------------------


def in_order(keys: Tensor, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All products, sorted by (product, then number of the key)."""
    products = queries.double().numpy() @ keys.double().numpy().T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, order, 1), order


@pytest.mark.parametrize(("M", "N", "k"), [(3000, 37, 30), (1, 3, 30), (16, 4, 16), (333, 1, 1), (47, 5, 60)])
@pytest.mark.parametrize("budget", [2 * 10**5, 10**6, 10**9])
def test_search_equals_sorting_all_products(M: int, N: int, k: int, budget: int) -> None:
    keys, queries = F.normalize(noise((M, 20), 0), dim=1), F.normalize(noise((N, 20), 1), dim=1)
    values, which = nearest(keys, queries, k, budget)
    expected, order = in_order(keys, queries, k)
    assert values.shape == (N, min(k, M))
    assert values.numpy() == pytest.approx(expected, abs=1e-6)
    assert (which.numpy() == order).all()


@pytest.mark.parametrize("budget", [10**5, 3 * 10**5, 10**9])
def test_equal_similarities_count_in_the_order_of_the_keys(budget: int) -> None:
    """Small whole numbers, whose products are exact and mostly equal; both zeros are one."""
    rng = np.random.default_rng(0)
    keys = torch.from_numpy(rng.integers(-1, 2, (900, 3)).astype(np.float32))
    keys[::7] = -0.0
    queries = torch.from_numpy(rng.integers(-2, 3, (40, 3)).astype(np.float32))
    values, which = nearest(keys, queries, 30, budget)
    expected, order = in_order(keys, queries, 30)
    assert (values.numpy() == expected).all()
    assert (which.numpy() == order).all()
    same = nearest(torch.ones(500, 4), torch.ones(2, 4), 30, budget)[1]
    assert same.tolist() == [list(range(30))] * 2
    values = torch.tensor([[-2.0, -0.0, 0.0, 1e-30, 3.0]])
    assert _packed(values, torch.tensor([[5, 0, 1, 9, 7]])).argsort().tolist() == [[0, 2, 1, 3, 4]], "-0.0 equals 0.0"


def test_small_budgets_really_cut_the_keys() -> None:
    """Else the tests above compare one chunk with itself."""
    rows, columns = tile(37, 20, 30, 2 * 10**5)
    assert rows < 37
    assert columns < 1500
    assert tile(37, 20, 30, 10**9)[1] > 3000
    assert tile(40, 3, 30, 10**5)[1] <= 10**5 / 6


def test_keys_in_half_precision() -> None:
    keys, queries = F.normalize(noise((500, 16), 0), dim=1).half(), F.normalize(noise((9, 16), 1), dim=1)
    values, which = nearest(keys, queries, 10, 10**6)
    expected, order = in_order(keys, queries, 10)
    assert values.numpy() == pytest.approx(expected, abs=1e-6)
    assert (which.numpy() == order).all()


def most_allocated(run) -> int:
    """The most bytes of the CPU's allocator in use at once above those at the start, by torch's own account."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize(("N", "C", "budget"), [(300, 32, 2 * 10**6), (300, 32, 8 * 10**6), (3, 512, 2 * 10**6)])
def test_the_budget_is_kept(N: int, C: int, budget: int) -> None:
    keys, queries = noise((20_000, C), 0).half(), noise((N, C), 1)
    assert 4 * (N + C) * len(keys) > 3 * budget, "all products and keys in float32 would not fit"
    results = N * 30 * (3 * 8 + 4)
    most = most_allocated(lambda: nearest(keys, queries, 30, budget))
    assert 0.2 * budget < most < budget + results
    assert most_allocated(lambda: queries @ queries.T) == 4 * N * N, "else nothing is counted"


def test_a_budget_for_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match=r"at least .* bytes for a search of 64 channels, found 1000"):
        nearest(noise((50, 64), 0), noise((2, 64), 1), 5, 1000)


# --- Memory -------------------------------------------------------------------------------------------------------


def test_sampling_equals_loops_and_prefers_the_rare() -> None:
    rng = np.random.default_rng(3)
    soft = rng.random((40, 6)) * (rng.random((40, 6)) < np.array([0.9, 0.5, 0.2, 0.1, 0.05, 0.0]))
    drawn = np.random.default_rng(7).random(40)
    scores = []
    for i in range(40):
        total = 0
        for kind in range(6):
            if soft[i, kind] > 0:
                total += sum(1 for other in range(40) if soft[other, kind] > 0)
        scores.append(total * drawn[i])
    expected = sorted(sorted(range(40), key=scores.__getitem__)[:11])
    assert favour_rare(soft, 11, np.random.default_rng(7)).tolist() == expected
    assert favour_rare(soft, 50, np.random.default_rng(7)).tolist() == list(range(40))

    one_hot = np.eye(2)[np.arange(100) // 90]  # 90 patches of class 0, 10 of class 1
    kept = [favour_rare(one_hot, 10, np.random.default_rng(seed)) for seed in range(50)]
    assert np.mean([(one >= 90).mean() for one in kept]) > 0.4, "by chance it would be 0.1"


def test_a_bounded_memory_has_its_share_of_each_picture() -> None:
    memory = build_memory(
        zip(*TRAIN, strict=True), 16, 4, 4, replace(FINE, keys=100, cells=20), rng=np.random.default_rng(0)
    )
    assert memory.keys.shape == (16 * 6, 4)
    assert memory.keys.norm(dim=1).numpy() == pytest.approx(1, abs=1e-6)
    assert memory.labels.sum(1).numpy() == pytest.approx(1, abs=1e-6)
    again, other = (
        build_memory(
            zip(*TRAIN, strict=True), 16, 4, 4, replace(FINE, keys=100, cells=20), rng=np.random.default_rng(seed)
        )
        for seed in (0, 1)
    )
    assert torch.equal(memory.keys, again.keys)
    assert not torch.equal(memory.keys, other.keys)
    assert memory.nbytes == 16 * 6 * 8 * 4


def test_void_is_left_out_or_class_0() -> None:
    """One picture of four patches: all void, half void, a quarter void, none."""
    label = np.ones((8, 8), dtype=np.uint8)
    label[:4, :4] = 255
    label[:4, 4:6] = 255
    label[4:6, :2] = 255
    one = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    protocol = replace(FINE, cells=4)
    left = build_memory([(one, label)], 1, 2, 4, protocol, rng=np.random.default_rng(0))
    assert left.keys.tolist() == [[0, 1], [-1, 0], [0, -1]]
    assert left.labels.tolist() == [[0, 1], [0, 1], [0, 1]]
    upstream = build_memory([(one, label)], 1, 2, 4, replace(protocol, void_is="class 0"), rng=np.random.default_rng(0))
    assert upstream.keys.tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert upstream.labels.tolist() == [[1, 0], [0.5, 0.5], [0.25, 0.75], [0, 1]]


def test_a_memory_beyond_the_budget_lies_in_a_file_and_says_the_same(tmp_path: Path) -> None:
    def built(limit: int) -> tuple[neighbours.Memory, Budget]:
        budget = Budget(limit)
        pairs = zip(*TRAIN, strict=True)
        rng = np.random.default_rng(0)
        return build_memory(pairs, 16, 4, 4, FINE, rng=rng, budget=budget, folder=tmp_path), budget

    (inside, wide), (mapped, narrow) = built(10**6), built(100)
    assert wide.held > inside.nbytes
    assert (narrow.held, narrow.spilled) == (0, wide.held), "the file counts as such"
    assert torch.equal(inside.keys, mapped.keys)
    assert torch.equal(inside.labels, mapped.labels)
    assert not list(tmp_path.iterdir()), "the file has no name"
    with inside:
        scores = [score_neighbours([one], zip(*TEST, strict=True), 4, 4, FINE)[0] for one in (inside, mapped)]
    assert (scores[0].confusion == scores[1].confusion).all()
    assert wide.held == 0


def test_a_memory_that_fails_gives_its_bytes_back() -> None:
    budget = Budget(10**6)
    labels = [*TRAIN[1][:1], np.full_like(TRAIN[1][0], 9)]
    with pytest.raises(BadInput, match="picture 1: expected classes 0 to 3 or 255"):
        build_memory(zip(TRAIN[0], labels, strict=False), 2, 4, 4, FINE, rng=np.random.default_rng(0), budget=budget)
    assert budget.most > 0
    assert budget.held == 0


# --- Votes --------------------------------------------------------------------------------------------------------


def test_a_case_done_by_hand() -> None:
    """Two train patches at right angles, one of class 1, one half 0 and half 2; a test patch between them.

    Cosines with the patch along (3, 4): 0.6 and 0.8; weights with temperature 0.1: e^6 and e^8 over their sum, that is
    0.1192 and 0.8808. So class 0 and 2 have 0.4404 each and class 1 has 0.1192; the patch along (1, 0) is class 1.
    """
    train = torch.tensor([[[2.0, 0.0]], [[0.0, 5.0]]])  # C h w: patches (2, 0) and (0, 5)
    label = np.ones((4, 8), dtype=np.uint8)
    label[:, 4:6], label[:, 6:] = 0, 2
    protocol = replace(FINE, cells=2, neighbours=2)
    memory = build_memory([(train, label)], 1, 3, 4, protocol, rng=np.random.default_rng(0))
    test = torch.tensor([[[3.0, 7.0]], [[4.0, 0.0]]])
    soft = label_maps(memory, test, (4, 8), cells=2, k=2, temperature=0.1)
    assert soft[:, 0, 0].numpy() == pytest.approx([0.4404, 0.1192, 0.4404], abs=1e-4)
    weights = [math.exp(10), math.exp(0)]
    assert soft[:, 0, 1].numpy() == pytest.approx([0.5 / sum(weights) * w for w in (1, 2 * weights[0], 1)], abs=1e-6)
    nearest_alone = label_maps(memory, test, (4, 8), cells=2, k=1, temperature=0.1)
    assert nearest_alone[:, 0, 0].tolist() == [0.5, 0, 0.5]
    # Between the centres at x = 2 and 6, class 1 rises from 0.1192 to 0.9999; it passes the falling 0.4404 on the way.
    crossing = 2 + 4 * (0.4404 - 0.1192) / (0.4404 - 0.1192 + 0.99991 - 0.00002)
    expected = [[0 if x + 0.5 < crossing else 1 for x in range(8)]] * 4
    assert classify(soft, (4, 8)).tolist() == expected, "ties between 0 and 2 go to 0"
    found = score_neighbours([memory], [(test, np.array(expected, dtype=np.uint8))], 3, 4, protocol)[0]
    assert found.miou == 1
    assert found.confusion.sum() == 32


@pytest.mark.parametrize("features", ["float32", "float16"])
def test_label_maps_equal_loops(features: str) -> None:
    protocol = replace(FINE, cells=20, features=features)
    memory = build_memory(zip(*TRAIN, strict=True), 16, 4, 4, protocol, rng=np.random.default_rng(0))
    one = TEST[0][0]
    found = label_maps(memory, one, (48, 60), cells=20, k=5, temperature=0.1).numpy()
    pooled = pool_to(one, (48, 60), 4, 20).double().numpy()
    keys, labels = memory.keys.double().numpy(), memory.labels.double().numpy()
    for g in range(found.shape[1]):
        for f in range(found.shape[2]):
            query = pooled[g, f] / np.linalg.norm(pooled[g, f])
            cosines = [float(query @ key) for key in keys]
            best = sorted(range(len(keys)), key=lambda i: -cosines[i])[:5]
            weights = [math.exp(cosines[i] / 0.1) for i in best]
            expected = sum(w * labels[i] for w, i in zip(weights, best, strict=True)) / sum(weights)
            assert found[:, g, f] == pytest.approx(expected, abs=1e-5 if features == "float32" else 2e-3)
    pixels = np.stack([cv2.resize(part, (60, 48), interpolation=cv2.INTER_LINEAR) for part in found])
    assert (classify(torch.from_numpy(found), (48, 60)) == pixels.argmax(0)).mean() > 0.999


def test_votes_are_those_of_gathered_labels() -> None:
    similar, which = noise((50, 8), 0) / 10, torch.randint(0, 90, (50, 8), generator=torch.Generator().manual_seed(0))
    labels = noise((90, 6), 1).softmax(1)
    expected = ((similar / 0.02).softmax(1)[..., None] * labels[which]).sum(1)
    assert torch.allclose(vote(similar, which, labels, 0.02), expected, atol=1e-6)
    assert torch.allclose(vote(similar, which, labels.half(), 0.02), expected, atol=2e-3)


def test_the_budget_changes_no_score() -> None:
    scores = [neighbours_segmentation(*TRAIN, *TEST, 4, protocol=FINE, budget=b) for b in (10**5, 10**8)]
    assert (scores[0].confusion == scores[1].confusion).all()


# --- Scores -------------------------------------------------------------------------------------------------------


def test_features_that_know_the_classes_score_and_noise_does_not() -> None:
    protocol = replace(FINE, cells=None, neighbours=30, temperature=0.02)
    good = neighbours_segmentation(*TRAIN, *TEST, 4, protocol=protocol)
    assert good.miou > 0.8
    assert good.confusion.sum() == 5 * 48 * 60, "every pixel at full resolution counts"
    assert good.counts.shape == (5, 3, 4)
    useless = [
        [noise(tuple(one.shape), seed + i) for i, one in enumerate(maps)]
        for seed, (maps, _) in ((0, TRAIN), (99, TEST))
    ]
    assert neighbours_segmentation(useless[0], TRAIN[1], useless[1], TEST[1], 4, protocol=protocol).miou < 0.35
    coarse = neighbours_segmentation(*TRAIN, *TEST, 4, protocol=replace(protocol, cells=20))
    assert coarse.miou < good.miou


def test_several_memories_are_scored_in_one_pass() -> None:
    bounded = replace(FINE, keys=64)
    memories = [
        build_memory(zip(*TRAIN, strict=True), 16, 4, 4, bounded, rng=np.random.default_rng(seed)) for seed in (0, 1)
    ]
    seen = []
    together = score_neighbours(
        memories, zip(*TEST, strict=True), 4, 4, bounded, watch=lambda number, found: seen.append((number, found.shape))
    )
    assert seen == [(i, (2, 48, 60)) for i in range(5)]
    assert (together[0].confusion != together[1].confusion).any()
    alone = [neighbours_segmentation(*TRAIN, *TEST, 4, seed=seed, protocol=bounded) for seed in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        assert (one.confusion == other.confusion).all()


def test_pictures_that_are_all_void_are_skipped_and_counted() -> None:
    labels = [*TEST[1][:-1], np.full_like(TEST[1][0], 255)]
    found = neighbours_segmentation(*TRAIN, TEST[0], labels, 4, protocol=FINE)
    assert found.skipped == 1
    assert found.confusion.sum() == 4 * 48 * 60


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda labels: [labels[0], labels[1][:40], *labels[2:]], r"picture 1: .* give labels the size"),
        (lambda labels: [np.full_like(labels[0], 4), *labels[1:]], "picture 0: expected classes 0 to 3"),
        (lambda labels: [np.full_like(one, 255) for one in labels], "found none in 16 pictures"),
    ],
)
def test_sets_that_do_not_fit_are_refused(change, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        neighbours_segmentation(TRAIN[0], change(TRAIN[1]), *TEST, 4, protocol=FINE)


def test_no_pictures_are_refused() -> None:
    with pytest.raises(BadInput, match="found none in 0 pictures"):
        neighbours_segmentation([], [], *TEST, 4, protocol=FINE)
