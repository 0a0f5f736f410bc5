"""The variants: dense maps of a convolutional network that was made for whole images.

Axes: B images, C channels, H W pixels, h w cells.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vader.encoders.dense import DenseEncoder
from vader.encoders.dilation import dilate
from vader.encoders.spec import CNN_VARIANTS
from vader.errors import BadInput
from vader.models.backbones import CNN, LEVEL_STRIDES, STRIDE
from vader.models.groupnorm import settable_norms
from vader.models.network import hypercolumn
from vader.models.padding import mean_padded

COARSEST = LEVEL_STRIDES[-1]
PIXELS_A_THREAD = 256 * 256  # per CPU thread at a time; more leave the caches and take up to 1.4 times as long


def read_cnn(encoder: CNN, variant: str, name: str, facts: dict[str, Any], device: str | torch.device) -> DenseEncoder:
    """Return an encoder with the map of a variant:

    * `hypercolumn`: all levels, each L2-normalised, bilinearly resized to stride 4 and concatenated;
    * `last`: the deepest level, stride 32; `stage:1` to `stage:4`: the level at stride 4, 8, 16, 32;
    * `dilated`: the deepest level at stride 4, strides replaced by dilation (this changes the encoder's modules).

    Raises BadInput for another variant.
    """
    encoder = encoder.eval().to(device)
    facts = {**facts, "network": encoder.name, "architecture": "cnn", "variant": variant, **normalisation(encoder)}
    if variant == "hypercolumn":
        stride, channels = STRIDE, sum(encoder.channels)
        read: Callable[[Tensor], Tensor] = lambda images: hypercolumn(encoder, images)  # noqa: E731
    elif variant == "dilated":
        dilate(encoder)
        stride, channels = STRIDE, encoder.channels[-1]
        read = lambda images: _level(encoder, images, -1, STRIDE, STRIDE)  # noqa: E731
    elif variant == "last" or variant in CNN_VARIANTS:
        index = len(LEVEL_STRIDES) - 1 if variant == "last" else int(variant.removeprefix("stage:")) - 1
        stride, channels = LEVEL_STRIDES[index], encoder.channels[index]
        read = lambda images: _level(encoder, images, index, COARSEST, stride)  # noqa: E731
    else:
        raise BadInput(f"{name}: expected for a CNN one of {', '.join(CNN_VARIANTS)}, found @{variant}")
    norms = tuple(settable_norms(encoder))
    return DenseEncoder(name, stride, channels, on_device(read, device), facts=facts, norms=norms)


def on_device(read: Callable[[Tensor], Tensor], device: str | torch.device) -> Callable[[Tensor], Tensor]:
    """Wrap `read` for images of any device, without gradients; on a CPU in small batches, which is faster."""
    on_cpu = torch.device(device).type == "cpu"

    @torch.no_grad()  # not inference mode: a probe computes gradients with these
    def features(images: Tensor) -> Tensor:
        area = images.shape[2] * images.shape[3]
        few = max(1, PIXELS_A_THREAD * torch.get_num_threads() // max(1, area))
        if on_cpu and len(images) > few:
            return torch.cat([read(some) for some in images.to(device).split(few)])
        return read(images.to(device))

    return features


def normalisation(encoder: Any) -> dict[str, list[float]]:
    """Return the mean and deviation of an encoder's normalisation, for `facts`."""
    return {word: [round(float(v), 4) for v in getattr(encoder, word).flatten()] for word in ("mean", "std")}


def _level(encoder: CNN, images: Tensor, index: int, multiple: int, stride: int) -> Tensor:
    """Compute one level of the encoder, cropped to the images' own cells."""
    h, w = (-(-side // stride) for side in images.shape[2:])
    return encoder(mean_padded(images, multiple, encoder.mean))[index][..., :h, :w].float()
