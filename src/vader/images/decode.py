"""Decode image files. No other module of the package decodes images.

`decode` returns complete, upright, 8-bit RGB pixels or raises `UnreadableImage`; it never returns an image with missing
or grey parts. The kind of a file is determined by its first bytes, not by its name. The functions have no global state,
so threads and forked processes may call them.

Letters: H W pixels (rows, columns), S samples of a pixel.
"""

import io
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8, UInt16
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from vader.errors import UnreadableImage

# Pillow rejects images above twice its own limit as "decompression bombs"; decoders without Pillow use the same limit.
# 179 megapixels are enough for any camera; larger scenes must be cut into tiles.
MAX_PIXELS = 178_956_970

FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # the largest values of 8, 10, 12, 14 and 16 bits

_KINDS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}


def decode(source: Path | bytes, shortest: int = 0, name: str = "image") -> np.ndarray:
    """Decode an image file (a path, or bytes, `name`d in messages) -> uint8 (H, W, 3) RGB, C-contiguous and writable.

    Reads JPEG, PNG, WebP, BMP, TIFF and GIF, and the first of several pages or frames. The orientation of Exif (in
    TIFF: the file's own tag) is applied; colour profiles are not. Transparency is blended with white. 16-bit samples
    are scaled to 0..255 from the smallest of `FULL_SCALES` that contains the image's largest value.

    With `shortest`, in pixels, a JPEG whose short side is at least twice that may be reduced, with a short side of at
    least `shortest`. The reduction is part of decoding and makes large pictures two to three times faster.

    Raises `UnreadableImage` if the file cannot be read, is truncated or corrupt, or has no single RGB picture: floating
    point or negative values, values above 65535, two or more than four channels.
    """
    with _explained(name if isinstance(source, bytes) else source):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        kind = _kind(data[:16])
        pixels = _decode_jpeg(data, shortest) if kind == "JPEG" else _decode_other(data, kind)
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    return np.require(pixels, requirements=["C", "W"])


def decode_values(source: Path | bytes) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """Read the numbers stored in a PNG of labels or depth: the indices of an indexed picture, or grey values.

    1 to 8 bits become uint8, 16 bits uint16; palette, orientation and transparency are not applied. Raises
    `UnreadableImage` if the file cannot be read, is damaged, or is not a PNG with one number for each pixel.
    """
    with _explained("image" if isinstance(source, bytes) else source):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if (kind := _kind(data[:16])) != "PNG":
            raise UnreadableImage(f"expected a PNG, which stores exact numbers, found a {kind} file")
        bits, colours = data[24], data[25]
        if colours not in (0, 3):
            raise UnreadableImage(
                "expected one number for each pixel (an indexed or grey PNG), found colours or transparency"
            )
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_area(*image.size)
            values = np.array(image)
        if colours == 0 and bits in (2, 4):
            values //= 255 // (2**bits - 1)  # Pillow scales grey values, but not indices, to 0..255
        return values.astype(np.uint16 if bits == 16 else np.uint8, copy=False)


def image_size(path: Path) -> tuple[int, int]:
    """Return (W, H) in pixels of the image that `decode(path)` would return, from the file's header only.

    Raises `UnreadableImage` if the header cannot be read. A readable header does not guarantee readable pixels.
    """
    with _explained(path), Path(path).open("rb") as file:
        kind = _kind(head := file.read(1 << 16))
        if kind == "JPEG":
            try:
                width, height, _, orientation = _jpeg_header(head)
            except UnreadableImage:  # large metadata may precede the size
                width, height, _, orientation = _jpeg_header(head + file.read())
        else:
            file.seek(0)
            width, height, orientation = _png_header(file) if kind == "PNG" else _other_header(file, kind)
        _check_area(width, height)
    return (height, width) if orientation > 4 else (width, height)


def orientation(path: Path) -> int:
    """Return the orientation by which `decode` rotates: 1 (as stored) to 8, as in Exif (in TIFF: the file's own tag).

    Raises `UnreadableImage`. It is 1 for a 64-bit TIFF above 4 GB.
    """
    with _explained(path):
        with path.open("rb") as file:
            kind = _kind(head := file.read(16))
            if kind in ("PNG", "WEBP", "BMP", "GIF"):
                file.seek(0)
                return (_png_header(file) if kind == "PNG" else _other_header(file, kind))[2]
            data = head + file.read()
        if kind == "JPEG":
            return _jpeg_header(data)[3]
        return 1 if b"+" in data[2:4] else _exif_orientation(data)


@contextmanager
def _explained(name: Path | str) -> Iterator[None]:
    """Convert every error inside to an `UnreadableImage` whose message starts with the file's name."""
    try:
        yield
    except UnreadableImage as fault:
        raise UnreadableImage(f"{name}: {fault}") from fault
    except OSError as fault:
        raise UnreadableImage(f"{name}: expected a readable, whole image file: {fault.strerror or fault}") from fault
    # For damaged files, decoders raise many types: struct.error, IndexError, SyntaxError ...
    except Exception as fault:
        raise UnreadableImage(f"{name}: expected a whole image file, but decoding failed: {fault!r}") from fault


