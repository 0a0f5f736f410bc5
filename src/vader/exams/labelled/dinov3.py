"""Train DINOv3's linear probe of depth: weights over 256 depth bins at every cell, trained with SigLoss.

Batch norm with affine parameters over the whole batch (as SyncBN) and a 1x1 convolution give one number for each bin.
ReLU, an offset and normalisation turn these into weights, and the weighted mean of the bins is the depth. The depth,
not the numbers, is upsampled to full size. Crops are random, so every step encodes its 16 pictures again: 614,400
pictures in all, minutes on a GPU and many hours on two CPU cores. All trials learn from the same batches; they differ
only in their initial weights.

Source: facebookresearch/dinov3: dinov3/eval/depth, read at 6876159. Axes: B pictures, T probes, C channels, K bins,
N pixels, H W pixels, h w cells.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.encoders import DenseEncoder
from vader.encoders.store import encode
from vader.errors import BadInput
from vader.exams.labelled.depth import Crop, DepthScore, count_pixels, inside, is_valid, score_of
from vader.finetuning.augment import Room, Shuffled, room_view
from vader.finetuning.heads import Picked, stacked
from vader.finetuning.pixels import LinearProbe, full_size
from vader.reports.metrics import depth_errors
from vader.runtime.progress import Progress

ROOM = Room()
NORM_EPS, NORM_MOMENTUM = 1e-5, 0.1  # of batch norm, the defaults of torch
TINY = 1e-12  # below this SigLoss has no gradient

Watch = Callable[[int, np.ndarray], None]  # (index of the picture, each probe's depths (T, H, W))


@dataclass(frozen=True, kw_only=True)
class BinsConfig:
    """The constants of the probe, from configs/config-nyu.yaml unless another file is named."""

    views: Room = ROOM
    bins: int = 256  # n_output_channels
    nearest: float = 0.001  # metres, the first bin; lower bound of predictions
    farthest: float = 10.0  # metres, the last bin; pixels with a larger true depth are not scored
    offset: float = 0.1  # added to each weight, so that the sum is never 0; models/__init__.py
    spread: float = 0.01  # of the initial weights; models/linear_head.py
    steps: int = 38_400
    batch: int = 16
    group: int = 2  # pictures that share a loss, as on each of 8 GPUs, whose gradients were averaged
    lr: float = 3e-4
    warm_up: int = 12_800  # steps
    start_divisor: float = 1000.0  # of `lr` at the first step (final_div_factor)
    end_divisor: float = 25_000.0  # of `lr` after the last step; schedulers.py, div_factor 25 times final_div_factor
    beta1: tuple[float, float] = (0.85, 0.95)  # after the warm-up; during it the scheduler sets 0, see `beta1_at`
    beta2: float = 0.99
    weight_decay: float = 1e-4  # of all parameters
    clip: float = 35.0  # maximum norm of a probe's gradient
    log_offset: float = 1e-3  # metres; loss.py
    mean_share: float = 0.15  # weight of the squared mean; loss.py
    without_variance: int = 100  # first steps, whose loss has no variance term; loss.py


def rate_at(step: int, config: BinsConfig) -> float:
    """Return the learning rate of a step, from 0: a line times a cosine during the warm-up, then the cosine."""
    if step < config.warm_up:
        cosine = (1 + math.cos(math.pi * step / config.steps)) / 2
        return config.lr / config.start_divisor + config.lr * cosine * step / config.warm_up
    cosine = (1 + math.cos(math.pi * (step + 1) / config.steps)) / 2
    last = config.lr / config.end_divisor
    return last + (config.lr - last) * cosine


def beta1_at(step: int, config: BinsConfig) -> float:
    """Return AdamW's beta1 of a step: DINOv3's scheduler replaces the config's 0.9, with 0 during the warm-up."""
    if step < config.warm_up:
        return 0.0
    low, high = config.beta1
    done = (step - config.warm_up) / (config.steps - config.warm_up)
    return high + (low - high) * (1 + math.cos(math.pi * done)) / 2


