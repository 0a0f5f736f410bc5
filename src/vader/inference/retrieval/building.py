"""Build an index over the pixels of a collection of images, image by image; a stopped build resumes.

Axes: n vectors, D embedding, h w cells.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float16, Float32, Int32
from pydantic import BaseModel, ConfigDict, Field

from vader.errors import BadInput, UnreadableImage
from vader.images.geometry import cell_centres, read_at
from vader.images.pictures import read_listed
from vader.images.sources import ImageList
from vader.inference.retrieval import faiss_index as search
from vader.inference.retrieval.measuring import QUERIES, between_cells, measure
from vader.inference.retrieval.models import Model, open_model, relative_to, same_model
from vader.inference.retrieval.table import (
    ADDING,
    BEGUN,
    CELL_BYTES,
    CELLS,
    FORMAT,
    INDEX,
    MANIFEST,
    ROWS,
    VALUE_BYTES,
    VECTORS,
    Row,
    map_values,
    read_manifest,
    whole_rows,
)
from vader.runtime.files import claim, remove_leftovers, write_atomic, write_json

STRIDE = 8  # pixels between the cells that are kept, by default; the encoder's own stride if that is larger
SYNCED = 2.0  # seconds between syncs: the work that a system crash can lose
KEPT_EVERY = 1 << 22  # vectors between saves of the growing index


class IndexConfig(BaseModel):
    """How to build an index: `stride` px between cells, or the central cells of `sample` clusters in each image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stride: int | None = Field(default=None, ge=1)
    sample: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=32)  # pixels of the short side; None: its own size, at most 512
    kind: Literal["auto", "flat", "pq"] = "auto"
    vectors: bool = True  # keep the vectors beside a pq index, for exact ranks
    seed: int = 0

    def spacing(self, own: int) -> int:
        """Return the stride of the stored cells; `own` is the encoder's. Raises BadInput for a stride below it."""
        if self.stride is not None and self.sample is not None:
            raise BadInput("expected --stride or --sample, found both; --sample chooses from all cells of the encoder")
        if self.sample is not None:
            return own
        if self.stride is not None and self.stride < own:
            raise BadInput(f"--stride: expected at least {own} px, the encoder's own stride, found {self.stride}")
        return self.stride or max(STRIDE, own)