def _kind(head: bytes) -> str:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind
    came = f"it begins with {head[:8]!r}" if head else "it is empty"
    raise UnreadableImage(f"expected a JPEG, PNG, WebP, BMP, TIFF or GIF file, but {came}")


def _check_area(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise UnreadableImage(f"expected 1 to {MAX_PIXELS} pixels, found {width} x {height}; cut it into tiles")


# --- JPEG ---------------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, shortest: int) -> np.ndarray:
    width, height, samples, orientation = _jpeg_header(data)
    reduce = 0 < 2 * shortest <= min(width, height) and samples != 4
    _check_area(width, height)
    space = "CMYK" if samples == 4 else "RGB"
    # Accurate DCT and upsampling give the same pixels as Pillow. The fast variants each save 5 to 7 % but, on a
    # photograph of quality 90, change pixels by up to 7 of 255 (DCT; mean 0.9) and up to 35 (upsampling; mean 0.7).
    for _ in range(3):  # a file may have one flaw in its header and another at its end
        try:
            pixels = simplejpeg.decode_jpeg(
                data, space, strict=True,
                min_width=shortest if reduce else 0, min_height=shortest if reduce else 0,
                min_factor=2.0 if reduce else 1.0,
            )  # fmt: skip
            break
        except ValueError as fault:
            data = _repaired_jpeg(data, complaint := str(fault))
    else:
        raise UnreadableImage(f"expected a whole JPEG image, but the decoder says: {complaint}")
    if samples == 4:  # Pillow knows which inks Adobe inverts, but tolerates damage, so the strict decoder ran first
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.array(image.convert("RGB"))
    return upright(pixels, orientation)


def _repaired_jpeg(data: bytes, fault: str) -> bytes:
    """Repair a harmless cause of a libjpeg warning; raises `UnreadableImage` if it is not harmless.

    Warnings are never ignored: libjpeg reports only the first of a file, and a truncation may follow a harmless one. So
    the cause is repaired and the file is strictly decoded again. Extra bytes before the end marker are harmless only if
    they are padding: after one wrong bit in the compressed data, the decoder fills the rest of the image with garbage
    and ends with the same warning.
    """
    refusal = UnreadableImage(f"expected a whole JPEG image, but the decoder says: {fault}")
    harmless = ("extraneous bytes before marker", "Unknown Adobe color transform", "unknown JFIF revision")
    if not any(text in fault for text in harmless):
        raise refusal
    samples = _jpeg_header(data)[2]
    parts = [data[:2]]  # joining the segments drops the bytes between them
    for marker, start, end in _jpeg_segments(data):
        segment = bytearray(data[start:end] if marker != 0xDA else data[start:])
        if marker == 0xEE and segment[4:9] == b"Adobe":
            segment[15] = min(segment[15], 1) * (2 if samples == 4 else 1)  # libjpeg's default for unknown transforms
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment[9] = 1
        elif marker == 0xDA and (left_over := re.search(r"(\d+) extraneous bytes before marker 0xd9", fault)):
            end = segment.find(b"\xff\xd9")
            start = max(0, end - int(left_over[1]))
            if any(segment[start:end]):
                raise refusal
            del segment[start:end]
        parts.append(bytes(segment))
    return b"".join(parts)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each header segment; the last is the start of the scan (marker 0xda)."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # padding, or markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return (width, height, samples, orientation) as stored, before the orientation is applied."""
    frame, orientation = None, 1
    for marker, start, end in _jpeg_segments(data):
        if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[start + 4 : end])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and frame is None:
            frame = struct.unpack_from(">HHB", data, start + 5)
        elif marker == 0xDA and frame is not None:
            height, width, samples = frame
            return width, height, samples, orientation
    raise UnreadableImage("expected a whole JPEG image, but the file ends within its header")


