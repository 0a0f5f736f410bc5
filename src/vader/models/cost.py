"""The cost of a network: parameters and multiply-adds; and a decoder that fits an encoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vader.models.backbones import CNN
from vader.models.network import DenseNetwork, Network, NetworkConfig


def is_depthwise(encoder: str) -> bool:
    """Tell whether most spatial convolutions of an encoder are depthwise: on CPUs bf16 is slower than fp32 for these.

    Measured with tf_efficientnet_lite0 at 96 px, batch 32, two cores with bf16 units: 59 pairs per second in fp32, 49
    in bf16; ResNet-10-t: 65 and 117.
    """
    spatial = [m for m in CNN(encoder).modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    return sum(m.groups > 1 for m in spatial) > len(spatial) / 2


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds per image, of the encoder and of the layers after it."""

    encoder_parameters: int
    decoder_parameters: int
    encoder_macs: int
    decoder_macs: int

    def __str__(self) -> str:
        return (
            f"encoder {self.encoder_parameters / 1e6:.2f} M parameters, {self.encoder_macs / 1e9:.2f} G multiply-adds; "
            f"decoder {self.decoder_parameters / 1e6:.2f} M, {self.decoder_macs / 1e9:.2f} G"
        )


@torch.no_grad()
def cost(network: Network, size: int = 224) -> Cost:
    """Count parameters, and the multiply-adds of all convolutions and linear layers for one image of size x size."""
    macs: dict[nn.Module, int] = {}

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        macs[module] = macs.get(module, 0) + weight[0].numel() * output[0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count) for m in layers]
    modes = [(module, module.training) for module in network.modules()]  # a frozen encoder has its own mode
    network.eval()(torch.zeros(1, 3, size, size, device=network.encoder.mean.device))
    for module, mode in modes:
        module.training = mode
    for handle in handles:
        handle.remove()
    mine = set(network.encoder.modules())
    parameters = sum(p.numel() for p in network.encoder.parameters())
    return Cost(
        encoder_parameters=parameters,
        decoder_parameters=sum(p.numel() for p in network.parameters()) - parameters,
        encoder_macs=sum(n for m, n in macs.items() if m in mine),
        decoder_macs=sum(n for m, n in macs.items() if m not in mine),
    )


# The paper's decoder first. A decoder is used if its cost is at most 1.5 times the encoder's.
DECODERS = ((256, 128, True), (128, 128, False), (96, 96, False), (64, 64, False))


def fitting_decoder(encoder: str) -> dict[str, Any]:
    """Return decoder widths that fit an encoder's cost: the paper's for ResNet-50, smaller ones for small encoders."""
    chosen: dict[str, Any] = {}
    for pyramid_width, decoder_width, outputs in DECODERS:
        chosen = {"pyramid_width": pyramid_width, "decoder_width": decoder_width, "pyramid_outputs": outputs}
        spent = cost(DenseNetwork(NetworkConfig(encoder=encoder, **chosen)))
        if spent.decoder_macs <= 1.5 * spent.encoder_macs:
            break
    return chosen
