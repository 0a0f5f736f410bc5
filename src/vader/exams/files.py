"""Read and write the files of a report folder: predictions, and the numbers of each picture.

Axes: H W pixels.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8, UInt16

from vader.errors import BadInput
from vader.exams.results import Result
from vader.images.decode import decode_values
from vader.images.encode import colour_map, palette_png, png
from vader.runtime.files import write_atomic

PICTURES = "pictures.npz"  # `Result.pictures` of each encoder, by the encoder's number
MILLIMETRES = 1000


def folder_names(names: Sequence[str]) -> dict[str, str]:
    """Make a distinct folder name for each encoder's name."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.@+-]+", "_", name).strip("._")[-80:] or "encoder"
        number = 2
        while plain in found.values():
            plain = f"{plain.rsplit('~', 1)[0]}~{number}"
            number += 1
        found[name] = plain
    return found


def prediction_file(folder: Path, encoder: str, name: str) -> Path:
    """Return the path of an example's prediction; `encoder` is a folder name."""
    return folder / "predictions" / encoder / f"{name}.png"


def write_labels(path: Path, labels: Integer[np.ndarray, "H W"]) -> None:
    """Write an indexed PNG in the colours of VOC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(palette_png(labels.astype(np.uint8), colour_map()))


def write_depth(path: Path, depth: Float[np.ndarray, "H W"]) -> None:
    """Write a 16-bit PNG in millimetres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.clip(np.round(depth * MILLIMETRES), 0, 65534).astype(np.uint16)))


def read_prediction(path: Path) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """Read classes, or millimetres, as they were written."""
    return decode_values(path)


def write_pictures(folder: Path, results: Sequence[Result]) -> None:
    """Write each encoder's `pictures`, so that reports can be compared picture by picture."""
    file = io.BytesIO()
    np.savez_compressed(file, **{str(i): one.pictures for i, one in enumerate(results)})  # type: ignore[arg-type]
    write_atomic(folder / PICTURES, file.getvalue())


def read_pictures(folder: Path) -> list[np.ndarray]:
    """Read the file of `write_pictures`. Raises BadInput for a missing or damaged file."""
    path = folder / PICTURES
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:  # np.load leaves a damaged one open
            return [found[str(i)] for i in range(len(found.files))]
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error):
        raise BadInput(f"{path}: expected the file that `vader evaluate` writes; evaluate again") from None
