"""A labelled picture, and a labelled set that is read lazily.

Axes: H W pixels of a picture, K classes, P keypoints of an object.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

VOID = 255  # the label of pixels that are not scored
ENDS = 1 << 16  # bytes at each end of a file that a fingerprint reads


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An annotated object: class, box (x, y, width, height), keypoints, which of them are visible, and mask.

    Coordinates are (x, y) in pixels from the image's upper left edge, as in COCO. `crowd` marks a region of many
    objects that are not annotated one by one.
    """

    category: str
    box: tuple[float, float, float, float]
    keypoints: Float[np.ndarray, "P 2"] | None = None
    visible: Bool[np.ndarray, "P"] | None = None
    mask: Bool[np.ndarray, "H W"] | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Example:
    """A picture with its ground truth.

    `name` is unique within its split and may contain '/'; it also names the prediction's file. `labels` are class ids
    0..K-1 or `VOID`. `depth` is in metres, 0 where it is unknown, nan where the file's number is not finite.
    `instances` are annotated objects.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    labels: Integer[np.ndarray, "H W"] | None = None
    depth: Float[np.ndarray, "H W"] | None = None
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Counts:
    """The contents of a set: pixels of each class, and pictures that show the class; "void" stands for `VOID`.

    Sets with depth have "valid" and "invalid" instead of classes.
    """

    examples: int
    pixels: dict[str, int]
    pictures: dict[str, int]


@dataclass(frozen=True)
class LabelledSet(Sequence):  # not Sequence[Example]: type checks in tests would read a picture at each call
    """The examples of one split, read one at a time on access.

    `classes` are the names of ids 0..K-1, none for depth. `files` are all files that the split reads. `scored` are the
    classes of the headline mean, () for all that occur. `picture` reads only the picture of example i. `note` is a line
    on the labels or the split that readers of the numbers need. `pictures` are the paths of the examples' pictures; the
    path of a picture inside a file is its name below the file's path.
    """

    name: str
    root: Path
    split: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    read: Callable[[int], Example]
    files: tuple[Path, ...]
    scored: tuple[int, ...] = ()
    picture: Callable[[int], np.ndarray] | None = None
    note: str = ""
    pictures: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> list[Example]: ...
    def __getitem__(self, i: int | slice) -> Example | list[Example]:
        """Decode example i; a slice decodes all of its examples at once.

        Raises `UnreadableImage` for a damaged file, and `BadInput` with the file's name for labels or depth whose size
        differs from the picture's and for ids outside the class list.
        """
        if isinstance(i, slice):
            return [self.read(k) for k in range(len(self))[i]]
        return self.read(self._index(i))

    def __iter__(self) -> Iterator[Example]:
        return (self.read(i) for i in range(len(self)))

    def image(self, i: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read the picture of example i without its labels. Raises `UnreadableImage`."""
        i = self._index(i)
        return self.read(i).image if self.picture is None else self.picture(i)

    def _index(self, i: int) -> int:
        return range(len(self))[i]  # supports negative indices and raises IndexError

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that hash the split, the examples' names and order, and of every file its name
        relative to the root, its size, and its first and last 64 KiB (all of a file of up to 128 KiB)."""
        digest = hashlib.sha256()
        # Not JSON, because of names that are not UTF-8.
        for name in (self.split, *self.names):
            digest.update(os.fsencode(name) + b"\n")
        for name, path in sorted((os.path.relpath(path, self.root), path) for path in set(self.files)):
            size = path.stat().st_size
            digest.update(b"\0" + os.fsencode(Path(name).as_posix()) + b"\0" + str(size).encode() + b"\0")
            with path.open("rb") as file:
                digest.update(file.read(ENDS))
                file.seek(max(ENDS, size - ENDS))
                digest.update(file.read(ENDS))
        return digest.hexdigest()[:16]

    def check(self, limit: int | None = None, say: Callable[[int, int], None] | None = None) -> Counts:
        """Read all examples, or the first `limit`, and count. `say(done, of)` is called after each.

        Raises the errors of reading them.
        """
        names = {**dict(enumerate(self.classes)), VOID: "void"} if self.classes else {0: "invalid", 1: "valid"}
        total = len(self) if limit is None else min(limit, len(self))
        pixels, pictures = np.zeros(256, np.int64), np.zeros(256, np.int64)
        for i in range(total):
            example = self.read(i)
            values = example.depth > 0 if example.labels is None and example.depth is not None else example.labels
            assert values is not None, "an example has labels or depth"
            count = np.bincount(values.ravel(), minlength=256)
            pixels += count
            pictures += count > 0
            if say is not None:
                say(i + 1, total)
        return Counts(
            total,
            {name: int(pixels[k]) for k, name in names.items()},
            {name: int(pictures[k]) for k, name in names.items()},
        )
