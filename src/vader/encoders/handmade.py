"""Encoders without training, as baselines: raw colour and dense SIFT.

Axes: B images, H W pixels, h w cells, m n bins of an image, O = 8 orientations.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.encoders.dense import DenseEncoder
from vader.images.colour import raw_colour
from vader.models.backbones import STRIDE
from vader.models.padding import edge_padded

ORIENTATIONS, BINS = 8, 4  # 4 x 4 bins of 8 orientations: 128 dimensions
BIN = STRIDE  # side in pixels: a descriptor's patch is 16 px, as in SIFT flow (Liu et al. 2011)
BLUR = math.sqrt((BIN / 3) ** 2 - 0.5**2)  # pixels: bins are 3 scales wide (Lowe), an image is already blurred by 0.5
WINDOW = 2.0  # bins: deviation of the Gaussian weight of the patch (half the patch; Lowe 2004, 6.1)
CLIP = 0.2  # of the normalised descriptor: limits the effect of one strong edge (Lowe 2004, 6.1)
FLAT = 1e-3  # added to every bin of a descriptor, so that patches without edges are similar, not noise
GREY = (0.299, 0.587, 0.114)


def raw_colours(device: str | torch.device) -> DenseEncoder:
    """Return the encoder `rgb`: the mean colour of each 4 x 4 cell; its similarities rank by distance of colours."""

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return F.avg_pool2d(images.to(device), STRIDE, ceil_mode=True, count_include_pad=False)

    @torch.no_grad()
    def embedding(images: Tensor) -> Tensor:
        return raw_colour(images.to(device))

    return DenseEncoder("rgb", STRIDE, 3, features, embedding, _facts("rgb"))


def sift(device: str | torch.device) -> DenseEncoder:
    """Return the encoder `sift`: a 128-d descriptor of the 16 x 16 px around each cell's centre, upright, one scale."""

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return dense_sift(images.to(device))

    facts = _facts("sift") | {"patch": BINS * BIN, "bins": BINS, "orientations": ORIENTATIONS, "window": WINDOW}
    return DenseEncoder("sift", STRIDE, ORIENTATIONS * BINS**2, features, facts=facts)


def _facts(name: str) -> dict:
    return {"source": name, "variant": "plain", "mean": None, "std": None, "loaded": None, "lineage": "no weights"}


def dense_sift(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 128 h w"]:
    """Compute descriptors, L2-normalised, clipped at 0.2 and normalised again (Lowe 2004); bins row by row.

    Gradients are central differences of the grey image, smoothed to the scale of such bins. A pixel's magnitude is
    divided linearly between the two nearest orientations and the four nearest bins. With bins of 4 px at stride 4
    neighbouring descriptors share bins, so each bin is computed once per image. Differences from Lowe: bins are
    weighted by the Gaussian at their centre, not pixel by pixel (as VLFeat's flat window); there is one scale and no
    dominant orientation.
    """
    padded = edge_padded(images.float(), STRIDE)
    energy = _by_orientation(padded)  # (B, O, H, W)
    # A bin's centre is between pixels, at a multiple of 4; its weights fall linearly over the 8 x 8 pixels around it.
    ramp = 1 - (torch.arange(2 * BIN, device=energy.device) + 0.5 - BIN).abs() / BIN
    weight = ramp.outer(ramp).expand(ORIENTATIONS, 1, -1, -1)
    # Descriptor k has the bins centred at 4 (k - 1) ... 4 (k + 2): one before the image, two after its last cell.
    around = F.pad(energy, (2 * BIN, 2 * BIN, 2 * BIN, 2 * BIN), mode="replicate")
    bins = F.conv2d(around, weight, stride=BIN, groups=ORIENTATIONS)  # (B, O, h + 3, w + 3)
    h, w = (side // STRIDE for side in padded.shape[2:])
    offset = torch.arange(BINS) - (BINS - 1) / 2
    window = torch.exp(-offset.square() / (2 * WINDOW**2))
    parts = [bins[:, :, i : i + h, j : j + w] * float(window[i] * window[j]) for i in range(BINS) for j in range(BINS)]
    descriptors = F.normalize(torch.cat(parts, 1) + FLAT, dim=1)
    return F.normalize(descriptors.clamp_max(CLIP), dim=1)


def _by_orientation(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 8 H W"]:
    """Compute each pixel's gradient magnitude, divided between the two nearest orientations."""
    grey = torch.einsum("bchw,c->bhw", images, images.new_tensor(GREY))[:, None]
    reach = torch.arange(-5, 6, device=images.device)
    weight = torch.exp(-reach.square() / (2 * BLUR**2)).to(grey.dtype)
    weight = weight / weight.sum()
    smooth = F.conv2d(F.pad(grey, (5, 5, 5, 5), mode="replicate"), weight.view(1, 1, 1, -1))
    smooth = F.conv2d(smooth, weight.view(1, 1, -1, 1))
    edged = F.pad(smooth, (1, 1, 1, 1), mode="replicate")
    right = (edged[..., 1:-1, 2:] - edged[..., 1:-1, :-2]) / 2
    down = (edged[..., 2:, 1:-1] - edged[..., :-2, 1:-1]) / 2
    turn = torch.atan2(down, right) * ORIENTATIONS / (2 * math.pi)  # in orientations, -4 ... 4
    each = torch.arange(ORIENTATIONS, device=images.device).view(-1, 1, 1)
    apart = (turn - each).remainder(ORIENTATIONS)
    apart = torch.minimum(apart, ORIENTATIONS - apart)
    return (right.square() + down.square()).sqrt() * (1 - apart).clamp_min(0)
