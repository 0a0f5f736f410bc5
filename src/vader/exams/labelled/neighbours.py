"""Segment without training: each patch gets the labels of its nearest patches of the train split.

This is the exam of "Towards In-Context Scene Understanding" (Balazevic et al. 2023, "Hummingbird") as in the public
open-hummingbird-eval, with exact search. Differences and reasons:

* Void pixels do not count in a patch's label, and patches without a labelled pixel are not keys. Upstream turns void
  into class 0, which teaches that outlines are background. `voc/hummingbird-upstream` does as upstream.
* Scores match prediction and class by identity. Upstream reports Hungarian matching, which can only increase the score;
  it is `metrics.hungarian_miou` of the same confusion matrix.
* Pictures keep their shape and are used once, without augmentation, so that every encoder's maps are computed once.
  Maps of any stride are average-pooled to about the same number of patches, so that fine maps do not get more keys.
* Search is exact, and keys of equal similarity keep their order.

Axes: M keys of the memory, N queries, K neighbours, C channels, L classes, H W pixels, h w cells, gh gw patches.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vader.encoders.store import Budget, check_disk
from vader.errors import BadInput
from vader.exams.labelled.nearest import BUDGET, nearest
from vader.exams.labelled.patches import check_pair, patch_labels, pool_to
from vader.exams.labelled.segmentation import SegmentationScore, Watch, count_hits, score_of
from vader.reports.metrics import VOID, confusion

PRESENT = 1e-6  # of a patch; a smaller share of a class is a rounding error
Pairs = Iterable[tuple[Tensor, np.ndarray]]  # maps (C, h, w) with their pictures' labels (H, W)


@dataclass(frozen=True, kw_only=True)
class NeighboursProtocol:
    """Every constant of the exam.

    `keys` is the size of the whole memory: each picture may add keys // pictures. `cells` is the approximate number of
    patches of a picture (None: the cells of its map). Two cores search a million keys in seconds for each picture, so
    the memory has a million keys and not ten as upstream; a split of a few hundred pictures has no more patches.
    """

    name: str
    data: str
    keys: int = 1_024_000
    cells: int | None = 32 * 32
    neighbours: int = 30
    temperature: float = 0.02
    void: int = VOID
    void_is: Literal["left out", "class 0"] = "left out"
    matching: Literal["identity", "hungarian"] = "identity"  # of the headline measure; both are reported
    features: Literal["float16", "float32"] = "float16"


PROTOCOLS = {
    f"{data}/hummingbird": NeighboursProtocol(name=f"{data}/hummingbird", data=data)
    for data in ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
}
# Memory size, void and matching are upstream's; its squashed pictures, augmented epochs and approximate search are not.
PROTOCOLS["voc/hummingbird-upstream"] = replace(
    PROTOCOLS["voc/hummingbird"],
    name="voc/hummingbird-upstream",
    keys=10_240_000,
    void_is="class 0",
    matching="hungarian",
)

# --- Memory -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """L2-normalised patches and the mean of their pixels' one-hot labels. A context manager that frees its budget."""

    keys: Float[Tensor, "M C"]
    labels: Float[Tensor, "M L"]
    budget: Budget | None = None
    held: int = 0

    @property
    def nbytes(self) -> int:
        """The size of keys and labels in bytes."""
        return sum(one.numel() * one.element_size() for one in (self.keys, self.labels))

    def to(self, device: str) -> "Memory":
        """Copy the memory to the device, where search and vote then run. The copy does not count in the budget."""
        return Memory(self.keys.to(device), self.labels.to(device))

    def give_back(self) -> None:
        """Free the memory's part of the budget."""
        if self.budget:
            self.budget.give(self.held)

    def __enter__(self) -> "Memory":
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()


