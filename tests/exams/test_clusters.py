"""k-means against scikit-learn's, and the matching of clusters to classes against all permutations."""

import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from vader.encoders.store import Budget, Store
from vader.errors import BadInput
from vader.exams.labelled.clusters import (
    PATCH_BYTES,
    ClustersProtocol,
    cluster_pixels,
    cluster_segmentation,
    gather_patches,
    kmeans,
    score_clusters,
)
from vader.reports.metrics import confusion, hungarian_miou, miou

COARSE = ClustersProtocol(name="test", data="test", cells=60, restarts=3)

# --- Matching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_matching_is_the_best_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 50, (5, 5)) * (rng.random((5, 5)) < 0.7)
    if seed % 2:
        matrix[seed % 5] = 0  # a class that does not occur
    best = -1.0
    for order in itertools.permutations(range(5)):
        each = []
        for kind in range(5):
            hits = matrix[kind, order[kind]]
            union = matrix[kind].sum() + matrix[:, order[kind]].sum() - hits
            if matrix[kind].sum():
                each.append(hits / union)
        best = max(best, float(np.mean(each)))
    mean, each, labels = hungarian_miou(matrix)
    assert mean == pytest.approx(best)
    assert sorted(labels) == list(range(5))
    assert np.isnan(each).tolist() == (matrix.sum(1) == 0).tolist()
    matched = miou(matrix[:, labels])[1]
    occurring = matrix.sum(1) > 0
    assert each[occurring] == pytest.approx(matched[occurring])
    assert mean >= miou(matrix)[0] - 1e-12


def test_the_order_of_predicted_labels_does_not_matter_and_nothing_is_nan() -> None:
    matrix = np.random.default_rng(0).integers(0, 50, (6, 6))
    turned = matrix[:, [3, 0, 5, 1, 2, 4]]
    assert hungarian_miou(turned)[0] == pytest.approx(hungarian_miou(matrix)[0])
    assert hungarian_miou(np.diag([3, 0, 2])[:, [2, 0, 1]])[0] == 1
    assert math.isnan(hungarian_miou(np.zeros((3, 3), dtype=np.int64))[0])


# --- k-means ------------------------------------------------------------------------------------------------------


def rows(count: int, channels: int, seed: int, spread: float, centres: int = 9) -> Tensor:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, channels))
    return torch.from_numpy(
        middle[rng.integers(0, centres, count)] + spread * rng.normal(size=(count, channels))
    ).float()


@pytest.mark.parametrize("spread", [0.1, 0.7, 3.0])
def test_the_inertia_is_that_of_scikit_learn(spread: float) -> None:
    data = F.normalize(rows(3000, 12, 0, spread), dim=1)
    found = kmeans(data, 9, seed=0)
    theirs = KMeans(9, n_init=10, random_state=0).fit(data.double().numpy())
    assert found.inertia == pytest.approx(theirs.inertia_, rel=0.01)
    distances = torch.cdist(data.double(), found.centres.double()).square()
    assert (distances.argmin(1) == found.nearest).float().mean() > 0.999
    assert found.inertia == pytest.approx(float(distances.min(1).values.sum()), rel=1e-4)


def test_first_centres_lie_in_different_clusters() -> None:
    """A single run finds thirty tight clusters; of plain k-means++ most miss some."""
    data = rows(1500, 8, 4, 0.1, centres=30)
    found = [kmeans(data, 30, seed=seed, restarts=1).inertia for seed in range(12)]
    assert np.median(found) < 1.1 * 1500 * 8 * 0.1**2


def test_it_stops_where_centres_are_means() -> None:
    data = rows(2000, 5, 1, 0.3)
    found = kmeans(data, 9, restarts=1, iterations=300)
    for cluster in range(9):
        assert found.centres[cluster].numpy() == pytest.approx(data[found.nearest == cluster].mean(0).numpy(), abs=0.02)


