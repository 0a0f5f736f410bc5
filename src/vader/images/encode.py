"""Encode image files. No other module of the package encodes images.

The same pixels give the same bytes. Letters: H W pixels, S samples of a pixel.
"""

import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8, UInt16
from PIL import Image

JPEG_QUALITY = 95  # similar to DAVIS and COCO; artefacts stay below the noise of cameras


def jpeg(pixels: UInt8[np.ndarray, "H W 3"], quality: int = JPEG_QUALITY) -> bytes:
    """Encode RGB pixels as JPEG, with colour at full resolution."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorspace="RGB", colorsubsampling="444")


def png(pixels: UInt8[np.ndarray, "H W *S"] | UInt16[np.ndarray, "H W"]) -> bytes:
    """Encode a PNG: 8-bit grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4); 16-bit grey."""
    return _png(Image.fromarray(pixels))


def colour_map() -> UInt8[np.ndarray, "256 3"]:
    """Return VOC's colours: bits 0, 3, 6 of the index are red's highest bits, 1, 4, 7 green's, and 2, 5 blue's."""
    number = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (((number >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def palette_png(values: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "256 3"]) -> bytes:
    """Encode an indexed PNG: readers get the exact values, viewers show the palette's colours."""
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())  # converts the grey image to an indexed one
    return _png(image)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=4)  # twice as fast as the default; rendered pictures are 3 % larger
    return file.getvalue()
