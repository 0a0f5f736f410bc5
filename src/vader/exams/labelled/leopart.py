"""Leopart's linear probe: a 1x1 convolution and nothing else, SGD, random crops of 448 px pressed square.

Crops are random, so each of the epochs sends every picture of the train split through the encoder anew: 25 times the
cost of the house probe's features. All trials learn from the same crops in the same order, for one pass; they differ
in their first weights, and in few-label variants in their pictures, each with passes of its own.

Source: MkuuWaUjinga/leopart: experiments/linear_probing/linear_finetune.py, configs/pascal, read at 840e365. Axes:
B pictures, C channels, K classes, h w cells, g side of the grid that is learnt on.
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
    """The probe's constants; those of linear_finetune.py unless another file is named."""

    views: Square = SQUARE
    grid: int = 100  # features bilinearly and labels by the nearest are brought to it (train_mask_size)
    epochs: int = 25  # configs/pascal
    drop_at: int = 20  # epochs, after which the rate is multiplied by `drop`; configs/pascal
    drop: float = 0.1  # decay_rate
    batch: int = 120  # 60 pictures on each of 2 GPUs; configs/pascal
    lr_transformer: float = 0.01  # configs/pascal
    lr_cnn: float = 0.1  # configs/pascal, ResNet-50
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def rate(self, encoder: DenseEncoder) -> float:
        """The first learning rate: of whatever is no transformer, the CNN's."""
        return self.lr_transformer if encoder.facts.get("architecture") == "transformer" else self.lr_cnn


def train_probes(
    encoder: DenseEncoder,
    examples: Sequence,  # of Example; a type check of one would read a picture
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
    """A probe for each seed, all from the first seed's crops; `batch` pictures are encoded at a time.

    As theirs, each epoch leaves out the pictures that fill no batch; fewer than a batch in all are one batch. Raises
    BadInput for an encoder whose cells do not fill the square, and for labels that are all void.
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
            while some := list(islice(pairs, batch)):  # no more features at once than are encoded at once
                maps = torch.stack([one for _, one in some]).to(device)
                targets = torch.stack([to_grid(np.asarray(example.labels), config.grid) for example, _ in some]).to(
                    device
                )
                pixels += _accumulate(heads, maps, targets, ignore)
            if pixels:  # a batch of void says nothing
                for weight, bias in heads:
                    for one in (weight, bias):
                        assert one.grad is not None
                        one.grad /= pixels
                optimizer.step()
                learnt += pixels
    if not learnt:
        raise BadInput(f"labels: expected some to learn from, none of {count} pictures has a labelled pixel")
    return [LinearProbe(weight.detach().cpu(), bias.detach().cpu()) for weight, bias in heads]


def check_stride(encoder: DenseEncoder, config: SquareConfig) -> None:
    """Raises BadInput unless the square is a whole number of cells wide."""
    if config.views.side % encoder.stride:
        raise BadInput(
            f"{encoder.name}: expected a stride that divides the protocol's {config.views.side} px, "
            f"got {encoder.stride}; use the house probe, .../vader"
        )


def _batches(epoch: int, count: int, size: int) -> Iterator[range]:
    first, size = epoch * count, min(size, count)
    for start in range(0, count // size * size, size):
        yield range(first + start, first + start + size)


def _first(classes: int, channels: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Weight and bias as torch's convolutions have them: uniform within 1 / sqrt(channels)."""
    rng = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(channels)
    weight, bias = torch.empty(classes, channels), torch.empty(classes)
    return tuple(one.uniform_(-bound, bound, generator=rng).to(device).requires_grad_() for one in (weight, bias))  # type: ignore[return-value]


def _accumulate(
    heads: Sequence[tuple[Tensor, Tensor]], maps: Float[Tensor, "B C h w"], targets: Int64[Tensor, "B g g"], ignore: int
) -> int:
    """Add the gradients of the heads' summed cross-entropy; how many pixels it is over.

    Head by head, for many classes on the grid are the largest thing in memory.
    """
    for weight, bias in heads:
        F.cross_entropy(grid_logits(weight, bias, maps, targets.shape[1]), targets, ignore_index=ignore,
                        reduction="sum").backward()  # fmt: skip
    return int((targets != ignore).sum())


def grid_logits(
    weight: Float[Tensor, "K C"], bias: Float[Tensor, "K"], maps: Float[Tensor, "B C h w"], grid: int
) -> Float[Tensor, "B K g g"]:
    """The probe's outputs for the features at the grid's points.

    The probe is linear and the shares of the cells around a point add up to 1, so mixing its outputs is the same as
    mixing the features, of which there are more.
    """
    logits = F.conv2d(maps, weight[:, :, None, None], bias)
    return F.interpolate(logits, (grid, grid), mode="bilinear", align_corners=False)


def to_grid(labels: Integer[np.ndarray, "S S"], grid: int) -> Int64[Tensor, "g g"]:
    """Labels as torch's "nearest" reads them: at the upper left corner of each point's pixel, not at its centre."""
    at = np.arange(grid) * labels.shape[0] // grid
    return torch.from_numpy(labels[at[:, None], at].astype(np.int64))
