"""The networks: encoder + feature pyramid + dense decoder (section 3.2), and MoCo's encoder + image head.

Axes: B images, C channels, D embedding, H W pixels, h w cells. Images are float RGB in [0, 1]; each network applies
its encoder's normalisation.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vader.models.backbones import CNN, LEVEL_STRIDES, STRIDE
from vader.models.groupnorm import GroupNorm
from vader.models.padding import mean_padded


class NetworkConfig(BaseModel):
    """The architecture of a network; together with the tensors it is enough to rebuild a model.

    The paper's decoder is `pyramid_width=256, decoder_width=128, pyramid_outputs=True` (4,984,704 parameters);
    without the pyramid's 3x3 outputs it has 2,624,384, closer to the paper's "around 2M".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dense", "image"] = "dense"  # VADeR's encoder-decoder, or MoCo's encoder with an image head
    encoder: str = "resnet50"
    dim: int = Field(128, ge=2)
    pyramid_width: int = Field(256, ge=8)
    decoder_width: int = Field(128, ge=8)
    pyramid_outputs: bool = True


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017): 1x1 laterals, nearest x2 top-down sums, optional 3x3 outputs."""

    def __init__(self, channels: list[int], width: int, outputs: bool) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.outputs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) if outputs else nn.Identity() for _ in channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # Detectron2's "Xavier" fill
                nn.init.zeros_(_bias(module))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the levels, finest first, all with the same width."""
        merged = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
        return [output(level) for output, level in zip(self.outputs, merged, strict=True)]


class Decoder(nn.Module):
    """Semantic branch (Kirillov et al. 2019): every level to stride 4 by [3x3, GroupNorm, ReLU, bilinear x2], then the
    sum and a 1x1. The stride-4 level has one such block without upsampling, as in the reference code."""

    def __init__(self, width_in: int, width: int, dim: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for stride in LEVEL_STRIDES:
            doublings = int(math.log2(stride // STRIDE))
            blocks: list[nn.Module] = []
            for i in range(max(1, doublings)):
                conv = nn.Conv2d(width_in if i == 0 else width, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                blocks += [conv, GroupNorm(_groups(width), width), nn.ReLU(inplace=True)]
                if doublings:
                    blocks.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.branches.append(nn.Sequential(*blocks))
        self.embedding = nn.Conv2d(width, dim, 1)
        nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(_bias(self.embedding))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return a map (B, dim, h, w) at stride 4, not normalised."""
        total = self.branches[0](levels[0])
        for branch, level in zip(self.branches[1:], levels[1:], strict=True):
            total = total + branch(level)
        return self.embedding(total)


class DenseNetwork(nn.Module):
    """VADeR's network: an embedding for every cell at stride 4."""

    card: dict[str, Any]  # of the file it was loaded from

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config, self.card = config, {}
        self.encoder = CNN(config.encoder)
        self.pyramid = Pyramid(self.encoder.channels, config.pyramid_width, config.pyramid_outputs)
        self.decoder = Decoder(config.pyramid_width, config.decoder_width, config.dim)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Compute features (not normalised) of images of any size >= 32: h = ceil(H / 4), w = ceil(W / 4).

        Sides that are not multiples of 32 are padded right and below with the normalisation's mean (after normalisation
        the zeros of the convolutions' own padding). The result is cropped, so that cell centres do not move.
        """
        h, w = (-(-side // STRIDE) for side in images.shape[2:])
        levels = self.encoder(mean_padded(images, LEVEL_STRIDES[-1], self.encoder.mean))
        return self.decoder(self.pyramid(levels))[..., :h, :w].float()

    features = forward

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Compute L2-normalised embeddings, (B, D, ceil(H / 4), ceil(W / 4))."""
        return F.normalize(self.features(images), dim=1)


class ImageNetwork(nn.Module):
    """MoCo v2's network: pooled encoder and a two-layer head, one vector per image.

    It has no decoder. Its dense map is the encoder's hypercolumn: each level L2-normalised, resized to stride 4 and
    concatenated. This is the best training-free dense map of an image-level network that we know.
    """

    card: dict[str, Any]  # of the file it was loaded from

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config, self.card = config, {}
        self.encoder = CNN(config.encoder)
        width = self.encoder.channels[-1]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, config.dim))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Compute one vector per image (not normalised)."""
        return self.head(self.encoder(images)[-1].mean((2, 3))).float()

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the hypercolumn at stride 4; C is the sum of the levels' channels."""
        return hypercolumn(self.encoder, images)

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Compute the hypercolumn, L2-normalised."""
        return F.normalize(self.features(images), dim=1)


Network = DenseNetwork | ImageNetwork


def build(config: NetworkConfig) -> Network:
    """Build the network of a config, with random weights from torch's global generator."""
    return DenseNetwork(config) if config.kind == "dense" else ImageNetwork(config)


def hypercolumn(encoder: CNN, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """L2-normalise all levels of an encoder, resize them bilinearly to stride 4 and concatenate them."""
    h, w = (-(-side // STRIDE) for side in images.shape[2:])
    levels = encoder(mean_padded(images, LEVEL_STRIDES[-1], encoder.mean))
    size = levels[0].shape[2:]
    maps = [F.interpolate(F.normalize(x.float(), dim=1), size=size, mode="bilinear") for x in levels]
    return torch.cat(maps, 1)[..., :h, :w]


def _groups(width: int) -> int:
    """Return the number of groups: GroupNorm's 32, or in narrow decoders so many that a group has four channels."""
    groups = min(32, max(1, width // 4))
    while width % groups:
        groups -= 1
    return groups


def _bias(module: nn.Conv2d) -> Tensor:
    assert module.bias is not None
    return module.bias
