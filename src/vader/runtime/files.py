"""Output folders and atomic files: a name refers to the complete old content or the complete new content."""

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
    """Remove a folder again if the block fails, creates it, and leaves it empty."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not empty or does not exist
                folder.rmdir()
        raise


def prepare_output(folder: Path, argument: str = "--out") -> None:
    """Make an empty output folder. Raises BadInput with the reason if that is not possible."""
    with suppress(OSError):  # no permission, a name too long: `make_folder` reports it
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{argument}: expected a folder, found the file {folder}; choose another name")
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
    """Claim an output folder. Return the content of `done_name` if it is finished, None to start or to resume.

    `begun` describes the wanted output. It is stored in the file `begun_name` until a finished folder has it in
    `done_name`. `differing` names the differences between a folder's description and the wanted one (default: the keys
    whose values differ). Raises BadInput for a folder that contains `what` of something else, or other files.
    """
    for name in filter(None, (done_name, begun_name)):
        if (out / name).is_file():
            found = json.loads((out / name).read_text())
            if other := (differing or _differing)(found, begun):
                raise BadInput(f"--out: {out} contains {what} of another {', '.join(other)}; choose another folder")
            return found if name == done_name else None
    prepare_output(out)
    write_json(out / begun_name, dict(begun))
    return None


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key in {**wanted} if found.get(key) != wanted[key]]


def make_folder(folder: Path, argument: str = "--out") -> None:
    """Make a folder if it does not exist. Raises BadInput if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"{argument}: cannot write to {folder} ({error.strerror}); choose another place") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that its name refers to the complete old or new content, even if the machine stops."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):  # the error of a full disk does not name the file
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with `write_atomic`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Bytes of file names that are not UTF-8 are lone surrogates here; their backslash form is JSON's own escape.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Write renames within a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it gets its final name if the block succeeds and its files are on the disk."""
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
    """Delete a folder; an interrupted delete leaves a hidden folder, never an incomplete one under its name."""
    hidden = folder.with_name(f".old-{folder.name}.{os.getpid()}")
    folder.replace(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders of killed processes in a folder."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder that becomes `out` if the block succeeds and is removed if it fails or SIGTERM arrives.

    Raises BadInput for an `out` that is not empty. An OSError because of a full disk names `out`, unless it already
    names another place.
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
        except OSError as error:  # it names no file, or a file in the hidden folder
            if error.errno in NO_ROOM and str(error.filename or temporary).startswith(str(temporary)):
                error.filename = str(out)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Try to lock a folder; give True if this process has the lock, which ends with the process.

    The result is False, too, on a file system without locks.
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
    """Remove the temporary folders that killed processes left beside `out`.

    The number of a process on another machine or in another container says nothing here; the lock does.
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
        return True  # the process of another user
    return True
