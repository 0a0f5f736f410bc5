"""Open the encoder of an index, recognise it, and compute the map of a picture.

Axes: D embedding, H W pixels, h w cells.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vader.encoders import DenseEncoder
from vader.encoders.features import map_of
from vader.encoders.opening import open_for_images
from vader.encoders.spec import parse
from vader.errors import BadInput
from vader.images.sources import ImageList
from vader.runtime.progress import Say, silent

PROBE, KEPT = 64, 4  # pixels a side of the test picture; cells of its map that an index remembers
SAME = 0.02  # of a remembered number: other devices and precisions stay below, other weights do not


@dataclass(frozen=True)
class Model:
    """An encoder with `identity`, plain JSON by which it is recognised."""

    encoder: DenseEncoder
    identity: dict[str, Any]

    def map_of(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "h w D"]:
        """Return normalised embeddings. Raises BadInput if they are not finite."""
        return _map(self.encoder, pixels)


def open_model(
    spec: str, device: str, images: ImageList, size: int | None, precision: str = "fp32", say: Say = silent
) -> Model:
    """The encoder that `spec` names, fitted on pictures of the collection if it has to see some.

    Raises BadInput and BadCheckpoint like `open_encoder`.
    """
    encoder = open_for_images(spec, images, size, device, precision=precision, say=say)
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


def _map(encoder: DenseEncoder, pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(map_of(encoder, pixels).permute(1, 2, 0).numpy())


def _probe(encoder: DenseEncoder) -> np.ndarray:
    """Return (4, D) embeddings of smooth noise, which is the same on every machine."""
    coarse = np.random.default_rng(0).integers(0, 256, (PROBE // 8, PROBE // 8, 3))
    cells = _map(encoder, coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1))
    cells = cells.reshape(-1, cells.shape[-1])
    return cells[np.linspace(0, len(cells) - 1, KEPT).round().astype(int)]
