"""The report's folder: written beside its place and renamed when it is whole; predictions, and each picture's numbers.

Axes: H W pixels.
"""

import errno
import fcntl
import glob
import io
import os
import re
import shutil
import signal
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8, UInt16

from vader.errors import BadInput
from vader.exams.results import Result
from vader.images.decode import decode_values
from vader.images.encode import colour_map, palette_png, png
from vader.runtime.processes import prepare_output, removed_if_empty, write_atomic

PICTURES = "pictures.npz"  # what each trial found in each picture: `Result.pictures`, by the encoder's number
MILLIMETRES = 1000
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder that becomes `out` when the block ends well, and is removed when it does not, SIGTERM included.

    Raises BadInput for an `out` that is not empty. An OSError of a disk without room names `out`, unless it names
    another place already.
    """
    out = Path(os.path.abspath(out))
    with removed_if_empty(out), _terminable():
        prepare_output(out)
        temporary = out.with_name(f".{out.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_leftovers(out)
        temporary.mkdir()
        try:
            with _locked(temporary):
                yield temporary
            temporary.replace(out)
        except OSError as error:  # a write does not say where there is no room, an opening calls it by a hidden name
            if error.errno in NO_ROOM and str(error.filename or temporary).startswith(str(temporary)):
                error.filename = str(out)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether, within the block, this process alone has the folder's lock, which ends with the process however it dies.

    False, too, on a file system that does not lock folders.
    """
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except OSError:
        mine = False
    try:
        yield mine
    finally:
        os.close(number)


def _remove_leftovers(out: Path) -> None:
    """Remove what killed processes left of reports of this name.

    A process of another machine, or of another container, has a number that says nothing here: its lock does.
    """
    for path in out.parent.glob(f".{glob.escape(out.name)}.*"):
        number = path.name.rpartition(".")[2]
        if path.name != f".{out.name}.{number}" or not re.fullmatch(r"[0-9]+", number) or _lives(int(number)):
            continue
        with _locked(path) as abandoned:
            if abandoned and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's
    return True


@contextmanager
def _terminable() -> Iterator[None]:
    """Within it, SIGTERM stops as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated; no report was written")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # signals can be caught in the main thread alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