def sig_loss(
    predicted: Float[Tensor, "N"], truth: Float[Tensor, "N"], config: BinsConfig, variance: bool = True
) -> Float[Tensor, ""]:
    """Compute sqrt(var g + 0.15 mean(g)^2) of the differences g of log depths (in metres), with N at least 2.

    The variance is over N - 1; `variance=False` leaves it out.
    """
    g = (predicted + config.log_offset).log() - (truth + config.log_offset).log()
    squares = config.mean_share * g.mean().square()
    if variance:
        squares = squares + g.var()
    return squares.clamp_min(TINY).sqrt()


def expected_depth(outputs: Float[Tensor, "B K h w"], config: BinsConfig) -> Float[Tensor, "B h w"]:
    """Compute the mean depth of the bins in metres, weighted by the positive part of the outputs plus an offset."""
    bins = torch.linspace(config.nearest, config.farthest, config.bins, device=outputs.device, dtype=outputs.dtype)
    weights = outputs.relu() + config.offset
    return torch.einsum("bkhw,k->bhw", weights, bins) / weights.sum(1)


# --- Training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """The parameters of a probe: the affine part of batch norm, then the convolution."""

    gamma: Float[Tensor, "C"]
    beta: Float[Tensor, "C"]
    weight: Float[Tensor, "K C"]
    bias: Float[Tensor, "K"]

    @classmethod
    def first(cls, bins: int, channels: int, spread: float, seed: int, device: str) -> "Head":
        """Make the initial head of a seed."""
        weight = spread * torch.randn(bins, channels, generator=torch.Generator().manual_seed(seed))
        parts = torch.ones(channels), torch.zeros(channels), weight, torch.zeros(bins)
        return cls(*(part.to(device).requires_grad_() for part in parts))

    @property
    def parameters(self) -> list[Tensor]:
        """Return the four parameters."""
        return [self.gamma, self.beta, self.weight, self.bias]

    def affine(self) -> tuple[Float[Tensor, "K C"], Float[Tensor, "K"]]:
        """Return weight and bias for normalised features."""
        return self.weight * self.gamma, self.weight @ self.beta + self.bias

    def folded(self, mean: Float[Tensor, "C"], variance: Float[Tensor, "C"]) -> LinearProbe:
        """Return the probe for features that are not normalised."""
        weight, bias = (part.detach() for part in self.affine())
        weight = weight / (variance + NORM_EPS).sqrt()
        return LinearProbe(weight.cpu(), (bias - weight @ mean).cpu())


