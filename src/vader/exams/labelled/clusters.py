"""Segment without labels: k-means over the patches of the test split, with clusters matched to classes.

There are as many clusters as classes. Labels are used only at the end, to find the one-to-one matching of clusters to
classes with the largest mean IoU (`metrics.hungarian_miou`). Patches are those of the nearest-neighbour exam. They are
L2-normalised, so that pictures have about equal weight and distances follow the cosine. One-hot cluster maps of the
patches are interpolated bilinearly, and each pixel gets the cluster with the largest value. This needs no distances at
full resolution.

Axes: N patches, C channels, K clusters and classes, R candidates for a centre, B pictures, H W pixels, gh gw patches.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vader.encoders.store import Budget, Store
from vader.errors import BadInput
from vader.exams.labelled.patches import check_pair, pool_to
from vader.exams.labelled.segmentation import SegmentationScore, Watch, count_hits
from vader.reports.metrics import VOID, confusion, hungarian_miou, pixel_accuracy

CHUNK = 1 << 15  # patches processed at a time
PATCH_BYTES = 96  # a patch, at most: distances of 8 candidates, the minimum, running totals, the best run's assignment
ENOUGH = 1e-5  # relative gain in inertia at which the iteration stops


@dataclass(frozen=True, kw_only=True)
class ClustersProtocol:
    """Every constant of the exam. The number of clusters is the number of classes."""

    name: str
    data: str
    cells: int | None = 32 * 32  # approximate number of patches of a picture; None: the cells of its map
    restarts: int = 5  # the run with the smallest inertia counts
    iterations: int = 100
    void: int = VOID
    features: str = "float16"


PROTOCOLS = {
    f"{data}-kmeans/vader": ClustersProtocol(name=f"{data}-kmeans/vader", data=data)
    for data in ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
}

# --- k-means ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    """The centres, the nearest centre of each row, and the sum of squared distances to it."""

    centres: Float[Tensor, "K C"]
    nearest: Int64[Tensor, "N"]
    inertia: float


@torch.no_grad()
def kmeans(
    rows: Float[Tensor, "N C"], k: int, *, seed: int = 0, restarts: int = 5, iterations: int = 100, chunk: int = CHUNK
) -> Clusters:
    """Return the best of several runs of Lloyd's algorithm, initialised by greedy k-means++.

    Rows may be in half precision; they are processed in float32, `chunk` rows at a time. An empty cluster gets the row
    farthest from its centre. Raises BadInput for fewer rows than clusters.
    """
    if len(rows) < k:
        raise BadInput(f"clusters: expected at least as many patches as classes, {k}, found {len(rows)}")
    generator = torch.Generator().manual_seed(seed)
    return min(
        (_lloyd(rows, _seeds(rows, k, generator, chunk), iterations, chunk) for _ in range(restarts)),
        key=lambda one: one.inertia,
    )


def _lloyd(rows: Float[Tensor, "N C"], centres: Float[Tensor, "K C"], iterations: int, chunk: int) -> Clusters:
    before = math.inf
    for _ in range(iterations):
        nearest, distances = _assign(rows, centres, chunk)
        inertia = float(distances.double().sum())
        if before - inertia <= ENOUGH * inertia:
            return Clusters(centres, nearest, inertia)
        before, centres = inertia, _means(rows, nearest, distances, len(centres), chunk)
    nearest, distances = _assign(rows, centres, chunk)
    return Clusters(centres, nearest, float(distances.double().sum()))


def _assign(
    rows: Float[Tensor, "N C"], centres: Float[Tensor, "K C"], chunk: int
) -> tuple[Int64[Tensor, "N"], Float[Tensor, "N"]]:
    """Return the nearest centre of each row and its squared distance."""
    nearest, distances = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
    for some, *into in zip(*(one.split(chunk) for one in (rows, distances, nearest)), strict=True):
        torch.min(_distances(some, centres), 1, out=tuple(into))
    return nearest, distances


def _distances(rows: Float[Tensor, "N C"], centres: Float[Tensor, "K C"]) -> Float[Tensor, "N K"]:
    """Return squared distances."""
    rows = rows.float()
    products = torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_min_(0)


def _means(
    rows: Float[Tensor, "N C"], nearest: Int64[Tensor, "N"], distances: Float[Tensor, "N"], k: int, chunk: int
) -> Float[Tensor, "K C"]:
    """Return each cluster's mean; an empty cluster gets one of the rows farthest from their centres."""
    sums = torch.zeros(k, rows.shape[1], dtype=torch.float64)
    for some, of in zip(rows.split(chunk), nearest.split(chunk), strict=True):
        sums += torch.zeros(k, rows.shape[1]).index_add_(0, of, some.float())
    counts = torch.bincount(nearest, minlength=k)
    means = (sums / counts.clamp_min(1)[:, None]).float()
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        means[empty] = rows[distances.topk(len(empty)).indices].float()
    return means


def _seeds(rows: Float[Tensor, "N C"], k: int, generator: torch.Generator, chunk: int) -> Float[Tensor, "K C"]:
    """Draw rows in proportion to the squared distance from the chosen rows; each is the best of a few candidates."""
    rivals = 2 + int(math.log(k))
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    least = _columns(rows, rows[chosen].float(), chunk)[:, 0]
    while len(chosen) < k:
        total = least.double().cumsum(0)
        # If all rows are centres, the total is 0 and any row is drawn.
        drawn = torch.searchsorted(total, torch.rand(rivals, generator=generator, dtype=torch.float64) * total[-1])
        drawn = drawn.clamp_max(len(rows) - 1)
        after = _columns(rows, rows[drawn].float(), chunk)  # (N, R)
        torch.minimum(after, least[:, None], out=after)
        best = int(np.argmin([float(one.double().sum()) for one in after.T]))
        chosen.append(int(drawn[best]))
        least = after[:, best].contiguous()
    return rows[chosen].float()


