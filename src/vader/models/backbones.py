"""Networks by timm's names: CNNs with four levels, plain vision transformers, and their published weights.

Axes: B images, C channels, H W pixels, h w patches.
"""

import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vader.errors import BadCheckpoint, BadInput
from vader.models.network import Encoder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HEAD_WIDTH = 64  # channels of an attention head in every ViT from Ti to g
ONE_LINE = 200  # characters of what a library says


class Transformer(nn.Module):
    """A plain vision transformer giving its patches' tokens after the last block and norm, at stride `patch`."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, body: Any, patch: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.name, self.body, self.patch, self.channels = name, body, patch, int(body.embed_dim)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """The tokens of images whose sides are multiples of the patch; position embeddings are interpolated."""
        pixels = (images - self.mean) / self.std
        return self.body.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)[0]


def backbone(name: str) -> Encoder | Transformer:
    """The network of a timm name with random weights from torch's global generator.

    Raises BadInput for a name that timm does not know and for networks that are neither a CNN with levels at strides
    4 to 32 nor a plain vision transformer.
    """
    state = torch.get_rng_state()
    try:
        return Encoder(name)
    except BadInput:
        torch.set_rng_state(state)
        if not timm.is_model(name.split(".")[0]) or (found := _transformer(name)) is None:
            raise
        return found


def _transformer(name: str) -> Transformer | None:
    try:
        body: Any = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        patch = body.patch_embed.patch_size
        assert patch[0] == patch[1]
        assert body.blocks is not None and body.forward_intermediates is not None  # noqa: PT018
    except (TypeError, AttributeError, AssertionError, RuntimeError, ValueError):
        return None
    known = timm.get_pretrained_cfg(name)
    mean, std = (known.mean, known.std) if known else IMAGENET
    return Transformer(name, body, patch[0], mean, std)


def published_tensors(name: str) -> tuple[dict[str, Tensor], str]:
    """timm's own weights for a name and where they are from, downloaded unless the Hub's cache has them.

    Raises BadInput if they cannot be had: no such weights, no network, or HF_HUB_OFFLINE set.
    """
    where = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # the Hub's, urllib's, timm's own
        reason = (" ".join(str(error).split()) or type(error).__name__)[:ONE_LINE]
        raise BadInput(
            f"timm:{name}: expected weights to download or in the Hub's cache, got none ({reason}); "
            f"name a file: timm:{name}=FILE, or --weights FILE"
        ) from None
    source = (where.hf_hub_id or where.url) if where else name
    return dict(model.state_dict()), f"timm, {source}"


def vit_of(tensors: Mapping[str, Tensor], name: str) -> tuple[Transformer, dict[str, Tensor]]:
    """The transformer whose shape a DINO or DINOv2 file has, and the file's tensors under timm's names.

    Width, depth, patch, registers, layer scale and SwiGLU are read off the shapes. The weights are not yet loaded.
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
            f"got {width} channels, {positions} positions and {len(blocks)} tensors of blocks"
        )
    options: dict[str, Any] = {}
    if "reg_token" in renamed:
        options |= {"reg_tokens": renamed["reg_token"].shape[1], "no_embed_class": True}
    if "blocks.0.ls1.gamma" in renamed:
        options["init_values"] = 1e-5  # any: it makes the tensors that the file fills
    hidden = renamed["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in renamed else 4 * width
    if "blocks.0.mlp.w12.weight" in tensors or "blocks.0.0.mlp.w12.weight" in tensors:
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    body = VisionTransformer(
        img_size=grid * patch, patch_size=patch, embed_dim=width, depth=depth, num_heads=width // HEAD_WIDTH,
        mlp_ratio=(hidden + 0.5) / width, num_classes=0, dynamic_img_size=True, **options,
    )  # fmt: skip
    return Transformer(f"vit {width}/{patch}, {depth} blocks", body, patch, *IMAGENET), renamed


def _timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's names in timm's words; DINO's are the same already.

    Training files have their blocks in chunks (blocks.0.3. ...). In networks with registers the class token alone has
    a position embedding, which timm has summed into it.
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
