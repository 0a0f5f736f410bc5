"""What all layouts share: what is ordered, which pictures are for training, and how a file is put down."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vader.scenes.camera import Camera
from vader.scenes.frame import Frame
from vader.scenes.samples import still
from vader.scenes.world import SceneConfig

Setting = Literal["mixed", "room", "landscape"]


@dataclass(frozen=True)
class Order:
    """So many pictures of a size, in pixels, of the worlds that a config and a seed give."""

    count: int
    width: int
    height: int
    seed: int
    config: SceneConfig

    def frame(self, index: int) -> Frame:
        """Picture `index` of those that show one world each."""
        return still(self.config, self.seed, self.width, self.height, index)


class Made(NamedTuple):
    """A picture that was made: its name in the data set, its camera, and what is to be collected."""

    picture: str
    camera: Camera
    record: Any = None


@dataclass(frozen=True)
class Layout:
    """How pictures are written as one data set.

    `make(order, folder, index)` renders picture `index` and writes what is its own; it may run in any process and
    order. `collect(order, folder, records)` gets the makes' records, in order, and writes what is common to all;
    it reads each record, and may write while the later ones are made. `names` are the data set's names of classes and
    their numbers there.
    """

    make: Callable[[Order, Path, int], Made]
    collect: Callable[[Order, Path, Iterable[Any]], None]
    names: Mapping[str, int]
    setting: Setting = "mixed"  # of the worlds, unless another is asked for
    least: int = 1  # pictures
    needs: tuple[str, str] | None = None  # a library and the extra that installs it
    parts: Callable[[int], int] = int  # count of pictures -> of what is split into train and val


def is_val(index: int, count: int) -> bool:
    """Whether one of `count` things is for validation: each fifth; of two to four the last; one alone is not."""
    return index % 5 == 4 or (1 < count < 5 and index == count - 1)


def split_of(index: int, count: int) -> str:
    """'train' or 'val'."""
    return "val" if is_val(index, count) else "train"


def put(path: Path, content: bytes | str) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_lists(folder: Path, names: list[str], trainval: bool = False) -> None:
    """ImageSets: train.txt and val.txt, a name a line, in order; and both together in trainval.txt."""
    for split in ("train", "val"):
        chosen = [name for i, name in enumerate(names) if split_of(i, len(names)) == split]
        put(folder / f"{split}.txt", "".join(f"{name}\n" for name in chosen))
    if trainval:
        put(folder / "trainval.txt", "".join(f"{name}\n" for name in names))


def spend(records: Iterable[Any]) -> None:
    """Wait for all records where there is nothing in them."""
    for _ in records:
        pass