def _columns(rows: Float[Tensor, "N C"], centres: Float[Tensor, "R C"], chunk: int) -> Float[Tensor, "N R"]:
    found = torch.empty(len(rows), len(centres))
    for some, into in zip(rows.split(chunk), found.split(chunk), strict=True):
        into.copy_(_distances(some, centres))
    return found


# --- The exam -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patches:
    """The L2-normalised patches of all pictures, concatenated; the patch grid and the size of each picture.

    Rows may be in a file, from which k-means reads a chunk at a time.
    """

    rows: Float[Tensor, "N C"]
    grids: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, ...], ...]

    def beside(self, classes: int) -> int:
        """Return the bytes that clustering and scoring need beside the rows, at most: per patch and per picture."""
        return PATCH_BYTES * len(self.rows) + 16 * len(self.sizes) * classes**2


def gather_patches(
    pairs: Iterable[tuple[Float[Tensor, "C _ _"], Integer[np.ndarray, "_ _"]]],
    classes: int,
    stride: int,
    protocol: ClustersProtocol,
    store: Store,
) -> Patches:
    """Collect the patches of a stream of maps with labels, of which only the size is used. Neither is kept.

    The patches are stored in `store`, which must be empty and must stay open as long as they are used. Raises BadInput
    for labels that do not fit their maps or are not classes, and for an empty stream.
    """
    grids, sizes = [], []
    for number, (one, label) in enumerate(pairs):
        check_pair(number, one, label, classes, stride, protocol.void)
        pooled = pool_to(one, label.shape, stride, protocol.cells)
        store.append(F.normalize(pooled.flatten(0, 1), dim=1).to(getattr(torch, protocol.features)).numpy())
        grids.append((pooled.shape[0], pooled.shape[1]))
        sizes.append(label.shape)
    if not sizes:
        raise BadInput("clusters: expected at least one picture, found none; check the split")
    return Patches(torch.from_numpy(store.joined()), tuple(grids), tuple(sizes))


def cluster_pixels(nearest: Int64[Tensor, "gh gw"], k: int, size: tuple[int, ...]) -> Integer[np.ndarray, "H W"]:
    """Return the cluster of each pixel of a picture of `size` (height, width), by bilinear interpolation."""
    indicators = F.one_hot(nearest, k).permute(2, 0, 1)[None].float()
    full = F.interpolate(indicators, size=list(size), mode="bilinear", align_corners=False)
    return full[0].argmax(0).numpy()


def score_clusters(
    patches: Patches,
    labels: Iterable[Integer[np.ndarray, "_ _"]],
    classes: int,
    protocol: ClustersProtocol,
    *,
    seed: int = 0,
    watch: Watch | None = None,
) -> SegmentationScore:
    """Cluster the patches and score them by the best matching; `labels` is read once, in the order of the patches.

    The score is in matched classes: `miou` is over the classes that occur in the truth, and each class's predictions
    are in its own column of confusion and counts. `watch` is called with matched classes, after all pictures are read.
    """
    found = kmeans(patches.rows, classes, seed=seed, restarts=protocol.restarts, iterations=protocol.iterations)
    clusters = list(_grids(found.nearest, patches.grids))
    each = []
    for one, size, label in zip(clusters, patches.sizes, labels, strict=True):
        pixels = cluster_pixels(one, classes, size)
        each.append(confusion(pixels, label, classes, protocol.void).astype(np.int32))
    together = np.stack(each)  # (B, K, K)
    total = together.sum(0, dtype=np.int64)
    mean, iou, matching = hungarian_miou(total)
    if watch:
        kinds = torch.from_numpy(np.argsort(matching))  # the class of each cluster
        for number, (one, size) in enumerate(zip(clusters, patches.sizes, strict=True)):
            watch(number, cluster_pixels(kinds[one], classes, size)[None])
    matched = total[:, matching]
    counts = count_hits(together[..., matching].astype(np.int64))
    skipped = int((~together.any((1, 2))).sum())
    return SegmentationScore(mean, iou, pixel_accuracy(matched), matched, counts, skipped)


def _grids(nearest: Int64[Tensor, "N"], grids: Sequence[tuple[int, int]]) -> Iterator[Int64[Tensor, "_ _"]]:
    for some, grid in zip(nearest.split([h * w for h, w in grids]), grids, strict=True):
        yield some.view(grid)


def cluster_segmentation(
    maps: Sequence[Float[Tensor, "C _ _"]],
    labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    stride: int = 4,
    seed: int = 0,
    protocol: ClustersProtocol = PROTOCOLS["folder-kmeans/vader"],
) -> SegmentationScore:
    """Cluster a set's maps into as many clusters as classes and score them by the best matching.

    Labels have the size of the pictures of the maps. The seed draws the first centres.
    """
    with Store(Budget(sys.maxsize)) as store:
        patches = gather_patches(zip(maps, labels, strict=True), classes, stride, protocol, store)
        return score_clusters(patches, labels, classes, protocol, seed=seed)
