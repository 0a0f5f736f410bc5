"""Features and labels at pixels: standardisation, interpolation, and the random draws of a probe.

Axes: B images, C channels, H W pixels, h w cells, N points, P pixels a picture, K outputs of a probe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from vader.encoders.features import TINY, is_constant
from vader.errors import BadInput

REDRAWS = 5  # attempts to replace void pixels before the valid ones are listed


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a probe is trained. One setting fits features of 3 to 500 channels, because these are standardised."""

    steps: int = 600
    pictures: int = 16  # in a step
    pixels: int = 128  # of each picture
    lr: float = 0.05  # of AdamW; decays linearly to 0
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class Standard:
    """Mean and inverse deviation of each channel over a set's cells: batch norm in evaluation without affine part."""

    mean: Float[Tensor, "C"]
    scale: Float[Tensor, "C"]

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        """Standardise the features in place to mean 0 and deviation 1 by channel; constant channels become 0."""
        return rows.sub_(self.mean).mul_(self.scale)


def standard_of(maps: Sequence[Float[Tensor, "C _ _"]]) -> Standard:
    """Compute the statistics of all cells of a set of maps."""
    count = 0
    mean, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for one in maps:
        rows = one.flatten(1).T.float()  # (h w, C)
        # Around each map's own mean and joined in float64, for features whose mean is far from 0.
        spread, own = (part.double() for part in torch.var_mean(rows, 0, correction=0))
        total = count + len(rows)
        moved = own - mean
        squares = squares + len(rows) * spread + moved.square() * (count * len(rows) / total)
        mean, count = mean + moved * (len(rows) / total), total
    deviation = (squares / count).sqrt()
    scale = torch.where(is_constant(mean, deviation), torch.zeros_like(deviation), 1 / deviation.clamp_min(TINY))
    return Standard(mean.float(), scale.float())


@dataclass(frozen=True)
class LinearProbe:
    """A trained probe: standardisation and the 1x1 convolution in one affine map of the features."""

    weight: Float[Tensor, "K C"]
    bias: Float[Tensor, "K"]

    def __call__(self, one: Float[Tensor, "C h w"]) -> Float[Tensor, "K h w"]:
        """Return the outputs for every cell of a map."""
        return torch.einsum("kc,chw->khw", self.weight, one.float()) + self.bias[:, None, None]


def fold(standard: Standard, weight: Float[Tensor, "K C"], bias: Float[Tensor, "K"]) -> LinearProbe:
    """Return the probe that does to raw features what weight and bias do to standardised features."""
    scaled = weight * standard.scale
    return LinearProbe(scaled, bias - scaled @ standard.mean)


def full_size(maps: Float[Tensor, "B C h w"], stride: int, size: tuple[int, ...]) -> Float[Tensor, "B C H W"]:
    """Upsample maps bilinearly to a picture's pixels, `size` (height, width); centres do not move."""
    height, width = size
    return F.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)[..., :height, :width]


def corner_cells(
    place: Int64[np.ndarray, "B P"],
    width: Int64[np.ndarray, "B 1"],
    h: Int64[np.ndarray, "B 1"],
    w: Int64[np.ndarray, "B 1"],
    stride: int,
) -> tuple[Int64[np.ndarray, "B P 4"], Float32[np.ndarray, "B P 4"]]:
    """Return the four cells around each pixel and their weights, for pixels of pictures `width` wide.

    Pixels are indexed row by row, and so are the h x w cells of each picture. This interpolation equals `full_size`.
    """
    y, x = np.divmod(place, width)
    y, x = (np.clip((v + 0.5) / stride - 0.5, 0, side - 1) for v, side in ((y, h), (x, w)))
    top, left = y.astype(np.int64), x.astype(np.int64)
    bottom, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, across = y - top, x - left
    around = [top * w + left, top * w + right, bottom * w + left, bottom * w + right]
    shares = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]
    return np.stack(around, -1), np.stack(shares, -1).astype(np.float32)


