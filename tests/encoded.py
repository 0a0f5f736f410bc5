"""A small picture in every format that is decoded, for the tests of decoding."""

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

H, W = 60, 81


def picture(seed: int = 0) -> np.ndarray:
    """A smooth coloured ground with noise: it compresses like a photograph, and no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 1, W), np.linspace(0, 1, H))
    ground = np.stack([40 + 200 * x, 220 - 180 * y, 60 + 150 * x * y], axis=2)
    return np.clip(ground + np.random.default_rng(seed).normal(0, 12, (H, W, 3)), 0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def over_white(rgba: np.ndarray) -> np.ndarray:
    opacity = rgba[..., 3:] / 255.0
    return rgba[..., :3] * opacity + 255 * (1 - opacity)


def run_length_bmp(indices: np.ndarray, palette: bytes) -> bytes:
    """A BMP of 8-bit run lengths, which Pillow reads and does not write: each row as runs of one pixel."""
    runs = np.stack([np.ones_like(indices), indices], axis=2)[::-1].reshape(len(indices), -1)
    body = b"".join(row.tobytes() + b"\0\0" for row in runs) + b"\0\1"
    colours = b"".join(palette[i : i + 3][::-1] + b"\0" for i in range(0, len(palette), 3))
    start = 54 + len(colours)
    head = struct.pack("<2sIII", b"BM", start + len(body), 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, W, H, 1, 8, 1, len(body), 0, 0, len(colours) // 4, 0)
    return head + info + colours + body


RGB = Image.fromarray(picture())
PALETTE = RGB.quantize(64)
DEEP = picture().astype(np.uint16) * 16  # 12-bit values

FILES = {
    "jpeg": saved(RGB, "JPEG", quality=90),
    "jpeg progressive": saved(RGB, "JPEG", quality=90, progressive=True),
    "jpeg grey": saved(RGB.convert("L"), "JPEG", quality=90),
    "jpeg cmyk": saved(RGB.convert("CMYK"), "JPEG", quality=90),
    "jpeg restarts": saved(RGB, "JPEG", quality=90, restart_marker_blocks=4),
    "png": saved(RGB, "PNG"),
    "png palette": saved(PALETTE, "PNG"),
    "png 16-bit": cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes(),
    "webp": saved(RGB, "WEBP", quality=80),
    "webp lossless": saved(RGB, "WEBP", lossless=True),
    "bmp": saved(RGB, "BMP"),
    "bmp palette": saved(PALETTE, "BMP"),
    "bmp palette run lengths": run_length_bmp(np.asarray(PALETTE), bytes(PALETTE.getpalette())),
    "gif": saved(RGB, "GIF"),
    "tiff": saved(RGB, "TIFF"),
    "tiff lzw": saved(RGB, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": saved(RGB, "TIFF", compression="jpeg"),
    # tifffile writes the directory before the pixels, so that a truncated file still opens
    "tiff directory first": tiff(picture(), rowsperstrip=8),
    "tiff deflate": tiff(picture(), rowsperstrip=8, compression="zlib"),
    "tiff tiles": tiff(picture(), tile=(16, 16), compression="zlib"),
    "tiff 16-bit grey": tiff(DEEP[..., 0], rowsperstrip=8, compression="zlib"),
    "tiff 16-bit colour": tiff(DEEP, rowsperstrip=8, photometric="rgb"),
    "tiff 16-bit deflate": tiff(DEEP, rowsperstrip=8, photometric="rgb", compression="zlib"),
    "tiff 16-bit planes": tiff(np.moveaxis(DEEP, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
}

# Pillow warns of damaged metadata. The suite turns warnings into errors, which would hide how decoding goes on.
as_users_run = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def check_whole(pixels: np.ndarray) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert min(pixels.shape) > 0
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
