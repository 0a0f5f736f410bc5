"""Find the masks that a user gives for a clip, assign them to frames, and check them.

Axes: H W pixels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vader.errors import BadInput
from vader.images.decode import decode_values
from vader.images.video import Broken, Clip
from vader.inference.propagation import PropagationProtocol
from vader.inference.propagation.labels import resized_mask
from vader.reports.metrics import VOID

MOST = VOID - 1  # objects


@dataclass(frozen=True)
class Given:
    """The files of the masks by frame, read on access. `white`: the masks have one object, with value 255."""

    files: dict[int, Path]
    white: bool
    digest: str

    def read(self, number: int) -> UInt8[np.ndarray, "H W"] | None:
        """Read a frame's mask; None without one."""
        if number not in self.files:
            return None
        values = decode_values(self.files[number]).astype(np.uint8)
        return (values > 0).astype(np.uint8) if self.white else values


def check_places(video: Path, masks: Path, out: Path) -> None:
    """Raise BadInput for missing masks, and for masks or an `out` that would count as frames."""
    if not masks.exists():
        raise BadInput(f"--masks: expected a PNG or a folder of PNGs named like frames, found no file at {masks}")
    if not video.is_dir():
        return
    if video.resolve() in ([masks.resolve()] if masks.is_dir() else [masks.resolve().parent]):
        raise BadInput(f"--masks: expected masks outside the frames' folder, found {masks} among the frames; move it")
    if video.resolve() in (out.resolve(), *out.resolve().parents):
        raise BadInput(f"--out: expected a folder outside the frames' folder, found {out} inside; choose another place")


def read_masks(masks: Path, clip: Clip) -> Given:
    """Assign masks to frames. Each mask is read once to check its size.

    Raises BadInput for names that match no frame, other sizes, labels above 255, and a first mask whose frame cannot be
    read.
    """
    files = {0: masks}
    if masks.is_dir():
        found = sorted(path for path in masks.iterdir() if path.suffix.lower() == ".png" and path.name[0] != ".")
        if not found:
            raise BadInput(f"--masks: expected PNGs in {masks}, found none; name each like its frame")
        files = {}
        for path in found:
            number = clip.find(path.stem)
            if number is None:
                raise BadInput(
                    f"--masks: expected PNGs named like frames, such as {clip.name(0)}.png, found {path}, which "
                    f"matches none of the {clip.total} frames; rename it"
                )
            if number in files:
                raise BadInput(f"--masks: expected one mask per frame, found {files[number]} and {path}; remove one")
            files[number] = path
    digest, white = hashlib.sha256(), True
    for number, path in sorted(files.items()):
        values = decode_values(path)
        if values.shape != clip.size:
            (height, width), (h, w) = clip.size, values.shape
            raise BadInput(f"{path}: expected {width} x {height} pixels as the frames, found {w} x {h}; resize it")
        labels = np.unique(values)
        if labels[-1] > VOID:
            raise BadInput(
                f"{path}: expected at most {MOST} objects with values 1 to {MOST} ({VOID} is void), found "
                f"{np.count_nonzero(labels)} up to {labels[-1]}; remove some or renumber them"
            )
        white = white and set(labels.tolist()) <= {0, VOID}
        digest.update(f"{number} ".encode() + values.astype(np.uint8).tobytes())
    _check_first(min(files), clip)
    return Given(dict(sorted(files.items())), white, digest.hexdigest())


def _check_first(number: int, clip: Clip) -> None:
    """Raise BadInput if the frame of the first mask cannot be read: propagation starts from it."""
    _, frame = next(clip.frames({number}), (number, Broken("there is no such frame")))
    if isinstance(frame, Broken):
        raise BadInput(
            f"frame {clip.name(number)}: expected a readable frame for the first mask, found {frame.reason}; "
            "give a folder with a mask of another frame"
        )


def check_objects(given: Given, way: PropagationProtocol, seen: tuple[int, int], say: Callable[[str], None]) -> None:
    """Raise BadInput unless a mask has an object that the protocol can use; report the objects that it cannot use."""
    taken: set[int] = set()
    small: set[int] = set()
    for number in given.files:
        mask = given.read(number)
        assert mask is not None
        for label, pixels in zip(*np.unique(resized_mask(mask, seen), return_counts=True), strict=True):
            (taken if pixels >= way.fewest else small).add(int(label))
        small |= set(np.unique(mask).tolist()) - taken
    taken, small = taken - {0, VOID}, small - taken - {0, VOID}
    first = next(iter(given.files.values()))
    if not taken and not small:
        raise BadInput(f"{first}: expected an object in the mask, found none; paint it with 1 (background is 0)")
    told = f"objects of less than {way.fewest} px at {seen[1]} x {seen[0]} px are too small: {sorted(small)}"
    if not taken:
        raise BadInput(f"{first}: expected larger objects, but {told}; give a larger --size or another --protocol")
    if small:
        say(f"warning: {told}; they may be left out")