def build_memory(
    pairs: Pairs,
    pictures: int,
    classes: int,
    stride: int,
    protocol: NeighboursProtocol,
    *,
    rng: np.random.Generator,
    budget: Budget | None = None,
    folder: Path | None = None,
) -> Memory:
    """Build the memory of a split from a stream of `pictures` maps and labels, which are not kept.

    Each picture adds at most keys // pictures patches, rare classes first (`favour_rare`). A picture that is used
    several times, augmented, counts each time. Beyond `budget` bytes the memory is in an unnamed file in `folder`.
    Raises BadInput for labels that do not fit their maps or are not classes, and if no pixel has a label.
    """
    share = max(1, protocol.keys // max(1, pictures))
    if protocol.cells is not None:  # a grid has about this many patches, more if a picture is long and narrow
        share = min(share, protocol.cells + 4 * math.isqrt(protocol.cells))
    memory, size, number = None, 0, 0
    try:
        for number, (rows, soft) in enumerate(_patches(pairs, classes, stride, protocol), start=1):
            assert number <= pictures, f"expected {pictures} pictures, found more"
            memory = memory or _empty(pictures * share, rows.shape[1], classes, protocol, budget, folder)
            chosen = favour_rare(soft.numpy(), share, rng)
            end = size + len(chosen)
            memory.keys[size:end] = F.normalize(rows[chosen], dim=1)
            memory.labels[size:end] = soft[chosen]
            size = end
        if memory is None or not size:
            raise BadInput(f"train split: expected labelled pixels, found none in {number} pictures")
    except BaseException:
        if memory:
            memory.give_back()
        raise
    return replace(memory, keys=memory.keys[:size], labels=memory.labels[:size])


def _empty(
    rows: int, C: int, L: int, protocol: NeighboursProtocol, budget: Budget | None, folder: Path | None
) -> Memory:
    """Allocate keys and labels in memory or, beyond the budget, in files. Rows that are not written need no memory."""
    dtype = np.dtype(protocol.features)
    count = rows * (C + L) * dtype.itemsize
    if budget and not budget.take(count):
        check_disk(count, folder)
        budget.spilled += count
        keys, labels = (_mapped((rows, columns), dtype, folder) for columns in (C, L))
        return Memory(keys, labels)
    keys, labels = (torch.from_numpy(np.zeros((rows, columns), dtype)) for columns in (C, L))
    return Memory(keys, labels, budget, count if budget else 0)


def _mapped(shape: tuple[int, int], dtype: np.dtype, folder: Path | None) -> Tensor:
    with tempfile.TemporaryFile(dir=folder) as file:  # unnamed: the system deletes it with the last mapping
        return torch.from_numpy(np.memmap(file, dtype, "w+", shape=shape))


def _patches(
    pairs: Pairs, classes: int, stride: int, protocol: NeighboursProtocol
) -> Iterator[tuple[Float[Tensor, "N C"], Float[Tensor, "N L"]]]:
    """Yield each picture's labelled patches, not normalised, and their labels."""
    for number, (one, label) in enumerate(pairs):
        check_pair(number, one, label, classes, stride, protocol.void)
        pooled = pool_to(one, label.shape, stride, protocol.cells)
        if protocol.void_is == "class 0":
            label = np.where(label == protocol.void, 0, label)
        soft = patch_labels(label, classes, pooled.shape[:2], protocol.void).flatten(0, 1)
        labelled = soft.sum(1) > PRESENT
        yield pooled.flatten(0, 1)[labelled], soft[labelled]


def favour_rare(soft: Float[np.ndarray, "N L"], keep: int, rng: np.random.Generator) -> Int64[np.ndarray, "_"]:
    """Return the ascending indices of the `keep` patches of one picture that enter the memory; all if there are fewer.

    A patch's score is the number of patches that contain a class, summed over the classes that it contains, times a
    random number in [0, 1). The smallest scores are kept, so patches of classes that are rare in the picture win.
    """
    present = soft > PRESENT
    scores = (present @ present.sum(0).astype(np.float64)) * rng.random(len(soft))
    return np.sort(np.argsort(scores, kind="stable")[:keep])


# --- Votes --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def label_maps(
    memory: Memory,
    one: Float[Tensor, "C h w"],
    size: tuple[int, ...],
    stride: int = 4,
    *,
    cells: int | None = 32 * 32,
    k: int = 30,
    temperature: float = 0.02,
    budget: int = BUDGET,
    device: str = "cpu",
) -> Float[Tensor, "L gh gw"]:
    """Return the soft label of each patch of a picture of `size` (height, width), on the CPU.

    It is the mean of the labels of the k most similar keys, weighted by softmax(cosine / temperature). The search needs
    about `budget` bytes beside the memory, on `device`; labels are gathered on the memory's device.
    """
    pooled = pool_to(one, size, stride, cells)
    queries = F.normalize(pooled.flatten(0, 1), dim=1)
    similar, which = nearest(memory.keys, queries, k, budget, device)
    soft = vote(similar, which, memory.labels, temperature).cpu()
    return soft.T.reshape(-1, *pooled.shape[:2])