def train_probes(
    encoder: DenseEncoder,
    examples: Sequence,  # of Example; not in the type, because a type check would read a picture
    *,
    seeds: Sequence[int],
    config: BinsConfig,
    batch: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> list[LinearProbe]:
    """Train a probe for each seed, all on the first seed's crops. `expected_depth` turns their outputs into depth.

    `batch` pictures are encoded at a time; memory holds the features of `config.batch` pictures. Raises BadInput for
    pictures smaller than a crop and for depths without a valid pixel.
    """
    change = partial(room_view, config=config.views)
    shuffled = Shuffled(examples, change, seeds[0], -(-config.steps * config.batch // len(examples)))
    heads = [Head.first(config.bins, encoder.channels, config.spread, seed, device) for seed in seeds]
    mean, variance = torch.zeros(encoder.channels, device=device), torch.ones(encoder.channels, device=device)
    optimizer = torch.optim.AdamW([p for head in heads for p in head.parameters], weight_decay=config.weight_decay)
    learnt = False
    for step in range(config.steps):
        optimizer.param_groups[0].update(lr=rate_at(step, config), betas=(beta1_at(step, config), config.beta2))
        some = Picked(shuffled, range(step * config.batch, (step + 1) * config.batch))
        pairs = list(encode(encoder, some, batch=batch, dtype=dtype, progress=progress))
        maps = torch.stack([one for _, one in pairs]).to(device, torch.float32)
        depths = torch.from_numpy(np.stack([np.asarray(one.depth, dtype=np.float32) for one, _ in pairs])).to(device)
        normal = F.batch_norm(maps, mean, variance, training=True, momentum=NORM_MOMENTUM, eps=NORM_EPS)
        optimizer.zero_grad()
        if _accumulate(heads, normal, depths, encoder.stride, config, variance=step >= config.without_variance):
            for head in heads:
                torch.nn.utils.clip_grad_norm_(head.parameters, config.clip)
            optimizer.step()
            learnt = True
    if not learnt:
        raise BadInput(f"depths: expected valid pixels to learn from, found none in {len(examples)} pictures")
    return [head.folded(mean, variance) for head in heads]


def _accumulate(
    heads: Sequence[Head], normal: Float[Tensor, "B C h w"], depths: Float[Tensor, "B H W"], stride: int,
    config: BinsConfig, variance: bool,
) -> bool:  # fmt: skip
    """Add the gradients of the mean loss of the groups. Returns whether any group has depths."""
    groups = list(zip(normal.split(config.group), depths.split(config.group), strict=True))
    for some, truth in groups:
        valid = truth.isfinite() & (truth > 0)
        if valid.sum() < 2:  # the variance needs two pixels
            continue
        for head in heads:
            weight, bias = head.affine()
            found = expected_depth(F.conv2d(some, weight[:, :, None, None], bias), config)
            found = full_size(found[:, None], stride, tuple(truth.shape[1:]))[:, 0]
            (sig_loss(found[valid], truth[valid], config, variance) / len(groups)).backward()
    return heads[0].weight.grad is not None


# --- Scoring ------------------------------------------------------------------------------------------------------


def score_probes(
    probes: Sequence[LinearProbe],
    test: Iterable[tuple[Float[Tensor, "C _ _"], Float[Tensor, "C _ _"], Float[np.ndarray, "_ _"]]],
    config: BinsConfig,
    *,
    stride: int,
    crops: Sequence[Crop | None] = (None,),
    device: str = "cpu",
    watch: Watch | None = None,
) -> list[list[DepthScore]]:
    """Score each probe in each crop over triples of a picture's map, its mirrored picture's map and its depths.

    The prediction is the mean of both maps' predictions, clamped to the range of the bins.
    """
    together = stacked(probes, device)
    errors: list[list[list[tuple[float, ...]]]] = []  # by picture, probe, crop: RMSE, abs-rel, delta1, valid pixels
    pixels: Counter[str] = Counter()
    for number, (one, mirrored, truth) in enumerate(test):
        pixels.update(count_pixels(truth, config.farthest))
        seen, turned = (_predict(together, x.to(device), config, stride, truth.shape) for x in (one, mirrored))
        predicted = ((seen + turned.flip(2)) / 2).clamp(config.nearest, config.farthest).cpu().numpy()  # (T, H, W)
        if watch:
            watch(number, predicted)
        valid = is_valid(truth, config.farthest)
        masks = [valid & inside(crop, truth.shape) for crop in crops]
        errors.append([[_errors(part, truth, mask) for mask in masks] for part in predicted])
    table = np.array(errors, dtype=np.float64).reshape(-1, len(probes), len(crops), 4)
    return [[score_of(table[:, t, c], pixels) for c in range(len(crops))] for t in range(len(probes))]


def _predict(
    together: LinearProbe, one: Float[Tensor, "C h w"], config: BinsConfig, stride: int, size: tuple[int, ...]
) -> Float[Tensor, "T H W"]:
    outputs = together(one).unflatten(0, (-1, config.bins))  # (T, K, h, w)
    return full_size(expected_depth(outputs, config)[:, None], stride, size)[:, 0]


def _errors(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> tuple[float, float, float, float]:
    found = depth_errors(predicted, truth, mask)
    return found.rmse, found.abs_rel, found.delta1, float(mask.sum())
