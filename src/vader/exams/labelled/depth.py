"""Measure how well one linear layer predicts depth from frozen features.

The probe of vader with one output: batch norm without affine parameters and a 1x1 convolution on the dense map,
bilinear upsampling to the size of the labels, and L1 loss on the depth in metres over valid pixels. Training starts
from a closed-form ridge regression. Axes: B pictures, T probes, C channels, N pixels, H W pixels, h w cells.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vader.errors import BadInput
from vader.finetuning.heads import RATES, Draws, Picked, hold_out, learn, stacked
from vader.finetuning.pixels import LinearProbe, PixelDraw, ProbeConfig, check_set, full_size
from vader.reports.metrics import depth_errors

RIDGE = 1e-3  # added to correlations, whose diagonal is 1
NEAREST = 1e-3  # metres, lower bound of predictions
LR = 0.01  # of the L1 steps; small, because the ridge solution is close

Crop = tuple[int, int, int, int]  # top, bottom, left, right of a 480 x 640 picture
FRAME = (480, 640)
Watch = Callable[[int, np.ndarray], None]  # (index of the picture, each probe's depths (T, H, W))


@dataclass(frozen=True)
class DepthScore:
    """Errors in metres, or shares. Each is the mean of the pictures' values; `pooled_rmse` is over all pixels together.
    nan if no picture has a valid pixel.

    `errors` holds each picture's RMSE, abs-rel and delta1 (nan without a valid pixel, counted in `skipped`); `pixels`
    is the sum of `count_pixels` over all pictures, without crops.
    """

    rmse: float
    pooled_rmse: float
    abs_rel: float
    delta1: float
    errors: Float[np.ndarray, "B 3"]
    skipped: int = 0
    pixels: dict[str, int] = field(default_factory=dict)


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
    """Train the probe on the maps of one set and score it on every valid pixel of another.

    Depths are in metres and have the pictures' size. A pixel is valid if its depth is finite, above 0 and at most
    `farthest`, to which predictions are clamped too (10 m in protocols of indoor scenes). Maps of zeros give the score
    of the best constant. Raises BadInput for sets that do not fit each other.
    """
    check_set("test set", test, test_depths, stride)
    probe = train_probe(train, train_depths, stride=stride, seed=seed, farthest=farthest, config=config)
    pairs = zip(test, test_depths, strict=True)
    return score_probes([probe], pairs, stride=stride, farthest=farthest)[0][0]


def is_valid(depth: Float[np.ndarray, "*shape"], farthest: float = float("inf")) -> Bool[np.ndarray, "*shape"]:
    """Return where the depth can be learnt and scored."""
    return np.isfinite(depth) & (depth > 0) & (depth <= farthest)


def count_pixels(depth: Float[np.ndarray, "*shape"], farthest: float = float("inf")) -> Counter[str]:
    """Count the valid pixels, and the invalid ones by reason."""
    finite = np.isfinite(depth)
    valid, beyond = (int(is_valid(depth, far).sum()) for far in (farthest, float("inf")))
    known = int(finite.sum())
    found = {"valid": valid, "unknown": known - beyond, "not finite": depth.size - known}
    return Counter(found | ({f"beyond {farthest:g} m": beyond - valid} if np.isfinite(farthest) else {}))


# --- Scoring ------------------------------------------------------------------------------------------------------


def score_probes(
    probes: Sequence[LinearProbe],
    test: Iterable[tuple[Float[Tensor, "C _ _"], Float[np.ndarray, "_ _"]]],
    *,
    stride: int = 4,
    farthest: float = float("inf"),
    crops: Sequence[Crop | None] = (None,),
    device: str = "cpu",
    watch: Watch | None = None,
) -> list[list[DepthScore]]:
    """Score each probe in each crop over a stream of pairs of a map and its depths, which are not kept.

    A crop is given for a frame of 480 x 640 pixels; for other sizes it is scaled with each side.
    """
    together = stacked(probes, device)
    errors: list[list[list[tuple[float, ...]]]] = []  # by picture, probe, crop: RMSE, abs-rel, delta1, valid pixels
    pixels: Counter[str] = Counter()
    for number, (one, depth) in enumerate(test):
        found = full_size(together(one.to(device))[None], stride, depth.shape)[0].clamp(NEAREST, farthest)
        predicted = found.cpu().numpy()  # (T, H, W)
        if watch:
            watch(number, predicted)
        pixels.update(count_pixels(depth, farthest))
        valid = is_valid(depth, farthest)
        masks = [valid & inside(crop, depth.shape) for crop in crops]
        errors.append([[_errors(part, depth, mask) for mask in masks] for part in predicted])
    table = np.array(errors, dtype=np.float64).reshape(-1, len(probes), len(crops), 4)
    return [[score_of(table[:, t, c], pixels) for c in range(len(crops))] for t in range(len(probes))]


def score_of(errors: Float[np.ndarray, "B 4"], pixels: Mapping[str, int] | None = None) -> DepthScore:
    """Compute the score from each picture's RMSE, abs-rel, delta1 and valid pixels; `pixels` sums `count_pixels`."""
    counts = dict(pixels or {})
    kept = errors[errors[:, 3] > 0]
    skipped = len(errors) - len(kept)
    if not len(kept):
        nan = float("nan")
        return DepthScore(nan, nan, nan, nan, errors[:, :3], skipped, counts)
    rmse, abs_rel, delta1, _ = kept.mean(0).tolist()
    pooled = float(np.sqrt((kept[:, 0] ** 2 * kept[:, 3]).sum() / kept[:, 3].sum()))
    return DepthScore(rmse, pooled, abs_rel, delta1, errors[:, :3], skipped, counts)