def vote(
    similar: Float[Tensor, "N K"], which: Int64[Tensor, "N K"], labels: Float[Tensor, "M L"], temperature: float
) -> Float[Tensor, "N L"]:
    """Return the weighted mean of the neighbours' labels, without a tensor of (N, K, L)."""
    weights = (similar / temperature).softmax(1).to(labels)
    return F.embedding_bag(which.to(labels.device), labels, mode="sum", per_sample_weights=weights).float()


def classify(soft: Float[Tensor, "L gh gw"], size: tuple[int, ...]) -> Integer[np.ndarray, "H W"]:
    """Return the most likely class of each pixel of a picture of `size` (height, width), by bilinear interpolation."""
    return F.interpolate(soft[None], size=list(size), mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def score_neighbours(
    memories: Sequence[Memory],
    test: Pairs,
    classes: int,
    stride: int,
    protocol: NeighboursProtocol,
    *,
    budget: int = BUDGET,
    device: str = "cpu",
    watch: Watch | None = None,
) -> list[SegmentationScore]:
    """Score each memory by identity over a stream of maps and labels, which are not kept.

    Raises BadInput for labels that do not fit their maps or are not classes.
    """
    T = len(memories)
    totals = np.zeros((T, classes, classes), dtype=np.int64)
    counts: list[np.ndarray] = []
    skipped = 0
    for number, (one, label) in enumerate(test):
        check_pair(number, one, label, classes, stride, protocol.void)
        maps = [
            label_maps(
                memory, one, label.shape, stride, cells=protocol.cells, k=protocol.neighbours,
                temperature=protocol.temperature, budget=budget, device=device,
            )
            for memory in memories
        ]  # fmt: skip
        found = np.stack([classify(soft, label.shape) for soft in maps])
        if watch:
            watch(number, found)
        each = np.stack([confusion(part, label, classes, protocol.void) for part in found])
        skipped += not each.any()
        totals += each
        counts.append(count_hits(each))
    kept = np.stack(counts, 1) if counts else np.zeros((T, 0, 3, classes), dtype=np.int64)
    return [score_of(total, mine, skipped) for total, mine in zip(totals, kept, strict=True)]


def neighbours_segmentation(
    train: Sequence[Float[Tensor, "C _ _"]],
    train_labels: Sequence[Integer[np.ndarray, "_ _"]],
    test: Sequence[Float[Tensor, "C _ _"]],
    test_labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    *,
    stride: int = 4,
    seed: int = 0,
    protocol: NeighboursProtocol = PROTOCOLS["folder/hummingbird"],
    budget: int = BUDGET,
) -> SegmentationScore:
    """Build the memory of one set and score another; the seed draws the patches of a bounded memory."""
    rng = np.random.default_rng(seed)
    pairs = zip(train, train_labels, strict=True)
    with build_memory(pairs, len(train), classes, stride, protocol, rng=rng) as memory:
        test_pairs = zip(test, test_labels, strict=True)
        return score_neighbours([memory], test_pairs, classes, stride, protocol, budget=budget)[0]
