"""An image file -> its pixels: the only place in the package that decodes images.

`decode` gives back whole, upright, 8-bit RGB pixels or raises `UnreadableImage`; it never gives back an image of which
a part is grey or missing. The kind of a file is told by its first bytes, not by its name. No function here keeps or
changes any state outside itself, so threads and forked processes may call them freely.

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

# Pillow refuses images above twice its own limit as "decompression bombs"; the decoders that do not pass through
# Pillow refuse at the same size. 179 megapixels hold any camera's picture; larger scenes are to be cut into tiles.
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

    JPEG, PNG, WebP, BMP, TIFF and GIF; of several pages or frames the first. The orientation that Exif (in TIFF: the
    file's own tag) asks for is applied; colour profiles are not. Transparency is laid over white. 16-bit samples are
    scaled from the smallest of `FULL_SCALES` that holds the image's largest value to 0..255.

    With `shortest`, in pixels, a JPEG whose short side is at least twice that may come back reduced, its short side
    not below it: the reduction is part of decoding, and makes the large pictures of cameras two to three times faster.

    Raises `UnreadableImage` when the file cannot be read, is truncated or corrupt, or holds what has no one RGB
    picture: floating point or negative values, values above 65535, two or more than four channels.
    """
    with _explained(name if isinstance(source, bytes) else source):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        kind = _kind(data[:16])
        pixels = _decode_jpeg(data, shortest) if kind == "JPEG" else _decode_other(data, kind)
    assert pixels.dtype == np.uint8, pixels.dtype
    assert pixels.ndim == 3, pixels.shape
    return np.require(pixels, requirements=["C", "W"])


def decode_values(source: Path | bytes) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """The numbers that a PNG of labels or depth stores, as they are: an indexed picture's indices, or grey values.

    1 to 8 bits a pixel come as uint8, 16 bits as uint16; neither palette nor orientation nor transparency is applied.
    Raises `UnreadableImage` when the file cannot be read, is damaged, or is no PNG with one number a pixel.
    """
    with _explained("image" if isinstance(source, bytes) else source):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if (kind := _kind(data[:16])) != "PNG":
            raise UnreadableImage(f"expected a PNG, which keeps each number as it is, came a {kind} file")
        bits, colours = data[24], data[25]
        if colours not in (0, 3):
            raise UnreadableImage(
                "expected one number a pixel (an indexed or a grey PNG), came colours or transparency"
            )
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_area(*image.size)
            values = np.array(image)
        if colours == 0 and bits in (2, 4):
            values //= 255 // (2**bits - 1)  # Pillow spreads grey, not indices, over 0..255
        return values.astype(np.uint16 if bits == 16 else np.uint8, copy=False)


def image_size(path: Path) -> tuple[int, int]:
    """(W, H) in pixels of the image that `decode(path)` would give, from the file's header alone.

    Raises `UnreadableImage` when the header cannot be read. A good header does not promise good pixels.
    """
    with _explained(path), Path(path).open("rb") as file:
        kind = _kind(head := file.read(1 << 16))
        if kind == "JPEG":
            try:
                width, height, _, orientation = _jpeg_header(head)
            except UnreadableImage:  # large metadata may come before the size
                width, height, _, orientation = _jpeg_header(head + file.read())
        else:
            file.seek(0)
            width, height, orientation = _png_header(file) if kind == "PNG" else _other_header(file, kind)
        _check_area(width, height)
    return (height, width) if orientation > 4 else (width, height)


def orientation(path: Path) -> int:
    """1 (as stored) to 8, as Exif has it (in TIFF: the file's own tag): what `decode` turns the picture by.

    Raises `UnreadableImage`. Of a TIFF above 4 GB in 64-bit form it is taken for 1.
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
    """Whatever goes wrong inside comes out as an `UnreadableImage` that begins with the file's name."""
    try:
        yield
    except UnreadableImage as fault:
        raise UnreadableImage(f"{name}: {fault}") from fault
    except OSError as fault:
        raise UnreadableImage(f"{name}: expected a readable, whole image file: {fault.strerror or fault}") from fault
    # Decoders meet damaged files with whatever their parsers trip over: struct.error, IndexError, SyntaxError ...
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
        raise UnreadableImage(f"expected 1 to {MAX_PIXELS} pixels, came {width} x {height}; cut it into tiles")


# --- JPEG ---------------------------------------------------------------------------------------------------------


def _decode_jpeg(data: bytes, shortest: int) -> np.ndarray:
    width, height, samples, orientation = _jpeg_header(data)
    reduce = 0 < 2 * shortest <= min(width, height) and samples != 4
    _check_area(width, height)
    space = "CMYK" if samples == 4 else "RGB"
    # The accurate DCT and upsampling gave Pillow's very pixels. The fast ones saved 5 to 7 % each and, on a photograph
    # of quality 90, moved pixels by up to 7 of 255 (DCT; mean 0.9) and up to 35 (upsampling; mean 0.7).
    for _ in range(3):  # a file may have an oddity in its header and another at its end
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
    if samples == 4:  # Pillow knows which inks Adobe wrote inverted; it is lenient, so the strict decoder went first
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.array(image.convert("RGB"))
    return upright(pixels, orientation)


