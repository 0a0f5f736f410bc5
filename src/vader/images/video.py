"""Clips, a folder of frames or a video file, read one frame at a time; and frames -> an MP4. PyAV is needed for files.

Axes: H W pixels.
"""

import hashlib
import os
import re
from bisect import insort
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vader.errors import BadInput, MissingExtra, UnreadableImage
from vader.images.decode import decode, image_size
from vader.images.sources import ImageList, list_images

FOLDER_RATE = 10.0  # frames/s that a folder's pictures are shown at: it names none
SAMPLE = 1 << 20  # bytes at either end of a file that are looked at to know it again


@dataclass(frozen=True)
class Broken:
    """A frame that cannot be read, and why."""

    reason: str


@dataclass(frozen=True)
class FolderClip:
    """A folder's pictures in natural order: frame2 comes before frame10."""

    images: ImageList
    rate: float = FOLDER_RATE

    @property
    def total(self) -> int:
        """How many frames there are."""
        return len(self.images)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of all frames, by their headers. Raises BadInput if they differ or none can be read."""
        first: tuple[str, int, int] | None = None
        reason = ""
        for number in range(self.total):
            try:
                width, height = image_size(self.images.path(number))
            except UnreadableImage as error:
                reason = reason or str(error)
                continue
            first = first or (self.images.names[number], height, width)
            if (height, width) != first[1:]:
                raise BadInput(_sizes(str(self.images.path(number)), (height, width), first[1:], first[0]))
        if first is None:
            raise BadInput(f"{self.images.root}: none of {self.total} frames can be read; the first: {reason}")
        return first[1:]

    def name(self, number: int) -> str:
        """What a frame's mask is called."""
        return Path(self.images.names[number]).stem

    def find(self, stem: str) -> int | None:
        """The frame of that name; else the one whose name ends in that number; without such, counted from 0."""
        if stem in self._names:
            return self._names[stem]
        return self._numbers.get(int(stem)) if re.fullmatch("[0-9]+", stem) else None

    @cached_property
    def _names(self) -> dict[str, int]:
        return {self.name(number): number for number in range(self.total)}

    @cached_property
    def _numbers(self) -> dict[int, int]:
        ends = [re.search("[0-9]+$", name) for name in self._names]
        found = {int(end.group()): number for number, end in enumerate(ends) if end}
        return found if len(found) == self.total else {number: number for number in range(self.total)}

    def fingerprint(self) -> str:
        """Tells apart folders by their pictures' names and sizes."""
        return self.images.fingerprint()

    def frames(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, UInt8[np.ndarray, "_ _ 3"] | Broken]]:
        """The frames with their numbers, or only the wanted ones. Raises BadInput for one of another size."""
        for number in range(self.total):
            if wanted is not None and number not in wanted:
                continue
            try:
                pixels = decode(self.images.path(number))
            except UnreadableImage as error:
                yield number, Broken(str(error))
                continue
            height, width = pixels.shape[:2]
            if (height, width) != self.size:
                raise BadInput(_sizes(str(self.images.path(number)), (height, width), self.size, self.name(0)))
            yield number, pixels


@dataclass(frozen=True)
class VideoFile:
    """The first video stream of a file that FFmpeg reads, upright as its rotation says, counted from 0."""

    path: Path

    @cached_property
    def total(self) -> int:
        """How many frames the file says it has, or packets that it holds. A few may turn out not to be frames."""
        with _opened(self.path) as (container, stream):
            if stream.frames:
                return int(stream.frames)
            return sum(packet.size > 0 for packet in _packets(container, stream))

    @cached_property
    def rate(self) -> float:
        """Frames a second, on average."""
        with _opened(self.path) as (_, stream):
            return float(stream.average_rate or FOLDER_RATE)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame that can be read. Raises BadInput if none can."""
        reason = "it has no frames"
        for _, frame in _frames(self.path, None):
            if not isinstance(frame, Broken):
                return frame.shape[0], frame.shape[1]
            reason = frame.reason
        raise BadInput(f"{self.path}: expected a video with frames that can be read, got none: {reason}")

    def name(self, number: int) -> str:
        """What a frame's mask is called."""
        return f"{number:05d}"

    def find(self, stem: str) -> int | None:
        """The frame of that number."""
        return int(stem) if re.fullmatch("[0-9]+", stem) and int(stem) < self.total else None

    def fingerprint(self) -> str:
        """SHA-256 of the file's size and its two ends."""
        length = self.path.stat().st_size
        digest = hashlib.sha256(str(length).encode())
        with self.path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            file.seek(max(0, length - SAMPLE))
            digest.update(file.read())
        return digest.hexdigest()

    def frames(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, UInt8[np.ndarray, "_ _ 3"] | Broken]]:
        """The frames with their numbers, or only the wanted ones; all are decoded, for that is exact.

        Raises BadInput for a frame of another size.
        """
        for number, frame in _frames(self.path, wanted):
            if not isinstance(frame, Broken) and frame.shape[:2] != self.size:
                height, width = frame.shape[:2]
                raise BadInput(_sizes(f"{self.path}, frame {number}", (height, width), self.size, "frame 0"))
            yield number, frame


