"""Two processes (gloo, on the CPU) do what one does with batch norm in two virtual groups."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from samples import VADER, environment, pretrain, pretrain_words, start, vader

from vader.pretraining.feed import StepSampler, split
from vader.runtime.states import states

# The teacher moves fast, so that what one step does wrong shows in the next; rates beyond these make rounding errors
# grow by ten a step.
RUN: dict[str, object] = {
    "batch": 8, "log_every": 1, "save_every": 3, "exam_every": 100, "lr_encoder": 1e-3, "lr_decoder": 1e-3,
    "momentum": 0.9, "schedule": "constant", "warmup_steps": 0,
}  # fmt: skip
TWO: dict[str, object] = RUN | {"devices": 2, "bn_groups": 1}
STEPS = 6
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "loss", "chance_loss", "accuracy", "alignment_train", "grad_norm", "queue_fill", "key_deviation")
    return [{name: line[name] for name in names} for line in lines if "loss" in line]


def assert_agree(first: Path, second: Path) -> None:
    """Metrics to 1e-3; the queue's content, places and pointer, the teacher and the student nearly so."""
    assert len(losses(first)) == STEPS
    for one, two in zip(losses(first), losses(second), strict=True):
        assert one == pytest.approx(two, rel=1e-3)
    a, b = (states(run)[-1] for run in (first, second))
    records = [json.loads((folder / "state.json").read_text()) for folder in (a, b)]
    for name in ("queue", "random", "sampler", "step"):
        assert records[0][name] == records[1][name]
    tensors, others = load_file(a / "state.safetensors"), load_file(b / "state.safetensors")
    assert torch.equal(tensors["queue.images"], others["queue.images"])
    assert tensors.keys() == others.keys()
    for name in tensors:
        # Running statistics are those of the first process's images, in MoCo too; they do not enter training.
        if name.startswith(("student", "teacher", "queue")) and not name.endswith(STATISTICS):
            torch.testing.assert_close(tensors[name], others[name], rtol=1e-3, atol=2e-4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(photos: Path, place: Path) -> Path:
    done = pretrain(photos, place / "alone", STEPS, **RUN | {"bn_groups": 2})
    assert done.returncode == 0, done.stderr
    return place / "alone"


@pytest.fixture(scope="module")
def together(photos: Path, place: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    done = vader(*pretrain_words(photos, place / "together", STEPS, **TWO))
    assert done.returncode == 0, done.stderr
    return place / "together", done


def test_two_processes_do_what_one_does_in_two_groups(alone: Path, together: tuple[Path, Any]) -> None:
    assert_agree(alone, together[0])


def test_two_processes_speak_with_one_voice(together: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    run, done = together
    assert done.stdout == f"{run}\n"
    for begin in ("recipe quick", "exam after step 0", "step 1/6", "verdict"):
        assert done.stderr.count(begin) == 1, done.stderr


@pytest.mark.whole
def test_torchrun_resumes_what_was_killed(together: tuple[Path, Any], photos: Path, place: Path) -> None:
    """Both ways to start them are one run: begun with --devices 2, killed, ended by torchrun, bit for bit the same."""
    out = place / "killed"
    process = start(*pretrain_words(photos, out, STEPS, **TWO))
    while not (out / "checkpoints" / "step-00000003").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "last.safetensors").exists()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", VADER]
    done = subprocess.run(
        [*torchrun, "pretrain", "--resume", out],
        capture_output=True, text=True, timeout=120, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(together[0])
    for name in ("state", "last"):
        folder = {"state": "checkpoints/step-00000006/"}.get(name, "")
        first, second = (load_file(run / f"{folder}{name}.safetensors") for run in (together[0], out))
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.whole
def test_an_interrupt_of_the_first_process_ends_both(photos: Path, place: Path) -> None:
    out = place / "interrupted"
    process = start(*pretrain_words(photos, out, 500, **TWO | {"log_every": 100}))
    while not (out / "checkpoints" / "step-00000003").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert told.count("continue with: vader pretrain --resume") == 1
    assert "Traceback" not in told
    assert all_gone_within(10, process.pid)


def all_gone_within(seconds: float, group: int) -> bool:
    """Whether all processes of a group are gone after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def partly_broken(photos: Path, place: Path) -> tuple[Path, set[str]]:
    """72 images, of which eight are broken: all in the second process's share of the first epoch, and none among the
    files that are read before the first step."""
    folder, names = place / "partly-broken", [f"{i:02d}.jpg" for i in range(72)]
    _, members = split(72, 2, 0)
    sampled = set(members[np.linspace(0, len(members) - 1, 32).astype(int)].tolist())
    steps = iter(StepSampler(len(members), 8, 0, 0, rank=1, world=2))
    shares = [int(members[place]) for _ in range(STEPS) for _, place in next(steps)]
    broken = {names[index] for index in [index for index in shares if index not in sampled][:8]}
    folder.mkdir()
    for i, name in enumerate(names):
        if name in broken:
            (folder / name).write_text("This is no picture.")
        else:
            (folder / name).symlink_to(photos / f"{i % 12:02d}.jpg")
    assert len(broken) == 8
    return folder, broken


@pytest.mark.whole
def test_unreadable_files_of_every_process_are_named_and_counted(
    partly_broken: tuple[Path, set[str]], tmp_path: Path
) -> None:
    images, broken = partly_broken
    done = vader(*pretrain_words(images, tmp_path / "run", STEPS, **TWO | {"max_bad_share": 0.5}))
    assert done.returncode == 0, done.stderr
    skipped = {one["name"] for one in json.loads((tmp_path / "run" / "record.json").read_text())["skipped"]}
    assert skipped == broken
    assert all(done.stderr.count(f"warning: skipped {name}") == 1 for name in broken), done.stderr


@pytest.mark.whole
def test_too_many_unreadable_files_stop_all_processes_alike(
    partly_broken: tuple[Path, set[str]], tmp_path: Path
) -> None:
    done = vader(*pretrain_words(partly_broken[0], tmp_path / "run", STEPS, **TWO | {"max_bad_share": 0.05}))
    assert done.returncode == 1
    assert "more than the allowed share of 0.05" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.whole
def test_bad_input_is_one_line_from_one_process(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    done = vader(*pretrain_words(photos, tmp_path / "out", STEPS, **TWO), "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith("vader: --out: expected a new or empty folder")
    assert done.stderr.count("\n") == 1
