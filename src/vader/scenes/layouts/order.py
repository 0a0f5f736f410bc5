"""Shared parts of the layouts: the settings of a data set, the choice of splits, and writing files."""

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
    """A number of pictures, their size in pixels, and the config and seed of their worlds."""

    count: int
    width: int
    height: int
    seed: int
    config: SceneConfig

    def frame(self, index: int) -> Frame:
        """Render picture `index`, for layouts whose pictures show one world each."""
        return still(self.config, self.seed, self.width, self.height, index)


class Made(NamedTuple):
    """A finished picture: its name in the data set, its camera, and its record for `collect`."""

    picture: str
    camera: Camera
    record: Any = None


@dataclass(frozen=True)
class Layout:
    """How a data set is written.

    `make(order, folder, index)` renders picture `index` and writes its own files; it may run in any process and order.
    `collect(order, folder, records)` gets the records of `make` in order and writes the common files; it reads each
    record, and may write while later pictures are rendered. `names` are the data set's class names with their ids.
    """

    make: Callable[[Order, Path, int], Made]
    collect: Callable[[Order, Path, Iterable[Any]], None]
    names: Mapping[str, int]
    setting: Setting = "mixed"  # default setting of the worlds
    least: int = 1  # minimum number of pictures
    needs: tuple[str, str] | None = None  # a library and the extra that installs it
    parts: Callable[[int], int] = int  # number of pictures -> number of items split into train and val


def is_val(index: int, count: int) -> bool:
    """Return whether an item is for validation: every fifth; of two to four the last; a single one is not."""
    return index % 5 == 4 or (1 < count < 5 and index == count - 1)


def split_of(index: int, count: int) -> str:
    """Return 'train' or 'val'."""
    return "val" if is_val(index, count) else "train"


def put(path: Path, content: bytes | str) -> None:
    """Write a file and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_lists(folder: Path, names: list[str], trainval: bool = False) -> None:
    """Write ImageSets: train.txt and val.txt with a name on each line, in order; trainval.txt with both."""
    for split in ("train", "val"):
        chosen = [name for i, name in enumerate(names) if split_of(i, len(names)) == split]
        put(folder / f"{split}.txt", "".join(f"{name}\n" for name in chosen))
    if trainval:
        put(folder / "trainval.txt", "".join(f"{name}\n" for name in names))


def spend(records: Iterable[Any]) -> None:
    """Wait for all records, which are empty."""
    for _ in records:
        pass