def test_chunks_and_half_precision_change_little_and_the_seed_decides() -> None:
    data = rows(1000, 6, 2, 1.5)
    whole, parts, half = kmeans(data, 7, seed=3), kmeans(data, 7, seed=3, chunk=64), kmeans(data.half(), 7, seed=3)
    assert parts.inertia == pytest.approx(whole.inertia, rel=1e-4)
    assert half.inertia == pytest.approx(whole.inertia, rel=0.01)
    assert torch.equal(kmeans(data, 7, seed=3).nearest, whole.nearest)
    assert not torch.equal(kmeans(data, 7, seed=4, restarts=1).nearest, kmeans(data, 7, seed=3, restarts=1).nearest)


def test_fewer_places_than_clusters() -> None:
    """Two places and four clusters: some clusters stay empty, and nothing is nan."""
    data = torch.tensor([[2.0, 2.0], [1.0, 1.0]]).repeat_interleave(5, 0)
    found = kmeans(data, 4)
    assert found.inertia == 0
    places = {tuple(one) for one in found.centres.tolist()}
    assert places == {(2, 2), (1, 1)}, "empty clusters have moved to rows"
    with pytest.raises(BadInput, match="as many patches as classes, 11, found 10"):
        kmeans(data, 11)


# --- The exam -----------------------------------------------------------------------------------------------------


def stripes(count: int, spread: float = 0.2) -> tuple[list[Tensor], list[np.ndarray]]:
    """Pictures of 40 x 64 px in four stripes of 16 px, whose classes and order differ; a direction for each class."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(6, 6)))[0][:5]
    maps, labels = [], []
    for _ in range(count):
        kinds = rng.permutation(5)[:4]
        label = np.repeat(kinds, 16)[None].repeat(40, 0).astype(np.uint8)
        cells = directions[label[::4, ::4]] + spread * rng.normal(size=(10, 16, 6))
        maps.append(torch.from_numpy(cells).float().permute(2, 0, 1))
        labels.append(label)
    return maps, labels


def test_classes_that_are_clusters_are_found_without_labels() -> None:
    maps, labels = stripes(12)
    protocol = replace(COARSE, cells=None)
    found = cluster_segmentation(maps, labels, 5, protocol=protocol)
    assert found.miou > 0.99
    assert found.pixel_accuracy > 0.99
    assert found.confusion.sum() == 12 * 40 * 64
    noise = [torch.randn(one.shape, generator=torch.Generator().manual_seed(i)) for i, one in enumerate(maps)]
    assert cluster_segmentation(noise, labels, 5, protocol=protocol).miou < 0.3
    rng = np.random.default_rng(1)
    scaled = [one * torch.from_numpy(rng.uniform(0.01, 10, (1, 10, 16))).float() for one in maps]
    turned = cluster_segmentation(scaled, labels, 5, protocol=replace(protocol, features="float32"))
    assert turned.miou > 0.99, "directions count, not lengths"


def test_naming_the_classes_anew_changes_nothing() -> None:
    maps, labels = stripes(8, spread=1.0)
    labels[0][:, :20] = 255
    found = cluster_segmentation(maps, labels, 5, protocol=COARSE)
    names = np.arange(256, dtype=np.uint8)
    names[:5] = [3, 4, 0, 2, 1]
    turned = cluster_segmentation(maps, [names[one] for one in labels], 5, protocol=COARSE)
    assert 0.2 < found.miou < 0.95
    assert turned.miou == pytest.approx(found.miou)
    assert turned.iou[names[:5]] == pytest.approx(found.iou)
    assert found.confusion.sum() == 8 * 40 * 64 - 40 * 20


def test_counts_of_pictures_are_matched_too() -> None:
    maps, labels = stripes(6)
    labels[3] = np.full_like(labels[3], 255)
    found = cluster_segmentation(maps, labels, 5, protocol=COARSE)
    assert found.skipped == 1
    hits, truths, called = found.counts.sum(0)
    assert hits.tolist() == np.diag(found.confusion).tolist()
    assert truths.tolist() == found.confusion.sum(1).tolist()
    assert called.tolist() == found.confusion.sum(0).tolist()
    assert found.miou == pytest.approx(miou(found.confusion)[0])

    seen: list[np.ndarray] = []
    with Store(Budget(10**9)) as store:
        patches = gather_patches(zip(maps, labels, strict=True), 5, 4, COARSE, store)
        score_clusters(patches, labels, 5, COARSE, watch=lambda _, classes: seen.append(classes[0]))
    together = sum(confusion(one, label, 5) for one, label in zip(seen, labels, strict=True))
    assert (together == found.confusion).all(), "what is watched are the matched classes"


@pytest.mark.parametrize("share", [0.0, 1.5, 3.0])
def test_patches_keep_to_the_budget_and_are_the_same_in_a_file(share: float, tmp_path: Path) -> None:
    maps, labels = stripes(8, spread=1.0)
    whole = cluster_segmentation(maps, labels, 5, protocol=COARSE)
    size = 8 * 60 * 6 * 2  # patches of six channels in float16
    budget = Budget(int(share * size))
    with Store(budget, tmp_path) as store:
        patches = gather_patches(zip(maps, labels, strict=True), 5, 4, COARSE, store)
        assert patches.rows.shape == (8 * 60, 6)
        assert budget.most <= budget.limit
        assert budget.held == (size if share > 2 else 0), "joining takes twice the room, or the file"
        assert budget.spilled == (0 if share > 2 else size)
        found = score_clusters(patches, labels, 5, COARSE)
        assert (found.confusion == whole.confusion).all()
        del patches
    assert budget.held == 0


@contextmanager
def most_held() -> Iterator[list[int]]:
    """The most bytes, above those at the start, that this process holds and no file stands behind; looked at often."""
    found, done = [0], threading.Event()

    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

    def look(since: int) -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], now() - since)

    thread = threading.Thread(target=look, args=(now(),))
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
@pytest.mark.whole
def test_patches_of_ten_times_more_pictures_take_no_more_memory(tmp_path: Path) -> None:
    protocol = replace(COARSE, cells=None, restarts=2, iterations=2)
    picture = 16 * 16 * 256 * 2  # bytes
    label = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 3
    maps = [torch.randn(256, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(7)]
    budget = Budget(40 * picture)
    with Store(budget, tmp_path) as store:
        with most_held() as held:
            patches = gather_patches(((maps[i % 7], label) for i in range(400)), 3, 4, protocol, store)
        assert budget.spilled == 400 * picture
        assert held[0] < budget.limit + 25 * 10**6, "52 MB of patches, and as much again to join them, would be more"
        with most_held() as held:
            score_clusters(patches, (label for _ in range(400)), 3, protocol)
        chunk = 2 * 2**15 * 256 * 4  # in float32, and its squares
        assert held[0] < patches.beside(3) + chunk + 10**7
        del patches


ALONE = """
import torch
from test_clusters import most_held
from vader.exams.labelled.clusters import kmeans
rows = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
kmeans(rows[:5000], 150, restarts=1, iterations=1, chunk=1 << 12)  # what torch takes once
with most_held() as held:
    kmeans(rows, 150, restarts=1, iterations=1, chunk=1 << 12)
