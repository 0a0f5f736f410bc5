"""Train Leopart's linear probe: only a 1x1 convolution, with SGD on random crops resized to squares of 448 px.

Crops are random, so each epoch encodes every picture of the train split again: 25 times the cost of the features of
the probe of vader. All trials share one pass and learn from the same crops in the same order; they differ in their
initial weights. In few-label variants they also differ in their pictures, and each trial has its own passes.

Source: MkuuWaUjinga/leopart: experiments/linear_probing/linear_finetune.py, configs/pascal, read at 840e365. Axes:
B pictures, C channels, K classes, h w cells, g side of the grid for training.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from vader.encoders import DenseEncoder
from vader.encoders.store import encode
from vader.errors import BadInput
from vader.finetuning.augment import Shuffled, Square, square_crop
from vader.finetuning.heads import Picked
from vader.finetuning.pixels import LinearProbe
from vader.reports.metrics import VOID
from vader.runtime.progress import Progress

SQUARE = Square()


@dataclass(frozen=True, kw_only=True)
class SquareConfig:
    """The constants of the probe, from linear_finetune.py unless another file is named."""

    views: Square = SQUARE
    grid: int = 100  # side to which features (bilinear) and labels (nearest) are resized (train_mask_size)
    epochs: int = 25  # configs/pascal
    drop_at: int = 20  # epochs, after which the learning rate is multiplied by `drop`; configs/pascal
    drop: float = 0.1  # decay_rate
    batch: int = 120  # 60 pictures on each of 2 GPUs; configs/pascal
    lr_transformer: float = 0.01  # configs/pascal
    lr_cnn: float = 0.1  # configs/pascal, ResNet-50
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def rate(self, encoder: DenseEncoder) -> float:
        """Return the initial learning rate: an encoder that is not a transformer gets that of CNNs."""
        return self.lr_transformer if encoder.facts.get("architecture") == "transformer" else self.lr_cnn


def train_probes(
    encoder: DenseEncoder,
    examples: Sequence,  # of Example; not in the type, because a type check would read a picture
    classes: int,
    *,
    seeds: Sequence[int],
    config: SquareConfig,
    ignore: int = VOID,
    batch: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> list[LinearProbe]:
    """Train a probe for each seed, all on the first seed's crops; `batch` pictures are encoded at a time.

    As in the source, each epoch drops the last incomplete batch; a set smaller than a batch is one batch. Raises
    BadInput for an encoder whose cells do not divide the square, and for labels that are all void.
    """
    check_stride(encoder, config)
    count = len(examples)
    shuffled = Shuffled(examples, lambda one, rng: square_crop(one, rng, config.views), seeds[0], config.epochs)
    heads = [_first(classes, encoder.channels, seed, device) for seed in seeds]
    rate = config.rate(encoder)
    optimizer = torch.optim.SGD(
        [one for head in heads for one in head], rate, config.momentum, weight_decay=config.weight_decay
    )
    learnt = 0
    for epoch in range(config.epochs):
        optimizer.param_groups[0]["lr"] = rate * config.drop ** (epoch // config.drop_at)
        for members in _batches(epoch, count, config.batch):
            pairs = encode(encoder, Picked(shuffled, members), batch=batch, dtype=dtype, progress=progress)
            optimizer.zero_grad()
            pixels = 0
            while some := list(islice(pairs, batch)):  # memory holds only the features that are encoded together
                maps = torch.stack([one for _, one in some]).to(device)
                targets = torch.stack([to_grid(np.asarray(example.labels), config.grid) for example, _ in some]).to(
                    device
                )
                pixels += _accumulate(heads, maps, targets, ignore)
            if pixels:  # a batch of void has no gradient
                for weight, bias in heads:
                    for one in (weight, bias):
                        assert one.grad is not None
                        one.grad /= pixels
                optimizer.step()
                learnt += pixels
    if not learnt:
        raise BadInput(f"labels: expected labelled pixels to learn from, found none in {count} pictures")
    return [LinearProbe(weight.detach().cpu(), bias.detach().cpu()) for weight, bias in heads]


def check_stride(encoder: DenseEncoder, config: SquareConfig) -> None:
    """Raise BadInput unless the side of the square is a multiple of the stride."""
    if config.views.side % encoder.stride:
        raise BadInput(
            f"{encoder.name}: expected a stride that divides the protocol's {config.views.side} px, "
            f"found {encoder.stride}; use a protocol that ends in /vader"
        )


def _batches(epoch: int, count: int, size: int) -> Iterator[range]:
    first, size = epoch * count, min(size, count)
    for start in range(0, count // size * size, size):
        yield range(first + start, first + start + size)


def _first(classes: int, channels: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias as torch initialises convolutions: uniform within 1 / sqrt(channels)."""
    rng = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(channels)
    weight, bias = torch.empty(classes, channels), torch.empty(classes)
    return tuple(one.uniform_(-bound, bound, generator=rng).to(device).requires_grad_() for one in (weight, bias))  # type: ignore[return-value]


def _accumulate(
    heads: Sequence[tuple[Tensor, Tensor]], maps: Float[Tensor, "B C h w"], targets: Int64[Tensor, "B g g"], ignore: int
) -> int:
    """Add the gradients of the heads' summed cross-entropy. Returns the number of pixels.

    Heads are processed one at a time, because the logits of many classes on the grid need the most memory.
    """
    for weight, bias in heads:
        F.cross_entropy(grid_logits(weight, bias, maps, targets.shape[1]), targets, ignore_index=ignore,
                        reduction="sum").backward()  # fmt: skip
    return int((targets != ignore).sum())


def grid_logits(
    weight: Float[Tensor, "K C"], bias: Float[Tensor, "K"], maps: Float[Tensor, "B C h w"], grid: int
) -> Float[Tensor, "B K g g"]:
    """Return the probe's outputs at the points of the grid.

    The probe is linear and interpolation weights sum to 1, so interpolating its outputs equals interpolating the
    features, which have more channels.
    """
    logits = F.conv2d(maps, weight[:, :, None, None], bias)
    return F.interpolate(logits, (grid, grid), mode="bilinear", align_corners=False)


def to_grid(labels: Integer[np.ndarray, "S S"], grid: int) -> Int64[Tensor, "g g"]:
    """Resample labels as torch's "nearest" does: from the upper left corner of each point's pixel, not its centre."""
    at = np.arange(grid) * labels.shape[0] // grid
    return torch.from_numpy(labels[at[:, None], at].astype(np.int64))