def build_index(
    spec: str,
    images: ImageList,
    out: Path,
    config: IndexConfig,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write an index folder (see `table.py`) and return its manifest.

    A stopped build, even after kill -9, resumes and gives the same index; a complete index is not changed. Memory
    holds one image's map and the index. Raises BadInput for a folder of another model, settings or images, and if no
    image can be read.
    """
    model = open_model(spec, device, images, config.size, precision)
    stride = config.spacing(int(model.identity["stride"]))
    say = say or (lambda line: None)
    begun = {"model": model.identity, "settings": config.model_dump(), "images": images.fingerprint()}
    if (out / MANIFEST).is_file():
        read_manifest(out)  # a damaged one is refused
    names = {"begun_name": BEGUN, "done_name": MANIFEST}
    if (whole := claim(out, begun, what="an index", differing=_differing, **names)) is not None:
        _tidy(out, whole)
        return whole
    rows = _embed(model, images, out, config, stride, say)
    count, dim = sum(row.cells for row in rows), int(model.identity["dim"])
    if not count:
        shutil.rmtree(out, ignore_errors=True)  # this build made the folder, and there is nothing to resume
        raise BadInput(f"expected readable images, found none among {len(rows)}; {rows[0].name}: {rows[0].skipped}")
    vectors = map_values(out / VECTORS, np.float16, (count, dim))
    kind = search.choose_kind(count) if config.kind == "auto" else config.kind
    index = _fill(out, vectors, kind, config.seed, say)
    say("measuring recall and time")
    quality = measure(index, vectors, config.vectors, between_cells(vectors, QUERIES, config.seed + 1))
    kept = [ROWS, CELLS, INDEX, *([VECTORS] if kind == "pq" and config.vectors else [])]
    manifest = {
        "format": FORMAT, **begun, "model_from_here": relative_to(out, model.identity["file"]),
        "root": str(images.root.resolve()), "root_from_here": relative_to(out, str(images.root.resolve())),
        "kind": kind, "stride": stride, "dim": dim, "cells": count, "pictures": len(rows),
        "skipped": sum(row.skipped is not None for row in rows),
        "megabytes_per_million": search.megabytes_per_million(index),
        "vectors_megabytes_per_million": VALUE_BYTES * dim if VECTORS in kept else 0,
        "quality": quality.as_json(), "files": {name: (out / name).stat().st_size for name in kept},
    }  # fmt: skip
    write_json(out / MANIFEST, manifest)
    _tidy(out, manifest)
    return manifest


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    other = [] if same_model(found["model"], wanted["model"]) else ["model"]
    return other + [key for key in ("settings", "images") if found[key] != wanted[key]]


def _tidy(out: Path, manifest: dict[str, Any]) -> None:
    """Remove the files that only the build needs."""
    for name in {BEGUN, ADDING, VECTORS} - manifest["files"].keys():
        (out / name).unlink(missing_ok=True)
    remove_leftovers(out)


def _embed(
    model: Model, images: ImageList, out: Path, config: IndexConfig, stride: int, say: Callable[[str], None]
) -> list[Row]:
    """Append missing vectors, cells and rows to their files. A row is written after its vectors are on the disk."""
    dim = int(model.identity["dim"])
    rows = whole_rows(out, dim)
    write_atomic(out / ROWS, "".join(row.as_line() for row in rows))
    before = sum(row.cells for row in rows)
    waiting: list[Row] = []
    since = told = time.monotonic()
    with (out / VECTORS).open("ab") as vectors, (out / CELLS).open("ab") as cells, (out / ROWS).open("ab") as lines:
        vectors.truncate(before * dim * VALUE_BYTES)
        cells.truncate(before * CELL_BYTES)
        first = len(rows)
        for number in range(first, len(images)):
            row, found, which = _one(model, images, number, config, stride)
            vectors.write(found.tobytes())
            cells.write(which.tobytes())
            rows.append(row)
            waiting.append(row)
            now = time.monotonic()
            if now - told < SYNCED and number < len(images) - 1:
                continue
            for file in (vectors, cells, lines):
                if file is lines:
                    lines.write("".join(row.as_line() for row in waiting).encode())
                file.flush()
                os.fsync(file.fileno())
            waiting, told = [], now
            done = number + 1 - first
            say(f"{number + 1}/{len(images)} images, {sum(row.cells for row in rows)} cells  "
                f"{done / max(now - since, 1e-9):.1f} images/s")  # fmt: skip
    if skipped := [row for row in rows if row.skipped is not None]:
        say(f"warning: {len(skipped)} files could not be read, first {skipped[0].name}: {skipped[0].skipped}")
    return rows


def _one(
    model: Model, images: ImageList, number: int, config: IndexConfig, stride: int
) -> tuple[Row, Float16[np.ndarray, "n D"], Int32[np.ndarray, "n"]]:
    """Return an image's row, vectors and cells."""
    name, dim = images.names[number], int(model.identity["dim"])
    try:
        picture = read_listed(images, number, config.size)
    except UnreadableImage as error:
        return Row(name, skipped=str(error)), np.zeros((0, dim), np.float16), np.zeros(0, np.int32)
    found = model.map_of(picture.pixels)
    if config.sample is None:
        found = at_stride(found, int(model.identity["stride"]), stride, picture.pixels.shape[:2])
    h, w = found.shape[:2]
    flat = found.reshape(h * w, dim)
    which = np.arange(h * w)
    if config.sample is not None:
        which = search.representatives(flat, config.sample, config.seed)
    seen = (picture.pixels.shape[1], picture.pixels.shape[0])
    row = Row(name, picture.original, seen, (h, w), len(which))
    return row, flat[which].astype(np.float16), which.astype(np.int32)


def at_stride(
    found: Float32[np.ndarray, "h w D"], own: int, stride: int, size: tuple[int, ...]
) -> Float32[np.ndarray, "_ _ D"]:
    """Sample the map of a picture of `size` (H, W) px bilinearly at the centres of the cells of a larger stride."""
    if stride == own:
        return found
    h, w = (-(-side // stride) for side in size)
    centres = torch.from_numpy(cell_centres(h, w, stride).astype(np.float32))
    maps = torch.from_numpy(found).permute(2, 0, 1)[None]
    return F.normalize(read_at(maps, centres[None], own)[0], dim=1).view(h, w, -1).numpy()


def _fill(out: Path, vectors: np.ndarray, kind: search.Kind, seed: int, say: Callable[[str], None]) -> Any:
    """Train the index on some vectors and add all; resume where a stopped build left it."""
    if (out / INDEX).exists():
        return search.read(out / INDEX)
    if (out / ADDING).exists():
        index = search.read(out / ADDING)
    else:
        say(f"training a {kind} index for {len(vectors)} cells")
        index = search.train(vectors, kind, seed)
        search.save(index, out / ADDING)

    def keep(count: int) -> None:
        search.save(index, out / ADDING)
        say(f"{count}/{len(vectors)} cells added")

    search.add(index, vectors, KEPT_EVERY, keep)
    search.save(index, out / INDEX)
    return index