print(held[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process holds")
@pytest.mark.whole
def test_what_is_stated_of_a_patch_is_what_it_takes() -> None:
    """Of rows so narrow that little else counts; 150 classes have the most rivals. In a process of its own, which has
    nothing freed to take up again."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=Path(__file__).parent,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    distances = 2 * (1 << 12) * 150 * 4  # of a chunk to all centres, and as much again
    assert 0.3 * PATCH_BYTES * 100_000 < int(done.stdout) < PATCH_BYTES * 100_000 + distances


def test_pixels_follow_the_largest_indicator() -> None:
    """Half-way between two patches; at a corner where three of four patches agree they win."""
    assert cluster_pixels(torch.tensor([[2, 0]]), 3, (2, 8)).tolist() == [[2] * 4 + [0] * 4] * 2
    corner = cluster_pixels(torch.tensor([[1, 1], [1, 0]]), 2, (16, 16))
    assert corner[15, 15] == 0
    assert corner[8, 8] == 1, "three against one"


def test_sets_that_do_not_fit_are_refused() -> None:
    maps, labels = stripes(3)
    with pytest.raises(BadInput, match=r"picture 2: .* give labels the size"):
        cluster_segmentation(maps, [*labels[:2], labels[2][:30]], 5)
    with pytest.raises(BadInput, match="picture 0: expected classes 0 to 2"):
        cluster_segmentation(maps, labels, 3)
    with pytest.raises(BadInput, match="found none"):
        cluster_segmentation([], [], 3)
