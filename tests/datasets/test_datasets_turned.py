"""Pictures that ask to be turned beside masks that do not, and pictures of both splits."""

from pathlib import Path

import numpy as np
import pytest
from labelled import MAKE, make_folder, make_nyu, picture, put, text
from PIL import Image

from vader.datasets.davis import DavisClip
from vader.datasets.opening import check_apart, open_labelled, open_splits
from vader.datasets.turned import orientation
from vader.errors import BadInput
from vader.exams.labelled.published import open_squares
from vader.exams.protocols import find_protocol

TAG = 0x0112


def tagged(path: Path, way: int, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[TAG] = way
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def pair(root: Path, ending: str, way: int, mask_way: int) -> tuple[np.ndarray, np.ndarray]:
    """A folder set with one training picture of 32 x 32; what is stored of it and of its mask."""
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (32, 32, 3), np.uint8), rng.integers(0, 2, (32, 32), np.uint8)
    tagged(root / "images" / f"a.{ending}", way, pixels)
    tagged(root / "masks" / "a.png", mask_way, mask)
    picture(root / "images" / "b.png", 1)
    put(root / "masks" / "b.png", np.zeros((32, 40), np.uint8))
    for split, name in (("train", "a"), ("val", "b")):
        text(root / f"{split}.txt", name)
    text(root / "classes.txt", "x", "y")
    return pixels, mask


@pytest.mark.parametrize(("way", "mask_way"), [(3, 1), (1, 3), (6, 8), (2, 1)])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_one_that_is_turned_alone_is_refused(ending: str, way: int, mask_way: int, tmp_path: Path) -> None:
    pair(tmp_path, ending, way, mask_way)
    assert orientation(tmp_path / "images" / f"a.{ending}") == way
    with pytest.raises(BadInput, match=f"orientation {mask_way}, .* found {way}; .*auto-orient") as caught:
        open_labelled("folder", tmp_path, "train")[0]
    assert str(caught.value).startswith(str(tmp_path / "images" / f"a.{ending}"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", range(1, 9))
def test_both_are_turned_alike(way: int, tmp_path: Path) -> None:
    pixels, mask = pair(tmp_path, "png", way, way)
    found = open_labelled("folder", tmp_path, "train")[0]
    assert found.labels is not None
    joined = np.dstack([found.image, found.labels])
    known = {  # Exif's definition: where the stored first row and column lie
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    assert np.array_equal(joined, known[way](np.dstack([pixels, mask])))


def test_depth_and_clips_are_checked_too(tmp_path: Path) -> None:
    made = MAKE["rgbd"](tmp_path / "rgbd")
    assert made
    colour = tmp_path / "rgbd" / "frame-1.color.png"
    tagged(colour, 3, np.zeros((32, 40, 3), np.uint8))
    with pytest.raises(BadInput, match=r"frame-1\.color\.png: expected Exif orientation 1"):
        open_labelled("rgbd", tmp_path / "rgbd", "val")[0]
    mask = tmp_path / "mask.png"
    put(mask, np.ones((32, 40), np.uint8))
    clip = DavisClip("c", (colour,) * 3, (mask,) * 3)
    for ask in (clip.check, lambda: clip.mask(0)):
        with pytest.raises(BadInput, match="expected Exif orientation 1"):
            ask()


# --- Splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKE)
def test_splits_of_their_own_are_opened(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    for found in open_splits(kind, tmp_path):
        assert len(found.pictures) == len(found)


@pytest.mark.parametrize("kind", ["voc", "camvid", "rgbd"])
def test_a_picture_of_both_splits_is_refused(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation" if kind == "voc" else tmp_path
    lines = (lists / "train.txt").read_text().splitlines()
    text(lists / "val.txt", *(lists / "val.txt").read_text().splitlines(), lines[0])
    with pytest.raises(BadInput, match="expected each picture in one split, ") as caught:
        open_splits(kind, tmp_path)
    first = open_labelled(kind, tmp_path, "train")
    for word in (str(tmp_path), first.names[0], str(first.pictures[0].resolve())):
        assert word in str(caught.value)
    assert "more)" not in str(caught.value)
    if kind == "voc":
        with pytest.raises(BadInput, match="expected each picture in one split"):
            open_squares(find_protocol("segmentation", "voc-linear/leopart"), tmp_path)


def test_a_link_is_the_picture_that_it_leads_to(tmp_path: Path) -> None:
    make_folder(tmp_path)
    shown = tmp_path / "images" / "a" / "three.webp"
    shown.unlink()
    shown.symlink_to(tmp_path / "images" / "two.png")
    with pytest.raises(BadInput, match="as two in train and as a/three in val"):
        open_splits("folder", tmp_path)


def test_pictures_of_one_file_are_told_apart(tmp_path: Path) -> None:
    make_nyu(tmp_path)
    train, val = open_splits("nyu", tmp_path)
    with pytest.raises(BadInput, match=r"as 0001 in train and as 0001 in val \(and 1 more\)"):
        check_apart(val, val)
    assert {path.name for path in train.pictures} == {"0002", "0004"}