def _exif_orientation(exif: bytes) -> int:
    """Return 1..8 as defined by Exif; 1 (as stored) for a damaged block, because the pixels may still be good."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, at)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(pixels: np.ndarray, tag: int) -> np.ndarray:
    """Rotate stored pixels as viewers do; `tag` is the value of `orientation`."""
    if tag > 4:
        pixels = pixels.swapaxes(0, 1)
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# --- Everything else ----------------------------------------------------------------------------------------------


def _decode_other(data: bytes, kind: str) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=[kind])
    except UnidentifiedImageError as fault:
        if kind == "TIFF":
            return _decode_scientific_tiff(data)
        raise UnreadableImage(f"expected a whole {kind} image, but its header is damaged or unsupported") from fault
    with image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tags = image.tag_v2
            _check_segments(tags.get(273) or tags.get(324), tags.get(279) or tags.get(325), len(data))
            if len(bits := tags.get(258, (1,))) > 1 and max(bits) > 8:  # Pillow would drop the low bytes
                return _decode_scientific_tiff(data)
            white_is_zero = tags.get(262) == 0
        else:
            white_is_zero = False
        image.load()  # raises for truncated data; also applies the orientation of a TIFF
        orientation = 1 if kind == "TIFF" else _exif_orientation(image.info.get("exif", b""))
        if kind == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):  # 16-bit colour: Pillow drops the low bytes
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert deep is not None, "OpenCV cannot read a PNG that Pillow can"
            pixels = _over_white(deep[..., 2::-1], deep[..., 3] if deep.shape[2] == 4 else None)
        elif image.mode.startswith("I"):
            pixels = _eight_bit(np.array(image))[..., None].repeat(3, axis=2)
            pixels = 255 - pixels if white_is_zero else pixels
        elif image.mode == "F":
            raise UnreadableImage("expected integer pixels, found floating point; scale it to 8 or 16 bits")
        elif image.has_transparency_data:
            rgba = np.array(image.convert("RGBA"))
            pixels = _over_white(rgba[..., :3], rgba[..., 3])
        else:
            pixels = np.array(image.convert("RGB"))
    return upright(pixels, orientation)


def _decode_scientific_tiff(data: bytes) -> np.ndarray:
    """Decode the first page of a TIFF that Pillow cannot: 16-bit colour, planes, unusual sample counts."""
    import tifffile  # slow to import, rarely needed

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check_area(page.imagewidth, page.imagelength)
        _check_segments(page.dataoffsets, page.databytecounts, len(data))
        came = f"{page.axes} {page.shape} {page.dtype}, photometric {page.photometric!s}"
        samples, is_rgb = page.samplesperpixel, page.photometric == 2
        has_alpha = samples in (2, 4) and page.extrasamples[-1:] != () and page.extrasamples[-1] in (1, 2)
        if page.axes not in ("YX", "YXS", "SYX") or page.photometric not in (0, 1, 2):
            raise UnreadableImage(f"expected a grey or RGB TIFF, found {came}")
        if not (samples in (1, 3) or (samples == 4 and is_rgb) or (samples == 2 and has_alpha)):
            raise UnreadableImage(f"expected 1, 3 or 4 channels, found {came}; choose three and save them as RGB")
        # One worker: threads for the strips of one image would compete with those for other images.
        array = page.asarray(maxworkers=1)
        orientation = int(page.tags.valueof(274, default=1))
    array = {"YX": array[..., None], "YXS": array, "SYX": np.moveaxis(array, 0, -1)}[page.axes]
    colour = array[..., : 3 if samples > 2 else 1]  # drop a fourth channel that is not alpha, such as infrared
    pixels = _over_white(colour, array[..., -1] if has_alpha else None)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return upright(255 - pixels if page.photometric == 0 else pixels, orientation)


def _check_segments(offsets: Sequence[int] | None, counts: Sequence[int] | None, length: int) -> None:
    """Check that every strip or tile of a TIFF is inside the file; decoders fill missing ones with zeros."""
    ends = [offset + count for offset, count in zip(offsets or (), counts or (), strict=False) if offset and count]
    if not offsets or (counts and len(ends) < len(offsets)) or max(ends, default=0) > length:
        raise UnreadableImage(f"expected a whole TIFF image, but its pixel data do not lie within its {length} bytes")


def _eight_bit(samples: np.ndarray) -> np.ndarray:
    """Convert integer samples of any shape to uint8, rounded to the nearest; 8-bit samples are not changed.

    Cameras with 10, 12 or 14 bits store unscaled values in 16-bit files. A 12-bit picture divided by 65535 would be
    almost black, so the full scale is the smallest usual one that contains the image's largest value.
    """
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype.kind not in "bui" or samples.min() < 0 or samples.max() > FULL_SCALES[-1]:
        raise UnreadableImage(
            f"expected integers from 0 to {FULL_SCALES[-1]}, found {samples.dtype} from {samples.min()} to "
            f"{samples.max()}; scale it to 8 or 16 bits"
        )
    top = next(full for full in FULL_SCALES if samples.max() <= full)
    table = (np.arange(top + 1, dtype=np.uint32) * 510 + top) // (2 * top)
    return table.astype(np.uint8)[samples]


def _over_white(colour: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Blend (H, W, S) colour with white by (H, W) opacity, both of 8 or 16 bits, to uint8 (H, W, S)."""
    colour = _eight_bit(colour)
    if alpha is None:
        return colour
    opacity = _eight_bit(alpha)[..., None].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _other_header(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    """Return (width, height, orientation that is not yet applied)."""
    try:
        with Image.open(file, formats=[kind]) as image:
            return *image.size, 1 if kind == "TIFF" else _exif_orientation(image.info.get("exif", b""))
    except UnidentifiedImageError as fault:
        if kind != "TIFF":
            raise UnreadableImage(f"expected a {kind} image, but its header is damaged or unsupported") from fault
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        return page.imagewidth, page.imagelength, int(page.tags.valueof(274, default=1))


def _png_header(file: BinaryIO) -> tuple[int, int, int]:
    """Return (width, height, orientation) as stored. Pillow would decode all pixels to find an Exif block behind."""
    width, height, orientation = 0, 0, 1
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        following = file.tell() + length + 4  # a checksum ends each chunk
        if name == b"IHDR":
            width, height = struct.unpack(">II", file.read(8))
        elif name == b"eXIf":
            orientation = _exif_orientation(file.read(length))
        file.seek(following)
    return width, height, orientation
