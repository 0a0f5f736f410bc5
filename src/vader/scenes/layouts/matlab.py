"""Write MATLAB files of versions 7.3 (HDF5) and 5, as far as NYU needs them.

MATLAB orders axes in reverse: an H x W x N array is (N, W, H) here, in both versions.
"""

import io
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

GZIP = 3  # the level that MATLAB uses
CLASS = {"u1": "uint8", "u2": "uint16", "f4": "single"}  # MATLAB's names of types


class MatFile:
    """A 7.3 file under construction: arrays slice by slice, and cells of strings. A `with` block closes it."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._spill = Spill(path)
        # MATLAB writes a user block; its readers expect the oldest superblock version after it.
        self._file = h5py.File(self._spill, "w", userblock_size=512, libver=("earliest", "v110"))
        self._h5py = h5py
        self._strings = 0

    def __enter__(self) -> "MatFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._spill.seek(0)
        self._spill.write(_header("MATLAB 7.3 MAT-file, Platform: GLNXA64, by vader, HDF5 schema 1.00 .", 0x200))
        self._spill.close()
        if error is None:
            self._spill.check()

    def array(self, name: str, kind: str, shape: tuple[int, ...]) -> None:
        """Create an array, compressed slice by slice along the first axis."""
        made = self._file.create_dataset(
            name, shape, kind, chunks=(1, *shape[1:]), compression="gzip", compression_opts=GZIP
        )
        made.attrs["MATLAB_class"] = np.bytes_(CLASS[kind])

    def put(self, name: str, index: int, values: np.ndarray) -> None:
        """Write slice `index` of an array. Raises OSError if that fails."""
        self._file[name][index] = values
        self._file.flush()
        self._spill.check()

    def cell(self, name: str, texts: Sequence[str]) -> None:
        """Write a column of strings: references to arrays of UTF-16 units."""
        references = np.empty((1, len(texts)), self._h5py.ref_dtype)
        for i, text in enumerate(texts):
            letters = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
            made = self._file.create_dataset(f"#refs#/{name}{i}", data=letters)
            made.attrs["MATLAB_class"] = np.bytes_("char")
            made.attrs["MATLAB_int_decode"] = np.int32(2)
            references[0, i] = made.ref
        self._file.create_dataset(name, data=references).attrs["MATLAB_class"] = np.bytes_("cell")
        self._spill.check()


def columns(values: Mapping[str, Sequence[float]]) -> bytes:
    """Encode a MATLAB 5 file of columns of doubles."""
    parts = [_header("MATLAB 5.0 MAT-file, Platform: GLNXA64, Created by: vader", 0x100)]
    for name, numbers in values.items():
        body = _element(6, struct.pack("<II", 6, 0))  # miUINT32: mxDOUBLE_CLASS, no flags
        body += _element(5, struct.pack("<ii", len(numbers), 1))  # miINT32: rows and columns
        body += _element(1, name.encode())  # miINT8
        body += _element(9, struct.pack(f"<{len(numbers)}d", *numbers))  # miDOUBLE
        parts.append(_element(14, body))  # miMATRIX
    return b"".join(parts)


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def _header(text: str, version: int) -> bytes:
    """Return the first 128 bytes of either version. They have no date, so the same content gives the same bytes."""
    return text.encode().ljust(116) + b"\0" * 8 + struct.pack("<H2s", version, b"IM")


class Spill(io.RawIOBase):
    """A file for HDF5 to write to. A failed write would corrupt the state of HDF5, so the error is kept in `fault` and
    raised by `check`, and HDF5 continues as after a successful write."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b", buffering=0)
        self.fault: OSError | None = None

    def check(self) -> None:
        """Raise the stored error, if any."""
        if self.fault is not None:
            raise self.fault

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.fault is None and done < len(view):  # a nearly full disk accepts only part
                done += self.file.write(view[done:])
        except OSError as error:
            self.fault = error
        self.file.seek(len(view) - done, os.SEEK_CUR)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        return self.file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.file.truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return self.file.tell()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()
