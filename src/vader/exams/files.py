"""The report's folder: written beside its place and renamed when it is whole; predictions, and each picture's numbers.

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

PICTURES = "pictures.npz"  # what each trial found in each picture: `Result.pictures`, by the encoder's number
MILLIMETRES = 1000


def folder_names(names: Sequence[str]) -> dict[str, str]:
    """Encoders' names as names of folders, no two alike."""
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
    """Where the prediction of the example of this name lies; `encoder` is a folder's name."""
    return folder / "predictions" / encoder / f"{name}.png"


def write_labels(path: Path, labels: Integer[np.ndarray, "H W"]) -> None:
    """An indexed PNG in VOC's colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(palette_png(labels.astype(np.uint8), colour_map()))


def write_depth(path: Path, depth: Float[np.ndarray, "H W"]) -> None:
    """A 16-bit PNG in millimetres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.clip(np.round(depth * MILLIMETRES), 0, 65534).astype(np.uint16)))


def read_prediction(path: Path) -> UInt8[np.ndarray, "H W"] | UInt16[np.ndarray, "H W"]:
    """Classes, or millimetres, as they were written."""
    return decode_values(path)


def write_pictures(folder: Path, results: Sequence[Result]) -> None:
    """Each encoder's `pictures`, so that reports can be compared picture by picture."""
    file = io.BytesIO()
    np.savez_compressed(file, **{str(i): one.pictures for i, one in enumerate(results)})  # type: ignore[arg-type]
    write_atomic(folder / PICTURES, file.getvalue())


def read_pictures(folder: Path) -> list[np.ndarray]:
    """What `write_pictures` wrote. Raises BadInput for a folder without it and for a damaged file."""
    path = folder / PICTURES
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:  # np.load leaves a damaged one open
            return [found[str(i)] for i in range(len(found.files))]
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error):
        raise BadInput(f"{path}: expected what `vader evaluate` wrote beside report.json; evaluate anew") from None
