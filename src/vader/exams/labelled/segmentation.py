"""Measure how well one linear layer segments from frozen features.

The probe of vader: batch norm without affine parameters and a 1x1 convolution on the dense map, logits upsampled
bilinearly to the size of the labels, and cross-entropy without void; one confusion matrix over all pictures. Axes:
B pictures, T probes, C channels, K classes, N pixels, H W pixels, h w cells.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vader.errors import BadInput
from vader.finetuning.heads import RATES, Draws, Picked, hold_out, learn, stacked
from vader.finetuning.pixels import LinearProbe, ProbeConfig, check_set
from vader.reports.metrics import VOID, confusion, miou, pixel_accuracy

CHUNK = 1 << 14  # pixels whose logits are interpolated at a time

# Receives predictions: (index of the picture, each probe's classes (T, H, W)).
Watch = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class SegmentationScore:
    """`miou` over the classes that occur, `iou` of each (nan: neither true nor predicted), all from `confusion`.

    `counts` holds each picture's hits, pixels of the class and pixels predicted as the class: enough for the mean IoU
    over any choice of pictures. `skipped` pictures have no labelled pixel.
    """

    miou: float
    iou: Float[np.ndarray, "K"]
    pixel_accuracy: float
    confusion: Int64[np.ndarray, "K K"]
    counts: Int64[np.ndarray, "B 3 K"]
    skipped: int = 0


def linear_segmentation(
    train: Sequence[Float[Tensor, "C _ _"]],
    train_labels: Sequence[Integer[np.ndarray, "_ _"]],
    test: Sequence[Float[Tensor, "C _ _"]],
    test_labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    *,
    stride: int = 4,
    seed: int = 0,
    ignore: int = VOID,
    config: ProbeConfig | None = None,
) -> SegmentationScore:
    """Train the probe on the maps of one set and score it on every labelled pixel of another.

    Labels have the size of the pictures of the maps. The seed draws the initial weights and the pixels of each step;
    pictures are not augmented, so features are computed once. Raises BadInput for sets that do not fit each other and
    labels that are not classes.
    """
    check_set("test set", test, test_labels, stride)
    probe = train_probe(train, train_labels, classes, stride=stride, seed=seed, ignore=ignore, config=config)
    return score_probes([probe], zip(test, test_labels, strict=True), classes, stride=stride, ignore=ignore)[0]


# --- Training -----------------------------------------------------------------------------------------------------


def train_probe(
    maps: Sequence[Float[Tensor, "C _ _"]],
    labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    *,
    stride: int = 4,
    seed: int = 0,
    ignore: int = VOID,
    config: ProbeConfig | None = None,
) -> LinearProbe:
    """Train with cross-entropy at random labelled pixels with AdamW."""
    configs = [config or ProbeConfig()]
    return train_probes(maps, labels, classes, stride=stride, seeds=[seed], ignore=ignore, configs=configs)[0]


def train_probes(
    maps: Sequence[Float[Tensor, "C _ _"]],
    labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    *,
    seeds: Sequence[int],
    configs: Sequence[ProbeConfig],
    subsets: Sequence[Sequence[int]] | None = None,
    stride: int = 4,
    ignore: int = VOID,
    device: str = "cpu",
) -> list[LinearProbe]:
    """Train a probe for each seed with its config on its subset of the pictures (None: all), in parallel."""
    check_set("training set", maps, labels, stride)
    for i, label in enumerate(labels):
        _check_classes(i, label[label != ignore], classes, ignore)
    draws = Draws.of(maps, labels, lambda label: label != ignore, stride, seeds, subsets)
    channels = len(draws.standards[0].mean)
    starts = [0.01 * torch.randn(classes, channels, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return learn(draws, starts, [torch.zeros(classes) for _ in seeds], _cross_entropy, configs, device)


def _cross_entropy(_head: int, out: Float[Tensor, "N K"], targets: Integer[Tensor, "N"]) -> Float[Tensor, ""]:
    return F.cross_entropy(out, targets.long())


def _check_classes(picture: int, labels: Integer[np.ndarray, "N"], classes: int, ignore: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise BadInput(
            f"training labels, picture {picture}: expected classes 0 to {classes - 1} or {ignore} for void, found "
            f"{labels.min()} to {labels.max()}; check the number of classes"
        )


def sweep_probe(
    maps: Sequence[Float[Tensor, "C _ _"]],
    labels: Sequence[Integer[np.ndarray, "_ _"]],
    classes: int,
    *,
    rates: Sequence[float] = RATES,
    stride: int = 4,
    seed: int = 0,
    ignore: int = VOID,
    config: ProbeConfig | None = None,
    device: str = "cpu",
) -> dict[float, SegmentationScore]:
    """Return each learning rate's score on a held-out fifth of the training pictures."""
    kept, held = hold_out(len(maps), seed)
    base = config or ProbeConfig()
    probes = train_probes(
        Picked(maps, kept), Picked(labels, kept), classes, seeds=[seed] * len(rates), stride=stride, ignore=ignore,
        configs=[replace(base, lr=rate) for rate in rates], device=device,
    )  # fmt: skip
    test = zip(Picked(maps, held), Picked(labels, held), strict=True)
    return dict(zip(rates, score_probes(probes, test, classes, stride=stride, ignore=ignore), strict=True))


