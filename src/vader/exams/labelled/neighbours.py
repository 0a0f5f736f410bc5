"""Segmentation without training: every patch votes with the labels of its nearest patches of the train split.

The exam of "Towards In-Context Scene Understanding" (Balazevic et al. 2023, "Hummingbird") as the public
open-hummingbird-eval has it, with exact search. What differs and why:

* Void pixels are left out of a patch's label, and patches without a labelled pixel are no keys: upstream calls void
  class 0 first, which teaches that outlines are background. `voc/hummingbird-upstream` does as upstream.
* Scores match prediction and class by identity; Hungarian matching, which upstream reports and which can only help, is
  `metrics.hungarian_miou` of the same confusion matrix.
* Pictures keep their shape and are seen once, without augmentation, so that every encoder's maps are computed once;
  maps of any stride are average-pooled to about as many patches, so that fine maps have no larger memory than coarse.
* Search is exact, and keys of equal similarity count in the order in which they came.

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

PRESENT = 1e-6  # of a patch: a smaller share of a class is rounding
Pairs = Iterable[tuple[Tensor, np.ndarray]]  # maps (C, h, w) with their pictures' labels (H, W)


@dataclass(frozen=True, kw_only=True)
class NeighboursProtocol:
    """Every constant of the exam.

    `keys` is the size of the whole memory: a picture may add keys // pictures. `cells` is about how many patches a
    picture has (None: its map's own cells). A million keys, not upstream's ten, is what two cores search in seconds
    a picture; on the splits of a few hundred pictures it is all patches there are.
    """

    name: str
    data: str
    keys: int = 1_024_000
    cells: int | None = 32 * 32
    neighbours: int = 30
    temperature: float = 0.02
    void: int = VOID
    void_is: Literal["left out", "class 0"] = "left out"
    matching: Literal["identity", "hungarian"] = "identity"  # of the headline; both are reported
    features: Literal["float16", "float32"] = "float16"


PROTOCOLS = {
    f"{data}/hummingbird": NeighboursProtocol(name=f"{data}/hummingbird", data=data)
    for data in ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
}
# Of upstream's: its memory, void and matching. Not its squashed pictures, two augmented epochs, approximate search.
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
    """L2-normalised patches and the mean of their pixels' one-hot labels. A context, which gives its bytes back."""

    keys: Float[Tensor, "M C"]
    labels: Float[Tensor, "M L"]
    budget: Budget | None = None
    held: int = 0

    @property
    def nbytes(self) -> int:
        """What keys and labels take."""
        return sum(one.numel() * one.element_size() for one in (self.keys, self.labels))

    def to(self, device: str) -> "Memory":
        """A copy on the device, where search and vote then happen; it has no claim on the budget."""
        return Memory(self.keys.to(device), self.labels.to(device))

    def give_back(self) -> None:
        """End the claim on the budget."""
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
    """The memory of a split, whose `pictures` maps and labels come one at a time and are not kept.

    Of each picture keys // pictures patches are kept, rare classes first (`favour_rare`); whoever shows every picture
    several times, augmented, counts it as often. Beyond `budget` bytes the memory lies in a nameless file in `folder`.
    Raises BadInput for labels that do not fit their maps or are no class, and if no pixel at all has a label.
    """
    share = max(1, protocol.keys // max(1, pictures))
    if protocol.cells is not None:  # a grid has about as many patches, more where a picture is long and narrow
        share = min(share, protocol.cells + 4 * math.isqrt(protocol.cells))
    memory, size, number = None, 0, 0
    try:
        for number, (rows, soft) in enumerate(_patches(pairs, classes, stride, protocol), start=1):
            assert number <= pictures, f"expected {pictures} pictures, got more"
            memory = memory or _empty(pictures * share, rows.shape[1], classes, protocol, budget, folder)
            chosen = favour_rare(soft.numpy(), share, rng)
            end = size + len(chosen)
            memory.keys[size:end] = F.normalize(rows[chosen], dim=1)
            memory.labels[size:end] = soft[chosen]
            size = end
        if memory is None or not size:
            raise BadInput(f"train split: expected some labels to remember, none of {number} pictures has any")
    except BaseException:
        if memory:
            memory.give_back()
        raise
    return replace(memory, keys=memory.keys[:size], labels=memory.labels[:size])


def _empty(
    rows: int, C: int, L: int, protocol: NeighboursProtocol, budget: Budget | None, folder: Path | None
) -> Memory:
    """Room for keys and labels, in memory or, beyond the budget, in files; rows not written to take no memory."""
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
    with tempfile.TemporaryFile(dir=folder) as file:  # without a name: it goes when nothing maps it any more
        return torch.from_numpy(np.memmap(file, dtype, "w+", shape=shape))


def _patches(
    pairs: Pairs, classes: int, stride: int, protocol: NeighboursProtocol
) -> Iterator[tuple[Float[Tensor, "N C"], Float[Tensor, "N L"]]]:
    """Each picture's patches with a label, not normalised, and their labels."""
    for number, (one, label) in enumerate(pairs):
        check_pair(number, one, label, classes, stride, protocol.void)
        pooled = pool_to(one, label.shape, stride, protocol.cells)
        if protocol.void_is == "class 0":
            label = np.where(label == protocol.void, 0, label)
        soft = patch_labels(label, classes, pooled.shape[:2], protocol.void).flatten(0, 1)
        labelled = soft.sum(1) > PRESENT
        yield pooled.flatten(0, 1)[labelled], soft[labelled]


def favour_rare(soft: Float[np.ndarray, "N L"], keep: int, rng: np.random.Generator) -> Int64[np.ndarray, "_"]:
    """Numbers of the `keep` patches of one picture that enter the memory, ascending; all if there are no more.

    A patch's score is the number of patches that hold a class, summed over the classes that it holds, times a number
    drawn from [0, 1); the smallest scores stay. So patches of one class that is rare in the picture are preferred.
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
    """The soft label of each patch of a picture of `size` (height, width), on the CPU.

    The mean of the labels of the k most similar keys, weighted by softmax(cosine / temperature). The search takes
    about `budget` bytes beside the memory, on `device`; the labels are gathered where the memory lies.
    """
    pooled = pool_to(one, size, stride, cells)
    queries = F.normalize(pooled.flatten(0, 1), dim=1)
    similar, which = nearest(memory.keys, queries, k, budget, device)
    soft = vote(similar, which, memory.labels, temperature).cpu()
    return soft.T.reshape(-1, *pooled.shape[:2])


def vote(
    similar: Float[Tensor, "N K"], which: Int64[Tensor, "N K"], labels: Float[Tensor, "M L"], temperature: float
) -> Float[Tensor, "N L"]:
    """The weighted mean of the neighbours' labels; their (N, K, L) are never held, nor their keys looked at again."""
    weights = (similar / temperature).softmax(1).to(labels)
    return F.embedding_bag(which.to(labels.device), labels, mode="sum", per_sample_weights=weights).float()


def classify(soft: Float[Tensor, "L gh gw"], size: tuple[int, ...]) -> Integer[np.ndarray, "H W"]:
    """The likeliest class of each pixel of a picture of `size` (height, width), soft labels read bilinearly."""
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
    """Each memory's score, by identity, over maps and labels that come one at a time and are not kept.

    Raises BadInput for labels that do not fit their maps or are no class.
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
    """Remember one set, score another; the seed chooses which patches a bounded memory holds."""
    rng = np.random.default_rng(seed)
    pairs = zip(train, train_labels, strict=True)
    with build_memory(pairs, len(train), classes, stride, protocol, rng=rng) as memory:
        test_pairs = zip(test, test_labels, strict=True)
        return score_neighbours([memory], test_pairs, classes, stride, protocol, budget=budget)[0]
