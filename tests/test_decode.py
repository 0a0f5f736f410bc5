"""What `vader.images.decode` promises: whole and right pixels, or `UnreadableImage`; nothing between."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from vader.errors import UnreadableImage
from vader.images.decode import FULL_SCALES, MAX_PIXELS, decode, image_size

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


# --- Whole files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_picture_from_a_path_and_from_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "misleading.txt"  # the kind is told by the content
    path.write_bytes(FILES[name])
    pixels = decode(path)
    check_whole(pixels)
    assert pixels.shape == (H, W, 3)
    assert image_size(path) == (W, H)
    np.testing.assert_array_equal(pixels, decode(FILES[name]))
    grey = "grey" in name
    want = picture().astype(float)
    if grey and "16-bit" in name:
        want = want[..., :1]
    elif grey:
        want = want @ [[0.299], [0.587], [0.114]]
    lossy = any(word in name for word in ("jpeg", "webp", "palette", "gif"))
    assert np.abs(pixels - want).mean() < (9 if lossy else 1.5)


@pytest.mark.parametrize("name", ["png", "webp lossless", "bmp", "tiff", "tiff lzw", "tiff tiles"])
def test_lossless_formats_are_exact(name: str) -> None:
    np.testing.assert_array_equal(decode(FILES[name]), picture())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 90])
def test_jpeg_agrees_with_pillow(subsampling: int, progressive: bool, quality: int) -> None:
    data = saved(RGB, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    # Equal where both carry the same libjpeg-turbo; another build may round a value differently.
    assert np.abs(decode(data) - want).max() <= 2


def test_jpeg_in_rgb_and_with_large_metadata(tmp_path: Path) -> None:
    data = saved(RGB, "JPEG", quality=95, keep_rgb=True)
    assert np.abs(decode(data).astype(int) - picture()).mean() < 3
    path = tmp_path / "profile.jpg"
    path.write_bytes(saved(RGB, "JPEG", icc_profile=bytes(200_000)))
    assert image_size(path) == (W, H)
    assert decode(path).shape == (H, W, 3)


def test_cmyk_jpeg_is_near_its_rgb_inverted_or_not() -> None:
    flat = Image.new("RGB", (64, 48), (200, 120, 40))
    data = saved(flat.convert("CMYK"), "JPEG", quality=95)  # Pillow writes Adobe's inverted inks
    assert b"Adobe" in data
    assert np.abs(decode(data).astype(int) - [200, 120, 40]).max() <= 4
    assert np.abs(decode(FILES["jpeg cmyk"]).astype(int) - picture()).mean() < 4
    rgb = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), rgb)


def test_ycck_jpeg_agrees_with_pillow() -> None:
    data = bytearray(saved(RGB.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2  # declares the same numbers to be YCCK
    want = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB")).astype(int)
    got = decode(bytes(data)).astype(int)
    assert np.abs(got - want).max() <= 2
    assert np.abs(got - decode(FILES["jpeg cmyk"])).mean() > 20


# --- Modes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_plain_modes(kind: str, mode: str) -> None:
    image = RGB.quantize(50) if mode == "P" else RGB.convert(mode)
    np.testing.assert_array_equal(decode(saved(image, kind)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("TIFF", "RGBA"), ("TIFF", "LA"), ("WEBP", "RGBA")]
)
def test_alpha_lies_over_white(kind: str, mode: str) -> None:
    image = RGB.convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, W).round().astype(np.uint8), (H, 1))))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = decode(saved(image, kind, **options))
    assert np.abs(pixels - over_white(np.asarray(image.convert("RGBA")))).max() <= 0.5
    assert (pixels[:, 0] == 255).all()


def test_transparency_in_palette_grey_and_rgb() -> None:
    palette = RGB.quantize(50)
    rgba = palette.convert("RGBA")
    clear = np.asarray(palette) == 7
    pixels = decode(saved(palette, "PNG", transparency=7))
    assert clear.any()
    assert (pixels[clear] == 255).all()
    np.testing.assert_array_equal(pixels[~clear], np.asarray(rgba)[..., :3][~clear])
    half = decode(saved(palette, "PNG", transparency=bytes([128] * 50)))
    assert np.abs(half - (np.asarray(rgba)[..., :3] * (128 / 255) + 127)).max() <= 0.5
    for image, key in [(Image.new("L", (4, 3), 9), 9), (Image.new("RGB", (4, 3), (9, 8, 7)), (9, 8, 7))]:
        assert (decode(saved(image, "PNG", transparency=key)) == 255).all()


def test_cmyk_tiff() -> None:
    image = RGB.convert("CMYK")
    np.testing.assert_array_equal(decode(saved(image, "TIFF")), np.asarray(image.convert("RGB")))


def test_the_first_frame_or_page_is_taken() -> None:
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2)]
    for kind, options in [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})]:
        both = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
        np.testing.assert_array_equal(both, decode(saved(frames[0], kind, **options)), err_msg=kind)


# --- 16 bits ------------------------------------------------------------------------------------------------------


def rounded(values: np.ndarray) -> np.ndarray:
    """The definition, in exact fractions: value * 255 / full scale, halves up."""
    full = min(scale for scale in FULL_SCALES if scale >= values.max())
    return np.array([(2 * int(v) * 255 + full) // (2 * full) for v in values.ravel()]).reshape(values.shape)


@pytest.mark.parametrize("top", [0, 255, 256, 1023, 1024, 4095, 4096, 16383, 16384, 65535])
@pytest.mark.parametrize("kind", ["png", "tiff", "tiff big-endian", "tiff 32-bit", "tiff signed"])
def test_deep_grey_is_exact(top: int, kind: str) -> None:
    values = np.linspace(0, top, H * W).round().astype(np.uint16).reshape(H, W)
    if kind == "png":
        data = saved(Image.fromarray(values), "PNG")
    elif kind == "tiff signed":
        values = np.minimum(values, 32767)
        data = tiff(values.astype(np.int16))
    else:
        data = tiff(values.astype(np.uint32) if "32" in kind else values, byteorder=">" if "big" in kind else "<")
    pixels = decode(data)
    np.testing.assert_array_equal(pixels, np.repeat(rounded(values)[..., None], 3, axis=2))
    if top == 4095:
        assert pixels.max() == 255  # a 12-bit camera's white is white


@pytest.mark.parametrize("top", [4095, 65535])
def test_deep_colour_is_exact(top: int) -> None:
    values = np.random.default_rng(0).integers(0, top + 1, (H, W, 3)).astype(np.uint16)
    values[0, 0] = [top, top // 2, 0]
    want = rounded(values)
    planes = np.moveaxis(values, 2, 0).copy()
    files = [
        cv2.imencode(".png", values[..., ::-1])[1].tobytes(),
        tiff(values, photometric="rgb"),
        tiff(values, photometric="rgb", byteorder=">", compression="zlib"),
        tiff(planes, photometric="rgb", planarconfig="separate"),
        tiff(planes, photometric="minisblack", planarconfig="separate"),
    ]
    for data in files:
        np.testing.assert_array_equal(decode(data), want)
    opacity = np.full((H, W, 1), 65535, np.uint16)
    opacity[:5] = 0
    want[:5] = 255
    bgra = np.concatenate([values[..., ::-1], opacity], axis=2)
    rgba = np.concatenate([values, opacity], axis=2)
    np.testing.assert_array_equal(decode(cv2.imencode(".png", bgra)[1].tobytes()), want)
    np.testing.assert_array_equal(decode(tiff(rgba, photometric="rgb", extrasamples=["unassalpha"])), want)


def test_white_is_zero_and_infrared_and_pages() -> None:
    values = DEEP[..., 0]
    np.testing.assert_array_equal(decode(tiff(values, photometric="miniswhite"))[..., 0], 255 - rounded(values))
    four = np.concatenate([DEEP, DEEP[..., :1]], axis=2)
    want = rounded(DEEP)
    np.testing.assert_array_equal(decode(tiff(four, photometric="rgb", extrasamples=["unspecified"])), want)
    stack = np.stack([DEEP, DEEP // 2])
    np.testing.assert_array_equal(decode(tiff(stack, photometric="rgb")), want)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiff(np.zeros((H, W), np.float32)), "floating point"),
        (tiff(np.zeros((H, W, 3), np.float32), photometric="rgb"), "float32"),
        (tiff(np.zeros((5, H, W), np.uint8), photometric="minisblack", planarconfig="separate"), "1, 3 or 4 channels"),
        (tiff(np.zeros((2, H, W), np.uint16), photometric="minisblack", planarconfig="separate"), "1, 3 or 4 channels"),
        (tiff(np.full((H, W), -1, np.int16)), "from -1"),
        (tiff(np.full((H, W), 70_000, np.uint32)), "70000"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why):
        decode(data)


# --- Orientation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_orientations_agree_with_pillow(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "turned"
    path.write_bytes(saved(RGB, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    with Image.open(path) as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    pixels = decode(path)
    check_whole(pixels)
    assert pixels.shape == want.shape
    assert np.abs(pixels.astype(int) - want).max() <= (2 if kind == "JPEG" else 0)
    assert image_size(path) == (want.shape[1], want.shape[0])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("field", "code"), [("H2x", 3), ("I", 4)])
def test_orientation_in_either_byte_order_and_width(order: str, field: str, code: int) -> None:
    tag = struct.pack(order + "HHI" + field, 0x0112, code, 1, 6)
    exif = b"Exif\0\0" + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1) + tag + bytes(4)
    np.testing.assert_array_equal(decode(saved(RGB, "JPEG", exif=exif)), np.rot90(decode(saved(RGB, "JPEG")), -1))


def test_damaged_exif_leaves_good_pixels_alone() -> None:
    want = decode(saved(RGB, "JPEG"))
    for tail in (b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09\x01\x12", b"MM\0*" + bytes(40)):
        np.testing.assert_array_equal(decode(saved(RGB, "JPEG", exif=b"Exif\0\0" + tail)), want)


def test_png_with_exif_behind_its_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path = tmp_path / "late.png"
    path.write_bytes(FILES["png"][:-12] + chunk + FILES["png"][-12:])
    np.testing.assert_array_equal(decode(path), np.rot90(picture(), -1))
    assert image_size(path) == (H, W)


def test_deep_colour_is_turned_too(tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    path.write_bytes(tiff(DEEP, photometric="rgb", extratags=[(274, "H", 1, 6, True)]))
    np.testing.assert_array_equal(decode(path), np.rot90(rounded(DEEP), -1))
    assert image_size(path) == (H, W)


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
    with pytest.raises(UnreadableImage, match=f"came {side} x {side}"):
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
