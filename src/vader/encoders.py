"""One door for every encoder: a name or a path -> pictures in, dense features out.

Axes: B images, C channels, D embedding, H W pixels, h w cells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.checkpoint import load_model
from vader.cost import fitting_decoder
from vader.errors import BadInput
from vader.health import raw_colour
from vader.network import STRIDE, Network, NetworkConfig, build

ACCEPTED = "a run folder, a model.safetensors, rgb, random:NAME or random-dense:NAME (NAME: a timm CNN)"


@dataclass(frozen=True)
class DenseEncoder:
    """Something that gives every cell of a picture a vector.

    `features` takes images (B, 3, H, W) in [0, 1], on any device, to maps (B, C, ceil(H / stride), ceil(W / stride)),
    not normalised: what a probe reads. `to_embedding` is for encoders whose cosine needs more than normalising.
    """

    name: str
    stride: int
    channels: int
    features: Callable[[Tensor], Tensor]
    to_embedding: Callable[[Tensor], Tensor] | None = None  # images -> normalised maps, in place of the features'

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """L2-normalised maps, whose products are similarities."""
        if self.to_embedding:
            return self.to_embedding(images)
        return F.normalize(self.features(images).float(), dim=1)


def open_encoder(spec: str, device: str | torch.device = "cpu") -> DenseEncoder:
    """The encoder that `spec` names.

    * a run folder or `model.safetensors`: the model's own features (MoCo's: its hypercolumn);
    * `rgb`: the mean colour of each 4 x 4 cell; its similarities rank by distance of colours;
    * `random:NAME`: hypercolumn of a timm CNN with random weights; `random-dense:NAME`: VADeR's network with random
      weights and the decoder that the recipes give that CNN. The same weights every time.

    Raises BadInput for anything else, BadCheckpoint for a file that is not a whole vader model.
    """
    kind, _, name = spec.partition(":")
    if spec == "rgb":
        return _raw_colours(device)
    if kind == "random" and name:
        return fresh_encoder(NetworkConfig(kind="image", encoder=name), spec, device=device)
    if kind == "random-dense" and name:
        with torch.random.fork_rng(devices=[]):  # it builds networks to measure them
            widths = {} if name == NetworkConfig().encoder else fitting_decoder(name)
        return fresh_encoder(NetworkConfig.model_validate({"encoder": name} | widths), spec, device=device)
    if not Path(spec).exists():
        raise BadInput(f"model: expected {ACCEPTED}, got {spec!r}, which is no file either; check the path or the name")
    return _from_network(load_model(spec, device), spec, device)


def fresh_encoder(config: NetworkConfig, name: str, seed: int = 0, device: str | torch.device = "cpu") -> DenseEncoder:
    """A network with the random weights of `seed`: what an architecture is worth before it learns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(config)
    return _from_network(network.eval().to(device), name, device)


def _from_network(network: Network, name: str, device: str | torch.device) -> DenseEncoder:
    config = network.config
    channels = config.dim if config.kind == "dense" else sum(network.encoder.channels)

    @torch.no_grad()  # not inference mode: a probe will compute gradients with these
    def features(images: Tensor) -> Tensor:
        return network.features(images.to(device))

    return DenseEncoder(name, STRIDE, channels, features)


def _raw_colours(device: str | torch.device) -> DenseEncoder:
    def features(images: Tensor) -> Tensor:
        return F.avg_pool2d(images.to(device), STRIDE, ceil_mode=True, count_include_pad=False)

    return DenseEncoder("rgb", STRIDE, 3, features, lambda images: raw_colour(images.to(device)))
