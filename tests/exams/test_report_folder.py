"""What killed runs left beside a report is removed, and nothing of a living one."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vader.runtime.files import new_folder


def dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.whole
def test_what_a_killed_process_left_goes_with_the_next_report(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vader.runtime.files import new_folder\n"
        f"with new_folder(Path({str(tmp_path / 'r')!r})) as folder:\n"
        "    (folder / 'a.png').write_text('x'); print('ready', flush=True); time.sleep(60)"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    theirs = f".r.{running.pid}"
    with new_folder(tmp_path / "r") as folder:
        assert left(tmp_path) == sorted([theirs, folder.name, "r"]), "it lives"
        running.kill()
        running.wait()
    running.stdout.close()
    assert left(tmp_path) == [theirs, "r"]
    with new_folder(tmp_path / "other"):
        assert theirs in left(tmp_path), "it is another report's"
    (tmp_path / "r").rename(tmp_path / "before")
    with new_folder(tmp_path / "r") as folder:
        assert left(tmp_path) == sorted([folder.name, "before", "other", "r"])
    assert left(tmp_path) == ["before", "other", "r"]


def test_a_lock_or_another_name_keeps_it(tmp_path: Path) -> None:
    """A process of another container is not among ours, but it holds its lock."""
    number = dead()
    names = [
        f".r.{number}",
        ".r.x",
        ".r.1.5x",
        f".rr.{number}",
        f".r.more.{number}",
        f"r.{number}",
        f".r.{os.getppid()}",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    held = os.open(tmp_path / names[0], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with new_folder(tmp_path / "r"):
        pass
    assert left(tmp_path) == sorted([*names, "r"])
    os.close(held)
    (tmp_path / "r").rmdir()
    since = time.monotonic()
    with new_folder(tmp_path / "r"):
        pass
    assert left(tmp_path) == sorted([*names[1:], "r"])
    assert time.monotonic() - since < 10
