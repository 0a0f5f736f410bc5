"""How much of the depth one linear layer reads off frozen features.

The house probe with one output: batch norm without affine part and a 1x1 convolution on the dense map, the output
bilinearly at the labels' size, L1 on the depth in metres over its valid pixels. A closed-form ridge regression is the
start, L1 the end. Axes: C channels, N pixels, H W pixels, h w cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vader.exams.features import LinearProbe, PixelDraw, ProbeConfig, check_set, fold, full_size, standard_of
from vader.metrics import depth_errors

RIDGE = 1e-3  # beside correlations, whose diagonal is 1
NEAREST = 1e-3  # metres; predictions are clamped to it
LR = 0.01  # of the L1 steps: the start is near


@dataclass(frozen=True)
class DepthScore:
    """Errors in metres, or shares. Each is the mean over pictures of the picture's own; `pooled_rmse` is over all
    pixels at once. nan if no picture has a valid pixel."""

    rmse: float
    pooled_rmse: float
    abs_rel: float
    delta1: float


def linear_depth(
    train: Sequence[Float[Tensor, "C _ _"]],
    train_depths: Sequence[Float[np.ndarray, "_ _"]],
    test: Sequence[Float[Tensor, "C _ _"]],
    test_depths: Sequence[Float[np.ndarray, "_ _"]],
    *,
    stride: int = 4,
    seed: int = 0,
    farthest: float = float("inf"),
    config: ProbeConfig | None = None,
) -> DepthScore:
    """Train the probe on the maps of one set, score it on every valid pixel of another.

    Depths are in metres and have the pictures' size; a pixel is valid where its depth is finite, above 0 and not
    beyond `farthest`, to which predictions are clamped too (protocols of indoor scenes say 10 m). Maps of zeros give
    the score of the best constant. Raises BadInput for sets that do not fit each other.
    """
    check_set("training set", train, train_depths, stride)
    check_set("test set", test, test_depths, stride)
    probe = train_probe(train, train_depths, stride=stride, seed=seed, farthest=farthest, config=config)
    each, squares, pixels = [], 0.0, 0
    for one, depth in zip(test, test_depths, strict=True):
        valid = is_valid(depth, farthest)
        if not valid.any():
            continue
        errors = depth_errors(predict_depth(probe, one, stride, depth.shape, farthest), depth, valid)
        each.append((errors.rmse, errors.abs_rel, errors.delta1))
        squares, pixels = squares + errors.rmse**2 * valid.sum(), pixels + int(valid.sum())
    if not each:
        return DepthScore(*[float("nan")] * 4)
    rmse, abs_rel, delta1 = np.mean(each, 0).tolist()
    return DepthScore(rmse, float(np.sqrt(squares / pixels)), abs_rel, delta1)


def is_valid(depth: Float[np.ndarray, "H W"], farthest: float = float("inf")) -> Bool[np.ndarray, "H W"]:
    """Where there is a depth to learn or to find."""
    return np.isfinite(depth) & (depth > 0) & (depth <= farthest)


def predict_depth(
    probe: LinearProbe, one: Float[Tensor, "C _ _"], stride: int, size: tuple[int, ...], farthest: float = float("inf")
) -> Float[np.ndarray, "H W"]:
    """The depth of every pixel of a picture of `size` (height, width), metres."""
    return full_size(probe(one)[None], stride, size)[0, 0].clamp(NEAREST, farthest).numpy()


def train_probe(
    maps: Sequence[Float[Tensor, "C _ _"]],
    depths: Sequence[Float[np.ndarray, "_ _"]],
    *,
    stride: int = 4,
    seed: int = 0,
    farthest: float = float("inf"),
    config: ProbeConfig | None = None,
) -> LinearProbe:
    """Ridge regression, then L1 at random valid pixels, Adam. Of the config's settings, `lr` is `LR` by default."""
    config = config or ProbeConfig(lr=LR, weight_decay=0.0)
    standard = standard_of(maps)
    draw = PixelDraw(maps, depths, lambda depth: is_valid(depth, farthest), stride, standard, seed)
    unit, start = _ridge(draw, config)
    parameters = (start / unit).requires_grad_()  # (C + 1,), of depths in units in which they are about 1
    optimizer = torch.optim.Adam([parameters], lr=config.lr, weight_decay=config.weight_decay)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.lr * (1 - step / config.steps)
        rows, targets = draw(config.pictures, config.pixels)
        out = rows @ parameters[:-1] + parameters[-1]
        loss = (out - torch.from_numpy(targets).float() / unit).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = parameters.detach() * unit
    return fold(standard, found[None, :-1], found[-1:])


def _ridge(draw: PixelDraw, config: ProbeConfig) -> tuple[float, Float[Tensor, "columns"]]:
    """The depths' deviation, and weights and bias of the least squares over `pixels` of every picture."""
    width = len(draw.standard.mean) + 1
    gram, moment = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    squares, count = 0.0, 0
    for _ in range(-(-len(draw.usable) // config.pictures)):
        rows, targets = draw(config.pictures, config.pixels)
        X = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
        y = torch.from_numpy(targets).double()
        gram, moment = gram + X.T @ X, moment + X.T @ y
        squares, count = squares + float(y.square().sum()), count + len(y)
    penalty = torch.full((width,), RIDGE, dtype=torch.float64)
    penalty[-1] = 0
    solution = torch.linalg.solve(gram / count + penalty.diag(), moment / count)
    mean = float(moment[-1] / count)
    deviation = max(squares / count - mean**2, 0) ** 0.5
    if deviation <= 1e-6 * mean:  # all depths are the same, and the start has found it
        deviation = mean
    return deviation, solution.float()
