"""Pixels -> the bytes of an image file: the only place in the package that encodes images.

The same pixels give the same bytes. Letters: H W pixels, S samples of a pixel.
"""

import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8, UInt16
from PIL import Image

JPEG_QUALITY = 95  # as DAVIS and COCO keep theirs, near enough; artefacts stay below what cameras' noise does


def jpeg(pixels: UInt8[np.ndarray, "H W 3"], quality: int = JPEG_QUALITY) -> bytes:
    """A JPEG file of RGB pixels, colour at full resolution."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorspace="RGB", colorsubsampling="444")


def png(pixels: UInt8[np.ndarray, "H W *S"] | UInt16[np.ndarray, "H W"]) -> bytes:
    """A PNG file: 8-bit grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4); 16-bit grey."""
    return _png(Image.fromarray(pixels))


def colour_map() -> UInt8[np.ndarray, "256 3"]:
    """VOC's colours: bits 0, 3, 6 of the number are red's highest, bits 1, 4, 7 green's, bits 2, 5 blue's."""
    number = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= (((number >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def palette_png(values: UInt8[np.ndarray, "H W"], palette: UInt8[np.ndarray, "256 3"]) -> bytes:
    """An indexed PNG file: readers get the values back as they are, viewers show the palette's colours."""
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())  # turns the grey image into an indexed one
    return _png(image)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=4)  # twice as fast as the default, on rendered pictures 3 % longer
    return file.getvalue()
