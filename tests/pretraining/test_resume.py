"""A run that was killed or interrupted and resumed ends, bit for bit, where one that never stopped does."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from samples import Forked, forked, pretrain, pretrain_words, start

from vader.errors import BadCheckpoint, BadInput
from vader.pretraining.config import read_config
from vader.pretraining.start import _resumed_config as resumed_config
from vader.runtime.states import load_state, states

STEPS = 12
# Windows of the log, exams and saved states fall on different steps, so that a state lies within an open window.
RUN: dict[str, object] = {"save_every": 4, "log_every": 3, "exam_every": 6, "keep": 2, "schedule": "constant"}


def wait_for(path: Path, process: subprocess.Popen[str] | Forked, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"no {path} after {seconds} s"
        time.sleep(0.003)


def state_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("images_per_s", "exam_s")} for line in lines]


def state_record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "state.json").read_text())
    for name in ("out", "workers", "steps"):
        record["config"].pop(name)
    return record


def assert_same_tensors(first: Path, second: Path) -> None:
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    differing = [name for name in a if not torch.equal(a[name], b[name])]
    assert not differing, f"{len(differing)} of {len(a)} tensors differ: {differing[:5]}"


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, states, numbers and the verdict."""
    assert states(first)[-1].name == states(second)[-1].name
    for one in states(first):
        two = second / "checkpoints" / one.name
        if two.exists():  # an interrupted run saves at other steps too
            assert_same_tensors(one / "state.safetensors", two / "state.safetensors")
            assert state_record(one) == state_record(two)
    assert metrics(first) == metrics(second)
    for name in ("model", "last"):
        assert_same_tensors(first / f"{name}.safetensors", second / f"{name}.safetensors")
    records = [json.loads((run / "record.json").read_text()) for run in (first, second)]
    for name in ("verdict", "scores", "skipped", "cost"):
        assert records[0][name] == records[1][name], name


def run_killed(photos: Path, out: Path, precision: str, **changes: object) -> Path:
    """Start with two workers, kill -9 once a state is there, resume with one."""
    process = Forked(*pretrain_words(photos, out, STEPS, **RUN | {"workers": 2, "precision": precision} | changes))
    wait_for(state_path(out, 4), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "last.safetensors").exists(), "it was killed too late"
    resumed = forked("pretrain", "--resume", out, "--workers", 1)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def straight(photos: Path, place: Path) -> Path:
    """A run of 12 steps without workers that never stopped."""
    done = pretrain(photos, place / "straight", STEPS, **RUN)
    assert done.returncode == 0, done.stderr
    return place / "straight"


