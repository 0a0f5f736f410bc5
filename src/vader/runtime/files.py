"""Output folders and atomic files: a name shows the old content or the whole new one."""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vader.errors import BadInput
from vader.runtime.interrupts import terminable


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """A folder that is not there yet and that a failing block leaves empty is removed again."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not empty, or never was made
                folder.rmdir()
        raise


def prepare_output(folder: Path, argument: str = "--out") -> None:
    """Make an empty output folder, or raise BadInput saying why the argument's cannot be one."""
    with suppress(OSError):  # a folder that may not be read, a name too long: `make_folder` says so
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{argument}: expected a folder, {folder} is a file; choose another name")
        if folder.is_dir() and any(folder.iterdir()):
            raise BadInput(
                f"{argument}: expected a new or empty folder, {folder} is not empty; choose another or remove it"
            )
    make_folder(folder, argument)


def claim(
    out: Path,
    begun: Mapping[str, Any],
    *,
    what: str,
    begun_name: str,
    done_name: str | None = None,
    differing: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]] | None = None,
) -> dict[str, Any] | None:
    """Make an output folder ours, or find that it is: what a finished one says, None to begin or to continue.

    `begun` says what is to be made; it lies in the file `begun_name` until a finished folder says it in `done_name`.
    `differing` names what differs between a folder's and the wanted one (default: the keys whose values differ).
    Raises BadInput for a folder that holds `what` of something else, or something else.
    """
    for name in filter(None, (done_name, begun_name)):
        if (out / name).is_file():
            found = json.loads((out / name).read_text())
            if other := (differing or _differing)(found, begun):
                raise BadInput(f"--out: {out} holds {what} of another {', '.join(other)}; choose another folder")
            return found if name == done_name else None
    prepare_output(out)
    write_json(out / begun_name, dict(begun))
    return None


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key in {**wanted} if found.get(key) != wanted[key]]


def make_folder(folder: Path, argument: str = "--out") -> None:
    """Make a folder unless it is there, or raise BadInput if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"{argument}: cannot write to {folder} ({error.strerror}); choose another place") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that its name shows the old content or the whole new one, even if the machine stops."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):  # a full disk does not say where it is full
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Bytes of file names that are no UTF-8 are lone surrogates here; their backslash form is JSON's own escape.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Make renames within a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it gets its final name only when the block ends well, and its files are on disk by then."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if folder.exists():
            remove_folder(folder)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Delete a folder; a stop half-way leaves a hidden rest, never half a folder under its name."""
    hidden = folder.with_name(f".old-{folder.name}.{os.getpid()}")
    folder.replace(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed process left in a folder."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder that becomes `out` when the block ends well, and is removed when it does not, SIGTERM included.

    Raises BadInput for an `out` that is not empty. An OSError of a disk without room names `out`, unless it names
    another place already.
    """
    out = Path(os.path.abspath(out))
    with removed_if_empty(out), terminable():
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
