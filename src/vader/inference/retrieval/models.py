"""The encoder behind an index: opening it, knowing it again, and the map that it gives a picture.

Axes: D embedding, H W pixels, h w cells.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vader.encoders import DenseEncoder, fit, open_encoder
from vader.encoders.features import map_of
from vader.encoders.spec import parse
from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.sources import ImageList
from vader.inference.embed import resize_short_side

LARGEST = 512  # pixels of the short side, unless a size is asked for: cameras' pictures hold more than a search needs
FITTED_ON = 64  # pictures at most, evenly from the list, for encoders that have to see some first
PROBE, KEPT = 64, 4  # pixels a side of the test picture; cells of its map that an index remembers
SAME = 0.02  # of a remembered number: other devices and precisions stay below, other weights do not


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3) as the encoder sees them, and the width and height of the file."""

    pixels: UInt8[np.ndarray, "H W 3"]
    original: tuple[int, int]

    def to_seen(self, x: float, y: float) -> tuple[float, float]:
        """A point of the file as one of `pixels`."""
        return x * self.pixels.shape[1] / self.original[0], y * self.pixels.shape[0] / self.original[1]

    def to_file(self, x: float, y: float) -> tuple[float, float]:
        """A point of `pixels` as one of the file."""
        return x * self.original[0] / self.pixels.shape[1], y * self.original[1] / self.pixels.shape[0]


@dataclass(frozen=True)
class Model:
    """An encoder and what it takes to know it again; `identity` is plain JSON."""

    encoder: DenseEncoder
    identity: dict[str, Any]

    def map_of(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "h w D"]:
        """Normalised embeddings. Raises BadInput if they are not finite."""
        return _map(self.encoder, pixels)


def read_picture(path: Path, size: int | None) -> Picture:
    """A picture with its short side at `size` pixels; without one as it is, but at most 512 (UnreadableImage)."""
    image = decode(path)
    height, width = image.shape[:2]
    short = min(height, width)
    return Picture(resize_short_side(image, size or (LARGEST if short > LARGEST else None)), (width, height))


def open_model(spec: str, device: str, images: ImageList, size: int | None) -> Model:
    """The encoder that `spec` names, fitted on pictures of the collection if it has to see some.

    Raises BadInput and BadCheckpoint as `open_encoder` does.
    """
    encoder = open_encoder(spec, device)
    if encoder.pending is not None:
        encoder = fit(encoder, _Some(images, size))
    kept = _probe(encoder)
    asked = parse(spec)
    found = asked.file
    identity = {
        "spec": asked.text, "written": str(found) if found else None,
        "file": str(found.resolve()) if found else None, "sha256": encoder.facts.get("sha256"),
        "stride": encoder.stride, "dim": kept.shape[1], "probe": [round(float(v), 5) for v in kept.ravel()],
    }  # fmt: skip
    return Model(encoder, identity)


def same_model(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two identities are of one model: equal file, and equal answers to a test picture.

    The answers tell apart what has no file, and variants of one file; they are compared with a tolerance, for another
    machine or precision rounds otherwise.
    """
    if any(first[key] != second[key] for key in ("stride", "dim")):
        return False
    if first["sha256"] and second["sha256"] and first["sha256"] != second["sha256"]:
        return False
    return bool(np.abs(np.subtract(first["probe"], second["probe"])).max() < SAME)


def find_spec(identity: Mapping[str, Any], relative: str | None, folder: Path) -> str:
    """The words that open an index's model from here: where it lay, or as far from the index `folder` as it did.

    Raises BadInput when it lies at neither place.
    """
    spec, file = str(identity["spec"]), identity["file"]
    if file is None:
        return spec
    places = [Path(file), *([folder / relative] if relative else [])]
    there = next((place for place in places if place.exists()), None)
    if there is None:
        raise BadInput(f"{folder}: expected its model at {file}, nothing lies there; say where it is by --model")
    return spec.replace(str(identity["written"]), str(there))


def relative_to(folder: Path, file: str | None) -> str | None:
    """The way from an index folder to a file, so that both may move together."""
    return None if file is None else os.path.relpath(file, folder.resolve())


class _Some(Sequence[np.ndarray]):
    """Readable pictures of a list, evenly, read when asked for. Raises BadInput if there are none."""

    def __init__(self, images: ImageList, size: int | None) -> None:
        chosen = np.linspace(0, len(images) - 1, min(FITTED_ON, len(images))).round().astype(int)
        tried = [images.path(i) for i in dict.fromkeys(chosen.tolist())]
        # Those that cannot be read are named and counted where the collection is read.
        self.paths, self.size = [path for path in tried if _readable(path)], size
        if not self.paths:
            raise BadInput(f"expected pictures to fit the model on, none of {len(tried)} tried could be read")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return read_picture(self.paths[index], self.size).pixels


def _readable(path: Path) -> bool:
    try:
        decode(path)
    except UnreadableImage:
        return False
    return True


def _map(encoder: DenseEncoder, pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(map_of(encoder, pixels).permute(1, 2, 0).numpy())


def _probe(encoder: DenseEncoder) -> np.ndarray:
    """(4, D): what the encoder says of smooth noise, the same everywhere."""
    coarse = np.random.default_rng(0).integers(0, 256, (PROBE // 8, PROBE // 8, 3))
    cells = _map(encoder, coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1))
    cells = cells.reshape(-1, cells.shape[-1])
    return cells[np.linspace(0, len(cells) - 1, KEPT).round().astype(int)]