def check_set(
    what: str,
    maps: Sequence[Float[Tensor, "C _ _"]],
    labels: Sequence[Shaped[np.ndarray, "_ _"]],
    stride: int,
) -> None:
    """Raise BadInput unless every map has a label map of its picture's size."""
    if not maps or len(maps) != len(labels):
        raise BadInput(f"{what}: expected a label map for each of {len(maps)} pictures, found {len(labels)}")
    for i, (one, label) in enumerate(zip(maps, labels, strict=True)):
        cells = tuple(-(-side // stride) for side in label.shape)
        if cells != tuple(one.shape[1:]):
            raise BadInput(
                f"{what}: expected {cells} cells for labels of {label.shape} at stride {stride}, found "
                f"{tuple(one.shape[1:])} in picture {i}; give labels the size of the picture"
            )


class PixelDraw:
    """Draws random valid pixels of random pictures, with their features and labels: the data of a probe's step.

    Upsampled logits of a linear probe equal the logits of upsampled features. So the expected gradient of a step over
    random pixels is that of the loss over all pixels (with pictures of equal weight), at a fraction of the cost. Raises
    BadInput if no pixel of the set is valid.
    """

    def __init__(
        self,
        maps: Sequence[Float[Tensor, "C _ _"]],
        labels: Sequence[Shaped[np.ndarray, "_ _"]],
        valid: Callable[[np.ndarray], np.ndarray],  # a label map -> where it is valid
        stride: int,
        standard: Standard,
        seed: int,
    ) -> None:
        self.maps, self.labels, self.valid = maps, labels, valid
        self.stride, self.standard = stride, standard
        self.usable = np.array([i for i, label in enumerate(labels) if valid(label).any()], dtype=np.int64)
        if not len(self.usable):
            raise BadInput(f"labels: expected valid pixels to learn from, found none in {len(labels)} pictures")
        self.rng = np.random.default_rng(seed)
        self.queue = np.empty(0, dtype=np.int64)
        self.rows = torch.empty(0, 0)

    def __call__(self, pictures: int, pixels: int) -> tuple[Float[Tensor, "N C"], Shaped[np.ndarray, "N"]]:
        """Return standardised features and labels of `pixels` pixels (with repetition) of each of the next `pictures`.

        Every picture occurs once in an epoch. The next call overwrites the features, because allocating new memory of
        that size costs as much as filling it.
        """
        chosen = self._next(pictures)
        labels = [self.labels[i] for i in chosen]
        place, targets = self._valid_places(labels, pixels)
        tables = [self.maps[i].flatten(1).T.contiguous() for i in chosen]  # (h w, C), a view of the maps of `extract`
        sides = np.array([[label.shape[1], *self.maps[i].shape[1:]] for i, label in zip(chosen, labels, strict=True)])
        around, shares = corner_cells(place, sides[:, :1], sides[:, 1:2], sides[:, 2:], self.stride)
        if len(self.rows) != place.size:
            self.rows = torch.empty(place.size, len(self.standard.mean))
        for table, cells, weights, rows in zip(
            tables, torch.from_numpy(around), torch.from_numpy(shares), self.rows.split(pixels), strict=True
        ):
            # Sum the four weighted rows without copying them; a map on disk is never read as a whole.
            rows.copy_(F.embedding_bag(cells, table, mode="sum", per_sample_weights=weights.to(table.dtype)))
            self.standard(rows)
        return self.rows, targets.reshape(-1)

    def _valid_places(
        self, labels: Sequence[Shaped[np.ndarray, "_ _"]], pixels: int
    ) -> tuple[Int64[np.ndarray, "B P"], Shaped[np.ndarray, "B P"]]:
        """Draw indices of valid pixels of each picture uniformly, and return them with their labels."""
        flat = [label.reshape(-1) for label in labels]
        sizes = np.array([[one.size] for one in flat])
        place = self.rng.integers(0, sizes, (len(flat), pixels))
        targets = np.stack([one[at] for one, at in zip(flat, place, strict=True)])
        # Checking only the drawn pixels is faster than listing the valid ones; only pictures that are mostly void are
        # listed.
        for again in range(REDRAWS):
            wrong = np.nonzero(~self.valid(targets))
            if not len(wrong[0]):
                break
            for i in np.unique(wrong[0]):
                missing = wrong[1][wrong[0] == i]
                known = np.flatnonzero(self.valid(flat[i])) if again == REDRAWS - 1 else sizes[i, 0]
                place[i, missing] = self.rng.choice(known, len(missing))
                targets[i, missing] = flat[i][place[i, missing]]
        return place, targets

    def _next(self, count: int) -> list[int]:
        while len(self.queue) < count:
            self.queue = np.concatenate([self.queue, self.rng.permutation(self.usable)])
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken.tolist()
