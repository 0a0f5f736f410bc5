"""Draw the masks of a clip: a strip of a few frames, and a film of all frames.

Axes: H W pixels.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from vader.images.animate import animate
from vader.images.decode import decode_values
from vader.images.encode import colour_map, png
from vader.images.video import Broken, Clip, write_mp4
from vader.runtime.files import write_atomic
from vader.runtime.progress import Progress

MASKS, STRIP, FILM, GIF = "masks", "strip.png", "overlay.mp4", "overlay.gif"
TIMES, STRIP_HEIGHT = 6, 240  # frames of the strip, and their height in pixels
GIF_FRAMES, GIF_SIDE, GIF_RATE = 150, 480, 50.0  # limits, because the whole GIF is in memory while it is made


def tint(picture: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Tint the objects with half-opaque colours of VOC and DAVIS and outline them in white."""
    shown = np.where((mask > 0)[..., None], picture // 2 + colour_map()[mask] // 2, picture)
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8)) == cv2.dilate(mask, np.ones((3, 3), np.uint8))
    shown[~inner & (mask > 0)] = 255
    return shown


def draw(clip: Clip, record: dict[str, Any], out: Path, film: str | None, say: Callable[[str], None]) -> None:
    """Draw the strip and, depending on `film`, the MP4 or GIF; the clip is read again."""
    skipped = {first for run in record["skipped"] for first in range(run["first"], run["first"] + run["count"])}
    shown = [number for number in range(record["frames"]) if number not in skipped]
    strip, tiles = _evenly(shown, TIMES), []
    kept = _evenly(shown, GIF_FRAMES)
    told = Progress("pictures: ", record["frames"], say, unit="frames")

    def pictures(wanted: set[int] | None) -> Iterator[tuple[int, np.ndarray]]:
        for number, frame in clip.frames(wanted):
            if number in skipped or isinstance(frame, Broken):
                continue
            picture = tint(frame, decode_values(out / MASKS / f"{clip.name(number)}.png"))
            if number in strip:
                tiles.append(_labelled(picture, clip.name(number)))
            told(number + 1 - told.done)
            yield number, picture

    if film == FILM:
        write_mp4(out / FILM, (picture for _, picture in pictures(None)), clip.rate)
    elif film == GIF:
        frames = [_small(picture, GIF_SIDE) for number, picture in pictures(kept | strip) if number in kept]
        write_atomic(out / GIF, animate(frames, min(GIF_RATE, clip.rate * len(kept) / len(shown)), "gif"))
    else:
        for _ in pictures(strip):
            pass
    write_atomic(out / STRIP, png(np.ascontiguousarray(np.concatenate(tiles, 1))))


def _evenly(numbers: list[int], count: int) -> set[int]:
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return {numbers[place] for place in places}


def _small(picture: np.ndarray, side: int) -> np.ndarray:
    """Resize the picture to a long side of at most `side` pixels."""
    scale = min(1.0, side / max(picture.shape[:2]))
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) if scale < 1 else picture


def _labelled(picture: np.ndarray, name: str) -> np.ndarray:
    """Put the frame's name above a picture of the strip."""
    width = max(1, round(picture.shape[1] * STRIP_HEIGHT / picture.shape[0]))
    way = cv2.INTER_AREA if picture.shape[0] > STRIP_HEIGHT else cv2.INTER_NEAREST
    found = np.pad(cv2.resize(picture, (width, STRIP_HEIGHT), interpolation=way), ((22, 0), (0, 4), (0, 0)),
                   constant_values=255)  # fmt: skip
    plain = name.encode("ascii", "replace").decode()[-28:]  # OpenCV draws only ASCII
    cv2.putText(found, plain, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return found
