"""Data sets being written: the same bytes always, bad orders, interrupts, full disks, and the command."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclopts.exceptions import CycloptsError
from samples import start, vader

from vader.cli import app, main
from vader.errors import BadInput, MissingExtra
from vader.scenes import layouts
from vader.scenes.layouts import LAYOUTS, choose_workers, in_order, progress, write
from vader.scenes.layouts.order import is_val
from vader.scenes.world import SceneConfig

COUNT, WIDTH, HEIGHT, SEED = 6, 96, 64, 11
RENDERED = ".out.*/VOCdevkit/VOC2012/JPEGImages/*"  # the first pictures, under the hidden name


def digest(folder: Path) -> str:
    """Of all names and bytes in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\n".encode())
        if path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


# --- All layouts --------------------------------------------------------------------------------------------------


def test_the_split() -> None:
    assert not is_val(0, 1)
    for count in range(2, 200):
        val = sum(is_val(i, count) for i in range(count))
        assert 1 <= val < count
        assert abs(val - count / 5) <= 1


@pytest.mark.parametrize(
    "layout", [one if one in ("images", "nyu") else pytest.param(one, marks=pytest.mark.whole) for one in LAYOUTS]
)
def test_the_same_seed_gives_the_same_bytes(layout: str, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        write(tmp_path / name, layout, count=3, width=WIDTH, height=HEIGHT, seed=seed, workers=1)
    assert digest(tmp_path / "one") == digest(tmp_path / "again")
    for name in ("one", "other"):
        (tmp_path / name / "scenes.json").unlink()  # it names the seed
    assert digest(tmp_path / "one") != digest(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layout": "kitti"}, "--layout: expected one of images, voc"),
        ({"count": 0}, "--count: expected at least 1 for voc, found 0"),
        ({"layout": "davis", "count": 1}, "--count: expected at least 2 for davis, found 1"),
        ({"width": 31}, "--size: expected 32 to 4096 px a side, found 64x31"),
        ({"height": 4097}, "--size: expected 32 to 4096 px a side, found 4097x96"),
        ({"seed": -1}, "--seed: expected 0 or more, found -1"),
        ({"workers": 0}, "--workers: expected at least 1, found 0"),
    ],
)
def test_bad_orders(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    order: dict[str, Any] = {"layout": "voc", "count": 3, "width": WIDTH, "height": HEIGHT} | changes
    with pytest.raises(BadInput, match=told):
        write(tmp_path / "out", **order)
    assert not list(tmp_path.iterdir())


def test_where_you_are_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="found the current folder"):
        write(Path("."), "images", count=1)
    write(Path("inside"), "images", count=1, width=32, height=32)
    assert (tmp_path / "inside" / "images" / "000000.jpg").is_file()


def test_a_missing_library_is_told_before_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'vader-dense\[scenes\]'"):
        write(tmp_path / "out", "nyu", count=3)
    assert not list(tmp_path.iterdir())


def test_clips_of_empty_worlds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="worlds without visible objects"):
        write(tmp_path / "out", "davis", count=2, width=32, height=32, config=SceneConfig(objects=(0, 0)), workers=1)
    assert not list(tmp_path.iterdir())


def test_progress_comes_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(np.arange(0, 100.0))
    monkeypatch.setattr("vader.runtime.progress.time.monotonic", lambda: next(now))
    lines: list[str] = []
    assert list(progress(iter(range(9)), 9, lines.append)) == list(range(9))
    assert lines == ["5/9 pictures  1.0 pictures/s  ETA 0:00:04", "9/9 pictures  1.0 pictures/s"]


def test_few_pixels_are_not_worth_other_processes() -> None:
    assert choose_workers(1) == 1
    assert list(in_order(abs, 5, 1)) == [0, 1, 2, 3, 4]


# --- The command --------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_the_command_and_two_workers(tmp_path: Path) -> None:
    write(tmp_path / "here", "coco", count=COUNT, width=WIDTH, height=HEIGHT, seed=SEED, workers=1)
    out = tmp_path / "deep" / "out"
    words = ["--layout", "coco", "--count", COUNT, "--size", f"{HEIGHT}x{WIDTH}", "--seed", SEED]
    done = vader("scenes", out, *words, "--workers", 2, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("out") == str(out)
    assert told == json.loads((out / "scenes.json").read_text())
    assert digest(out) == digest(tmp_path / "here")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--size", "five"], "--size: expected HxW in pixels, such as 480x640"),
        (["--size=-64x64"], "--size: expected HxW"),
        (["--size", "0x0"], "--size: expected 32 to 4096"),
        (["--seed=-1"], "--seed: expected 0 or more, found -1"),
        (["--count=-1"], "--count: expected at least 1"),
        (["--set", "fog=1"], "--set: fog: Extra inputs are not permitted"),
        (["--set", "setting=attic"], "--set: setting: "),
    ],
)
def test_bad_input(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told):
        app(["scenes", str(tmp_path / "out"), "--layout", "coco", *words], exit_on_error=False, print_error=False)
    assert not list(tmp_path.iterdir())


def test_an_unknown_layout_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(CycloptsError, match="kitti"):
        app(["scenes", str(tmp_path / "out"), "--layout", "kitti"], exit_on_error=False, print_error=False)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=f"^OUT: expected a new or empty folder, {tmp_path}/mine is not empty"):
        write(tmp_path / "mine", "voc", count=2)
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["years of work"]
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "images", count=1, width=32, height=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


@pytest.mark.parametrize("place", ["n" * 256, "deep/er/" + "n" * 256, "ü" * 128, "file/x"])
def test_a_place_that_cannot_be_is_told_and_leaves_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"^OUT: cannot write to .*; choose another place"):
        write(tmp_path / place, "images", count=1, width=32, height=32)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_names_are_taken(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, "images", count=1, width=32, height=32)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failure_takes_the_folders_above_along(tmp_path: Path) -> None:
    nothing = SceneConfig(objects=(0, 0))
    (tmp_path / "mine").mkdir()
    for place in ("deep/er/out", "mine/er/out"):
        with pytest.raises(BadInput, match="worlds without visible objects"):
            write(tmp_path / place, "davis", count=2, width=32, height=32, config=nothing, workers=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.whole
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = start("scenes", tmp_path / "out", "--layout", "voc", "--count", 100_000, "--workers", 2)
    try:
        until = time.monotonic() + 90
        while not list(tmp_path.glob(RENDERED)):
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # the key's signal reaches the processes that render, too
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_a_termination_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        while not list(tmp_path.glob(RENDERED)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", "voc", count=100_000, width=WIDTH, height=HEIGHT, workers=1)
    stopper.join()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")  # of argv under pytest
def test_a_full_disk_is_one_line(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scenes", str(tiny_disk / "out"), "--layout", "nyu", "--count", "40", "--size", "64x96", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["vader", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    told = f"vader: {tiny_disk}/out: No space left on device; make room or choose another place\n"
    assert capsys.readouterr() == ("", told)
    assert not list(tiny_disk.iterdir())


@pytest.mark.parametrize("layout", ["coco", "davis"])
@pytest.mark.whole
def test_a_full_disk_in_other_layouts(layout: str, tiny_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tiny_disk / "out", layout, count=50, width=320, height=320, workers=1)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == f"{tiny_disk}/out"
    assert not list(tiny_disk.iterdir())
