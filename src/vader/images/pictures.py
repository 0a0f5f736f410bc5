"""Pictures of a list as an encoder sees them: read, decoded ahead by threads, resized, in batches of one size.

Axes: B images, H W pixels.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.sources import Faults, ImageList

MIN_SIDE = 32  # pixels; below it a CNN's coarsest level would hold nothing but padding
MIN_IMAGE_SIDE = 32  # pixels; smaller pictures are icons and thumbnails, and give 32 shared cells by chance at best
PIXELS_A_BATCH = 512 * 512  # times --batch; larger images go fewer at a time, so memory does not follow their size
LARGEST = 512  # pixels of the short side, unless a size is asked for: pictures are for eyes, and a search needs no more
FITTED_ON = 64  # pictures at most, evenly from the list, for encoders that have to see some first


@dataclass(frozen=True)
class Picture:
    """Pixels as the encoder sees them, width and height of the file, and the name and number in the list."""

    pixels: UInt8[np.ndarray, "H W 3"]
    original: tuple[int, int]
    name: str = ""
    index: int = -1

    def to_seen(self, x: float, y: float) -> tuple[float, float]:
        """A point of the file as one of `pixels`."""
        return x * self.pixels.shape[1] / self.original[0], y * self.pixels.shape[0] / self.original[1]

    def to_file(self, x: float, y: float) -> tuple[float, float]:
        """A point of `pixels` as one of the file."""
        return x * self.original[0] / self.pixels.shape[1], y * self.original[1] / self.pixels.shape[0]


def read_image(images: ImageList, index: int, shortest: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """Decode image `index`. Raises UnreadableImage, also for images under 32 px; `shortest` as `decode` takes it."""
    image = decode(images.read(index), shortest, str(images.path(index)))
    if min(image.shape[:2]) < MIN_IMAGE_SIDE:
        height, width = image.shape[:2]
        raise UnreadableImage(
            f"{images.path(index)}: expected at least {MIN_IMAGE_SIDE} px a side, found {width}x{height}"
        )
    return image


def read_picture(path: Path, size: int | None) -> Picture:
    """Read a file, its short side at `size` pixels; without a size as it is, but at most 512. UnreadableImage."""
    return _for_eyes(decode(path), size, path.name)


def read_listed(images: ImageList, index: int, size: int | None) -> Picture:
    """Read image `index` of a list, sized as `read_picture` does. Raises UnreadableImage."""
    pixels = decode(images.read(index), name=str(images.path(index)))
    return _for_eyes(pixels, size, images.names[index], index)


def read_some(images: ImageList, count: int, size: int | None) -> list[Picture]:
    """Read up to `count` readable images, evenly from the list, as `read_picture` does."""
    return list(Some(images, count, size))


class Some(Sequence[Picture]):
    """Up to `count` readable pictures of a list, evenly spaced, read when asked for. BadInput if there are none."""

    def __init__(self, images: ImageList, count: int, size: int | None) -> None:
        chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
        tried = list(dict.fromkeys(chosen.tolist()))
        self.images, self.size = images, size
        # Those that cannot be read are named and counted where the whole list is read.
        self.places = [i for i in tried if _readable(images, i)]
        if not self.places:
            raise BadInput(f"none of the {len(tried)} images tried could be read")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> Any:
        return read_listed(self.images, self.places[number], self.size)


class Pixels(Sequence[np.ndarray]):
    """The pixels (H, W, 3) of `Some` pictures: what an encoder is fitted on."""

    def __init__(self, some: Some) -> None:
        self.some = some

    def __len__(self) -> int:
        return len(self.some)

    def __getitem__(self, number: Any) -> Any:
        return self.some[number].pixels


def _for_eyes(image: np.ndarray, size: int | None, name: str, index: int = -1) -> Picture:
    height, width = image.shape[:2]
    size = size or (LARGEST if min(height, width) > LARGEST else None)
    return Picture(resize_short_side(image, size), (width, height), name, index)


def _readable(images: ImageList, index: int) -> bool:
    try:
        decode(images.read(index))
    except UnreadableImage:
        return False
    return True


def resize_short_side(image: UInt8[np.ndarray, "H W 3"], size: int | None) -> UInt8[np.ndarray, "_ _ 3"]:
    """The image with its short side at `size` pixels (None: as it is), and at least the model's 32 on each side."""
    height, width = image.shape[:2]
    scale = 1.0 if size is None else size / min(height, width)
    new = (max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale)))
    if new == (width, height):
        return image
    return cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def decode_all(
    images: ImageList, indices: list[int], size: int | None, workers: int, faults: Faults
) -> Iterator[Picture]:
    """The images one after the other, decoded ahead by threads; unreadable ones are noted in `faults` and left out."""

    def read(index: int) -> Picture | tuple[str, str]:
        try:
            image = decode(images.read(index), name=str(images.path(index)))
        except UnreadableImage as error:
            return images.names[index], str(error)
        original = (image.shape[1], image.shape[0])
        return Picture(resize_short_side(image, size), original, images.names[index], index)

    ahead = 4 * max(1, workers)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(read, index) for index in indices[:ahead]]
        for place in range(len(indices)):
            result = waiting.pop(0).result()
            if place + ahead < len(indices):
                waiting.append(pool.submit(read, indices[place + ahead]))
            if isinstance(result, Picture):
                yield result
            else:
                faults.add(*result)


def batches_of_equal_size(images: Iterator[Picture], batch: int) -> Iterator[list[Picture]]:
    """Groups of images whose sizes are equal, at most `batch` and at most so many pixels."""
    groups: dict[tuple[int, int], list[Picture]] = {}
    for image in images:
        height, width = image.pixels.shape[:2]
        group = groups.setdefault((height, width), [])
        group.append(image)
        if len(group) >= max(1, min(batch, batch * PIXELS_A_BATCH // (height * width))):
            yield groups.pop((height, width))
        elif sum(len(g) for g in groups.values()) >= 8 * batch:
            yield groups.pop(max(groups, key=lambda key: len(groups[key])))
    yield from groups.values()
