"""Small things that several tests need: the command as a user starts it, and settings that make a run short."""

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
import warm

SHARED = Path(os.environ.get("VADER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared(name: str) -> Path:
    """A folder of real data sets, where it is at hand; VADER_DATA names the folder of them all."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"there is no {SHARED / name}; VADER_DATA names the folder of the shared sets")
    return SHARED / name


VADER = str(Path(sys.executable).with_name("vader"))

SMALL = {
    "network.encoder": "resnet10t",
    "network.dim": 16,
    "network.pyramid_width": 32,
    "network.decoder_width": 32,
    "network.pyramid_outputs": "false",
    "views.size": 32,
    "batch": 4,
    "points": 8,
    "enqueue": "all",
    "within_image": "none",
    "queue": 96,
    "bn_groups": 2,
    "workers": 0,
    "held_out": 2,
    "log_every": 2,
    "exam_every": 100,
    "save_every": 100,
}


def settings(**changes: object) -> list[str]:
    """`--set` flags of a small run; in names, two underscores stand for a dot."""
    merged = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in merged.items() for word in ("--set", f"{name}={value}")]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment; one thread a process, so that tests beside each other keep their pace.

    Compiled modules may be written: starting takes three times as long without them.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def vader(*words: object, timeout: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `vader WORDS...` to its end."""
    command = [VADER, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment(**environ), check=False
    )


@cache
def forks() -> ForkServerContext:
    """The server that forks: started once, and told by its environment where this folder is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("OMP_NUM_THREADS", "1")
        ensure_running()
    return context


class Forked:
    """A command in a process of its own that need not import torch anew: it is forked from one that has (`warm.py`).

    Of `subprocess.Popen` it has what tests use.
    """

    def __init__(self, *words: object, where: Path | None = None) -> None:
        self.words = [*map(str, words)]
        self.folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.process = forks().Process(target=warm.run, args=(self.words, environment(), self.folder, where))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid
        self.kill = self.process.kill

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        out, errors = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        return out, errors


def forked(*words: object, timeout: float = 120, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run such a process to its end, in the folder `where`."""
    process = Forked(*words, where=where)
    try:
        said = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.words, process.returncode, *said)


def here(*words: object) -> subprocess.CompletedProcess[str]:
    """The same in this process, for words that are refused: a process of their own would only import torch anew."""
    from vader.cli import main

    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors),
        warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens under unit-test")
        patch.setattr(sys, "argv", ["vader", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    said = [stream.buffer.getvalue().decode() for stream in (out, errors)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(sys.argv, code, *said)


def start(*words: object) -> subprocess.Popen[str]:
    """Start `vader WORDS...` in a process group of its own."""
    return subprocess.Popen(
        [VADER, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip


def pretrain(images: Path, out: Path, steps: int, **changes: object) -> subprocess.CompletedProcess[str]:
    """A small run on the CPU in fp32, unless `changes` say otherwise."""
    return forked(*pretrain_words(images, out, steps, **changes))


def pretrain_words(images: Path, out: Path, steps: int, **changes: object) -> list[object]:
    """The words of `pretrain`."""
    changes = {"device": "cpu", "precision": "fp32"} | changes
    return ["pretrain", images, "--out", out, "--recipe", "quick", "--steps", steps, *settings(**changes)]


def refused(done: subprocess.CompletedProcess[str], words: str, code: int = 1) -> None:
    """One line on standard error that begins with the program's name, and nothing else."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("vader: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def quiet_words(images: object, out: object, *words: object, **changes: object) -> list[object]:
    return ["pretrain", images, "--out", out, "--steps", 4, "--device", "cpu", "--precision", "fp32", "--quiet", *words,
            *settings(**changes)]  # fmt: skip


def quiet(images: object, out: object, *words: object, **changes: object) -> subprocess.CompletedProcess[str]:
    return vader(*quiet_words(images, out, *words, **changes))