def test_a_state_is_complete(straight: Path) -> None:
    folder = states(straight)[-1]
    tensors, record = load_file(folder / "state.safetensors"), json.loads((folder / "state.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "state.safetensors"]
    for part in ("student.encoder.body", "student.decoder", "teacher.encoder.body", "queue.keys", "queue.images"):
        assert any(name.startswith(part) for name in tensors), part
    for name in ("optimizer.0.momentum_buffer", "random.torch", "random.numpy"):
        assert name in tensors
    assert record["schema"] == 1
    assert record["step"] == STEPS
    assert record["package"]
    assert record["queue"] == {"pointer": STEPS * 4 * 8 % 96, "filled": 96}
    assert record["sampler"] == {"next_image": STEPS * 4}
    assert len(record["random"]) == 3
    assert record["config"] == json.loads((straight / "config.json").read_text())
    assert [group["lr"] for group in record["optimizer"]["groups"]]


def test_the_last_states_are_kept(straight: Path) -> None:
    assert [path.name for path in sorted((straight / "checkpoints").iterdir())] == ["step-00000008", "step-00000012"]


def test_kill_and_resume_is_bit_exact_whatever_the_workers(straight: Path, photos: Path, place: Path) -> None:
    assert_same_run(straight, run_killed(photos, place / "killed", "fp32"))


@pytest.mark.whole
def test_kill_and_resume_is_bit_exact_in_bf16_with_adamw_and_a_schedule(photos: Path, place: Path) -> None:
    changes: dict[str, object] = {"schedule": "cosine", "warmup_steps": 2, "optimizer": "adamw", "save_every": 3}
    done = pretrain(photos, place / "bf16", STEPS, **RUN | {"precision": "bf16"} | changes)
    assert done.returncode == 0, done.stderr
    out = place / "bf16-killed"
    process = Forked(*pretrain_words(photos, out, STEPS, **RUN | {"workers": 2, "precision": "bf16"} | changes))
    wait_for(state_path(out, 3), process)
    process.kill()
    process.communicate()
    assert forked("pretrain", "--resume", out).returncode == 0
    assert_same_run(place / "bf16", out)


@pytest.mark.whole
def test_interrupts_save_and_exit_with_130_and_lose_nothing(straight: Path, photos: Path, place: Path) -> None:
    """SIGTERM as `timeout` sends it and SIGINT as Ctrl-C does: to the whole process group, workers included."""
    out = place / "interrupted"
    words = pretrain_words(photos, out, STEPS, **RUN | {"workers": 2})
    for number, after in ((signal.SIGTERM, 4), (signal.SIGINT, 8)):
        process = start(*words)
        wait_for(state_path(out, after), process)
        os.killpg(process.pid, number)
        said, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        last = told.strip().splitlines()[-1]
        saved = int(states(out)[-1].name.removeprefix("step-"))
        assert after <= saved < STEPS
        assert last == f"warning: stopped after step {saved}; continue with: vader pretrain --resume {out}"
        assert "Traceback" not in told
        assert said == ""
        words = ["pretrain", "--resume", out]
    assert forked(*words).returncode == 0
    assert_same_run(straight, out)


@pytest.mark.whole
def test_a_finished_run_can_be_extended(straight: Path, photos: Path, place: Path) -> None:
    out = place / "extended"
    assert pretrain(photos, out, STEPS // 2, **RUN).returncode == 0
    done = forked("pretrain", "--resume", out, "--extend", STEPS // 2, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_same_run(straight, out)


@pytest.mark.whole
def test_kills_at_random_moments_leave_whole_states(photos: Path, place: Path) -> None:
    """With a state after every step, most of the time goes into writing: most kills fall into it."""
    out, rng = place / "random", np.random.default_rng(0)
    words = pretrain_words(photos, out, 400, save_every=1, keep=3, exam_every=1000)
    last = 0
    for _ in range(4):
        process = Forked(*words)
        wait_for(state_path(out, last + 2), process)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        found = states(out)
        # One more than are kept: a new state comes before the oldest goes.
        assert 2 <= len(found) <= 4
        for folder in found:
            assert sorted(path.name for path in folder.iterdir()) == ["state.json", "state.safetensors"]
            assert json.loads((folder / "state.json").read_text())["step"] == int(folder.name.removeprefix("step-"))
            assert len(load_file(folder / "state.safetensors")) > 100
        last = int(found[-1].name.removeprefix("step-"))
        words = ["pretrain", "--resume", out, "--quiet"]
    process = Forked(*words)
    wait_for(state_path(out, last + 1), process)
    leftovers = [path for path in out.rglob(".*") if str(process.pid) not in path.name]
    process.kill()
    process.communicate()
    assert not leftovers, "resuming sweeps up what kills left"


# --- What cannot be resumed ---------------------------------------------------------------------------------------


@pytest.fixture
def copied(straight: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(straight, tmp_path / "run")
    return tmp_path / "run"


def damage_tensors(run: Path) -> None:
    path = states(run)[-1] / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def damage_json(run: Path) -> None:
    (states(run)[-1] / "state.json").write_text('{"schema": 1, "st')


def newer_schema(run: Path) -> None:
    path = states(run)[-1] / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))


def no_states(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_tensors, "step-00000012: expected a saved state"),
        (damage_json, "step-00000012: expected a saved state"),
        (newer_schema, "expected schema 1, found 99"),
        (no_states, "expected saved states"),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(copied: Path, damage: Any, words: str) -> None:
    damage(copied)
    with pytest.raises(BadCheckpoint, match=words) as caught:
        load_state(copied)
    assert "\n" not in str(caught.value)


def test_without_the_newest_state_the_one_before_is_resumed(straight: Path, copied: Path) -> None:
    shutil.rmtree(states(copied)[-1])
    assert forked("pretrain", "--resume", copied).returncode == 0
    assert_same_run(straight, copied)


def test_other_images_are_refused(copied: Path, photos: Path) -> None:
    more = copied.parent / "more"
    shutil.copytree(photos, more)
    (more / "00.jpg").unlink()
    config = json.loads((copied / "config.json").read_text()) | {"images": str(more)}
    (copied / "config.json").write_text(json.dumps(config))
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    done = forked("pretrain", "--resume", copied)
    assert done.returncode == 1
    assert done.stderr.startswith("vader: --resume: expected the 12 images")
    assert done.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    done = forked("pretrain", "--resume", tmp_path / "missing")
    assert done.returncode == 1
    told = "--resume: expected a run folder with a config.json, found none in"
    assert done.stderr == f"vader: {told} {tmp_path / 'missing'}\n"
    with pytest.raises(BadInput, match=told):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["not JSON", "{}", '{"images": "a", "out": "b", "steps": 1, "typo": 2}'])
def test_a_config_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadCheckpoint, match=r"config\.json") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_resumed_run_keeps_its_settings_but_for_the_workers(straight: Path) -> None:
    nothing = {"steps": None, "workers": None, "device": "auto", "freeze_encoder": False, "settings": None}
    assert resumed_config(straight, nothing).workers == 0
    assert resumed_config(straight, nothing | {"workers": 3}).workers == 3
    for name, value in (("steps", 5), ("device", "cpu"), ("freeze_encoder", True), ("settings", {"a": 1})):
        with pytest.raises(
            BadInput, match=f"keeps its settings, found --{'set' if name == 'settings' else name.replace('_', '-')}"
        ):
            resumed_config(straight, nothing | {name: value})
