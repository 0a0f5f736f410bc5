"""Train several linear probes together on one set of features: the trials of an exam, or the rates of a sweep.

Each head has its own pictures, pixels, initial weights and learning rate, and learns the same as when trained alone.
Axes: T heads, N pixels, C channels, K outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from vader.errors import BadInput
from vader.finetuning.pixels import LinearProbe, PixelDraw, ProbeConfig, Standard, fold, standard_of

HELD_OUT = 0.2  # share of the training pictures on which a sweep is scored
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # learning rates of a sweep

Loss = Callable[[int, Tensor, Tensor], Tensor]  # (index of a head, outputs (N, K), targets (N)) -> its mean loss


@dataclass(frozen=True)
class Draws:
    """The heads' sources of pixels, drawn in step with each other."""

    each: tuple[PixelDraw, ...]

    @classmethod
    def of(
        cls,
        maps: Sequence[Float[Tensor, "C _ _"]],
        labels: Sequence[Shaped[np.ndarray, "_ _"]],
        valid: Callable[[np.ndarray], np.ndarray],
        stride: int,
        seeds: Sequence[int],
        subsets: Sequence[Sequence[int]] | None = None,
    ) -> "Draws":
        """Make one source for each seed; `subsets` are the pictures of each head (None: all).

        Features are standardised over the pictures of their head.
        """
        if subsets is None:
            standard = standard_of(maps)
            return cls(tuple(PixelDraw(maps, labels, valid, stride, standard, seed) for seed in seeds))
        found = []
        for seed, subset in zip(seeds, subsets, strict=True):
            some = Picked(maps, subset)
            found.append(PixelDraw(some, Picked(labels, subset), valid, stride, standard_of(some), seed))
        return cls(tuple(found))

    @property
    def standards(self) -> list[Standard]:
        """The statistics of each head."""
        return [draw.standard for draw in self.each]


class Picked(Sequence):
    """Some members of a sequence, read on access."""

    def __init__(self, whole: Sequence, members: Sequence[int]) -> None:
        self.whole, self.members = whole, [int(i) for i in members]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        return self.whole[self.members[i]]

    def __iter__(self) -> Iterator:
        return (self.whole[i] for i in self.members)


def learn(
    draws: Draws,
    weights: Sequence[Float[Tensor, "K C"]],
    biases: Sequence[Float[Tensor, "K"]],
    loss: Loss,
    configs: Sequence[ProbeConfig],
    device: str = "cpu",
    decay_bias: bool = False,
) -> list[LinearProbe]:
    """Train the probes with AdamW from initial weights and biases, on standardised features, and fold these in.

    The configs may differ only in learning rate and decay.
    """
    first = configs[0]
    assert all((c.steps, c.pictures, c.pixels) == (first.steps, first.pictures, first.pixels) for c in configs)
    weights = [one.to(device, copy=True).requires_grad_() for one in weights]
    biases = [one.to(device, copy=True).requires_grad_() for one in biases]
    groups = [
        {"params": [one], "weight_decay": config.weight_decay * decays, "start": config.lr, "lr": config.lr}
        for ones, decays in ((weights, True), (biases, decay_bias))
        for one, config in zip(ones, configs, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)
    for step in range(first.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["start"] * (1 - step / first.steps)
        losses = []
        # One head at a time: joining the rows of all heads needs a copy, which costs more than the products.
        for number, (draw, weight, bias) in enumerate(zip(draws.each, weights, biases, strict=True)):
            rows, targets = draw(first.pictures, first.pixels)
            out = F.linear(rows.to(device), weight, bias)
            losses.append(loss(number, out, torch.from_numpy(targets).to(device)))
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return [
        fold(standard, weight.detach().cpu(), bias.detach().cpu())
        for standard, weight, bias in zip(draws.standards, weights, biases, strict=True)
    ]


def stacked(probes: Sequence[LinearProbe], device: str = "cpu") -> LinearProbe:
    """Stack the probes into one, with their outputs concatenated."""
    return LinearProbe(
        torch.cat([one.weight for one in probes]).to(device), torch.cat([one.bias for one in probes]).to(device)
    )


def hold_out(count: int, seed: int) -> tuple[list[int], list[int]]:
    """Split the train split's pictures into those to train on and those held out. Raises BadInput for one picture."""
    if count < 2:
        raise BadInput(f"train split: expected at least 2 pictures to hold some out, found {count}")
    order = np.random.default_rng(seed).permutation(count).tolist()
    held = max(1, round(HELD_OUT * count))
    return order[held:], order[:held]
