"""Photometry: colour jitter, grey, blur, solarise; on uint8 arrays (OpenCV) and on batches (torch, any device).

The operations are torchvision's (ColorJitter in random order, then grey, blur, solarise), with the same meaning of all
factors. Differences: blur is a true Gaussian (Pillow's is three box filters), and the torch version uses floats without
intermediate rounding. `bench/input.py` states the difference in pixel values.

Axes: B images, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow and OpenCV


@dataclass(frozen=True)
class Colour:
    """The colour changes of one view. The default values change nothing.

    `order` has BRIGHTNESS, CONTRAST, SATURATION, HUE in the order of application; `factors` is indexed by these
    constants: three factors (1 = unchanged) and a hue shift in turns (-0.5..0.5, 0 = unchanged). `sigma` is the
    standard deviation of the blur in pixels (0 = none); `solarise` inverts values of 128 and above.
    """

    order: tuple[int, int, int, int] = (0, 1, 2, 3)
    factors: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    grey: bool = False
    sigma: float = 0.0
    solarise: bool = False

    def pack(self) -> Float[np.ndarray, "11"]:
        """Pack into one row of numbers for `paint_batch`."""
        return np.array([*self.order, *self.factors, self.grey, self.sigma, self.solarise], dtype=np.float32)


def paint(image: UInt8[np.ndarray, "H W 3"], colour: Colour) -> UInt8[np.ndarray, "H W 3"]:
    """Change the colours of the image, on the CPU."""
    for operation in colour.order:
        image = _PAINT[operation](image, colour.factors[operation])
    if colour.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if colour.sigma > 0:
        k = kernel_size(colour.sigma)
        image = cv2.GaussianBlur(image, (k, k), colour.sigma, borderType=cv2.BORDER_REFLECT_101)
    if colour.solarise:
        image = np.where(image < 128, image, 255 - image)
    return image


def kernel_size(sigma: float) -> int:
    """Return a size with three standard deviations on each side."""
    return 2 * int(np.ceil(3 * sigma)) + 1


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return image if factor == 1 else cv2.convertScaleAbs(image, alpha=factor)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return image
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    values = np.clip(np.arange(256) * factor + mean * (1 - factor), 0, 255)
    return cv2.LUT(image, np.rint(values).astype(np.uint8))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1:
        return image
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _hue(image: np.ndarray, turns: float) -> np.ndarray:
    shift = np.uint8(int(turns * 255) % 256)  # Pillow's hue is 0 to 255 and wraps, as in OpenCV's _FULL
    if shift == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += shift
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_PAINT: dict[int, Callable[[np.ndarray, float], np.ndarray]] = {
    BRIGHTNESS: _brightness,
    CONTRAST: _contrast,
    SATURATION: _saturation,
    HUE: _hue,
}


# --- The same on a batch -------------------------------------------------------------------------------------------


def paint_batch(images: Float[Tensor, "B 3 H W"], colours: Float[Tensor, "B 11"]) -> Float[Tensor, "B 3 H W"]:
    """Change the colours of images in [0, 1], each by its own packed row, on the images' device."""
    order, factors = colours[:, :4].long(), colours[:, 4:8]
    for turn in range(4):
        changed = torch.empty_like(images)
        for operation, change in _PAINT_BATCH.items():
            mine = (order[:, turn] == operation).nonzero().squeeze(1)
            if len(mine):
                changed[mine] = change(images[mine], factors[mine, operation].view(-1, 1, 1, 1))
        images = changed
    grey, sigma, solarise = (colours[:, i].view(-1, 1, 1, 1) for i in (8, 9, 10))
    images = torch.where(grey > 0, _grey(images).expand_as(images), images)
    images = _blur(images, sigma.flatten())
    return torch.where((solarise > 0) & (images >= 128 / 255), 1 - images, images)


def _grey(images: Tensor) -> Tensor:
    return (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of RGB images without conversion to HSV: channel n is V - V S max(0, min(k, 4 - k, 1))."""
    value, largest = images.max(1, keepdim=True)
    spread = value - images.amin(1, keepdim=True)
    r, g, b = images.unbind(1)
    safe = spread.squeeze(1).clamp_min(1e-8)
    sixths = torch.stack([(g - b) / safe, (b - r) / safe + 2, (r - g) / safe + 4], 1).gather(1, largest)
    hue = sixths + 6 * turns
    k = (images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1) + hue) % 6
    return value - spread * torch.minimum(k, 4 - k).clamp(0, 1)


_PAINT_BATCH: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: lambda x, f: (x * f).clamp(0, 1),
    CONTRAST: lambda x, f: _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), f),
    SATURATION: lambda x, f: _blend(x, _grey(x), f),
    HUE: _shift_hue,
}


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    blurred = (sigma > 0).nonzero().squeeze(1)
    if not len(blurred):
        return images
    radius = kernel_size(float(sigma.max())) // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    own = sigma[blurred].unsqueeze(1)
    # Each kernel ends where that of `paint` does: the blur of an image must not depend on the others of its batch.
    kernels = torch.exp(-0.5 * (offsets / own) ** 2) * (offsets.abs() <= (3 * own).ceil())  # (M, k)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(3, 0)
    M, H, W = len(blurred), *images.shape[2:]
    rows = images[blurred].reshape(1, 3 * M, H, W)
    rows = F.conv2d(F.pad(rows, (radius, radius, 0, 0), "reflect"), kernels[:, None, None, :], groups=3 * M)
    rows = F.conv2d(F.pad(rows, (0, 0, radius, radius), "reflect"), kernels[:, None, :, None], groups=3 * M)
    result = images.clone()
    result[blurred] = rows.view(M, 3, H, W)
    return result


def raw_colour(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 4 h w"]:
    """Return raw colour as an encoder at stride 4: the mean colour of each cell, mapped to a small cap of the sphere.

    There the most similar vector has the nearest colour, so that the cosine compares colours by distance.
    """
    cells = F.avg_pool2d(images, 4, ceil_mode=True, count_include_pad=False)
    flat = (cells - 0.5) * 0.1
    return torch.cat([flat, (1 - flat.square().sum(1, keepdim=True)).sqrt()], 1)
