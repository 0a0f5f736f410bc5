"""Write an index as one self-contained HTML page: click a pixel, and every image shows its similar pixels.

The page holds each image as a small JPEG and its map in 8 bits. Maps are projected onto the d principal directions of
all cells (not centred, so that products stay similarities), normalised again, and scaled to -127 ... 127 by direction.

Axes: n cells of all images, D embedding, d directions kept, h w cells.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int8, UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vader.errors import BadInput
from vader.images.encode import jpeg
from vader.inference.results import Page
from vader.inference.retrieval.index import Index
from vader.runtime.files import make_folder, write_atomic

MOST_IMAGES = 200
BYTES_AN_IMAGE = 290_000  # budget of the page: 29 MB for 100 images
DIRECTIONS = (64, 48, 32)  # the largest number that fits; if none does, the maps are halved
THUMB, QUALITY = 480, 80  # pixels of the long side, and quality of JPEG
LEVELS = 127
TRIED = 200  # cells whose similarities to all cells are compared with the exact ones


@dataclass(frozen=True)
class Packed:
    """Cells in 8 bits; vectors are codes x scale."""

    codes: Int8[np.ndarray, "n d"]
    scale: Float32[np.ndarray, "d"]
    energy: float

    def vectors(self) -> Float32[np.ndarray, "n d"]:
        """Decode the vectors as the page does."""
        return self.codes.astype(np.float32) * self.scale


def write_page(
    index: Index,
    out: Path,
    *,
    count: int | None = None,
    model: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Page:
    """Write the page; with `count`, only that number of images, evenly spaced in the index.

    Raises BadInput for more than 200 images, and like `Index.map_of` and `Index.picture`.
    """
    chosen = [i for i, row in enumerate(index.rows) if row.cells]
    if count is not None:
        if count < 1:
            raise BadInput(f"--count: expected at least 1, found {count}")
        places = np.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().astype(int)
        chosen = [chosen[i] for i in dict.fromkeys(places.tolist())]
    if len(chosen) > MOST_IMAGES:
        raise BadInput(
            f"expected at most {MOST_IMAGES} images for a page, found {len(chosen)}; --count {MOST_IMAGES} takes "
            f"evenly spaced images of the index, or index a smaller folder"
        )
    opened = None if index.on_grid else index.open_model(model, device, precision)
    pictures, maps, strides = [], [], []
    for i in chosen:
        found, stride = index.map_of(i, opened)
        maps.append(found)
        strides.append(stride)
        pictures.append(_thumb(index.picture(i).pixels))
    maps, strides, packed = fit_maps(maps, strides, sum(len(one) for one in pictures))
    images, start = [], 0
    for i, picture, found, stride in zip(chosen, pictures, maps, strides, strict=True):
        h, w = found.shape[:2]
        row = index.rows[i]
        codes = packed.codes[start : start + h * w]
        start += h * w
        images.append({
            "name": row.name, "width": row.file[0], "height": row.file[1], "h": h, "w": w,
            "stepX": stride * row.file[0] / row.seen[0], "stepY": stride * row.file[1] / row.seen[1],
            "jpeg": _base64(picture), "codes": _base64(codes.tobytes()),
        })  # fmt: skip
    error = mean_error(maps, packed)
    data = {
        "scale": [float(v) for v in packed.scale], "energy": packed.energy, "error": error, "images": images,
        "model": index.manifest["model"]["spec"],
    }  # fmt: skip
    page = _render(data)
    make_folder(out.parent)
    write_atomic(out, page)
    return Page(out, len(images), start, len(packed.scale), packed.energy, error, len(page))


def fit_maps(
    maps: Sequence[Float32[np.ndarray, "_ _ _"]], strides: Sequence[int], taken: int
) -> tuple[list[np.ndarray], list[int], Packed]:
    """Reduce maps, strides and codes until the page, with `taken` bytes of pictures, fits its budget.

    Halving a map takes the mean of 2 x 2 cells.
    """
    maps, strides = list(maps), list(strides)
    room = BYTES_AN_IMAGE * len(maps) * 3 // 4 - taken  # base64 encodes 3 bytes in 4
    while True:
        n = sum(one.shape[0] * one.shape[1] for one in maps)
        dim = maps[0].shape[2]
        fitting = [min(d, dim) for d in DIRECTIONS if n * min(d, dim) <= room]
        if fitting or all(max(one.shape[:2]) == 1 for one in maps):
            return maps, strides, pack(np.concatenate([one.reshape(-1, dim) for one in maps]), max(fitting, default=1))
        maps, strides = [_halved(one) for one in maps], [2 * stride for stride in strides]


def pack(vectors: Float32[np.ndarray, "n D"], dim: int) -> Packed:
    """Encode normalised vectors in `dim` x 8 bits."""
    second = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), 1 << 16):
        part = vectors[start : start + (1 << 16)].astype(np.float64)
        second += part.T @ part
    energies, directions = np.linalg.eigh(second)  # ascending
    basis = directions[:, ::-1][:, :dim].astype(np.float32)  # (D, d)
    turned = vectors @ basis
    turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)
    scale = np.maximum(np.abs(turned).max(0), 1e-9) / LEVELS
    codes = np.clip(np.round(turned / scale), -LEVELS, LEVELS).astype(np.int8)
    return Packed(codes, scale.astype(np.float32), float(_share(energies, dim)))


def _share(energies: Float64[np.ndarray, "D"], dim: int) -> float:
    return min(1.0, float(energies[-dim:].sum() / max(energies.sum(), 1e-12)))


def mean_error(maps: Sequence[np.ndarray], packed: Packed) -> float:
    """Return the mean difference between the page's and the exact similarities, over pairs of cells."""
    flat = np.concatenate([one.reshape(-1, one.shape[2]) for one in maps])
    some = np.unique(np.linspace(0, len(flat) - 1, TRIED).round().astype(int))
    read = packed.vectors()[some]
    read /= np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-9)
    exact = flat[some] @ flat[some].T
    return round(float(np.abs(read @ read.T - exact).mean()), 5)


def _halved(cells: np.ndarray) -> np.ndarray:
    h, w, dim = cells.shape
    even = np.pad(cells, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    mean = even.reshape(-(-h // 2), 2, -(-w // 2), 2, dim).mean((1, 3))
    return mean / np.maximum(np.linalg.norm(mean, axis=2, keepdims=True), 1e-9)


def _thumb(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    height, width = pixels.shape[:2]
    scale = min(1.0, THUMB / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), QUALITY)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _render(data: dict[str, Any]) -> bytes:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("vader.inference.retrieval") / "browse.html.j2").read_text("utf-8"))
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # a name must not end the script
    page = template.render(data=Markup(text), count=len(data["images"]), model=data["model"])
    return page.encode("utf-8", "backslashreplace")
