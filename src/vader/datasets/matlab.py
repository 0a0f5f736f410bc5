"""Read columns of numbers from a MATLAB 5 file, compressed or not, as far as splits.mat needs it."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from vader.errors import BadInput

HEADER = 128  # bytes; the last two give the byte order
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_columns(path: Path, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read the integers of each named array, of any shape, in MATLAB's order.

    Raises `BadInput` for a file that is not a MATLAB 5 file, is damaged, or lacks one of the arrays.
    """
    data = path.read_bytes()
    try:
        order = {b"IM": "<", b"MI": ">"}[data[HEADER - 2 : HEADER]]
        found = {name: values for name, values in _arrays(data[HEADER:], order) if name in names}
    except (KeyError, ValueError, IndexError, struct.error, zlib.error, UnicodeDecodeError) as fault:
        raise BadInput(f"expected a MATLAB 5 file {path}, found an unreadable one: {fault!r}; get it again") from fault
    if absent := [name for name in names if name not in found]:
        raise BadInput(f"expected an array {absent[0]} in {path}, found {', '.join(found) or 'none of them'}")
    return found


def _arrays(data: bytes, order: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for kind, body in _elements(data, order):
        if kind == COMPRESSED:
            yield from _arrays(zlib.decompress(body), order)
        elif kind == MATRIX:
            parts = [part for _, part in zip(range(4), _elements(body, order), strict=False)]
            if len(parts) == 4 and parts[3][0] in NUMBERS:  # flags, shape, name, values; other types are skipped
                values = np.frombuffer(parts[3][1], np.dtype(order + NUMBERS[parts[3][0]]))
                yield parts[2][1].decode(), tuple(int(value) for value in values)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, content) of each element; elements are padded to a multiple of eight bytes unless compressed."""
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # up to four bytes are stored within the tag
            kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            start = at + 8
            end = start + length + (0 if kind == COMPRESSED else -length % 8)
        if start + length > len(data):
            raise ValueError("the file ends within an array")
        yield kind, data[start : start + length]
        at = end
