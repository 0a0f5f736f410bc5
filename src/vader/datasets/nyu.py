"""NYU Depth v2: the labelled .mat file with splits.mat, or folders of pictures and 16-bit depth.

The .mat file has 1,449 pictures, 795 for training and 654 for testing (here "val"), with two depths: `rawDepths`, the
output of the sensor (0 is unknown), on which published results are scored, and `depths`, with filled holes. MATLAB
orders axes in reverse (H x W x N is (N, W, H) here) and counts pictures from 1.

Folders can have three layouts, tried in this order: lists of colour and depth files as in BTS
(nyudepthv2_{train,test}_files_with_gt.txt, relative to the root, sync/ or official_splits/{train,test}); rgb/ and
depth/ with train.txt and val.txt or test.txt; {train,test}/SCENE/rgb_NUMBER.jpg and sync_depth_NUMBER.png. Depth is
in millimetres.

Legend: H W pixels, N pictures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vader.datasets.example import Example, LabelledSet
from vader.datasets.files import Pairs, picture_file, read_lines, read_pairs, with_depth
from vader.datasets.matlab import read_columns
from vader.errors import BadInput, MissingExtra

HOW = (
    "download http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat and "
    "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat into one folder"
)
MAT, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
KEYS = {"train": "trainNdxs", "val": "testNdxs"}
PARTS = {"train": ("train",), "val": ("val", "test")}  # names of the splits in folders and lists
OFFICIAL = {"train": "train", "val": "test"}


def open_nyu(root: Path, split: str) -> LabelledSet:
    """Open the depths of the sensor: `rawDepths`, or the folders' files."""
    if (root / MAT).is_file():
        return _open_mat("nyu", root, split, "rawDepths")
    return _open_folders(root, split)


def open_filled(root: Path, split: str) -> LabelledSet:
    """Open the depths with filled holes: `depths` of the .mat file."""
    if not (root / MAT).is_file():
        raise BadInput(f"expected {root / MAT}, which does not exist; {HOW}")
    return _open_mat("nyu-filled", root, split, "depths")


# --- The .mat file ------------------------------------------------------------------------------------------------


def _open_mat(kind: str, root: Path, split: str, depths: str) -> LabelledSet:
    if find_spec("h5py") is None:
        raise MissingExtra(f"reading {root / MAT} needs h5py; install it with: pip install 'vader-dense[nyu]'")
    if not (root / SPLITS).is_file():
        raise BadInput(f"expected {root / SPLITS}, which does not exist; {HOW}")
    numbers = read_columns(root / SPLITS, KEYS.values())[KEYS[split]]
    with _opened(root / MAT) as file:
        shapes = {key: file[key].shape if key in file else None for key in ("images", depths)}
    (count, *_, width, height), found = shapes["images"] or (0, 0, 0), shapes[depths]
    if shapes["images"] != (count, 3, width, height) or found != (count, width, height):
        raise BadInput(
            f"expected images of N x 3 x W x H and {depths} of N x W x H in {root / MAT}, found {shapes}; {HOW}"
        )
    if not numbers:
        raise BadInput(f"expected pictures in {KEYS[split]} of {root / SPLITS}, found an empty array; {HOW}")
    if not 1 <= min(numbers) <= max(numbers) <= count or len(set(numbers)) < len(numbers):
        raise BadInput(
            f"expected {KEYS[split]} of {root / SPLITS} to name pictures 1 to {count} of {MAT}, each once, "
            f"found {min(numbers)} to {max(numbers)}; the two files do not belong together"
        )
    reader = MatReader(root / MAT, depths, tuple(int(number) - 1 for number in numbers))
    names = tuple(f"{i + 1:04d}" for i in reader.indices)
    return LabelledSet(
        kind,
        root,
        split,
        (),
        names,
        reader,
        (root / MAT, root / SPLITS),
        picture=reader.picture,
        note=f"depth: {depths}",
        pictures=tuple(root / MAT / name for name in names),
    )


@dataclass(frozen=True)
class MatReader:
    """Reads examples of the .mat file. The file is opened for each read, because handles cannot cross processes."""

    path: Path
    depths: str
    indices: tuple[int, ...]  # in the file, from 0

    def __call__(self, i: int) -> Example:
        index = self.indices[i]
        with _opened(self.path) as file:
            image, depth = _turned(file["images"][index]), _turned(file[self.depths][index])
        return Example(f"{index + 1:04d}", image, depth=_known(depth))

    def picture(self, i: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read only the picture."""
        with _opened(self.path) as file:
            return _turned(file["images"][self.indices[i]])


def _turned(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T)


def _known(depth: np.ndarray) -> Float32[np.ndarray, "H W"]:
    """Replace negative depths by 0 and infinity by nan, to distinguish damaged values from holes."""
    return np.where(np.isfinite(depth), np.maximum(depth, 0), np.nan).astype(np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as fault:
        raise BadInput(f"expected a MATLAB 7.3 file {path}, found an unreadable one: {fault}; {HOW}") from fault


# --- Folders ------------------------------------------------------------------------------------------------------


def _open_folders(root: Path, split: str) -> LabelledSet:
    part, parts = OFFICIAL[split], PARTS[split]
    lists: tuple[Path, ...] = ()
    listed = root / f"nyudepthv2_{part}_files_with_gt.txt"
    if listed.is_file():
        folders = (root, root / "sync", root / "official_splits" / part, root / part)
        pairs, lists = read_pairs(listed, folders, HOW).exist(HOW), (listed,)
    elif (root / "rgb").is_dir():
        pairs, lists = _side_by_side(root, parts)
    else:
        places = [root / above / name for name in parts for above in ("", "official_splits")]
        pairs = _scenes(root, places).exist(HOW)
    return with_depth("nyu", root, split, pairs, lists=lists, note="depth: 16-bit files")


def _side_by_side(root: Path, parts: tuple[str, ...]) -> tuple[Pairs, tuple[Path, ...]]:
    """Pair rgb/NAME.jpg and depth/NAME.png, with NAMEs from a list, with or without suffix."""
    chosen = next((path for part in parts if (path := root / f"{part}.txt").is_file()), root / f"{parts[0]}.txt")
    how = "list the names in rgb/ of each split in train.txt and val.txt"
    lines = read_lines(chosen, how)
    names = tuple(line.removesuffix(".jpg").removesuffix(".png") for line in lines)
    pairs = Pairs(
        names,
        tuple(picture_file(root / "rgb" / name) for name in names),
        tuple(root / "depth" / f"{name}.png" for name in names),
    )
    return pairs.sound(chosen).exist("each NAME needs rgb/NAME.jpg (or .png) and a 16-bit depth/NAME.png"), (chosen,)


def _scenes(root: Path, places: list[Path]) -> Pairs:
    for place in places:
        pictures = sorted(place.glob("*/rgb_*.jpg"))
        if pictures:
            names = tuple(path.relative_to(place).with_suffix("").as_posix() for path in pictures)
            truths = tuple(path.with_name(path.stem.replace("rgb_", "sync_depth_") + ".png") for path in pictures)
            return Pairs(names, tuple(pictures), truths)
    raise BadInput(f"expected {MAT}, or rgb/, depth/ and lists, or {places[0].name}/SCENE/rgb_*.jpg in {root}; {HOW}")
