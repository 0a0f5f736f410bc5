"""One door for every encoder: a name or a path -> pictures in, dense features out.

Axes: B images, C channels, D embedding, H W pixels, h w cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
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


@torch.no_grad()
def reduce_by_pca(encoder: DenseEncoder, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], dim: int) -> DenseEncoder:
    """The encoder with its normalised features centred and turned onto their `dim` main directions over `images`.

    So that encoders of many channels can be held against ours at equal dimension. Raises BadInput for more directions
    than channels.
    """
    if not 1 <= dim <= encoder.channels:
        raise BadInput(f"{encoder.name}: expected 1 to {encoder.channels} dimensions to reduce to, got {dim}")
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for image in images:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        cells = encoder.embed(pixels)[0].flatten(1).T.double()  # (hw, C)
        count, total, products = count + len(cells), total + cells.sum(0), products + cells.T @ cells
    mean = total / count
    _, directions = torch.linalg.eigh(products / count - mean.outer(mean))  # ascending
    turn = directions[:, -dim:].flip(1).T.float()  # (D, C)
    offset = turn @ mean.float()

    def features(pixels: Tensor) -> Tensor:
        return torch.einsum("dc,bchw->bdhw", turn.to(pixels.device), encoder.embed(pixels)) - offset[:, None, None]

    return DenseEncoder(f"{encoder.name}:{dim}", encoder.stride, dim, features)


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
