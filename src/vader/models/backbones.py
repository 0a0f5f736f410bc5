"""Backbones by timm names: CNNs and plain vision transformers with one interface, and their published weights.

Axes: B images, C channels, H W pixels, h w cells of a level.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vader.errors import BadCheckpoint, BadInput

STRIDE = 4  # of the dense map
LEVEL_STRIDES = (4, 8, 16, 32)  # of a CNN
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of the three channels
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HEAD_WIDTH = 64  # channels of an attention head in every ViT from Ti to g
ONE_LINE = 200  # characters of a library's error message


class Backbone(nn.Module, ABC):
    """The base of a dense encoder: a network from images in [0, 1] to maps at several strides.

    `strides` (in pixels) and `channels` have one entry per level, finest first; sides of images must be multiples of
    the largest stride. It normalises its input with its own `mean` and `std`, buffers of shape (3, 1, 1). `body` is
    timm's network.
    """

    body: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, strides: Sequence[int], channels: Sequence[int], normalisation: Normalisation
    ) -> None:
        super().__init__()
        self.name, self.strides, self.channels = name, tuple(strides), list(channels)
        for word, values in zip(("mean", "std"), normalisation, strict=True):
            self.register_buffer(word, torch.tensor(values).view(3, 1, 1), persistent=False)

    @abstractmethod
    def levels(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Compute the maps (B, C, h, w) of all levels, finest first."""

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Return `levels`."""
        return self.levels(images)


class CNN(Backbone):
    """A timm CNN with levels at strides 4, 8, 16 and 32.

    Raises BadInput for an unknown name and for a network without these levels.
    """

    def __init__(self, name: str) -> None:
        try:
            body: Any = timm.create_model(name, features_only=True, pretrained=False)
        except Exception as error:  # timm raises RuntimeError, AssertionError and others
            raise BadInput(
                f"encoder: expected a timm CNN with features at strides {LEVEL_STRIDES}, found {name!r} ({error}); "
                "timm.list_models() lists the names"
            ) from None
        strides = list(body.feature_info.reduction())
        if missing := set(LEVEL_STRIDES) - set(strides):
            raise BadInput(
                f"encoder {name!r} has strides {strides}; {sorted(missing)} are missing. Use a CNN that has them"
            )
        places = [strides.index(s) for s in LEVEL_STRIDES]
        super().__init__(name, LEVEL_STRIDES, [body.feature_info.channels()[i] for i in places], _normalisation(name))
        self.body, self.places = body, places

    def levels(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Compute the four maps of images whose sides are multiples of 32."""
        maps = self.body((images - self.mean) / self.std)
        return [maps[i] for i in self.places]


class ViT(Backbone):
    """A plain vision transformer with one level: the patch tokens after the last block and norm."""

    def __init__(self, name: str, body: Any, patch: int, normalisation: Normalisation) -> None:
        super().__init__(name, [patch], [int(body.embed_dim)], normalisation)
        self.body = body

    def levels(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Compute one map of images whose sides are multiples of the patch; position embeddings are interpolated."""
        pixels = (images - self.mean) / self.std
        return list(self.body.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True))


def _normalisation(name: str) -> Normalisation:
    known = timm.get_pretrained_cfg(name)
    return (known.mean, known.std) if known else IMAGENET


def backbone(name: str) -> CNN | ViT:
    """Build the network of a timm name with random weights from torch's global generator.

    Raises BadInput for an unknown name and for networks that are neither a CNN with levels at strides
    4 to 32 nor a plain vision transformer.
    """
    state = torch.get_rng_state()
    try:
        return CNN(name)
    except BadInput:
        torch.set_rng_state(state)
        if not timm.is_model(name.split(".")[0]) or (found := _transformer(name)) is None:
            raise
        return found


def _transformer(name: str) -> ViT | None:
    try:
        body: Any = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        patch = body.patch_embed.patch_size
        assert patch[0] == patch[1]
        assert body.blocks is not None and body.forward_intermediates is not None  # noqa: PT018
    except (TypeError, AttributeError, AssertionError, RuntimeError, ValueError):
        return None
    return ViT(name, body, patch[0], _normalisation(name))


def published_tensors(name: str) -> tuple[dict[str, Tensor], str]:
    """Return timm's weights for a name and their source; download them unless they are in the Hub's cache.

    Raises BadInput if they are not available: no published weights, no network, or HF_HUB_OFFLINE is set.
    """
    where = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # from the Hub, urllib or timm
        reason = (" ".join(str(error).split()) or type(error).__name__)[:ONE_LINE]
        raise BadInput(
            f"timm:{name}: expected weights to download or in the Hub's cache, found none ({reason}); "
            f"give a file instead: timm:{name}=FILE, --weights FILE, or --init FILE for a run"
        ) from None
    source = (where.hf_hub_id or where.url) if where else name
    return dict(model.state_dict()), f"timm, {source}"


def vit_of(tensors: Mapping[str, Tensor], name: str) -> tuple[ViT, dict[str, Tensor]]:
    """Build the transformer that fits a DINO or DINOv2 file, and rename the file's tensors to timm's names.

    Width, depth, patch, registers, layer scale and SwiGLU follow from the shapes. The weights are not loaded yet.
    Raises BadCheckpoint for a file without a vision transformer's tensors.
    """
    try:
        width, patch = tensors["cls_token"].shape[-1], tensors["patch_embed.proj.weight"].shape[-1]
        positions = tensors["pos_embed"].shape[1] - 1
    except KeyError as error:
        raise BadCheckpoint(f"{name}: expected a vision transformer's tensors, found no {error}") from None
    renamed = _timm_names(tensors)
    blocks = [key.split(".") for key in renamed if key.startswith("blocks.")]
    depth, grid = 1 + max((int(words[1]) for words in blocks), default=0), math.isqrt(positions)
    if grid**2 != positions or width % HEAD_WIDTH or not blocks:
        raise BadCheckpoint(
            f"{name}: expected a vision transformer of heads of {HEAD_WIDTH} channels on a square of patches, "
            f"found {width} channels, {positions} positions and {len(blocks)} tensors of blocks"
        )
    options: dict[str, Any] = {}
    if "reg_token" in renamed:
        options |= {"reg_tokens": renamed["reg_token"].shape[1], "no_embed_class": True}
    if "blocks.0.ls1.gamma" in renamed:
        options["init_values"] = 1e-5  # any value: it creates the tensors that the file fills
    hidden = renamed["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in renamed else 4 * width
    if "blocks.0.mlp.w12.weight" in tensors or "blocks.0.0.mlp.w12.weight" in tensors:
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    body = VisionTransformer(
        img_size=grid * patch, patch_size=patch, embed_dim=width, depth=depth, num_heads=width // HEAD_WIDTH,
        mlp_ratio=(hidden + 0.5) / width, num_classes=0, dynamic_img_size=True, **options,
    )  # fmt: skip
    return ViT(f"vit {width}/{patch}, {depth} blocks", body, patch, IMAGENET), renamed


def _timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename DINOv2's tensors to timm's names; DINO's names are already the same.

    Training files have their blocks in chunks (blocks.0.3. ...). In networks with registers only the class token has
    a position embedding, which timm adds to the token itself.
    """
    renamed = {}
    for name, tensor in tensors.items():
        words = name.split(".")
        if words[0] == "blocks" and words[2].isdigit():
            del words[1]
        name = ".".join(words).replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")
        renamed[name.replace("register_tokens", "reg_token")] = tensor
    if "reg_token" in renamed:
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed
