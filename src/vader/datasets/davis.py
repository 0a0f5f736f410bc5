"""DAVIS clips: JPEGImages/480p/SEQUENCE, Annotations/480p/SEQUENCE, and a list of sequences for each year.

Legend: T frames, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vader.datasets.example import VOID, Example, LabelledSet
from vader.datasets.files import find_root, read_lines
from vader.datasets.turned import check_turned, turned_like
from vader.errors import BadInput
from vader.images.decode import decode, decode_values, image_size
from vader.images.encode import colour_map, palette_png

HOW = "download DAVIS-2017-trainval-480p.zip from https://davischallenge.org and give its folder DAVIS"
RESOLUTION = "480p"
PLAIN = ("train", "val")  # splits that have a mask for every frame


@dataclass(frozen=True)
class DavisClip:
    """A sequence whose frames and masks are read on access.

    `truths` are the files of the masks by frame; in the test splits only the first frame has one. With `foreground`,
    all objects of DAVIS 2017 are merged into object 1.
    """

    name: str
    pictures: tuple[Path, ...]
    truths: tuple[Path, ...]
    foreground: bool = False

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def size(self) -> tuple[int, int]:
        """The height and width of the first frame. Raises `UnreadableImage`."""
        width, height = image_size(self.pictures[0])
        return height, width

    @cached_property
    def first(self) -> UInt8[np.ndarray, "H W"]:
        """The given mask. Raises like `mask`, and `BadInput` for a mask without an object."""
        mask = self.mask(0)
        if not ((mask > 0) & (mask != VOID)).any():
            hint = "; is it of DAVIS 2016? Give its list as ImageSets/2016/val.txt" if (mask == VOID).any() else ""
            raise BadInput(f"{self.truths[0]}: expected an object in the first mask, found none{hint}")
        return mask

    @property
    def objects(self) -> int:
        """The largest label of the first mask: the number of objects, as in DAVIS."""
        return int(self.first[self.first != VOID].max())

    def frame(self, t: int) -> str:
        """Return the name of frame t under which DAVIS's evaluation looks for its mask: SEQUENCE/00000."""
        return f"{self.name}/{self.pictures[t].stem}"

    def check(self) -> None:
        """Raise `BadInput` for a frame or mask whose size (from the file's header) differs from the first frame's, and
        like `first`."""
        for path in (*self.pictures, *self.truths):
            width, height = image_size(path)
            self._same_size((height, width), path)
        for pair in zip(self.pictures, self.truths, strict=False):
            check_turned(*pair)
        _ = self.first

    def image(self, t: int) -> UInt8[np.ndarray, "H W 3"]:
        """Read frame t. Raises `UnreadableImage` for a damaged file, `BadInput` if its size differs from the first."""
        return self._sized(decode(self.pictures[t]), self.pictures[t])

    def mask(self, t: int) -> UInt8[np.ndarray, "H W"]:
        """Read the objects of frame t; 0 is background, 255 void.

        Raises `UnreadableImage` for a file that is not an indexed or grey PNG, and `BadInput` for a mask whose size
        differs from the frames' and for labels above 255.
        """
        if t >= len(self.truths):
            raise BadInput(f"{self.name}: expected a mask of frame {t}, found {len(self.truths)} masks; {HOW}")
        values = turned_like(self.pictures[t], self.truths[t], decode_values(self.truths[t]))
        values = self._sized(values, self.truths[t])
        if (top := int(values.max())) > VOID:
            raise BadInput(
                f"{self.truths[t]}: expected at most {VOID - 1} objects and {VOID} for void, found label {top}; "
                "save it as an indexed PNG"
            )
        return self._foreground(values) if self.foreground else values.astype(np.uint8)

    def images(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the decoded frames one by one."""
        return (self.image(t) for t in range(len(self)))

    def masks(self) -> Iterator[UInt8[np.ndarray, "H W"]]:
        """Yield the decoded masks one by one."""
        return (self.mask(t) for t in range(len(self)))

    def _foreground(self, values: np.ndarray) -> np.ndarray:
        shown = values > 0 if self._black_and_white else (values > 0) & (values != VOID)
        return shown.astype(np.uint8)

    @cached_property
    def _black_and_white(self) -> bool:
        """Whether 255 is the object, as in the masks of DAVIS 2016, and not void."""
        return set(np.unique(decode_values(self.truths[0])).tolist()) <= {0, VOID}

    def _sized(self, pixels: np.ndarray, source: Path) -> np.ndarray:
        self._same_size((pixels.shape[0], pixels.shape[1]), source)
        return pixels

    def _same_size(self, got: tuple[int, int], source: Path) -> None:
        if got != self.size:
            (height, width), (h, w) = self.size, got
            raise BadInput(
                f"{source}: expected {width} x {height} pixels as {self.pictures[0].name}, the first frame, found "
                f"{w} x {h}; give frames and masks of one size"
            )


def mask_png(mask: UInt8[np.ndarray, "H W"]) -> bytes:
    """Encode the file that DAVIS's evaluation reads: an indexed PNG in the colours of VOC and DAVIS."""
    return palette_png(np.ascontiguousarray(mask), colour_map())


def open_davis(
    root: Path, split: str = "val", year: Literal[2016, 2017] = 2017, foreground: bool | None = None
) -> tuple[DavisClip, ...]:
    """Open the clips of a split in the order of its list. Reads lists but no pictures.

    Clips of 2016 have one object, the foreground; `foreground` turns this on or off for any year. Raises `BadInput` for
    a missing folder, list, frame or mask, with its path and how to get it.
    """
    place = find_root(Path(root), "JPEGImages", ("DAVIS",), HOW)
    whole = year == 2016 if foreground is None else foreground
    clips = []
    for name in _names(place, split, year):
        pictures = _files(place / "JPEGImages" / RESOLUTION / name, ".jpg")
        folder = place / "Annotations" / RESOLUTION / name
        frames = pictures if split in PLAIN else pictures[:1]
        truths = tuple(folder / f"{picture.stem}.png" for picture in frames)
        if missing := [path for path in truths if not path.is_file()]:
            raise BadInput(f"expected a mask {missing[0]}, found {len(missing)} of {len(truths)} missing; {HOW}")
        clips.append(DavisClip(name, pictures, truths, whole))
    return tuple(clips)


def davis_year(root: Path, split: str = "val") -> Literal[2016, 2017]:
    """Return the year of the split's list: 2017, unless there is only the 2016 list."""
    lists = find_root(Path(root), "JPEGImages", ("DAVIS",), HOW) / "ImageSets"
    older = any((lists / folder / f"{split}.txt").is_file() for folder in ("2016", RESOLUTION))
    return 2016 if older and not (lists / "2017" / f"{split}.txt").is_file() else 2017


def labelled_frames(root: Path, clips: tuple[DavisClip, ...], split: str = "val", year: int = 2017) -> LabelledSet:
    """Return the frames of all clips of the split as one set with the clips' fingerprint; labels are the masks."""
    place = find_root(Path(root), "JPEGImages", ("DAVIS",), HOW)
    where = [(clip, t) for clip in clips for t in range(len(clip))]

    def read(i: int) -> Example:
        clip, t = where[i]
        return Example(clip.frame(t), clip.image(t), labels=clip.mask(t))

    def picture(i: int) -> np.ndarray:
        clip, t = where[i]
        return clip.image(t)

    names = tuple(clip.frame(t) for clip, t in where)
    files = tuple(path for clip in clips for path in (*clip.pictures, *clip.truths))
    return LabelledSet(f"DAVIS {year}", place, split, (), names, read, files, picture=picture)


def _names(place: Path, split: str, year: int) -> tuple[str, ...]:
    """Read the sequences of a list, which has their names or, in 2016, the paths of all of their frames."""
    candidates = [place / "ImageSets" / str(year) / f"{split}.txt"]
    if year == 2016:
        candidates.append(place / "ImageSets" / RESOLUTION / f"{split}.txt")
    path = next((path for path in candidates if path.is_file()), candidates[0])
    lines = [line.split()[0] for line in read_lines(path, HOW)]
    names = tuple(dict.fromkeys(Path(line).parent.name if line.endswith(".jpg") else line for line in lines))
    if wrong := [name for name in names if Path(name).name != name or name == ".."]:
        raise BadInput(f"expected a sequence name on each line of {path}, found {wrong[0]!r}")
    return names


def _files(folder: Path, ending: str) -> tuple[Path, ...]:
    found = tuple(sorted(folder.glob(f"*{ending}")))
    if not found:
        raise BadInput(f"expected frames {folder}/*{ending}, found none; {HOW}")
    return found
