"""Whole runs in this process: they learn, are told when they collapse, and go on from where their folder says."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import _pictures
from safetensors.torch import load_file
from tiny import TINY

from vader.errors import BadInput
from vader.models.network import DenseNetwork
from vader.pretraining import health
from vader.pretraining.config import PretrainConfig, read_config
from vader.pretraining.feed import split
from vader.pretraining.plan import steps_in
from vader.pretraining.pretrain import run_pretraining as pretrain
from vader.runtime.journal import Journal, read_metrics
from vader.runtime.progress import silent
from vader.runtime.states import load_state, states


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 pieces of photographs, 96 px."""
    folder, pictures, rng = tmp_path_factory.mktemp("crops"), _pictures(), np.random.default_rng(0)
    for i in range(100):
        picture = pictures[i % len(pictures)]
        side = int(rng.integers(96, 200))
        top, left = (int(rng.integers(picture.shape[axis] - side)) for axis in (0, 1))
        piece = cv2.resize(picture[top : top + side, left : left + side], (96, 96), interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(folder / f"{i:02d}.png"), piece[..., ::-1])
    return folder


def small(images: Path, out: Path, **changes: Any) -> PretrainConfig:
    settings: dict[str, Any] = {
        "images": images, "out": out, "steps": 6, "batch": 4, "points": 8, "queue": 96, "network": TINY,
        "views": {"size": 32}, "bn_groups": 2, "lr_encoder": 1e-3, "lr_decoder": 1e-3, "workers": 0, "held_out": 2,
        "log_every": 2, "exam_every": 100, "save_every": 100,
    }  # fmt: skip
    return PretrainConfig(**settings | changes)


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def test_a_tiny_run_beats_raw_colour_and_its_own_start(crops: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    config = small(
        crops, tmp_path / "run", steps=100, batch=16, points=32, queue=512, hold="memory", skip_own=True,
        network=TINY | {"dim": 32, "pyramid_width": 32, "decoder_width": 32}, views={"size": 32, "min_shared": 16},
        optimizer="adamw", lr_encoder=3e-3, lr_decoder=3e-3, momentum=0.99, schedule="cosine", held_out=20,
    )  # fmt: skip
    out = pretrain(config, quiet=True, watch=lambda step, network: seen.append(step))
    found = record(out)
    scores = found["scores"]
    assert seen == [0, 100]
    assert scores["best"] > scores["raw_colour"] + 0.08
    assert scores["best"] > scores["start"] + 0.04
    assert scores["best"] > 3 * scores["chance"]
    assert found["verdict"]["images"] == 20
    assert found["verdict"]["best_chosen_on"] == "the images it is judged on"
    assert found["data"]["trained_on"] == 80
    assert "warnings" not in found


# --- A collapse ---------------------------------------------------------------------------------------------------


def collapsing(crops: Path, out: Path, **changes: Any) -> PretrainConfig:
    """A rate that throws the weights so far that every pixel looks alike."""
    return small(crops, out, steps=12, lr_encoder=0.0, lr_decoder=1e4, sgd_momentum=0.0, weight_decay=0.0, **changes)


def test_a_collapse_is_warned_of_once(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pretrain(collapsing(crops, tmp_path / "run"), quiet=True)
    told = capsys.readouterr().err
    assert told.count("warning: collapse") == 1, told
    assert "Lower lr_decoder" in told or "Lower the learning rates" in told
    assert record(out)["warnings"][0]["text"].startswith("collapse")
    assert read_metrics(out)[-2]["step"] == 12


def test_a_collapse_stops_the_run_if_asked_to(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"stopped after step \d+: collapse"):
        pretrain(collapsing(crops, tmp_path / "run", on_collapse="stop"), quiet=True)
    assert read_metrics(tmp_path / "run")[-1]["step"] < 12
    assert not (tmp_path / "run" / "last.safetensors").exists()


# --- The verdict of few images -------------------------------------------------------------------------------------


def test_few_held_out_images_leave_the_verdict_undecided(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(small(crops, tmp_path / "run", steps=2))
    told = capsys.readouterr().err
    assert "100 images, 2 of them are held out for the exam" in told
    assert "verdict: undecided: " in told
    assert "beside raw colour" in told
    assert "too few images to say" in told
    assert record(out)["verdict"]["word"] == health.UNDECIDED


def test_images_that_are_trained_on_are_not_called_held_out(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for path in sorted(crops.iterdir())[:4]:
        (tmp_path / "images" / path.name).symlink_to(path)
    out = pretrain(small(tmp_path / "images", tmp_path / "run", steps=2))
    told = capsys.readouterr().err
    assert "4 images, too few to hold any out: the exam uses the training images" in told
    assert "of training images' points matched" in told
    assert "of them held out" not in told
    assert "held-out points" not in told
    assert record(out)["data"]["held_out"] == []
    assert record(out)["data"]["trained_on"] == 4


# --- Going on -----------------------------------------------------------------------------------------------------


class Kill(Exception):
    pass


def kill_at(step: int) -> Any:
    """A `watch` that ends the run as a kill would, in the exam of a step."""

    def watch(done: int, network: DenseNetwork) -> None:
        if done == step:
            raise Kill

    return watch


def test_a_run_is_resumed_from_another_folder_and_without_its_first_weights(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretrain(small(crops, tmp_path / "first", steps=1), quiet=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    (tmp_path / "pictures").symlink_to(crops)
    config = small(Path("pictures"), Path("run"), init="weights.safetensors", save_every=4, exam_every=5)
    assert config.images == tmp_path / "pictures"
    straight = pretrain(config.model_copy(update={"out": Path("straight")}), quiet=True)
    with pytest.raises(Kill):
        pretrain(config, quiet=True, watch=kill_at(5))
    (tmp_path / "weights.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = read_config(Path("../run"))
    pretrain(again, resume=True, quiet=True)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in (straight, "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert record(tmp_path / "run")["init"].startswith(str(tmp_path / "weights.safetensors"))


def test_an_extension_that_is_killed_before_its_first_state_is_remembered(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(crops, tmp_path / "run", exam_every=2, schedule="cosine")
    pretrain(config, quiet=True)
    with pytest.raises(Kill):
        pretrain(config, resume=True, extend=6, watch=kill_at(8))
    told = capsys.readouterr().err
    assert "the cosine now ends at step 12 instead of 6" in told
    assert states(tmp_path / "run")[-1].name == "step-00000006"
    pretrain(config, resume=True)
    told = capsys.readouterr().err
    assert "resumed after step 6 of 12" in told
    assert "cosine" not in told
    assert load_state(tmp_path / "run")[1]["step"] == 12


def test_the_speed_after_a_resume_counts_this_processs_steps(tmp_path: Path) -> None:
    line = {"loss": torch.tensor(1.0), "chance_loss": torch.tensor(1.0), "accuracy": torch.tensor(0.0)}
    lines = []
    for steps_before in (0, 900):
        journal = Journal(tmp_path, 1000, 4, active=False, quiet=True, tensorboard=False)
        before = {"sums": {name: steps_before * float(value) for name, value in line.items()}, "count": steps_before}
        journal.resume(before, steps_before)
        journal.since -= 10.0
        for _ in range(100):
            journal.add(line)
        lines.append(journal.close_window(steps_before + 100, {"queue_fill": 1.0}))
    assert lines[1]["loss"] == pytest.approx(1.0)
    assert lines[0]["images_per_s"] == pytest.approx(40, rel=0.05)
    assert lines[1]["images_per_s"] == pytest.approx(40, rel=0.05)


def test_an_interrupt_while_the_speed_is_measured_advises_nothing_of_the_trial(crops: Path, tmp_path: Path) -> None:
    """The signal comes from a thread, into the trial's steps, as a job scheduler's would."""

    def interrupt() -> None:
        while not trials():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def trials() -> list[Path]:
        return [path for path in (tmp_path / "temporary").rglob("metrics.jsonl") if path.stat().st_size]

    (tmp_path / "temporary").mkdir()
    thread = threading.Thread(target=interrupt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        thread.start()
        with pytest.raises(KeyboardInterrupt, match="the run itself has not started") as caught:
            steps_in(small(crops, tmp_path / "run"), 1.0, silent)
    thread.join()
    assert "--resume" not in str(caught.value)
    assert not list((tmp_path / "temporary").iterdir())


def test_an_epoch_is_a_pass_over_the_images_that_are_trained_on() -> None:
    assert [len(split(count, 128, 0)[1]) for count in (4, 5, 100, 1000)] == [4, 4, 80, 872]
    for count in (4, 7, 100):
        held_out, members = split(count, 5, 3)
        assert sorted({*held_out, *members}) == list(range(count))


# --- TensorBoard --------------------------------------------------------------------------------------------------


def test_tensorboard_has_the_journals_numbers_and_goes_on(crops: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small(crops, tmp_path / "run", tensorboard=True, save_every=2, exam_every=5)
    with pytest.raises(Kill):
        pretrain(config, quiet=True, watch=kill_at(5))
    pretrain(config, resume=True, quiet=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    written = {event.step: event.value for event in board.Scalars("loss")}
    expected = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "run") if "loss" in line}
    assert sorted(expected) == [2, 4, 6]
    assert written == pytest.approx(expected, rel=1e-5)
    assert {event.step for event in board.Scalars("match")} == {0, 5, 6}
