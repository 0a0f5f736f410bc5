"""Frozen features of many pictures, and reading them at pixels: what all exams share.

Axes: B images, C channels, H W pixels, h w cells, N points, K outputs of a probe. A map's cell (k, l) is centred at
(s (k + 0.5), s (l + 0.5)) for stride s; a map covers its picture and may reach beyond it on the right and below.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from vader.encoders import DenseEncoder
from vader.encoders.tiling import by_tiles
from vader.errors import BadInput

PIXELS_A_BATCH = 256 * 256  # times `batch`: larger pictures go fewer at a time
MIN_DEVIATION = 1e-6  # of a channel's mean: channels that vary less count as constant and say nothing
NOISE = 1e-7  # of the largest deviation: a channel that varies less is float32's rounding of the others
TINY = 1e-35  # the inverse of a smaller deviation is none in float32
LOST = 1e-3  # of a channel's variance: a smaller error of rounding is no loss
CELLS = 1024  # of each picture, on which storage in float16 is judged


class Overflow(BadInput):
    """Features are finite, but not in the kind of number that was asked for."""


@torch.no_grad()
def maps_of(
    encoder: DenseEncoder, images: Float[Tensor, "B 3 H W"], *, embed: bool = True, tile: int | None = None
) -> Float[Tensor, "B C h w"]:
    """The encoder's maps of images in [0, 1], float32, on the images' device; large images go by tiles of `tile` px.

    `embed` asks for L2-normalised maps, else for features. Raises BadInput, naming the encoder, for maps that are not
    finite, and as `tiling.check_tile` does.
    """
    read = encoder.embed if embed else encoder.features
    found = by_tiles(read, images, encoder.stride, tile, norms=encoder.norms, normalised=embed)
    expected = [-(-side // encoder.stride) for side in images.shape[2:]]
    assert list(found.shape[2:]) == expected, f"{encoder.name}: cells {tuple(found.shape[2:])}, not {expected}"
    if not found.isfinite().all():
        raise BadInput(
            f"encoder {encoder.name}: expected finite features, got some that are NaN or infinite; is it trained?"
        )
    return found


def map_of(encoder: DenseEncoder, image: UInt8[np.ndarray, "H W 3"], tile: int | None = None) -> Float[Tensor, "D h w"]:
    """One picture's L2-normalised map, on the CPU. Raises BadInput as `maps_of` does."""
    return maps_of(encoder, to_tensor([image]), tile=tile)[0].cpu()


def to_tensor(images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Float[Tensor, "B 3 H W"]:
    """Pictures of one size as floats in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(255)


@torch.no_grad()
def extract(
    encoder: DenseEncoder,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    embed: bool = False,
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
) -> list[Float[Tensor, "_ _ _"]]:
    """The map (C, h, w) of each picture, on the CPU, in the pictures' order; pictures may differ in size.

    `embed` asks for L2-normalised maps. float16 halves the memory and suits most probes (`lost_in_half` says which);
    raw colour's embedding, whose similarities differ in the seventh digit, needs float32. Raises BadInput, naming the
    encoder, for features that are not finite, and Overflow for those that are not so in `dtype`.
    """
    maps: dict[int, Tensor] = {}
    for group in _groups_of_one_size(images, batch):
        found = maps_of(encoder, to_tensor([images[i] for i in group]), embed=embed)
        # A cell's channels side by side, where probes and neighbours read them.
        kept = found.to("cpu", dtype).contiguous(memory_format=torch.channels_last)
        if not kept.isfinite().all():
            raise Overflow(f"encoder {encoder.name}: expected features within {dtype}, got larger; ask for float32")
        maps.update(zip(group, kept, strict=True))
    return [maps[i] for i in range(len(images))]


def _groups_of_one_size(images: Sequence[np.ndarray], batch: int) -> list[list[int]]:
    """The pictures' numbers in batches of equal size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(i)
    groups = []
    for (height, width, _), members in sizes.items():
        step = max(1, min(batch, batch * PIXELS_A_BATCH // (height * width)))
        groups += [members[i : i + step] for i in range(0, len(members), step)]
    return groups


# --- Precision ----------------------------------------------------------------------------------------------------


def lost_in_half(maps: Iterable[Float32[Tensor, "C _ _"]]) -> str:
    """What float16 would do to features, for a report; "" if it does no harm.

    It does if a value overflows, or if in a channel that varies the variance of the rounding is above a thousandth of
    the channel's, as where features are minute or lie far from 0. All of some pictures' values are looked at for
    overflow, up to 1024 cells of each for rounding.
    """
    parts = []
    for one in maps:
        if not one.half().isfinite().all():
            return "overflow"
        count = one.shape[1] * one.shape[2]
        parts.append(one.flatten(1)[:, torch.linspace(0, count - 1, min(count, CELLS)).long()])
    found = []
    for some in torch.cat(parts, 1).split(256):  # a part of the channels at a time, for float64 takes its space
        rows = some.double()
        found.append((*torch.var_mean(rows, 1, correction=0), (some.half().double() - rows).var(1, correction=0)))
    spread, mean, wrong = (torch.cat(some) for some in zip(*found, strict=True))
    lost = ~is_constant(mean, spread.sqrt()) & (wrong > LOST * spread)
    return f"lose {int(lost.sum())} of {len(lost)} channels to rounding" if lost.any() else ""


def is_constant(mean: Float[Tensor, "C"], deviation: Float[Tensor, "C"]) -> Bool[Tensor, "C"]:
    """Which channels say nothing, whatever the scale of the features."""
    least = torch.maximum(MIN_DEVIATION * mean.abs(), NOISE * deviation.max())
    return deviation <= least.clamp_min(TINY)


# --- Probes -------------------------------------------------------------------------------------------------------
