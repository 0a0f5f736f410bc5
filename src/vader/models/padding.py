"""Pad images of any size to multiples that a network needs: right and below, so that cells do not move.

Axes: B images, H W pixels.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.errors import BadInput
from vader.images.pictures import MIN_SIDE


def mean_padded(images: Float[Tensor, "B 3 H W"], multiple: int, mean: Tensor) -> Float[Tensor, "B 3 _ _"]:
    """Pad images right and below with `mean` (3, 1, 1) to multiples of `multiple` pixels.

    After normalisation the padding is zero, as in the padding of convolutions. Raises BadInput below 32 px.
    """
    H, W = _large_enough(images)
    bottom, right = -H % multiple, -W % multiple
    if not (bottom or right):
        return images
    padded = mean.expand(*images.shape[:2], H + bottom, W + right).to(images.dtype).clone()
    padded[..., :H, :W] = images
    return padded


def edge_padded(images: Float[Tensor, "B 3 H W"], multiple: int) -> Float[Tensor, "B 3 _ _"]:
    """Pad images right and below to multiples of `multiple` pixels; repeat the last row and column.

    For transformers, which treat a constant patch as an object. Raises BadInput below 32 px.
    """
    H, W = _large_enough(images)
    return F.pad(images, (0, -W % multiple, 0, -H % multiple), mode="replicate")


def _large_enough(images: Tensor) -> tuple[int, int]:
    H, W = images.shape[2:]
    if min(H, W) < MIN_SIDE:
        raise BadInput(f"images: expected at least {MIN_SIDE} px on each side, found {H}x{W}; enlarge them first")
    return H, W