Clip = FolderClip | VideoFile


def open_clip(source: Path) -> Clip:
    """A folder of frames, or a video file; reads the list or the header, no frame.

    Raises BadInput for a path that is neither, a folder with folders of pictures, or two pictures of one name;
    MissingExtra for a file when PyAV is not installed.
    """
    source = Path(source)
    if not source.exists():
        raise BadInput(f"expected a folder of frames or a video file, but {source} does not exist")
    if not source.is_dir():
        with _opened(source):
            return VideoFile(source)
    found = list_images(source)
    if inner := [name for name in found.names if "/" in name]:
        raise BadInput(
            f"{source}: expected the frames of one clip, got pictures in folders below it, first {inner[0]}; "
            "give the folder of one clip"
        )
    names = sorted(found.names, key=lambda name: ([*_natural(name)], name))
    stems = [Path(name).stem for name in names]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []:
        raise BadInput(f"{source}: expected one picture a frame, got several called {twice[0]}; keep one of them")
    return FolderClip(ImageList(found.root, tuple(names)))


def can_read_videos() -> bool:
    """Whether PyAV is there."""
    try:
        return find_spec("av") is not None
    except ValueError:  # somebody has put it out of use
        return False


def write_mp4(path: Path, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], rate: float) -> int:
    """Frames of one size -> an H.264 file that browsers play, whole under its name or not there; how many there were.

    Of odd sides the last row or column is repeated, for H.264 has colour for every second one. Raises MissingExtra
    without PyAV.
    """
    av = _av()
    temporary, count = path.with_name(f".{path.name}.{os.getpid()}"), 0
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), pix_fmt="yuv420p")
            stream.options = {"crf": "20", "preset": "veryfast"}
            for pixels in frames:
                height, width = pixels.shape[:2]
                if not count:
                    stream.height, stream.width = height + height % 2, width + width % 2
                even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
                count += 1
            assert count, "a film of no frames"
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


# --- Inside -------------------------------------------------------------------------------------------------------


def _natural(name: str) -> Iterator[tuple[int, str]]:
    """A key by which numbers within names count as numbers."""
    for part in re.findall("[0-9]+|[^0-9]+", name):
        yield (int(part), "") if part[0] in "0123456789" else (-1, part)


def _sizes(what: str, got: tuple[int, int], expected: tuple[int, int], first: str) -> str:
    return (
        f"{what}: expected {expected[1]} x {expected[0]} pixels as {first}, got {got[1]} x {got[0]}; "
        "give all frames of a clip one size"
    )


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra(
            "reading and writing video files needs PyAV; install it with: pip install 'vader-dense[video]', or give a "
            "folder of frames"
        ) from None
    return av


class _opened:  # noqa: N801 (read as a function)
    """The container and its first video stream, closed at the end. Raises BadInput for a file that is no video."""

    def __init__(self, path: Path) -> None:
        av = _av()
        try:
            self.container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise BadInput(
                f"{path}: expected a video file, or a folder of frames, got one that FFmpeg cannot open: "
                f"{getattr(error, 'strerror', None) or error}; was it cut off?"
            ) from None
        if not self.container.streams.video:
            self.container.close()
            raise BadInput(f"{path}: expected a video, got a file without a picture")

    def __enter__(self) -> tuple[Any, Any]:
        return self.container, self.container.streams.video[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets, and an empty one at the end; a container that breaks off ends there."""
    try:
        yield from container.demux(stream)
    except _av().error.FFmpegError:
        return


def _frames(path: Path, wanted: Container[int] | None) -> Iterator[tuple[int, np.ndarray | Broken]]:
    number = 0
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream):
            if wanted is None or number in wanted:
                yield number, frame if isinstance(frame, Broken) else _pixels(frame)
            number += 1


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's frames in the order that they are shown in; a `Broken` in the place of each that does not come.

    A decoder gives frames later than it takes packets, and in another order. So a packet that fails waits until the
    first frame that is shown after it.
    """
    av, count = _av(), 0
    failed: list[int] = []  # times of packets that failed, rising
    for packet in _packets(container, stream):
        count += packet.size > 0
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if packet.pts is not None:
                insort(failed, packet.pts)
            elif packet.size:
                yield Broken(error.strerror)
            continue
        for frame in frames:
            while failed and frame.pts is not None and failed[0] < frame.pts:
                failed.pop(0)
                yield Broken("its data are damaged")
            if frame.pts in failed:
                failed.remove(frame.pts)
            yield Broken("its data are damaged") if frame.is_corrupt else frame
    yield from [Broken("its data are damaged")] * len(failed)
    yield from [Broken("the file ends before it")] * (len(stream.index_entries) - count)


def _pixels(frame: Any) -> np.ndarray:
    """RGB, upright: phones store how they were held."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