# --- Scoring ------------------------------------------------------------------------------------------------------


def score_probes(
    probes: Sequence[LinearProbe],
    test: Iterable[tuple[Float[Tensor, "C _ _"], Integer[np.ndarray, "_ _"]]],
    classes: int,
    *,
    stride: int = 4,
    ignore: int = VOID,
    device: str = "cpu",
    watch: Watch | None = None,
) -> list[SegmentationScore]:
    """Score each probe over a stream of pairs of a map and its labels, which are not kept."""
    together, T = stacked(probes, device), len(probes)
    totals = np.zeros((T, classes, classes), dtype=np.int64)
    counts: list[np.ndarray] = []
    skipped = 0
    for number, (one, label) in enumerate(test):
        found = classify(together, T, one.to(device), stride, label.shape)
        if watch:
            watch(number, found)
        each = np.stack([confusion(part, label, classes, ignore) for part in found])
        skipped += not each.any()
        totals += each
        counts.append(count_hits(each))
    kept = np.stack(counts, 1) if counts else np.zeros((T, 0, 3, classes), dtype=np.int64)
    return [score_of(total, mine, skipped) for total, mine in zip(totals, kept, strict=True)]


def score_of(
    total: Int64[np.ndarray, "K K"], counts: Int64[np.ndarray, "B 3 K"], skipped: int = 0
) -> SegmentationScore:
    """Compute the score from a confusion matrix and the pictures' counts."""
    mean, each = miou(total)
    return SegmentationScore(mean, each, pixel_accuracy(total), total, counts, skipped)


def count_hits(confusions: Int64[np.ndarray, "*T K K"]) -> Int64[np.ndarray, "*T 3 K"]:
    """Return hits, pixels of the class, and pixels predicted as the class."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    return np.stack([hits, confusions.sum(-1), confusions.sum(-2)], -2)


def classify(
    together: LinearProbe, count: int, one: Float[Tensor, "C h w"], stride: int, size: tuple[int, ...]
) -> Integer[np.ndarray, "T H W"]:
    """Return the class that each of `count` stacked probes predicts for every pixel of a picture of `size`.

    `size` is (height, width). The class is the largest logit at full size. Where the four cells around a pixel have the
    same class, interpolation cannot change it, so logits are interpolated only at the other pixels, near outlines.
    """
    w = one.shape[2]
    table = together(one).flatten(1).T.contiguous()  # (h w, T K)
    classes = table.shape[1] // count
    top = table.view(len(table), count, classes).argmax(2)  # (h w, T)
    up, down, below = _between(size[0], one.shape[1], stride, table.device)
    left, right, beside = _between(size[1], w, stride, table.device)
    corners = [(y[:, None] * w + x).flatten() for y in (up, down) for x in (left, right)]
    found = top[corners[0]]  # (H W, T)
    unsure = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    for corner in corners[1:]:
        unsure |= (top[corner] != found).any(1)
    for some in unsure.nonzero()[:, 0].split(CHUNK):
        y, x = below[some // size[1]], beside[some % size[1]]
        shares = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], 1)
        around = torch.stack([corner[some] for corner in corners], 1)
        logits = F.embedding_bag(around, table, mode="sum", per_sample_weights=shares)
        found[some] = logits.view(len(some), count, classes).argmax(2)
    return found.T.reshape(count, *size).contiguous().cpu().numpy()


def _between(
    pixels: int, cells: int, stride: int, device: torch.device
) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"], Float[Tensor, "P"]]:
    """Return, along one side, each pixel's cells before and after its centre, and the weight of the latter."""
    at = ((torch.arange(pixels, device=device, dtype=torch.float64) + 0.5) / stride - 0.5).clamp(0, cells - 1)
    before = at.long()
    return before, (before + 1).clamp_max(cells - 1), (at - before).float()


def predict_classes(
    probe: LinearProbe, one: Float[Tensor, "C _ _"], stride: int, size: tuple[int, ...]
) -> Integer[np.ndarray, "H W"]:
    """Return the most likely class of every pixel of a picture of `size` (height, width)."""
    return classify(probe, 1, one, stride, size)[0]