def _errors(
    predicted: Float[np.ndarray, "H W"], depth: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]
) -> tuple[float, float, float, float]:
    found = depth_errors(predicted, depth, mask)
    return found.rmse, found.abs_rel, found.delta1, float(mask.sum())


def inside(crop: Crop | None, size: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Return the mask of the pixels of a picture of `size` (height, width) that the crop keeps."""
    mask = np.zeros(size, dtype=bool)
    top, bottom, left, right = crop or (0, FRAME[0], 0, FRAME[1])
    (height, width), (full_height, full_width) = size, FRAME
    rows = slice(round(top * height / full_height), round(bottom * height / full_height))
    mask[rows, round(left * width / full_width) : round(right * width / full_width)] = True
    return mask


def predict_depth(
    probe: LinearProbe, one: Float[Tensor, "C _ _"], stride: int, size: tuple[int, ...], farthest: float = float("inf")
) -> Float[np.ndarray, "H W"]:
    """Predict the depth in metres of every pixel of a picture of `size` (height, width)."""
    return full_size(probe(one)[None], stride, size)[0, 0].clamp(NEAREST, farthest).numpy()


# --- Training -----------------------------------------------------------------------------------------------------


def train_probe(
    maps: Sequence[Float[Tensor, "C _ _"]],
    depths: Sequence[Float[np.ndarray, "_ _"]],
    *,
    stride: int = 4,
    seed: int = 0,
    farthest: float = float("inf"),
    config: ProbeConfig | None = None,
) -> LinearProbe:
    """Fit a ridge regression, then train with L1 at random valid pixels with Adam. `lr` is `LR` by default."""
    configs = [config or ProbeConfig(lr=LR, weight_decay=0.0)]
    return train_probes(maps, depths, stride=stride, seeds=[seed], farthest=farthest, configs=configs)[0]


def train_probes(
    maps: Sequence[Float[Tensor, "C _ _"]],
    depths: Sequence[Float[np.ndarray, "_ _"]],
    *,
    seeds: Sequence[int],
    configs: Sequence[ProbeConfig],
    subsets: Sequence[Sequence[int]] | None = None,
    stride: int = 4,
    farthest: float = float("inf"),
    device: str = "cpu",
) -> list[LinearProbe]:
    """Train a probe for each seed with its config on its subset of the pictures (None: all), in parallel."""
    check_set("training set", maps, depths, stride)
    _check_known(depths, subsets, farthest)
    draws = Draws.of(maps, depths, lambda depth: is_valid(depth, farthest), stride, seeds, subsets)
    starts = [_ridge(draw, config) for draw, config in zip(draws.each, configs, strict=True)]
    # Scale depths to about 1, so that one learning rate fits all.
    units = [unit for unit, _ in starts]
    weights, biases = [start[None, :-1] / unit for unit, start in starts], [start[-1:] / unit for unit, start in starts]

    def distance(head: int, out: Tensor, targets: Tensor) -> Tensor:
        return (out[:, 0] - targets.float() / units[head]).abs().mean()

    found = learn(draws, weights, biases, distance, configs, device, decay_bias=True)
    return [LinearProbe(one.weight * unit, one.bias * unit) for one, unit in zip(found, units, strict=True)]


def _check_known(
    depths: Sequence[Float[np.ndarray, "_ _"]], subsets: Sequence[Sequence[int]] | None, farthest: float
) -> None:
    for some in subsets or [range(len(depths))]:
        if not any(is_valid(depths[i], farthest).any() for i in some):
            reach = f" up to {farthest:g} m" if np.isfinite(farthest) else ""
            raise BadInput(
                f"depths: expected some{reach} to learn from, found none in {len(some)} pictures; give depths in "
                "metres, not millimetres"
            )


def _ridge(draw: PixelDraw, config: ProbeConfig) -> tuple[float, Float[Tensor, "columns"]]:
    """Return the standard deviation of depths, and weights and bias of least squares over `pixels` of every picture."""
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
    if deviation <= 1e-6 * mean:  # all depths are equal, and the start is the solution
        deviation = mean
    return deviation, solution.float()


def sweep_probe(
    maps: Sequence[Float[Tensor, "C _ _"]],
    depths: Sequence[Float[np.ndarray, "_ _"]],
    *,
    rates: Sequence[float] = RATES,
    stride: int = 4,
    seed: int = 0,
    farthest: float = float("inf"),
    config: ProbeConfig | None = None,
    device: str = "cpu",
) -> dict[float, DepthScore]:
    """Return each learning rate's score on a held-out fifth of the training pictures."""
    kept, held = hold_out(len(maps), seed)
    base = config or ProbeConfig(lr=LR, weight_decay=0.0)
    probes = train_probes(
        Picked(maps, kept), Picked(depths, kept), seeds=[seed] * len(rates), stride=stride, farthest=farthest,
        configs=[replace(base, lr=rate) for rate in rates], device=device,
    )  # fmt: skip
    test = zip(Picked(maps, held), Picked(depths, held), strict=True)
    scores = score_probes(probes, test, stride=stride, farthest=farthest, device=device)
    return {rate: score[0] for rate, score in zip(rates, scores, strict=True)}
