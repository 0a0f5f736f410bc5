"""`decode_values`: the numbers that a PNG stores, as they are, or a refusal."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from labelled import noise
from PIL import Image

from vader.errors import UnreadableImage
from vader.images.decode import decode_values


def packed_png(values: np.ndarray, bits: int, colours: int) -> bytes:
    """A PNG by its definition: `bits` a pixel, the first pixel in the highest; `colours` is 0 (grey) or 3 (indexed)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape
    spread = (values[..., None] >> np.arange(bits)[::-1]) & 1
    rows = b"".join(b"\0" + np.packbits(row.astype(np.uint8)).tobytes() for row in spread.reshape(height, -1))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if colours == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("bits", "colours"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3)])
def test_values_come_as_they_are_stored(bits: int, colours: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (13, 11))
    values[0, :2] = 0, 2**bits - 1
    found = decode_values(packed_png(values, bits, colours))
    assert found.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert np.array_equal(found, values)


def test_neither_palette_nor_transparency_matter() -> None:
    values = noise(0, 256)
    image, file = Image.fromarray(values), io.BytesIO()
    image.putpalette(bytes(255 - k // 3 for k in range(768)))
    image.save(file, "PNG", transparency=7)
    assert np.array_equal(decode_values(file.getvalue()), values)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("L", "JPEG"), ("L", "BMP")]
)
def test_what_holds_no_numbers(mode: str, form: str, tmp_path: Path) -> None:
    Image.new(mode, (9, 9)).save(tmp_path / "mask", form)
    with pytest.raises(UnreadableImage, match="mask: expected"):
        decode_values(tmp_path / "mask")


def test_damaged_values() -> None:
    """Never other values: a file without all of its pixels, or with any byte changed, is refused or read right."""
    values = noise(0, 256, size=(12, 14))
    whole = packed_png(values, 8, 0)
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            try:
                assert np.array_equal(decode_values(data), values)
                assert at >= len(whole) - 20 or len(data) == len(whole), "what follows the pixels may be missing"
            except UnreadableImage:
                pass
