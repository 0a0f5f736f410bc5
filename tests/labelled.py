"""Small labelled sets in the layouts of public ones, each with the truth that was written."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

from vader.datasets.cityscapes import IDS
from vader.datasets.example import VOID


def noise(seed: int, top: int, kind: type = np.uint8, size: tuple[int, int] = (32, 40)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, size).astype(kind)


def put(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def picture(path: Path, seed: int, size: tuple[int, int] = (32, 40)) -> None:
    put(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


Truth = dict[str, np.ndarray]


def make_voc(root: Path) -> dict[str, Truth]:
    made: dict[str, Truth] = {"train": {}, "val": {}}
    for i, (split, name) in enumerate((("train", "2007_000001"), ("train", "2007_000002"), ("val", "2007_000003"))):
        picture(root / "JPEGImages" / f"{name}.jpg", i)
        values = noise(i, 22)
        values[values == 21] = 255
        made[split][name] = put(root / "SegmentationClass" / f"{name}.png", values)
    for split, truth in made.items():
        text(root / "ImageSets" / "Segmentation" / f"{split}.txt", *truth)
    return made


def make_cityscapes(root: Path) -> dict[str, Truth]:
    made: dict[str, Truth] = {"train": {}, "val": {}}
    train_ids = list(IDS.values())
    for i, (split, name) in enumerate((("train", "ulm/ulm_1"), ("val", "bonn/bonn_1"), ("val", "bonn/bonn_2"))):
        picture(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", i)
        values = put(root / "gtFine" / split / f"{name}_gtFine_labelIds.png", noise(i, 34))
        expected = [train_ids.index(value) if value in train_ids else VOID for value in values.ravel()]
        made[split][name] = np.array(expected).reshape(values.shape)
    return made


def make_camvid(root: Path) -> dict[str, Truth]:
    made: dict[str, Truth] = {"train": {}, "val": {}}
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for i, (split, name) in enumerate((("train", "b"), ("train", "a"), ("val", "c"))):
        picture(root / split / f"{name}.jpg", i)
        values = put(root / f"{split}annot" / f"{name}.png", noise(i, 12))
        lines[split].append(f"{split}/{name}.jpg {split}annot/{name}.png")
        made[split][f"{split}/{name}"] = np.where(values == 11, VOID, values)
    for split in made:
        text(root / f"{split}.txt", *lines[split])
    return made


def make_ade20k(root: Path) -> dict[str, Truth]:
    made: dict[str, Truth] = {"train": {}, "val": {}}
    folders = {"train": "training", "val": "validation"}
    for i, (split, name) in enumerate((("train", "ADE_1"), ("train", "ADE_2"), ("val", "ADE_3"))):
        picture(root / "images" / folders[split] / f"{name}.jpg", i)
        values = put(root / "annotations" / folders[split] / f"{name}.png", noise(i, 151))
        made[split][name] = np.array([VOID if v == 0 else v - 1 for v in values.ravel()]).reshape(values.shape)
    return made


def make_folder(root: Path) -> dict[str, Truth]:
    """Indexed, 8-bit and 16-bit masks; nested; of different sizes."""
    text(root / "classes.txt", "ground", "cell wall", "nucleus")
    made: dict[str, Truth] = {"train": {}, "val": {}}
    for i, (split, name, ending) in enumerate(
        (("train", "a/b.c/one", "jpg"), ("train", "two", "png"), ("val", "a/three", "webp"), ("val", "two four", "JPG"))
    ):
        size = (32 + i, 40 - i)
        picture(root / "images" / f"{name}.{ending}", i, size)
        values = np.where(noise(i, 4, size=size) == 3, 255, noise(i, 4, size=size)).astype(np.uint8)
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(values if i != 1 else values.astype(np.uint16))
        if i == 0:
            mask.putpalette(bytes(range(256)) * 3)
        mask.save(path)
        with Image.open(path) as saved:
            assert saved.mode == ["P", "I;16", "L", "L"][i]
        made[split][name] = values
    text(root / "train.txt", "a/b.c/one", "two.png")
    text(root / "val.txt", "a/three.webp", "", "two four")
    return made


def make_rgbd(root: Path) -> dict[str, Truth]:
    made: dict[str, Truth] = {"train": {}, "val": {}}
    for i, (split, name, ending) in enumerate((("train", "s/frame-0", "jpg"), ("val", "frame-1", "png"))):
        picture(root / f"{name}.color.{ending}", i)
        values = noise(i, 10_000, np.uint16)
        values[:2], values[2] = 0, 65535
        made[split][name] = np.where(put(root / f"{name}.depth.png", values) == 65535, 0, values / 1000)
        text(root / f"{split}.txt", name)
    return made


def make_nyu(root: Path) -> dict[str, Truth]:
    """The .mat pair, the splits compressed as MATLAB's own are, with NaN and a negative depth."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 9, (4, 40, 32)).astype(np.float32)
    depth[1, 3, 4], depth[1, 5, 6], depth[1, 7, 8], depth[1, 9, 9] = np.nan, np.inf, -1, 0
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = rng.integers(0, 256, (4, 3, 40, 32), dtype=np.uint8)
        file["rawDepths"], file["depths"] = depth, depth + 1
    columns = {"trainNdxs": np.array([[4.0], [2.0]]), "testNdxs": np.array([[1], [3]], np.uint16), "note": "text"}
    scipy.io.savemat(root / "splits.mat", columns, do_compression=True)
    known = np.where(np.isfinite(depth), np.maximum(depth, 0), np.nan)
    return {
        "train": {"0004": known[3].T, "0002": known[1].T},
        "val": {"0001": known[0].T, "0003": known[2].T},
    }


MAKE: dict[str, Callable[[Path], dict[str, Truth]]] = {
    "voc": make_voc,
    "cityscapes": make_cityscapes,
    "camvid": make_camvid,
    "ade20k": make_ade20k,
    "folder": make_folder,
    "rgbd": make_rgbd,
    "nyu": make_nyu,
}


def many(root: Path, count: int) -> None:
    text(root / "classes.txt", "a", "b")
    for i in range(count):
        put(root / "masks" / f"{i}.png", noise(i, 2, size=(4, 4)))
        picture(root / "images" / f"{i}.png", i, (4, 4))
