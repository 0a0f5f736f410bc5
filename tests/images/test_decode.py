"""What `vader.images.decode` promises: whole and right pixels, or `UnreadableImage`; nothing between."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded import DEEP, FILES, RGB, H, W, check_whole, over_white, picture, saved, tiff
from PIL import ExifTags, Image, ImageOps

from vader.errors import UnreadableImage
from vader.images.decode import FULL_SCALES, decode, image_size

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
