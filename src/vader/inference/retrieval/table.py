"""The files of an index folder, and the rows of its images.

manifest.json   model, settings, numbers, sizes of the other files; written when the index is complete
images.jsonl    one object for each image, in order: see `Row`
index.faiss     the index that is searched
cells.i32       for each vector, the index of its cell in its image's map, row by row
vectors.f16     the vectors, (cells, D), for exact ranks and maps (not for `flat`, whose index has them)
begun.json, adding.faiss: exist only during a build
"""

import json
from dataclasses import asdict, dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from vader.errors import BadInput

FORMAT = 1
MANIFEST, BEGUN, ROWS, CELLS = "manifest.json", "begun.json", "images.jsonl", "cells.i32"
VECTORS, INDEX, ADDING = "vectors.f16", "index.faiss", "adding.faiss"
CELL_BYTES, VALUE_BYTES = 4, 2


@dataclass(frozen=True)
class Row:
    """An image of an index: (width, height) of its file and as embedded, (h, w) of its map, vectors kept.

    An unreadable image has the reason in `skipped` and no cells.
    """

    name: str
    file: tuple[int, int] = (0, 0)
    seen: tuple[int, int] = (0, 0)
    map: tuple[int, int] = (0, 0)
    cells: int = 0
    skipped: str | None = None

    def as_line(self) -> str:
        """Return a line of images.jsonl."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None}) + "\n"


def read_rows(text: str) -> list[Row]:
    """Parse the rows of images.jsonl. An incomplete last line, left by a kill, is dropped."""
    return [_row(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _row(found: dict[str, Any]) -> Row:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Row(**values)


def whole_rows(folder: Path, dim: int) -> list[Row]:
    """Return the rows of a build whose vectors are all on the disk."""
    path = folder / ROWS
    if not path.exists():
        return []
    rows = read_rows(path.read_text())
    sizes = [(folder / name).stat().st_size if (folder / name).exists() else 0 for name in (CELLS, VECTORS)]
    there = min(sizes[0] // CELL_BYTES, sizes[1] // (VALUE_BYTES * dim))
    ends = accumulate(row.cells for row in rows)
    return rows[: len(list(takewhile(lambda end: end <= there, ends)))]


def map_values(path: Path, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Map a file of numbers as an array that is read from the disk on access."""
    return np.memmap(path, dtype=kind, mode="r", shape=shape)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest after checking the other files' sizes. Raises BadInput for an incomplete index."""
    path = folder / MANIFEST
    if not path.is_file():
        stopped = (folder / BEGUN).is_file()
        hint = "the build stopped; repeat its vader index" if stopped else "vader index MODEL IMAGES --out makes one"
        raise BadInput(f"{folder}: expected an index with a {MANIFEST}, found none; {hint}")
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise BadInput(f"{path}: expected format {FORMAT}, found {manifest['format']}; build the index again")
        sizes = dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: expected an index's manifest, found {error!r}; build the index again") from None
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            came = "nothing" if found is None else f"{found}"
            raise BadInput(f"{folder / name}: expected {size} bytes, found {came}; build the index again")
    return manifest
