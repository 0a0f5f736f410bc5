"""Where images come from: a folder, a list file or one file -> an ordered list of names; and a count of bad ones."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vader.errors import BadInput, UnreadableImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def _key(name: str) -> bytes:
    """A name's bytes, those of names that are not UTF-8 too: they sort alike in every locale and on every machine."""
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class ImageList:
    """Images by name, in an order that is the same on every machine.

    `names` are POSIX paths relative to `root`, or absolute where a list file says so.
    """

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, i: int) -> Path:
        """The file of image i, 0 <= i < len(self)."""
        return self.root / self.names[i]

    def read(self, i: int) -> bytes:
        """The bytes of image i's file. Raises UnreadableImage, naming the file."""
        path = self.path(i)
        try:
            return path.read_bytes()
        except OSError as fault:
            reason = f"expected a readable, whole image file: {fault.strerror or fault}"
            raise UnreadableImage(f"{path}: {reason}") from fault

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of all names and file sizes, in order. Looks at every file's size, reads none.

        Differs when an image was added, removed, renamed, moved within the list or changed in size. Does not notice a
        change that keeps the size, nor that the whole folder lies elsewhere. A missing file counts as size -1.
        """
        digest = hashlib.sha256()
        for i, name in enumerate(self.names):
            try:
                size = self.path(i).stat().st_size
            except OSError:
                size = -1
            digest.update(_key(name) + b"\0" + str(size).encode() + b"\n")
        return digest.hexdigest()


def list_images(source: Path) -> ImageList:
    """List the images of a folder, of a list file (`.txt`), or one image file. Opens no image.

    Folder: all files below it with one of `SUFFIXES` in any case, sorted by the bytes of their names. Hidden files and
    folders (`.name`) are left out. Links to folders are followed, each real folder once, so loops end. A link that
    leads nowhere is listed: decoding then names it as unreadable.

    List file (UTF-8): one path a line, relative to the list's own folder or absolute, in the order given. Blank lines
    and lines that begin with `#` are ignored.

    Raises `BadInput` when the path is missing, of another kind or cannot be read, when there are no images, or when
    the list names missing files or one file twice.
    """
    source = Path(source)
    try:
        if source.is_dir():
            return _from_folder(source)
        if not source.exists():
            raise BadInput(f"expected a folder of images, a .txt list or an image file, but {source} does not exist")
        if source.suffix.lower() == ".txt":
            return _from_list(source)
    except OSError as fault:
        raise BadInput(f"cannot read {fault.filename or source}: {fault.strerror or fault}") from fault
    if source.suffix.lower() in SUFFIXES and source.is_file():
        return ImageList(source.parent, (source.name,))
    raise BadInput(f"expected a folder of images, a .txt list or an image file ({' '.join(SUFFIXES)}), came {source}")


def _from_folder(root: Path) -> ImageList:
    names: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(root / folder)
        if real in visited:
            continue
        visited.add(real)
        inner = []
        with os.scandir(real) as entries:
            for entry in entries:
                name = folder + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    inner.append(name + "/")
                elif (suffix := Path(entry.name).suffix.lower()) not in SUFFIXES:
                    others[suffix or "no suffix"] += 1
                elif entry.is_file() or entry.is_symlink():  # a pipe or a device would block the reader
                    names.append(name)
        # Sorted, so that of two links to one folder every machine follows the same.
        waiting += sorted(inner, key=_key, reverse=True)
    if not names:
        seen = ", ".join(f"{count} x {suffix}" for suffix, count in others.most_common(5)) or "no files at all"
        raise BadInput(f"expected images ({' '.join(SUFFIXES)}) in {root} or folders below it; found {seen}")
    return ImageList(root, tuple(sorted(names, key=_key)))


def _from_list(source: Path) -> ImageList:
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as fault:
        raise BadInput(f"expected a UTF-8 text file with one image path a line, came {source}: {fault}") from fault
    names = [Path(line.strip()).as_posix() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise BadInput(f"expected one image path a line in {source}; it names none")
    root = source.parent
    counts = Counter(os.path.normpath(root / name) for name in names)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise BadInput(f"{source} names {len(twice)} files more than once: {_first(twice)}; list each once")
    if missing := [name for name in names if not (root / name).is_file()]:
        raise BadInput(
            f"{source} names {len(missing)} files that do not exist: {_first(missing)}; paths are relative to {root}"
        )
    return ImageList(root, tuple(names))


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class Faults:
    """The unreadable files of a run, each counted once however often it is met."""

    def __init__(self, *, total: int, max_share: float = 0.05, min_seen: int = 20) -> None:
        """`total` images in all. More than `max_share` (0..1) of those seen may not be unreadable, judged from
        `min_seen` images on, or, of fewer than twice as many, once more than half of all have been seen."""
        if not 0 <= max_share <= 1:
            raise BadInput(f"expected a share of unreadable images from 0 to 1, came {max_share}")
        self.max_share = max_share
        self.judged_from = min(min_seen, total // 2 + 1)
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Count the image `name` as unreadable; of several reasons the first is kept."""
        self._reasons.setdefault(name, reason)

    def check(self, seen: int) -> None:
        """Raise `BadInput` when too many of the `seen` distinct images met so far, good and bad, are unreadable."""
        bad = len(self)
        if seen >= self.judged_from and bad > self.max_share * seen:
            named = "; ".join(f"{fault['name']} ({fault['reason']})" for fault in self.as_json()[:3])
            raise BadInput(
                f"{bad} of {seen} images seen are unreadable, more than the allowed share of {self.max_share:g}: "
                f"{named}{'; ...' if bad > 3 else ''}. Repair or remove them, or allow a larger share"
            )

    def as_json(self) -> list[dict[str, str]]:
        """[{"name", "reason"}, ...] sorted by name, for the run's record."""
        return [{"name": name, "reason": self._reasons[name]} for name in sorted(self._reasons, key=_key)]
