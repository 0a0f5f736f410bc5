"""The interface of every encoder: images in, a vector for every cell out.

Axes: B images, C channels, D embedding, H W pixels, h w cells.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.errors import BadInput
from vader.models.groupnorm import GroupNorm


@dataclass(frozen=True)
class DenseEncoder:
    """An encoder that computes a vector for every cell of an image.

    `features` maps images (B, 3, H, W) in [0, 1], on any device, to maps (B, C, ceil(H / stride), ceil(W / stride)),
    not normalised; probes use these. `to_embedding` is for encoders whose cosine needs more than normalisation.

    `facts` describe the encoder in plain JSON: spec, source, variant, mean and std of the normalisation, `loaded`
    (matched, missing and unused tensors of its file), the file and its SHA-256, and for vader models the card.

    `pending` means that `fit` must first see images: to reduce to that number of dimensions, or to compute the mean.
    Before that, calling `features` is an AssertionError; `unfitted` is the encoder before the reduction.

    `norms` are the group norms of its network, whose statistics `tiling` sets for large images.
    """

    name: str
    stride: int
    channels: int
    features: Callable[[Tensor], Tensor]
    to_embedding: Callable[[Tensor], Tensor] | None = None  # images -> normalised maps, instead of normalised features
    facts: dict[str, Any] = field(default_factory=dict)
    pending: int | Literal["centred"] | None = None
    unfitted: "DenseEncoder | None" = None
    norms: tuple[GroupNorm, ...] = ()

    @property
    def identity(self) -> str:
        """A text that identifies the encoder, independent of its file's folder; for vader models the card's SHA-256."""
        spec, lineage = str(self.facts.get("spec", self.name)), self.facts.get("lineage")
        if isinstance(lineage, dict) and "@" not in spec:
            return str(lineage["sha256"])
        read = "@".join(["", *spec.rpartition("/")[2].split("@")[1:]])
        names = [self.facts.get(key) for key in ("source", "network", "sha256", "seed")]
        return " ".join(str(name) for name in names if name is not None) + read

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """Compute L2-normalised maps; their dot products are cosine similarities."""
        if self.to_embedding:
            return self.to_embedding(images)
        return F.normalize(self.features(images).float(), dim=1)


def await_fitting(encoder: DenseEncoder, name: str, pending: int | Literal["centred"]) -> DenseEncoder:
    """Mark an encoder as pending until `fit` has seen images. Raises BadInput for more dimensions than channels."""
    if pending != "centred" and not 1 <= pending <= encoder.channels:
        raise BadInput(
            f"{encoder.name}: expected 1 to {encoder.channels} dimensions to reduce to, found {pending}; choose fewer"
        )

    def features(images: Tensor) -> Tensor:
        raise AssertionError(f"{name} must be fitted first: call vader.encoders.fit")

    channels = encoder.channels if pending == "centred" else pending
    return DenseEncoder(name, encoder.stride, channels, features, None, encoder.facts, pending, encoder, encoder.norms)
