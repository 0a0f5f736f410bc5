"""Shared parts of the layouts: lists, class lists, and reading pairs of a picture and its ground truth file.

Legend: H W pixels.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float32, Integer, UInt8

from vader.datasets.example import VOID, Example, LabelledSet
from vader.datasets.turned import turned_like
from vader.errors import BadInput
from vader.images.decode import decode, decode_values

UNKNOWN = 254  # in a table of ids: not an id of the set
PICTURES = (".jpg", ".png", ".jpeg")  # suffixes to try for a picture that is listed without one


# --- Lists --------------------------------------------------------------------------------------------------------


def read_lines(path: Path, how: str) -> list[str]:
    """Read the non-blank lines of a list. Raises `BadInput`, with `how` to get it, if it is missing or empty."""
    if not path.is_file():
        raise BadInput(f"expected a list {path}, which does not exist; {how}")
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"expected a picture on each line of {path}, found an empty file; {how}")
    return lines


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the names of a class list: the name on line n has id n - 1. Raises `BadInput` for an invalid list."""
    names = [line.strip() for line in _text(path).rstrip().splitlines()]
    if not any(names):
        raise BadInput(f"expected a class name on each line of {path}, found an empty file")
    if "" in names:
        raise BadInput(f"expected a class name on each line of {path}, found line {names.index('') + 1} blank")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(f"expected each class once in {path}, found {twice[0]!r} more than once")
    if len(names) > UNKNOWN:
        raise BadInput(f"expected at most {UNKNOWN} classes in {path}, because labels are bytes, found {len(names)}")
    return tuple(names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise BadInput(f"expected a UTF-8 text file {path}, found an unreadable one: {fault}") from fault


def read_pairs(path: Path, folders: Sequence[Path], how: str) -> "Pairs":
    """Read a list with a picture and its ground truth file on each line; a third word (focal length) is ignored.

    Paths are relative to the first of `folders` that contains the first line's files. Leading folders that public lists
    have from their authors' machines ("/SegNet/CamVid/train/...") are removed until the files are found.
    """
    lines = [line.split() for line in read_lines(path, how)]
    if short := [line[0] for line in lines if len(line) < 2]:
        raise BadInput(f"expected a picture and its ground truth file on each line of {path}, found only {short[0]!r}")
    parts = [[PurePosixPath(word.lstrip("/")).parts for word in line[:2]] for line in lines]
    folder, skip = _fitting(parts[0][0], folders)
    pictures, truths = (tuple("/".join(line[k][skip:]) for line in parts) for k in (0, 1))
    names = tuple(os.path.splitext(name)[0] for name in pictures)
    return Pairs(names, tuple(folder / name for name in pictures), tuple(folder / name for name in truths)).sound(path)


def _fitting(words: Sequence[str], folders: Sequence[Path]) -> tuple[Path, int]:
    for skip in range(len(words)):
        for folder in folders:
            if folder.joinpath(*words[skip:]).is_file():
                return folder, skip
    return folders[0], 0


def listed(folder: Path, pattern: str, ending: str) -> set[str]:
    """Return the names, without the ending, of the files below a folder that match the pattern and the ending."""
    return {path.relative_to(folder).as_posix().removesuffix(ending) for path in folder.glob(pattern + ending)}


def picture_file(beginning: Path) -> Path:
    """Find the file of a picture that is named without its suffix; returns a missing path if there is none."""
    candidates = [beginning.with_name(beginning.name + ending) for ending in PICTURES]
    return next((path for path in candidates if path.is_file()), candidates[0])


@dataclass(frozen=True)
class Pairs:
    """Names, pictures and ground truth files, in the order of a split."""

    names: tuple[str, ...]
    pictures: tuple[Path, ...]
    truths: tuple[Path, ...]

    def sound(self, source: Path) -> "Pairs":
        """Return self. Raises `BadInput` for duplicate names in `source`, and for names outside the set's folder."""
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise BadInput(f"{source}: expected each picture once, found {twice[0]} more than once")
        for name in self.names:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise BadInput(f"expected paths inside the data set in {source}, found {name}")
        return self

    def exist(self, how: str) -> "Pairs":
        """Return self. Raises `BadInput` for missing files, with `how` to get them."""
        missing = [path for path in (*self.pictures, *self.truths) if not path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more that do not exist" if len(missing) > 1 else ", which does not exist"
            raise BadInput(f"expected {missing[0]}{more}; {how}")
        return self


def find_root(root: Path, marker: str, below: Iterable[str], how: str) -> Path:
    """Return `root` or the first of its folders `below` with `marker`. Raises `BadInput` with `how` to get it."""
    if not root.is_dir():
        raise BadInput(f"expected a folder, {root} {'is none' if root.exists() else 'does not exist'}; {how}")
    places = [root, *(root / name for name in below)]
    for place in places:
        if (place / marker).exists():
            return place
    came = "which does not exist" if len(places) == 1 else "none of which exists"
    raise BadInput(f"expected {' or '.join(str(place / marker) for place in places)}, {came}; {how}")


# --- Labels -------------------------------------------------------------------------------------------------------


def id_table(ids: Mapping[int, int]) -> UInt8[np.ndarray, "256"]:
    """Make a table of the meaning of each value of a label file: a class, `VOID` (default for 255) or `UNKNOWN`."""
    assert UNKNOWN not in ids, "to_labels takes larger values for it"
    table = np.full(256, UNKNOWN, np.uint8)
    for value, label in ({VOID: VOID} | dict(ids)).items():
        table[value] = label
    return table


def to_labels(
    values: Integer[np.ndarray, "H W"], table: UInt8[np.ndarray, "256"], source: Path
) -> UInt8[np.ndarray, "H W"]:
    """Convert a file's values to labels. Raises `BadInput` that lists values outside the class list."""
    labels = table.take(values if values.dtype == np.uint8 else np.where(values > 255, UNKNOWN, values))
    if (wrong := labels == UNKNOWN).any():
        found = [str(value) for value in np.unique(values[wrong])]
        came = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise BadInput(
            f"{source}: expected ids {_ranges(table)}, found {came} ({int(wrong.sum())} pixels); "
            "correct the mask or the class list"
        )
    return labels


def _ranges(table: UInt8[np.ndarray, "256"]) -> str:
    """Format the known values as "0-20, 255"."""
    known = np.flatnonzero(table != UNKNOWN)
    runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# --- Depth --------------------------------------------------------------------------------------------------------


def to_metres(values: Integer[np.ndarray, "H W"], source: Path) -> Float32[np.ndarray, "H W"]:
    """Convert depth from millimetres to metres. 65535, which 7-Scenes writes for unknown depth, becomes 0.

    Raises `BadInput` unless the values have 16 bits: 8-bit depth has lost its unit.
    """
    if values.dtype != np.uint16:
        raise BadInput(
            f"{source}: expected a 16-bit PNG of depth in millimetres, found {values.dtype.itemsize * 8} bits"
        )
    return np.where(values == 65535, np.float32(0), values.astype(np.float32) / np.float32(1000))


# --- Sets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairReader:
    """Reads example i of pairs of pictures and label files, whose values `table` maps; without a table, of depth files
    in millimetres."""

    pairs: Pairs
    table: UInt8[np.ndarray, "256"] | None = None

    def __call__(self, i: int) -> Example:
        name, source, image = self.pairs.names[i], self.pairs.truths[i], self.picture(i)
        values = turned_like(self.pairs.pictures[i], source, decode_values(source))
        if image.shape[:2] != values.shape:
            (h, w), (height, width) = image.shape[:2], values.shape
            raise BadInput(
                f"{source}: expected {w} x {h} pixels, the size of {self.pairs.pictures[i]}, found {width} x {height}; "
                "picture and ground truth must match pixel by pixel"
            )
        if self.table is None:
            return Example(name, image, depth=to_metres(values, source))
        return Example(name, image, labels=to_labels(values, self.table, source))

    def picture(self, i: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read only the picture."""
        return decode(self.pairs.pictures[i])


def labelled(
    kind: str, root: Path, split: str, classes: Sequence[str], pairs: Pairs, *,
    table: UInt8[np.ndarray, "256"] | None = None, lists: Iterable[Path] = (), scored: tuple[int, ...] = (),
    note: str = "",
) -> LabelledSet:  # fmt: skip
    """Make a set of pictures with label files. `table` maps their values, by default to themselves; `lists` are the
    other files that were read."""
    if table is None:
        table = id_table({k: k for k in range(len(classes))})
    reader = PairReader(pairs, table)
    files = (*lists, *pairs.pictures, *pairs.truths)
    return LabelledSet(
        kind, root, split, tuple(classes), pairs.names, reader, files, scored, picture=reader.picture, note=note,
        pictures=pairs.pictures,
    )  # fmt: skip


def with_depth(
    kind: str, root: Path, split: str, pairs: Pairs, *, lists: Iterable[Path] = (), note: str = ""
) -> LabelledSet:
    """Make a set of pictures with depth files; `lists` are the other files that were read."""
    reader = PairReader(pairs)
    files = (*lists, *pairs.pictures, *pairs.truths)
    return LabelledSet(
        kind, root, split, (), pairs.names, reader, files, picture=reader.picture, note=note, pictures=pairs.pictures
    )
