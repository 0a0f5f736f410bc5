"""Convert masks to labels of cells, propagate labels between cells, and convert labels of cells to masks.

Axes: H W pixels, h w cells, N queries, M keys, K neighbours, O objects (0, the background, is one).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from vader.finetuning.pixels import full_size
from vader.images.geometry import cell_centres, read_at
from vader.inference.propagation.protocols import PropagationProtocol

FLAT = 1e-5  # a smaller difference between shares is a rounding error


def carry(
    labels: Float[Tensor, "M O"], weights: Float[Tensor, "N K"], which: Int64[Tensor, "N K"]
) -> Float[Tensor, "N O"]:
    """Return the weighted sum of the selected keys' labels."""
    return torch.einsum("nk,nko->no", weights, labels[which])


def stretched(shares: Float[Tensor, "M O"]) -> Float[Tensor, "M O"]:
    """Scale each object's map to [0, 1] by its minimum and maximum; a constant map becomes 0."""
    moved = shares - shares.amin(0)
    return moved / moved.amax(0).clamp_min(torch.finfo(moved.dtype).tiny)


def stretched_out(shares: Float[Tensor, "M O"]) -> Float[Tensor, "M O"]:
    """Scale each object's map to [0, 1] before objects compete; a constant map becomes 1 if it is above 0.

    For a constant map DINO's code divides 0 by 0, and NaN wins the maximum: an object that fills the frame wins. Here
    differences below the rounding error count as constant; in DINO's code they are scaled up.
    """
    low, high = shares.amin(0), shares.amax(0)
    return torch.where(high - low < FLAT, (high > FLAT).to(shares.dtype), stretched(shares))


def cell_labels(
    mask: Integer[np.ndarray, "H W"],
    ids: Sequence[int],
    how: Literal["area", "bilinear", "nearest"],
    size: tuple[int, int],
    stride: int,
) -> Float[Tensor, "hw O"]:
    """Return each cell's share of each object of `ids`; the frame that the encoder sees has `size` (height, width).

    "nearest" reads the mask's pixel at the cell's centre. The other modes first resize the mask to `size` by the
    nearest pixel. A cell at the edge is averaged over the pixels that it has.
    """
    h, w = (-(-side // stride) for side in size)
    if how == "nearest":
        y, x = (_pixels_at(n, stride * has / side, has) for n, side, has in zip((h, w), size, mask.shape, strict=True))
        at_cells = mask[np.ix_(y, x)].reshape(-1)
        return torch.from_numpy(np.stack([at_cells == number for number in ids], 1)).float()
    mask = resized_mask(mask, size)
    columns = []  # one object at a time saves memory: there can be dozens, and the picture is large
    centres = torch.from_numpy(np.array(cell_centres(h, w, stride)[None])).float()
    for number in ids:
        one = torch.from_numpy(mask == number).float()[None, None]
        if how == "area":
            columns.append(F.avg_pool2d(one, stride, ceil_mode=True, count_include_pad=False).flatten())
        else:
            columns.append(read_at(one, centres, 1).flatten())
    return torch.stack(columns, 1)


def pixel_labels(
    shares: Float[Tensor, "hw O"], size: tuple[int, int], out: tuple[int, int], stride: int,
    protocol: PropagationProtocol,
) -> Int64[np.ndarray, "H W"]:  # fmt: skip
    """Return the index of the object with the largest share at each pixel of a picture of `out` (height, width).

    Shares are upsampled to `size`, the frame that the encoder sees. The winner is resized to `out` by the nearest
    pixel.
    """
    h, w = (-(-side // stride) for side in size)
    if protocol.label_out == "nearest":
        at_cells = (stretched_out(shares) if protocol.stretched_out else shares).argmax(1).view(h, w).cpu().numpy()
        y, x = (_pixels_at(n, has / n / stride, cells) for n, has, cells in zip(out, size, (h, w), strict=True))
        return at_cells[np.ix_(y, x)]
    maps = shares.T.reshape(1, -1, h, w)
    best = torch.full(size, -torch.inf, device=maps.device)
    winner = torch.zeros(size, dtype=torch.int64, device=maps.device)
    for number, part in enumerate(maps.split(1, dim=1)):  # one at a time to save memory
        value = full_size(part, stride, size)[0, 0]
        if protocol.stretched_out:
            value = stretched_out(value.reshape(-1, 1)).view(size)
        better = value > best
        best, winner = torch.where(better, value, best), torch.where(better, number, winner)
    return resized_mask(winner.cpu().numpy(), out)


def resized_mask(mask: Shaped[np.ndarray, "H W"], size: tuple[int, int]) -> Shaped[np.ndarray, "_ _"]:
    """Resize the mask: each pixel takes the value at its centre."""
    if mask.shape == size:
        return mask
    y, x = (_pixels_at(n, has / n, has) for n, has in zip(size, mask.shape, strict=True))
    return mask[np.ix_(y, x)]


def _pixels_at(count: int, step: float, length: int) -> Int64[np.ndarray, "count"]:
    """Return which of `length` pixels in a row contain the centres of `count` pieces of `step` pixels."""
    # Accumulate as Pillow does, so that rounding is the same where a centre is on the edge between two pixels.
    centres = np.cumsum(np.concatenate([[step / 2], np.full(count - 1, step)]))
    return np.minimum(centres.astype(np.int64), length - 1)
