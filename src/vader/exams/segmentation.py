"""How much of a segmentation one linear layer reads off frozen features.

The house probe: batch norm without affine part and a 1x1 convolution on the dense map, logits bilinearly at the
labels' size, cross-entropy that leaves void out; one confusion matrix over all pictures. Axes: C channels, K classes,
N pixels, H W pixels, h w cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vader.errors import BadInput
from vader.exams.features import LinearProbe, PixelDraw, ProbeConfig, check_set, fold, full_size, standard_of
from vader.metrics import VOID, confusion, miou, pixel_accuracy


@dataclass(frozen=True)
class SegmentationScore:
    """`miou` over the classes that occur, `iou` of each (nan: neither there nor predicted), all from `confusion`."""

    miou: float
    iou: Float[np.ndarray, "K"]
    pixel_accuracy: float
    confusion: Int64[np.ndarray, "K K"]


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
    """Train the probe on the maps of one set, score it on every labelled pixel of another.

    Labels have the size of the pictures that the maps were made of. The seed draws the first weights and the pixels
    of each step; the pictures are seen as they are, so features are computed once. Raises BadInput for sets that do
    not fit each other and labels that are no class.
    """
    check_set("training set", train, train_labels, stride)
    check_set("test set", test, test_labels, stride)
    probe = train_probe(train, train_labels, classes, stride=stride, seed=seed, ignore=ignore, config=config)
    total = np.zeros((classes, classes), dtype=np.int64)
    for one, label in zip(test, test_labels, strict=True):
        total += confusion(predict_classes(probe, one, stride, label.shape), label, classes, ignore)
    mean, each = miou(total)
    return SegmentationScore(mean, each, pixel_accuracy(total), total)


def predict_classes(
    probe: LinearProbe, one: Float[Tensor, "C _ _"], stride: int, size: tuple[int, ...]
) -> Int64[np.ndarray, "H W"]:
    """The most likely class of every pixel of a picture of `size` (height, width)."""
    return full_size(probe(one)[None], stride, size)[0].argmax(0).numpy()


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
    """Cross-entropy at random labelled pixels, AdamW."""
    config = config or ProbeConfig()
    for label in labels:
        _check_classes(label[label != ignore], classes, ignore)
    standard = standard_of(maps)
    draw = PixelDraw(maps, labels, lambda label: label != ignore, stride, standard, seed)
    generator = torch.Generator().manual_seed(seed)
    weight = (0.01 * torch.randn(classes, len(standard.mean), generator=generator)).requires_grad_()
    bias = torch.zeros(classes, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": config.weight_decay}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        rows, targets = draw(config.pictures, config.pixels)
        loss = F.cross_entropy(F.linear(rows, weight, bias), torch.from_numpy(targets.astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return fold(standard, weight.detach(), bias.detach())


def _check_classes(labels: Integer[np.ndarray, "N"], classes: int, ignore: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise BadInput(
            f"training labels: expected classes 0 to {classes - 1} or {ignore} for void, got {labels.min()} to "
            f"{labels.max()}; check the number of classes"
        )
