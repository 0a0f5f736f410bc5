"""Damaged, odd and reduced pictures: whole and right pixels, or `UnreadableImage`; nothing between."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from encoded import DEEP, FILES, RGB, as_users_run, check_whole, saved, tiff
from PIL import ExifTags, Image

from vader.errors import UnreadableImage
from vader.images.decode import MAX_PIXELS, decode, image_size

# --- Damaged files ------------------------------------------------------------------------------------------------


@as_users_run
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "half.img"
    path.write_bytes(FILES[name][: int(share * len(FILES[name]))])
    with pytest.raises(UnreadableImage, match=r"half\.img: expected"):
        decode(path)


@as_users_run
# Not the progressive one: cut between two of its scans and ended, it is a valid file of a coarser picture.
@pytest.mark.parametrize("name", ["jpeg", "jpeg grey", "jpeg cmyk", "jpeg restarts"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_truncated_jpeg_with_an_end_marker_is_refused(name: str, share: float) -> None:
    with pytest.raises(UnreadableImage, match=r"premature end of data|instead of RST"):
        decode(FILES[name][: int(share * len(FILES[name]))] + b"\xff\xd9")


@as_users_run
@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_give_a_whole_array_or_a_refusal(name: str) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    refused = 0
    for case in range(200):
        data = np.frombuffer(FILES[name], np.uint8).copy()
        # Half of the cases hit the header, where the parsers are; the sizes in it may become large ones.
        reach = min(len(data), 400) if case % 2 else len(data)
        data[rng.integers(0, reach, rng.integers(1, 4))] = rng.integers(0, 256)
        try:
            check_whole(decode(data.tobytes()))
        except UnreadableImage:
            refused += 1
    assert refused > 0


@as_users_run
@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_in_a_header_give_a_size_or_a_refusal(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "flipped"
    for _ in range(30):
        data = np.frombuffer(FILES[name], np.uint8).copy()
        data[rng.integers(0, min(len(data), 200), 2)] = rng.integers(0, 256)
        path.write_bytes(data.tobytes())
        try:
            width, height = image_size(path)
        except UnreadableImage:
            continue
        assert width > 0
        assert height > 0


def test_a_tiff_strip_beyond_the_file_or_left_out_is_refused() -> None:
    for at, value in [(273, 0), (273, 1 << 20), (279, 0)]:
        data = bytearray(tiff(DEEP, photometric="rgb"))
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            where = file.pages.first.tags[at]
        struct.pack_into("<I" if where.dtype == 4 else "<H", data, where.valueoffset, value & 0xFFFFF)
        with pytest.raises(UnreadableImage, match="pixel data do not lie within"):
            decode(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"These are words.\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"RIFF0000WEBP"]
)
@as_users_run
def test_what_is_no_image_is_refused_with_the_files_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(data)
    for look in (decode, image_size):
        with pytest.raises(UnreadableImage, match=r"odd\.jpg: expected"):
            look(path)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jpg", tmp_path):
        for look in (decode, image_size):
            with pytest.raises(UnreadableImage, match=r"(?i)no such file|is a directory"):
                look(path)


def test_oversized_images_are_refused_before_memory_is_taken() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    data = bytearray(FILES["jpeg"])
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, side, side)
    with pytest.raises(UnreadableImage, match=f"found {side} x {side}"):
        decode(bytes(data))
    header = struct.pack(">II", side, side) + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + header
    png = FILES["png"][:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + FILES["png"][33:]
    with pytest.raises(UnreadableImage, match="exceeds limit"):
        decode(png)


# --- Harmless oddities of JPEG files ------------------------------------------------------------------------------


def odd_jpegs() -> dict[str, bytes]:
    data = FILES["jpeg"]
    at = data.index(b"\xff\xdb")
    jfif = bytearray(data)
    jfif[data.index(b"JFIF\0") + 5] = 7
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x09"
    return {
        "junk between segments": data[:at] + b"junk" + data[at:],
        "zeros before the end": data[:-2] + bytes(40) + data[-2:],
        "fill bytes before the end": data[:-2] + b"\xff" * 40 + data[-2:],
        "bytes after the end": data + b"a phone's film" * 9,
        "unknown JFIF revision": bytes(jfif),
        "unknown Adobe transform": data[:at] + adobe + data[at:],
        "all of them": data[:at] + adobe + b"junk" + data[at:-2] + bytes(40) + data[-2:] + b"more",
    }


@pytest.mark.parametrize("name", odd_jpegs())
def test_harmless_oddities_do_not_cost_the_image(name: str) -> None:
    np.testing.assert_array_equal(decode(odd_jpegs()[name]), decode(FILES["jpeg"]))


@pytest.mark.parametrize("name", ["junk between segments", "unknown JFIF revision", "unknown Adobe transform"])
def test_a_harmless_oddity_does_not_hide_a_truncation(name: str) -> None:
    data = odd_jpegs()[name]
    for tail in (b"", b"\xff\xd9"):
        with pytest.raises(UnreadableImage, match=r"(?i)premature end"):
            decode(data[: int(0.6 * len(data))] + tail)


def test_a_decoder_that_lost_its_place_is_not_believed() -> None:
    """One wrong byte in the scan: libjpeg fills the image with rubbish and says only "extraneous bytes"."""
    data, want = FILES["jpeg"], decode(FILES["jpeg"]).astype(int)
    rng = np.random.default_rng(0)
    scan = data.index(b"\xff\xda") + 14
    errors = []
    for _ in range(200):
        flipped = bytearray(data)
        flipped[rng.integers(scan, len(data) // 2)] ^= 1 << rng.integers(8)
        try:
            decode(bytes(flipped))
        except UnreadableImage as fault:
            if "extraneous bytes before marker 0xd9" in str(fault):
                lenient = np.asarray(Image.open(io.BytesIO(bytes(flipped))).convert("RGB"))
                errors.append(np.abs(lenient - want).mean())
    assert len(errors) > 20
    assert np.median(errors) > 10  # what a lenient decoder would have trained on


def test_threads_agree_with_one_thread() -> None:
    files = list(FILES.values())
    want = [decode(data) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(decode, files * 4), want * 4, strict=True):
            np.testing.assert_array_equal(got, expected)


# --- Reduced decoding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(203, 157), (640, 480), (96, 400)])
@pytest.mark.parametrize("shortest", [1, 20, 47, 48, 49, 78, 79, 240, 1000])
def test_a_reduced_jpeg_keeps_its_short_side_and_its_picture(size: tuple[int, int], shortest: int) -> None:
    data = saved(RGB.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole, pixels = decode(data), decode(data, shortest)
    check_whole(pixels)
    assert min(pixels.shape[:2]) >= min(shortest, *size)
    if 2 * shortest > min(size):
        np.testing.assert_array_equal(pixels, whole)
    else:
        assert min(pixels.shape[:2]) <= (min(size) + 1) // 2
        if min(pixels.shape[:2]) >= 20:
            want = np.asarray(Image.fromarray(whole).resize(pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
            assert np.abs(pixels - want).mean() < 6


@as_users_run
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("jpeg")])
def test_a_reduced_truncated_jpeg_is_refused(name: str, share: float) -> None:
    with pytest.raises(UnreadableImage):
        decode(FILES[name][: int(share * len(FILES[name]))], 10)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_reduced_jpeg_is_turned_too(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    want = np.rot90(decode(FILES["jpeg"], 20), {3: 2, 6: -1}[orientation])
    np.testing.assert_array_equal(decode(saved(RGB, "JPEG", quality=90, exif=exif), 20), want)
