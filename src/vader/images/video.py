"""Read clips frame by frame from a folder or a video file, and write MP4 files. Files need PyAV.

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

FOLDER_RATE = 10.0  # frames/s of a folder, which does not specify a rate
SAMPLE = 1 << 20  # bytes at each end of a file that its fingerprint reads


@dataclass(frozen=True)
class Broken:
    """A frame that cannot be read, and the reason."""

    reason: str


@dataclass(frozen=True)
class FolderClip:
    """The pictures of a folder in natural order: frame2 before frame10."""

    images: ImageList
    rate: float = FOLDER_RATE

    @property
    def total(self) -> int:
        """The number of frames."""
        return len(self.images)

    @cached_property
    def size(self) -> tuple[int, int]:
        """The height and width of all frames, from headers. Raises BadInput if they differ or none can be read."""
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
            raise BadInput(f"{self.images.root}: expected readable frames, found none among {self.total}; {reason}")
        return first[1:]

    def name(self, number: int) -> str:
        """Return the name of a frame's mask."""
        return Path(self.images.names[number]).stem

    def find(self, stem: str) -> int | None:
        """Return the frame of that name; else the one whose name ends in that number; else by its index from 0."""
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
        """Return a hash of the pictures' names and sizes."""
        return self.images.fingerprint()

    def frames(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, UInt8[np.ndarray, "_ _ 3"] | Broken]]:
        """Yield the frames with their indices, or only the wanted ones. Raises BadInput for a frame of another size."""
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
    """The first video stream of a file that FFmpeg reads, rotated upright; frames count from 0."""

    path: Path

    @cached_property
    def total(self) -> int:
        """The number of frames according to the file, or its number of packets. A few may not be frames."""
        with _opened(self.path) as (container, stream):
            if stream.frames:
                return int(stream.frames)
            return sum(packet.size > 0 for packet in _packets(container, stream))

    @cached_property
    def rate(self) -> float:
        """The average number of frames per second."""
        with _opened(self.path) as (_, stream):
            return float(stream.average_rate or FOLDER_RATE)

    @cached_property
    def size(self) -> tuple[int, int]:
        """The height and width of the first readable frame. Raises BadInput if there is none."""
        reason = "it has no frames"
        for _, frame in _frames(self.path, None):
            if not isinstance(frame, Broken):
                return frame.shape[0], frame.shape[1]
            reason = frame.reason
        raise BadInput(f"{self.path}: expected a video with readable frames, found none: {reason}")

    def name(self, number: int) -> str:
        """Return the name of a frame's mask."""
        return f"{number:05d}"

    def find(self, stem: str) -> int | None:
        """Return the frame with that index."""
        return int(stem) if re.fullmatch("[0-9]+", stem) and int(stem) < self.total else None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's size and its two ends."""
        length = self.path.stat().st_size
        digest = hashlib.sha256(str(length).encode())
        with self.path.open("rb") as file:
            digest.update(file.read(SAMPLE))
            file.seek(max(0, length - SAMPLE))
            digest.update(file.read())
        return digest.hexdigest()

    def frames(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, UInt8[np.ndarray, "_ _ 3"] | Broken]]:
        """Yield the frames with their indices, or only the wanted ones; all are decoded, because seeking is not exact.

        Raises BadInput for a frame of another size.
        """
        for number, frame in _frames(self.path, wanted):
            if not isinstance(frame, Broken) and frame.shape[:2] != self.size:
                height, width = frame.shape[:2]
                raise BadInput(_sizes(f"{self.path}, frame {number}", (height, width), self.size, "frame 0"))
            yield number, frame


Clip = FolderClip | VideoFile


def open_clip(source: Path) -> Clip:
    """Open a folder of frames or a video file; reads the list or the header but no frames.

    Raises BadInput for a path that is neither, a folder with subfolders of pictures, or two pictures of one name;
    MissingExtra for a file without PyAV.
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
            f"{source}: expected the frames of one clip, found pictures in folders below it, such as {inner[0]}; "
            "give the folder of one clip"
        )
    names = sorted(found.names, key=lambda name: ([*_natural(name)], name))
    stems = [Path(name).stem for name in names]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []:
        raise BadInput(f"{source}: expected one picture per frame, found several named {twice[0]}; keep one of them")
    return FolderClip(ImageList(found.root, tuple(names)))


def can_read_videos() -> bool:
    """Return whether PyAV is installed."""
    try:
        return find_spec("av") is not None
    except ValueError:  # sys.modules has None for a blocked module
        return False


def write_mp4(path: Path, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], rate: float) -> int:
    """Write frames of one size to an H.264 file for browsers, atomically, and return their number.

    For odd sides the last row or column is repeated, because H.264 stores colour for every second one. Raises
    MissingExtra without PyAV.
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
            assert count, "expected at least one frame"
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


# --- Inside -------------------------------------------------------------------------------------------------------


def _natural(name: str) -> Iterator[tuple[int, str]]:
    """Return a sort key that compares numbers within names by value."""
    for part in re.findall("[0-9]+|[^0-9]+", name):
        yield (int(part), "") if part[0] in "0123456789" else (-1, part)


def _sizes(what: str, got: tuple[int, int], expected: tuple[int, int], first: str) -> str:
    return (
        f"{what}: expected {expected[1]} x {expected[0]} pixels as {first}, found {got[1]} x {got[0]}; "
        "give frames of one size"
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
    """Opens a container and its first video stream, and closes it. Raises BadInput for a file that is not a video."""

    def __init__(self, path: Path) -> None:
        av = _av()
        try:
            self.container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise BadInput(
                f"{path}: expected a video file or a folder of frames, found a file that FFmpeg cannot open: "
                f"{getattr(error, 'strerror', None) or error}; check that it is complete"
            ) from None
        if not self.container.streams.video:
            self.container.close()
            raise BadInput(f"{path}: expected a video, found a file without a video stream")

    def __enter__(self) -> tuple[Any, Any]:
        return self.container, self.container.streams.video[0]

    def __exit__(self, *_: object) -> None:
        self.container.close()


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the stream's packets and an empty one at the end; a truncated container ends early."""
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
    """Yield the stream's frames in display order, with a `Broken` for each missing frame.

    A decoder returns frames later than it takes packets, and in another order. So a failed packet waits until the first
    frame that is displayed after it.
    """
    av, count = _av(), 0
    failed: list[int] = []  # times of failed packets, ascending
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
    """Return RGB pixels, upright: phones store the orientation of the camera."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
