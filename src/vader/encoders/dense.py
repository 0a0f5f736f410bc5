"""What every encoder is to the exams: pictures in, a vector for every cell out.

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
    """Something that gives every cell of a picture a vector.

    `features` takes images (B, 3, H, W) in [0, 1], on any device, to maps (B, C, ceil(H / stride), ceil(W / stride)),
    not normalised: what a probe reads. `to_embedding` is for encoders whose cosine needs more than normalising.

    `facts` say what it is, in plain JSON: spec, source, variant, mean and std of the normalisation, `loaded` (matched,
    missing and unused tensors of its file), the file and its SHA-256, and for our models the card.

    `pending` says that `fit` has yet to see pictures: to reduce to that many dimensions, or to find the mean. Until
    then features of `channels` channels do not exist, and asking for them is our own mistake; `unfitted` gives those
    before the reduction.

    `norms` are the group norms of its network, whose statistics `tiling` sets for large images.
    """

    name: str
    stride: int
    channels: int
    features: Callable[[Tensor], Tensor]
    to_embedding: Callable[[Tensor], Tensor] | None = None  # images -> normalised maps, in place of the features'
    facts: dict[str, Any] = field(default_factory=dict)
    pending: int | Literal["centred"] | None = None
    unfitted: "DenseEncoder | None" = None
    norms: tuple[GroupNorm, ...] = ()

    @property
    def identity(self) -> str:
        """What tells it from other encoders wherever its file lies: of our models the card's SHA-256."""
        spec, lineage = str(self.facts.get("spec", self.name)), self.facts.get("lineage")
        if isinstance(lineage, dict) and "@" not in spec:
            return str(lineage["sha256"])
        read = "@".join(["", *spec.rpartition("/")[2].split("@")[1:]])
        names = [self.facts.get(key) for key in ("source", "network", "sha256", "seed")]
        return " ".join(str(name) for name in names if name is not None) + read

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """L2-normalised maps, whose products are similarities."""
        if self.to_embedding:
            return self.to_embedding(images)
        return F.normalize(self.features(images).float(), dim=1)


def await_fitting(encoder: DenseEncoder, name: str, pending: int | Literal["centred"]) -> DenseEncoder:
    """The encoder as it will be once `fit` has seen pictures. Raises BadInput for more dimensions than channels."""
    if pending != "centred" and not 1 <= pending <= encoder.channels:
        raise BadInput(
            f"{encoder.name}: expected 1 to {encoder.channels} dimensions to reduce to, got {pending}; it has no more"
        )

    def features(images: Tensor) -> Tensor:
        raise AssertionError(f"{name} has to see pictures first: call vader.encoders.fit")

    channels = encoder.channels if pending == "centred" else pending
    return DenseEncoder(name, encoder.stride, channels, features, None, encoder.facts, pending, encoder, encoder.norms)
