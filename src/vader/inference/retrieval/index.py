"""Open an index folder: find the cells most similar to a vector, their positions, and the maps of the images.

Axes: n vectors, D embedding, h w cells.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vader.errors import BadInput, UnreadableImage
from vader.images.pictures import Picture, read_listed
from vader.images.sources import ImageList
from vader.inference.retrieval import faiss_index as search
from vader.inference.retrieval.models import Model, find_spec, open_model, same_model
from vader.inference.retrieval.table import CELLS, INDEX, ROWS, VECTORS, Row, map_values, read_manifest, read_rows

MOST = 1 << 18  # maximum number of vectors that a query ranks to find cells of enough images
FIRST = 1024


@dataclass(frozen=True)
class Index:
    """A complete index. Image i has the vectors from starts[i] to starts[i + 1]."""

    folder: Path
    manifest: dict[str, Any]
    rows: tuple[Row, ...]
    starts: Int64[np.ndarray, "_"]
    cells: np.ndarray  # (n,) int32, on the disk
    vectors: np.ndarray | None  # (n, D) float16, on the disk
    searched: Any

    @property
    def images(self) -> ImageList:
        """The collection, at its absolute or its relative place (BadInput if it is at neither)."""
        places = [Path(self.manifest["root"]), self.folder / self.manifest["root_from_here"]]
        root = next((place for place in places if place.is_dir()), None)
        if root is None:
            raise BadInput(f"{self.folder}: expected its images in {places[0]}, found no folder; move them back")
        return ImageList(root, tuple(row.name for row in self.rows))

    @property
    def on_grid(self) -> bool:
        """Whether every cell of the maps is in the index, so that no model is needed to get them."""
        return self.manifest["settings"]["sample"] is None and (
            self.vectors is not None or search.is_flat(self.searched)
        )

    def open_model(self, spec: str | None, device: str, precision: str = "fp32") -> Model:
        """The model that the index was made with; `spec` says where it is now. Raises BadInput for another."""
        known = self.manifest["model"]
        words = spec or find_spec(known, self.manifest["model_from_here"], self.folder)
        model = open_model(words, device, self.images, self.manifest["settings"]["size"], precision)
        if not same_model(known, model.identity):
            raise BadInput(
                f"{self.folder}: expected the model of the index, {known['spec']} "
                f"(sha256 {known['sha256']}, {known['dim']} dimensions at stride {known['stride']}), found {words} "
                f"with {model.identity['dim']} at stride {model.identity['stride']}; give it by --model, or index again"
            )
        return model

    def nearest(self, query: Float32[np.ndarray, "D"], k: int, effort: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and indices of the k most similar cells, best first; `effort` multiplies the lists."""
        probes = effort * int(self.manifest["quality"]["probes"])
        return search.nearest(self.searched, self.vectors, query, k, probes)

    def nearest_images(
        self, query: Float32[np.ndarray, "D"], count: int, without: int | None = None
    ) -> list[tuple[int, float]]:
        """Return the `count` images with the most similar cells, and the similarity of each image's best cell.

        Neighbouring cells are similar, so the best thousand may all be in one image. Then four times as many are
        ranked, up to 2^18, and twice as many lists searched, up to all. Fewer images are returned only at these limits,
        or if there are no more.
        """
        k, effort = FIRST, 1
        most = min(MOST, int(self.starts[-1]))
        efforts = 1 if search.is_flat(self.searched) else self.searched.nlist / self.manifest["quality"]["probes"]
        while True:
            scores, found = self.nearest(query, k, effort)
            image = np.searchsorted(self.starts, found, side="right") - 1
            which, first = np.unique(image, return_index=True)  # the first cell of an image is its best
            best = sorted(zip(first.tolist(), which.tolist(), strict=True))
            best = [(one, i) for one, i in best if i != without]
            if len(best) >= count or (k >= most and effort >= efforts):
                return [(i, float(scores[one])) for one, i in best[:count]]
            k, effort = min(4 * k, most), 2 * effort

    def number_of(self, path: Path) -> int | None:
        """Return which image of the collection a file is; None if it is none."""
        real = path.resolve()
        images = self.images
        alike = (
            i for i, name in enumerate(images.names) if Path(name).name == path.name or images.path(i).is_symlink()
        )
        return next((i for i in alike if images.path(i).resolve() == real), None)

    def picture(self, i: int) -> Picture:
        """Read an image as it was indexed. Raises BadInput if it is missing or its size has changed."""
        row, path = self.rows[i], self.images.path(i)
        try:
            picture = read_listed(self.images, i, self.manifest["settings"]["size"])
        except UnreadableImage as error:
            raise BadInput(f"{error}; put the image back, or index again") from None
        if picture.original != row.file:
            raise BadInput(f"{path}: expected the indexed size {row.file} px, found {picture.original}; index again")
        return picture

    def map_of(self, i: int, model: Model | None = None) -> tuple[Float32[np.ndarray, "h w D"], int]:
        """Return the map of image i and its stride: from the index, or from the model if cells are missing."""
        row, dim = self.rows[i], self.manifest["dim"]
        if self.on_grid:
            start, count = int(self.starts[i]), row.cells
            if self.vectors is not None:
                found = self.vectors[start : start + count].astype(np.float32)
            else:
                found = search.vectors_of(self.searched, start, count, dim)
            return found.reshape(*row.map, dim), self.manifest["stride"]
        assert model is not None, "an index without all cells needs its model"
        return model.map_of(self.picture(i).pixels), model.identity["stride"]


def open_index(folder: Path) -> Index:
    """Open an index. Codes, lists and vectors stay on the disk until they are used.

    Raises BadInput for an incomplete index: files missing or truncated, or numbers that do not fit each other.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        rows = tuple(read_rows((folder / ROWS).read_text()))
    except (ValueError, TypeError) as error:
        raise BadInput(
            f"{folder / ROWS}: expected a row for each image, found {error}; build the index again"
        ) from None
    starts = np.cumsum([0, *(row.cells for row in rows)], dtype=np.int64)
    searched = search.read(folder / INDEX, manifest["kind"])
    count, dim = manifest["cells"], manifest["dim"]
    for name, came in ((ROWS, int(starts[-1])), (INDEX, searched.ntotal)):
        if came != count:
            raise BadInput(f"{folder / name}: expected {count} cells, found {came}; build the index again")
    vectors = map_values(folder / VECTORS, np.float16, (count, dim)) if VECTORS in manifest["files"] else None
    return Index(folder, manifest, rows, starts, map_values(folder / CELLS, np.int32, (count,)), vectors, searched)
