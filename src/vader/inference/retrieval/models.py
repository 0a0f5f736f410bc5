"""Open the encoder of an index, recognise it, and compute the map of a picture.

Axes: D embedding, H W pixels, h w cells.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from vader.encoders import DenseEncoder, fit, open_encoder
from vader.encoders.spec import parse
from vader.encoders.tiling import tiled
from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.sources import ImageList
from vader.inference.embed import resize_short_side

LARGEST = 512  # default limit of the short side in pixels: pictures of cameras are larger than a search needs
FITTED_ON = 64  # maximum number of pictures, evenly spaced in the list, to fit encoders on
PROBE, KEPT = 64, 4  # side of the test picture in pixels; cells of its map that an index stores
SAME = 0.02  # tolerance of a stored number: above other devices and precisions, below other weights


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3) as the encoder sees them, and the width and height of the file."""

    pixels: UInt8[np.ndarray, "H W 3"]
    original: tuple[int, int]

    def to_seen(self, x: float, y: float) -> tuple[float, float]:
        """Convert a point of the file to a point of `pixels`."""
        return x * self.pixels.shape[1] / self.original[0], y * self.pixels.shape[0] / self.original[1]

    def to_file(self, x: float, y: float) -> tuple[float, float]:
        """Convert a point of `pixels` to a point of the file."""
        return x * self.original[0] / self.pixels.shape[1], y * self.original[1] / self.pixels.shape[0]


@dataclass(frozen=True)
class Model:
    """An encoder with `identity`, plain JSON by which it is recognised."""

    encoder: DenseEncoder
    identity: dict[str, Any]

    def map_of(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "h w D"]:
        """Return normalised embeddings. Raises BadInput if they are not finite."""
        return _map(self.encoder, pixels)


def read_picture(path: Path, size: int | None) -> Picture:
    """Read a picture, resized to a short side of `size` px (None: own size, at most 512). Raises UnreadableImage."""
    image = decode(path)
    height, width = image.shape[:2]
    short = min(height, width)
    return Picture(resize_short_side(image, size or (LARGEST if short > LARGEST else None)), (width, height))


def open_model(spec: str, device: str, images: ImageList, size: int | None) -> Model:
    """Open the encoder that `spec` names, and fit it on pictures of the collection if it needs that.

    Raises BadInput and BadCheckpoint like `open_encoder`.
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
    """Return whether two identities are of one model: the same file, and the same outputs for a test picture.

    The outputs distinguish models without a file, and variants of one file. They are compared with a tolerance, because
    other machines and precisions round differently.
    """
    if any(first[key] != second[key] for key in ("stride", "dim")):
        return False
    if first["sha256"] and second["sha256"] and first["sha256"] != second["sha256"]:
        return False
    return bool(np.abs(np.subtract(first["probe"], second["probe"])).max() < SAME)


def find_spec(identity: Mapping[str, Any], relative: str | None, folder: Path) -> str:
    """Return the spec that opens an index's model, at its absolute place or its place relative to the index `folder`.

    Raises BadInput if it is at neither place.
    """
    spec, file = str(identity["spec"]), identity["file"]
    if file is None:
        return spec
    places = [Path(file), *([folder / relative] if relative else [])]
    there = next((place for place in places if place.exists()), None)
    if there is None:
        raise BadInput(f"{folder}: expected its model at {file}, found no file; give its place by --model")
    return spec.replace(str(identity["written"]), str(there))


def relative_to(folder: Path, file: str | None) -> str | None:
    """Return the relative path from an index folder to a file, so that both can move together."""
    return None if file is None else os.path.relpath(file, folder.resolve())


class _Some(Sequence[np.ndarray]):
    """Evenly spaced readable pictures of a list, read on access. Raises BadInput if there are none."""

    def __init__(self, images: ImageList, size: int | None) -> None:
        chosen = np.linspace(0, len(images) - 1, min(FITTED_ON, len(images))).round().astype(int)
        tried = [images.path(i) for i in dict.fromkeys(chosen.tolist())]
        # Unreadable pictures are named and counted when the collection is read.
        self.paths, self.size = [path for path in tried if _readable(path)], size
        if not self.paths:
            raise BadInput(f"expected readable pictures to fit the model on, found none among {len(tried)} tried")

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
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        found = tiled(encoder, images)[0].float().permute(1, 2, 0).cpu().numpy()
    if not np.isfinite(found).all():
        raise BadInput(f"model {encoder.name}: expected finite embeddings, found NaN or infinite ones; is it trained?")
    return np.ascontiguousarray(found)


def _probe(encoder: DenseEncoder) -> np.ndarray:
    """Return (4, D) embeddings of smooth noise, which is the same on every machine."""
    coarse = np.random.default_rng(0).integers(0, 256, (PROBE // 8, PROBE // 8, 3))
    cells = _map(encoder, coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1))
    cells = cells.reshape(-1, cells.shape[-1])
    return cells[np.linspace(0, len(cells) - 1, KEPT).round().astype(int)]