def _repaired_jpeg(data: bytes, fault: str) -> bytes:
    """The file without the harmless cause of libjpeg's warning; raises `UnreadableImage` when it is not harmless.

    A warning is never merely ignored: libjpeg reports only a file's first, and behind a harmless one a truncation may
    hide. So what it complains of is mended and the file decoded strictly once more. Bytes left over before the end
    marker are harmless only when they are padding: one wrong bit in the compressed data makes the decoder lose its
    place, fill the rest of the image with rubbish and end with just this warning.
    """
    refusal = UnreadableImage(f"expected a whole JPEG image, but the decoder says: {fault}")
    harmless = ("extraneous bytes before marker", "Unknown Adobe color transform", "unknown JFIF revision")
    if not any(text in fault for text in harmless):
        raise refusal
    samples = _jpeg_header(data)[2]
    parts = [data[:2]]  # the segments one after another leave out whatever lay between them
    for marker, start, end in _jpeg_segments(data):
        segment = bytearray(data[start:end] if marker != 0xDA else data[start:])
        if marker == 0xEE and segment[4:9] == b"Adobe":
            segment[15] = min(segment[15], 1) * (2 if samples == 4 else 1)  # what libjpeg takes an unknown one for
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
    """(marker, start, end) of each header segment, the start of the scan (marker 0xda) being the last."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # filling, or markers that have no body
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, samples, orientation) as stored, before the orientation is applied."""
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
    """1..8 as Exif defines it; 1 (as stored) where the block is damaged, for the pixels may still be good."""
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
    """Stored pixels as a viewer shows them; `tag` is `orientation`'s."""
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
        image.load()  # raises on truncated data; also turns a TIFF upright
        orientation = 1 if kind == "TIFF" else _exif_orientation(image.info.get("exif", b""))
        if kind == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):  # 16-bit colour: Pillow drops the low bytes
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert deep is not None, "OpenCV cannot read a PNG that Pillow can"
            pixels = _over_white(deep[..., 2::-1], deep[..., 3] if deep.shape[2] == 4 else None)
        elif image.mode.startswith("I"):
            pixels = _eight_bit(np.array(image))[..., None].repeat(3, axis=2)
            pixels = 255 - pixels if white_is_zero else pixels
        elif image.mode == "F":
            raise UnreadableImage("expected integer pixels, came floating point; scale it to 8 or 16 bits")
        elif image.has_transparency_data:
            rgba = np.array(image.convert("RGBA"))
            pixels = _over_white(rgba[..., :3], rgba[..., 3])
        else:
            pixels = np.array(image.convert("RGB"))
    return upright(pixels, orientation)


def _decode_scientific_tiff(data: bytes) -> np.ndarray:
    """The first page of a TIFF beyond Pillow: 16-bit colour, planes, odd sample counts."""
    import tifffile  # slow to import, rarely needed

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check_area(page.imagewidth, page.imagelength)
        _check_segments(page.dataoffsets, page.databytecounts, len(data))
        came = f"{page.axes} {page.shape} {page.dtype}, photometric {page.photometric!s}"
        samples, is_rgb = page.samplesperpixel, page.photometric == 2
        has_alpha = samples in (2, 4) and page.extrasamples[-1:] != () and page.extrasamples[-1] in (1, 2)
        if page.axes not in ("YX", "YXS", "SYX") or page.photometric not in (0, 1, 2):
            raise UnreadableImage(f"expected a grey or RGB TIFF, came {came}")
        if not (samples in (1, 3) or (samples == 4 and is_rgb) or (samples == 2 and has_alpha)):
            raise UnreadableImage(f"expected 1, 3 or 4 channels, came {came}; choose three and save them as RGB")
        # One worker: threads for the strips of one image would compete with those that decode other images.
        array = page.asarray(maxworkers=1)
        orientation = int(page.tags.valueof(274, default=1))
    array = {"YX": array[..., None], "YXS": array, "SYX": np.moveaxis(array, 0, -1)}[page.axes]
    colour = array[..., : 3 if samples > 2 else 1]  # a fourth channel that is not alpha (infrared, say) is left out
    pixels = _over_white(colour, array[..., -1] if has_alpha else None)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return upright(255 - pixels if page.photometric == 0 else pixels, orientation)


def _check_segments(offsets: Sequence[int] | None, counts: Sequence[int] | None, length: int) -> None:
    """Every strip or tile of a TIFF lies within the file; decoders fill a missing one with zeros."""
    ends = [offset + count for offset, count in zip(offsets or (), counts or (), strict=False) if offset and count]
    if not offsets or (counts and len(ends) < len(offsets)) or max(ends, default=0) > length:
        raise UnreadableImage(f"expected a whole TIFF image, but its pixel data do not lie within its {length} bytes")


def _eight_bit(samples: np.ndarray) -> np.ndarray:
    """Integer samples of any shape -> uint8, rounded to the nearest; 8-bit ones as they are.

    Cameras of 10, 12 or 14 bits store their values unscaled in 16-bit files. Divided by 65535 a 12-bit picture would
    be all but black, so the full scale is the smallest usual one that holds the image's largest value.
    """
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype.kind not in "bui" or samples.min() < 0 or samples.max() > FULL_SCALES[-1]:
        raise UnreadableImage(
            f"expected integers from 0 to {FULL_SCALES[-1]}, came {samples.dtype} from {samples.min()} to "
            f"{samples.max()}; scale it to 8 or 16 bits"
        )
    top = next(full for full in FULL_SCALES if samples.max() <= full)
    table = (np.arange(top + 1, dtype=np.uint32) * 510 + top) // (2 * top)
    return table.astype(np.uint8)[samples]


def _over_white(colour: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """(H, W, S) colour under (H, W) opacity, both of 8 or 16 bits, on a white ground -> uint8 (H, W, S)."""
    colour = _eight_bit(colour)
    if alpha is None:
        return colour
    opacity = _eight_bit(alpha)[..., None].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _other_header(file: BinaryIO, kind: str) -> tuple[int, int, int]:
    """(width, height, orientation still to be applied)."""
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
    """(width, height, orientation) as stored. Pillow would decode all pixels to find an Exif block behind them."""
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
