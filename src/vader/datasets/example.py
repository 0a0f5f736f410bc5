"""One labelled picture, and a set of them that is read lazily.

Legend: H W pixels of a picture, K classes.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Float, Integer, UInt8

VOID = 255  # the label of pixels that no exam counts
ENDS = 1 << 16  # bytes at either end of a file that a fingerprint reads


@dataclass(frozen=True)
class Example:
    """One picture with its truth.

    `name` is unique within its split and may contain '/'; predictions are filed under it. `labels` are the classes as
    exams count them, 0..K-1, or `VOID`. `depth` is in metres, 0 where it is unknown, nan where the file has a number
    that is not finite.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    labels: Integer[np.ndarray, "H W"] | None = None
    depth: Float[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class Counts:
    """What a walk through a set found: pixels by class, and pictures that show the class; "void" stands for `VOID`.

    Sets with depth have "valid" and "invalid" in place of classes.
    """

    examples: int
    pixels: dict[str, int]
    pictures: dict[str, int]


@dataclass(frozen=True)
class LabelledSet(Sequence):  # without [Example]: tests' type checks would read a picture at each call it is passed to
    """The examples of one split, read one at a time whenever they are asked for.

    `classes` are the names of ids 0..K-1, none for depth. `files` are all that the split reads. `scored` are the
    classes that the headline mean is over, () for all that occur. `picture` reads example i's picture alone; `note`
    says in a line what a reader of the numbers must know of the labels or the split. `pictures` are where each
    example's picture lies; one within a file has its name beneath that file's.
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
        """Example i, decoded anew; a slice decodes all of its examples at once.

        Raises `UnreadableImage` for a damaged file; `BadInput`, naming the file, for labels or depth of another size
        than the picture and for ids outside the class list.
        """
        if isinstance(i, slice):
            return [self.read(k) for k in range(len(self))[i]]
        return self.read(self._index(i))

    def __iter__(self) -> Iterator[Example]:
        return (self.read(i) for i in range(len(self)))

    def image(self, i: int) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of example i, without reading its labels. Raises `UnreadableImage`."""
        i = self._index(i)
        return self.read(i).image if self.picture is None else self.picture(i)

    def _index(self, i: int) -> int:
        return range(len(self))[i]  # counts from the end too, and raises IndexError

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the split, the examples' names and order, and every file's name relative to the
        root, size, and first and last 64 KiB (all of a file of up to 128 KiB)."""
        digest = hashlib.sha256()
        # JSON would do, but for names that are not UTF-8.
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

        Raises what reading them raises.
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
