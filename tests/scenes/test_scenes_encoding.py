"""What rendered data sets are written with: encodings, outlines, colours, and how pictures fall into clips."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from vader.images.encode import colour_map, jpeg, palette_png, png
from vader.scenes.layouts.davis import clips, locate, palette
from vader.scenes.layouts.outlines import pieces, polygons, traced
from vader.scenes.layouts.voc import boundary

# pycocotools' arrays are older than numpy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def close(picture: Any, pixels: np.ndarray) -> bool:
    """Whether a JPEG's pixels are those it was made of, but for its losses."""
    decoded = np.asarray(picture.convert("RGB"), np.float64)
    return decoded.shape == pixels.shape and bool(np.abs(decoded - pixels).mean() < 4)


# --- Encoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_keeps_every_value(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(values)))), values)


def test_png_of_16_bits() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    image = Image.open(io.BytesIO(png(values)))
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), values)


def test_palette_png() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    image = Image.open(io.BytesIO(palette_png(values, colour_map())))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), values)
    assert np.array_equal(np.asarray(image.convert("RGB")), colour_map()[values])


def test_jpeg(photo: np.ndarray) -> None:
    image = Image.open(io.BytesIO(jpeg(photo)))
    assert image.format == "JPEG"
    assert close(image, photo)
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, ::2, 0] = 255  # columns of one pixel: nothing is left of them where colour has half the resolution
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg(red)))).astype(int) - red).mean() < 2


# --- Outlines -----------------------------------------------------------------------------------------------------


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = [rng.random((h, w)) < share for h, w, share in ((9, 13, 0.5), (20, 30, 0.7), (40, 25, 0.6), (16, 16, 0.95))]
    smooth = np.array(Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((60, 40))) > 120
    ring = np.ones((7, 9), bool)
    ring[2:5, 3:6] = False
    touching = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    return [*drawn, smooth, ring, touching, np.ones((1, 1), bool), np.eye(4, dtype=bool), np.ones((3, 5), bool)]


@pytest.mark.parametrize("mask", masks(), ids=range(len(masks())))
def test_cocos_tools_get_the_mask_back_from_its_outline(mask: np.ndarray) -> None:
    found = polygons(mask)
    flat = [[float(x) for corner in polygon for x in corner] for polygon in found]
    assert all(len(polygon) >= 8 for polygon in flat), "four numbers would be a box to COCO's tools"
    encoded = coco_mask.merge(coco_mask.frPyObjects(flat, *mask.shape))
    assert np.array_equal(coco_mask.decode(encoded).astype(bool), mask)
    assert len(found) == len(pieces(mask))


def test_pieces_hang_together_by_edges_and_make_the_mask() -> None:
    for mask in masks():
        whole = np.zeros(mask.shape, int)
        for piece, (x, y) in pieces(mask):
            whole[y : y + piece.shape[0], x : x + piece.shape[1]] += piece
        assert np.array_equal(whole, mask)
    assert len(pieces(np.eye(4, dtype=bool))) == 4


@pytest.mark.parametrize("mask", masks(), ids=range(len(masks())))
def test_a_traced_piece_is_painted_with_its_holes(mask: np.ndarray) -> None:
    from scipy.ndimage import binary_fill_holes

    for piece, _ in pieces(mask):
        image = Image.new("L", piece.shape[::-1])
        ImageDraw.Draw(image).polygon(traced(piece), fill=1)
        assert np.array_equal(np.asarray(image) > 0, binary_fill_holes(piece))


# --- Colours and borders of VOC ---------------------------------------------------------------------------------------


def test_vocs_colours() -> None:
    """Some known ones: aeroplane, person, train, tv, void."""
    known = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 19: (128, 192, 0), 20: (0, 64, 128)}
    for number, colour in (known | {255: (224, 224, 192)}).items():
        assert tuple(colour_map()[number]) == colour
    assert len({tuple(colour) for colour in colour_map()}) == 256


def void_by_loops(regions: np.ndarray, reach: int) -> np.ndarray:
    """The definition: another region within `reach` rows and columns."""
    found = np.zeros(regions.shape, bool)
    for y, x in np.ndindex(regions.shape):
        near = regions[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        found[y, x] = (near != regions[y, x]).any()
    return found


def test_the_void_is_two_pixels_on_each_side() -> None:
    regions = np.zeros((10, 12), np.uint16)
    regions[:, 6:] = 300
    assert np.array_equal(boundary(regions, 2)[0], [0] * 4 + [1] * 4 + [0] * 4)
    regions = np.random.default_rng(2).integers(0, 2, (6, 8)).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(boundary(regions, 2), void_by_loops(regions, 2))


# --- Clips and colours of DAVIS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "lengths"),
    [(2, [2]), (24, [24]), (25, [23, 2]), (26, [24, 2]), (48, [24, 24]), (49, [24, 23, 2]), (60, [24, 24, 12])],
)
def test_clips(count: int, lengths: list[int]) -> None:
    assert clips(count) == lengths
    places = [(clip, t) for clip, length in enumerate(lengths) for t in range(length)]
    assert [locate(count, i) for i in range(count)] == places


def test_davis_palette() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 9: (191, 0, 0), 18: (0, 191, 0), 21: (128, 64, 128), 22: (22, 22, 22)}
    for number, colour in known.items():
        assert tuple(palette()[number]) == colour
