"""Compute frozen features of many images; all exams use these functions.

Axes: B images, C channels, H W pixels, h w cells, N points, K outputs of a probe. The centre of a map's cell (k, l) is
(s (k + 0.5), s (l + 0.5)) for stride s. A map covers its image and may extend beyond it on the right and below.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from vader.encoders import DenseEncoder
from vader.encoders.tiling import by_tiles
from vader.errors import BadInput

PIXELS_A_BATCH = 256 * 256  # times `batch`: of larger images a batch has fewer
MIN_DEVIATION = 1e-6  # of a channel's mean: channels that vary less count as constant
NOISE = 1e-7  # of the largest deviation: smaller deviations are float32 rounding
TINY = 1e-35  # a smaller deviation has no inverse in float32
LOST = 1e-3  # of a channel's variance: a smaller rounding error does no harm
CELLS = 1024  # of each image, to check storage in float16


class Overflow(BadInput):
    """Features that are finite, but not in the requested number type."""


@torch.no_grad()
def maps_of(
    encoder: DenseEncoder, images: Float[Tensor, "B 3 H W"], *, embed: bool = True, tile: int | None = None
) -> Float[Tensor, "B C h w"]:
    """Compute the encoder's maps of images in [0, 1], float32, on the images' device; large images by tiles of `tile`.

    `embed` selects L2-normalised maps, otherwise features. Raises BadInput, naming the encoder, for maps that are not
    finite, and as `tiling.check_tile` does.
    """
    read = encoder.embed if embed else encoder.features
    found = by_tiles(read, images, encoder.stride, tile, norms=encoder.norms, normalised=embed)
    expected = [-(-side // encoder.stride) for side in images.shape[2:]]
    assert list(found.shape[2:]) == expected, f"{encoder.name}: cells {tuple(found.shape[2:])}, not {expected}"
    if not found.isfinite().all():
        raise BadInput(
            f"encoder {encoder.name}: expected finite features, found NaN or infinite ones; check that it is trained"
        )
    return found


def map_of(encoder: DenseEncoder, image: UInt8[np.ndarray, "H W 3"], tile: int | None = None) -> Float[Tensor, "D h w"]:
    """Compute one image's L2-normalised map, on the CPU. Raises BadInput as `maps_of` does."""
    return maps_of(encoder, to_tensor([image]), tile=tile)[0].cpu()


def to_tensor(images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Float[Tensor, "B 3 H W"]:
    """Convert images of one size to floats in [0, 1]."""
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
    """Compute the map (C, h, w) of each image, on the CPU, in the images' order; images may differ in size.

    `embed` selects L2-normalised maps. float16 halves the memory and is enough for most probes (see `lost_in_half`).
    Raw colour's embedding needs float32, because its similarities differ in the seventh digit. Raises BadInput, naming
    the encoder, for features that are not finite, and Overflow for features that are not finite in `dtype`.
    """
    maps: dict[int, Tensor] = {}
    for group in _groups_of_one_size(images, batch):
        found = maps_of(encoder, to_tensor([images[i] for i in group]), embed=embed)
        # Channels last: probes and neighbours read all channels of a cell.
        kept = found.to("cpu", dtype).contiguous(memory_format=torch.channels_last)
        if not kept.isfinite().all():
            raise Overflow(f"encoder {encoder.name}: expected features within {dtype}, found larger ones; use float32")
        maps.update(zip(group, kept, strict=True))
    return [maps[i] for i in range(len(images))]


def _groups_of_one_size(images: Sequence[np.ndarray], batch: int) -> list[list[int]]:
    """Group the images' indices into batches of equal image size."""
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
    """Describe the harm of storing features in float16, for a report; "" if there is none.

    float16 does harm if a value overflows, or if in a varying channel the variance of the rounding error is above a
    thousandth of the channel's variance, as for tiny features or features far from 0. All values of some images are
    checked for overflow, up to 1024 cells of each for rounding.
    """
    parts = []
    for one in maps:
        if not one.half().isfinite().all():
            return "overflow"
        count = one.shape[1] * one.shape[2]
        parts.append(one.flatten(1)[:, torch.linspace(0, count - 1, min(count, CELLS)).long()])
    found = []
    for some in torch.cat(parts, 1).split(256):  # some channels at a time, because float64 needs space
        rows = some.double()
        found.append((*torch.var_mean(rows, 1, correction=0), (some.half().double() - rows).var(1, correction=0)))
    spread, mean, wrong = (torch.cat(some) for some in zip(*found, strict=True))
    lost = ~is_constant(mean, spread.sqrt()) & (wrong > LOST * spread)
    return f"lose {int(lost.sum())} of {len(lost)} channels to rounding" if lost.any() else ""


def is_constant(mean: Float[Tensor, "C"], deviation: Float[Tensor, "C"]) -> Bool[Tensor, "C"]:
    """Tell which channels are constant, independent of the features' scale."""
    least = torch.maximum(MIN_DEVIATION * mean.abs(), NOISE * deviation.max())
    return deviation <= least.clamp_min(TINY)


# --- Probes -------------------------------------------------------------------------------------------------------
