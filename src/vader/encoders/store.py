"""Store the features of a whole set within a memory limit, and compute them in one pass over the images.

Arrays stay in memory while they fit. When one does not fit, all of them move to a temporary file, which is mapped into
memory. The file has no name, so nothing remains when the process stops. Axes: C channels, H W pixels, h w cells.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vader.datasets.example import Example
from vader.encoders import DenseEncoder
from vader.encoders.features import Overflow, extract
from vader.errors import BadInput
from vader.runtime.progress import Progress

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_memory(text: str | None) -> int:
    """Parse '2GB', '500 MB' or a number of bytes; None means half of the free memory. Raises BadInput."""
    if text is None:
        return free_memory() // 2
    words = text.strip().upper().replace(" ", "")
    number = words.rstrip("KMGTB")
    try:
        found = int(float(number) * UNITS[words[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found <= 0:
        raise BadInput(f"--memory: expected an amount such as 2GB or 500MB, found {text!r}")
    return found


def free_memory() -> int:
    """Return the number of bytes available without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class Budget:
    """A memory limit for several stores together, and how many bytes they hold and held at most."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.most, self.spilled = limit, 0, 0, 0

    def take(self, count: int) -> bool:
        """Take `count` bytes if the limit allows it; return whether it does."""
        if self.held + count > self.limit:
            return False
        self.held += count
        self.most = max(self.most, self.held)
        return True

    def need(self, count: int) -> None:
        """Take `count` bytes regardless of the limit, for data that cannot go to a disk; the report then shows it."""
        self.held += count
        self.most = max(self.most, self.held)

    @contextmanager
    def reserved(self, count: int) -> Iterator[None]:
        """Lower the limit by `count` bytes inside the block, to keep them free for later work."""
        self.limit -= count
        try:
            yield
        finally:
            self.limit += count

    def give(self, count: int) -> None:
        """Release `count` bytes."""
        self.held -= count
        assert self.held >= 0, "more bytes were released than taken"


def check_disk(size: int, folder: Path | None) -> None:
    """Check that the disk for features beyond the budget has `size` bytes free. Raises BadInput if not."""
    place = folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if size > free:
        raise BadInput(
            f"{place}: expected room for about {size / 1e9:.1f} GB of features beyond --memory, found "
            f"{free / 1e9:.1f} GB free; make room, set TMPDIR to a folder on a larger disk, raise --memory, or reduce "
            "the features (@last, or :64 for 64 dimensions)"
        )


class Store(Sequence):
    """Arrays in the order of their arrival, in memory or in a file. A context manager, which releases both.

    With `expected` arrays announced, it raises BadInput at the first array, and again before the first byte is written,
    if that many arrays of the mean size so far fit neither in the budget nor on the disk.
    """

    def __init__(self, budget: Budget, folder: Path | None = None, expected: int = 0) -> None:
        self.budget, self.folder, self.expected = budget, folder, expected
        self.arrays: list[np.ndarray] = []
        self.places: list[tuple[int, tuple[int, ...], np.dtype]] = []  # position in the file, shape, type
        self.file: Any = None
        self.map: mmap.mmap | None = None
        self.size = 0  # of the file

    def append(self, array: np.ndarray) -> None:
        """Add an array."""
        array = np.ascontiguousarray(array)
        if self.file is None:
            if not self.arrays:
                self._foresee(array.nbytes)
            if self.budget.take(array.nbytes):
                self.arrays.append(array)
                return
            self._foresee(array.nbytes)
            self._spill()
        self._write(array)

    def _foresee(self, more: int) -> None:
        mine = sum(array.nbytes for array in self.arrays)
        size = self.expected * (mine + more) // (len(self.arrays) + 1)
        if self.budget.held - mine + size > self.budget.limit:
            check_disk(size, self.folder)

    def _spill(self) -> None:
        self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed with the store
        for array in self.arrays:
            self._write(array)
            self.budget.give(array.nbytes)
        self.arrays.clear()

    def _write(self, array: np.ndarray) -> None:
        self.places.append((self.size, array.shape, array.dtype))
        with self._told_where():
            self.file.write(array.tobytes())
        self.size += array.nbytes
        self.budget.spilled += array.nbytes

    @contextmanager
    def _told_where(self) -> Iterator[None]:
        """Add the folder to an OSError: the error of a full disk does not name it."""
        try:
            yield
        except OSError as error:
            error.filename = str(self.folder or tempfile.gettempdir())
            raise

    def __len__(self) -> int:
        return len(self.arrays) + len(self.places)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        if self.file is None:
            return self.arrays[i]
        start, shape, kind = self.places[i]
        return np.ndarray(shape, kind, self._mapped(start + int(np.prod(shape)) * kind.itemsize), start)

    def _mapped(self, end: int) -> mmap.mmap:
        """Return the file's bytes, at least up to `end`."""
        if self.map is None or len(self.map) < end:
            with self._told_where():
                self.file.flush()
            # Copy on write: torch requires writable memory, although no code writes to it.
            self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self.map

    def joined(self) -> np.ndarray:
        """Concatenate all arrays along their first axis; their other axes must be equal.

        In memory this makes a copy, and the arrays become parts of it; for a short time both exist. If there is no room
        for both, the arrays move to the file, where they are already contiguous.
        """
        size = sum(array.nbytes for array in self.arrays)
        if self.file is None and self.budget.take(size):
            whole = np.concatenate(self.arrays)
            self.arrays = np.split(whole, np.cumsum([len(array) for array in self.arrays])[:-1])
            self.budget.give(size)
            return whole
        if self.file is None:
            self._spill()
        (_, first, kind), count = self.places[0], sum(shape[0] for _, shape, _ in self.places)
        return np.ndarray((count, *first[1:]), kind, self._mapped(self.size))

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.budget.give(sum(array.nbytes for array in self.arrays))
        self.arrays.clear()
        self.places.clear()
        self.map = None  # it is unmapped when the last array on it is gone
        if self.file is not None:
            with suppress(OSError):  # the disk may be full
                self.file.close()


