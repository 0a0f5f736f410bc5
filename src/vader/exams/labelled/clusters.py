"""Segmentation without any label in training: k-means over the patches of the test split, matched to classes.

As many clusters as classes; labels are used once, at the end, to find the one-to-one matching of clusters to classes
with the largest mean IoU (`metrics.hungarian_miou`). Patches are those of the neighbours exam, L2-normalised, so that
each picture counts about the same and a patch by its direction, as a cosine sees it. A pixel belongs to the cluster
whose indicator, read bilinearly from the patches, is largest there: that is a vote of the patches around it, and needs
no distance at every pixel.

Axes: N patches, C channels, K clusters and classes, R rivals for a centre, B pictures, H W pixels, gh gw patches.
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

CHUNK = 1 << 15  # patches at a time
PATCH_BYTES = 96  # of a patch, at most: distances of 8 rivals, the least, running totals, the best run's nearest
ENOUGH = 1e-5  # of the inertia: an iteration that gains less is the last


@dataclass(frozen=True, kw_only=True)
class ClustersProtocol:
    """Every constant of the exam; the number of clusters is that of the classes."""

    name: str
    data: str
    cells: int | None = 32 * 32  # about how many patches a picture has; None: its map's own cells
    restarts: int = 5  # of which the one with the least inertia counts
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
    """Centres, each row's nearest, and the sum of the squared distances to it."""

    centres: Float[Tensor, "K C"]
    nearest: Int64[Tensor, "N"]
    inertia: float


@torch.no_grad()
def kmeans(
    rows: Float[Tensor, "N C"], k: int, *, seed: int = 0, restarts: int = 5, iterations: int = 100, chunk: int = CHUNK
) -> Clusters:
    """The best of several runs of Lloyd's iteration from centres chosen by greedy k-means++.

    Rows may be in half precision; `chunk` of them at a time are worked on, in float32. A cluster that loses its last
    row gets the row farthest from its centre. Raises BadInput for fewer rows than clusters.
    """
    if len(rows) < k:
        raise BadInput(f"clusters: expected at least as many patches as classes, {k}, got {len(rows)}")
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
    """The nearest centre of each row and its squared distance."""
    nearest, distances = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
    for some, *into in zip(*(one.split(chunk) for one in (rows, distances, nearest)), strict=True):
        torch.min(_distances(some, centres), 1, out=tuple(into))
    return nearest, distances


def _distances(rows: Float[Tensor, "N C"], centres: Float[Tensor, "K C"]) -> Float[Tensor, "N K"]:
    """Squared."""
    rows = rows.float()
    products = torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_min_(0)


def _means(
    rows: Float[Tensor, "N C"], nearest: Int64[Tensor, "N"], distances: Float[Tensor, "N"], k: int, chunk: int
) -> Float[Tensor, "K C"]:
    """Each cluster's mean; the rows farthest from their centres for clusters without rows."""
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
    """Rows drawn in proportion to the squared distance from those before, each the best of a few draws."""
    rivals = 2 + int(math.log(k))
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    least = _columns(rows, rows[chosen].float(), chunk)[:, 0]
    while len(chosen) < k:
        total = least.double().cumsum(0)
        # Where a row is drawn by the running total: any row, once all rows are centres.
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
    """The L2-normalised patches of many pictures, one picture's after the other's; each picture's grid and size.

    Rows may lie in a file, of which k-means reads a chunk at a time.
    """

    rows: Float[Tensor, "N C"]
    grids: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, ...], ...]

    def beside(self, classes: int) -> int:
        """Bytes that clustering and scoring hold beside the rows at most: some a patch, and each picture's counts."""
        return PATCH_BYTES * len(self.rows) + 16 * len(self.sizes) * classes**2


def gather_patches(
    pairs: Iterable[tuple[Float[Tensor, "C _ _"], Integer[np.ndarray, "_ _"]]],
    classes: int,
    stride: int,
    protocol: ClustersProtocol,
    store: Store,
) -> Patches:
    """The patches of maps that come one at a time with their labels, whose size alone matters, and are not kept.

    They lie in `store`, which is empty before and lives as long as they do. Raises BadInput for labels that do not fit
    their maps or are no class, and for no pictures.
    """
    grids, sizes = [], []
    for number, (one, label) in enumerate(pairs):
        check_pair(number, one, label, classes, stride, protocol.void)
        pooled = pool_to(one, label.shape, stride, protocol.cells)
        store.append(F.normalize(pooled.flatten(0, 1), dim=1).to(getattr(torch, protocol.features)).numpy())
        grids.append((pooled.shape[0], pooled.shape[1]))
        sizes.append(label.shape)
    if not sizes:
        raise BadInput("clusters: expected some pictures, got none; check the split")
    return Patches(torch.from_numpy(store.joined()), tuple(grids), tuple(sizes))


def cluster_pixels(nearest: Int64[Tensor, "gh gw"], k: int, size: tuple[int, ...]) -> Integer[np.ndarray, "H W"]:
    """The cluster of each pixel of a picture of `size` (height, width): the largest of the bilinear indicators."""
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
    """Cluster the patches, then score by the best matching; `labels` are walked through once, in the patches' order.

    The score's classes are matched: `miou` is over those that occur in the truth, and confusion and counts have the
    label of each class in its own column. `watch` sees classes, too, after all pictures: only then are they known.
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
        kinds = torch.from_numpy(np.argsort(matching))  # each cluster's class
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

    Labels have the size of the pictures that the maps were made of; the seed chooses the first centres.
    """
    with Store(Budget(sys.maxsize)) as store:
        patches = gather_patches(zip(maps, labels, strict=True), classes, stride, protocol, store)
        return score_clusters(patches, labels, classes, protocol, seed=seed)