class Maps(Sequence):
    """A store of cells (h, w, C), of which probes read a few at a time, as maps (C, h, w)."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def append(self, one: Float[Tensor, "C h w"]) -> None:
        """Add a map."""
        self.store.append(one.permute(1, 2, 0).contiguous().numpy())

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, i: int) -> Float[Tensor, "C h w"]:  # type: ignore[override]
        return torch.from_numpy(self.store[i]).permute(2, 0, 1)

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))


# --- The pass over a set -------------------------------------------------------------------------------------------


def encode(
    encoder: DenseEncoder,
    examples: Sequence,  # of Example; a type check of one would read an image
    *,
    batch: int = 16,
    dtype: torch.dtype = torch.float16,
    embed: bool = False,
    progress: Progress | None = None,
) -> Iterator[tuple[Example, Float[Tensor, "C h w"]]]:
    """Yield each example with its map, in order; `batch` images are read at a time, those of one size together.

    Raises BadInput, naming the encoder, for features that are not finite.
    """
    for start in range(0, len(examples), batch):
        some = [examples[i] for i in range(start, min(start + batch, len(examples)))]
        try:
            maps = extract(encoder, [one.image for one in some], embed=embed, batch=batch, dtype=dtype)
        except Overflow:
            raise
        except BadInput as fault:
            raise BadInput(f"pictures {some[0].name} to {some[-1].name}: {fault}") from None
        yield from zip(some, maps, strict=True)
        if progress:
            progress(len(some))


def fill(
    maps: Maps, truths: Store, pairs: Iterator[tuple[Example, Float[Tensor, "C h w"]]], depth: bool = False
) -> None:
    """Store all maps of `encode`, and the examples' labels or depths."""
    for example, one in pairs:
        truth = example.depth if depth else example.labels
        assert truth is not None, "the set has the truth that the exam is about"
        maps.append(one)
        truths.append(truth.astype(np.float32) if depth else truth)
