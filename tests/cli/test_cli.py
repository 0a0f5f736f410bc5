"""The command as a user meets it: exit codes, one line for what is wrong, and what each verb writes."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from samples import environment, here, quiet, quiet_words, refused, settings, vader

from vader.cli.settings import parse_point, parse_setting, parse_settings
from vader.errors import BadInput
from vader.pretraining.config import PretrainConfig, assign, read_toml
from vader.pretraining.start import _make_config as make_config

# --- Starting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["import vader; dir(vader)", "import vader.cli", "HELP"])
def test_neither_the_package_nor_its_help_imports_torch(code: str) -> None:
    if code == "HELP":
        code = "import sys; sys.argv[1:] = ['--help']; from vader.cli import main\ntry: main()\nexcept SystemExit: pass"
    code += "\nimport sys; print('HEAVY', [n for n in sys.modules if n in ('torch', 'numpy', 'cv2', 'matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_and_version() -> None:
    done = vader("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("pretrain", "embed", "show"))
    done = vader("pretrain", "--help")
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--out", "--resume", "--encoder", "--set", "--freeze-encoder"))
    assert vader("--version").stdout.strip() == "0.1.0"


def test_the_public_names() -> None:
    import vader as package

    assert package.load.__module__ == "vader.encoders.opening"
    assert package.PretrainConfig is PretrainConfig
    assert set(dir(package)) >= {"pretrain", "load", "recipes", "VaderError"}
    assert package.recipes.RECIPES.keys() == {"paper", "default", "quick"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("first", ["from vader import PretrainConfig, pretrain", "import vader.pretraining.pretrain"])
@pytest.mark.whole
def test_pretrain_is_the_function_whatever_was_imported_first(first: str, photos: Path, tmp_path: Path) -> None:
    """In a fresh process: the file of the same name may not take the function's place."""
    code = f"""
        {first}
        import vader
        vader.PretrainConfig
        from vader import pretrain
        from vader.pretraining.config import PretrainConfig
        import vader.scenes.world
        assert vader.pretrain is pretrain and pretrain.__name__ == "pretrain"
        import vader.scenes.rooms as rooms
        assert callable(vader.scenes) and vader.scenes.rooms is rooms
        assert vader.PretrainConfig is PretrainConfig
        assert vader.recipes.__name__ == "vader.pretraining.recipes"
        network = dict(encoder="test_resnet", dim=8, pyramid_width=16, decoder_width=16, pyramid_outputs=False)
        config = PretrainConfig(
            images={str(photos)!r}, out={str(tmp_path / "run")!r}, steps=1, batch=2, points=4, queue=16, bn_groups=1,
            network=network, views=dict(size=32), workers=0, held_out=2,
        )
        assert vader.load(vader.pretrain(config, quiet=True)).config.dim == 8
    """
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


# --- Wrong usage: 2 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain", "a", "--out", "b", "--stepz", "3"], "--stepz"),
        (["pretrain", "a", "--out", "b", "--steps", "many"], "many"),
        (["pretrain", "a", "--out", "b", "--views", "sideways"], "--views"),
        (["pretrain", "a", "--out", "b", "--steps", "1", "--epochs", "1"], "--steps and --epochs"),
        (["pretrain", "a"], "--out"),
        (["pretrain", "--out", "b"], "IMAGES"),
        (["pretrain", "a", "--resume", "b"], "only the run folder"),
        (["pretrain", "a", "--out", "b", "--extend", "3"], "--extend"),
        (["embed", "a", "b"], "--out"),
        (["show", "stars", "a", "b", "--out", "c"], "stars"),
        (["learn"], "learn"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str], told: str, tmp_path: Path) -> None:
    """In this process; the next test does the same in one of its own."""
    refused(here(*words), told, code=2)


def test_wrong_usage_is_one_line(tmp_path: Path) -> None:
    refused(vader("pretrain", tmp_path, "--out", tmp_path / "out", "--stepz", 3), "--stepz", code=2)
    refused(vader("pretrain", tmp_path), "--out RUN", code=2)
    assert not list(tmp_path.iterdir())


# --- Bad input: 1, before the first step --------------------------------------------------------------------------


def no_images(place: Path) -> Path:
    (place / "images").mkdir()
    (place / "images" / "notes.txt").write_text("none yet")
    return place / "images"


def missing(place: Path) -> Path:
    return place / "nowhere"


def too_small(place: Path) -> Path:
    (place / "images").mkdir()
    for i in range(12):
        cv2.imwrite(str(place / "images" / f"{i}.png"), np.full((31, 40, 3), 20 * i, np.uint8))
    return place / "images"


def all_broken(place: Path) -> Path:
    (place / "images").mkdir()
    for i in range(12):
        (place / "images" / f"{i}.jpg").write_text("This is no picture.")
    return place / "images"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (no_images, "expected images (.jpg"),
        (missing, "does not exist"),
        (too_small, "expected at least 32 px a side, found 40x31"),
        (all_broken, "expected readable images"),
    ],
)
def test_images_that_cannot_be_used(make: Any, told: str, tmp_path: Path) -> None:
    images, out = make(tmp_path), tmp_path / "out"
    refused(here(*quiet_words(images, out)), told)
    assert not out.exists()


@pytest.mark.whole
def test_an_output_that_cannot_be_used(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    refused(quiet(photos, mine), "is not empty")  # as a user starts it
    assert [path.read_text() for path in mine.iterdir()] == ["years of work"]
    refused(here(*quiet_words(photos, "/proc/none")), "cannot write to /proc/none")
    refused(here("pretrain", photos, "--out", mine, "--minutes", 1, "--quiet", *settings()), "is not empty")


def test_weights_that_cannot_be_used_leave_nothing(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"no weights")
    words = quiet_words(photos, tmp_path / "out", "--init", tmp_path / "w.pth")
    refused(here(*words), "w.pth: expected safetensors or a torch")
    assert not (tmp_path / "out").exists()


def test_views_that_cannot_be_drawn_are_refused_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    refused(here(*quiet_words(photos, tmp_path / "out", views__min_shared=65, workers=1)), "share 65 cells")
    assert not (tmp_path / "out").exists()


@pytest.mark.whole
def test_what_a_worker_finds_is_one_line_too(photos: Path, tmp_path: Path) -> None:
    """Ten of 80 images can be read: somewhere fifty in a row cannot, which a worker says while the run goes on."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(70):
        (images / f"{i:02d}.jpg").write_text("This is no picture.")
    for i in range(10):
        shutil.copy(photos / f"{i:02d}.jpg", images / f"{90 + i}.jpg")
    done = quiet(images, tmp_path / "out", max_bad_share=1, workers=1, held_out=16)
    assert done.returncode == 1
    *warnings, last = done.stderr.splitlines()
    assert last.startswith("vader: 50 images in a row could not be read; the first: ")
    assert all(line.startswith("warning: skipped ") for line in warnings)


# --- Settings -----------------------------------------------------------------------------------------------------

NOTHING: dict[str, Any] = {
    "recipe": "quick", "objective": None, "encoder": "resnet10t", "init": None, "steps": None, "epochs": None,
    "minutes": None, "batch": None, "size": None, "queue": None, "views": None, "seed": None, "workers": None,
    "devices": None, "config": None, "freeze_encoder": False, "device": "cpu", "precision": "fp32", "settings": {},
}  # fmt: skip


def config(photos: Path, **given: Any) -> PretrainConfig:
    given["settings"] = parse_settings(given.pop("set", []))
    return make_config(photos, Path("out"), NOTHING | given, quiet=True)


def test_flags_win_over_set_wins_over_the_file_wins_over_the_recipe(photos: Path, tmp_path: Path) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text("temperature = 0.5\nbatch = 4\nmomentum = 0.5\nprecision = 'bf16'\n[views]\nsize = 32\nhue = 0.2\n")
    assert config(photos).batch == 32
    made = config(photos, config=toml, precision="auto")
    assert (made.temperature, made.batch, made.momentum, made.precision) == (0.5, 4, 0.5, "bf16")
    assert (made.views.size, made.views.hue, made.views.p_flip) == (32, 0.2, 0.5)
    made = config(photos, config=toml, set=["batch=8", "views.size=64", "temperature=0.25"])
    assert (made.temperature, made.batch, made.momentum, made.precision) == (0.25, 8, 0.5, "fp32")
    assert (made.views.size, made.views.hue) == (64, 0.2)
    made = config(photos, config=toml, set=["batch=8", "views.size=64"], batch=16, size=96, steps=3, views="same")
    assert (made.batch, made.views.size, made.steps, made.views.pairing) == (16, 96, 3, "same")
    assert config(photos, set=["device=cpu"], device="auto").device == "cpu"


@pytest.mark.parametrize(
    ("minutes", "exams", "steps"),
    [(1.0, [3.0, 1.0], 109), (10.0, [30.0, 6.0], 1007), (0.01, [3.0, 1.0], 1), (1.0, [], 120)],
)
def test_minutes_hold_the_steps_and_their_exams(
    minutes: float, exams: list[float], steps: int, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: 0.5 s a step, an exam every 100 steps, a first one with the baselines and one at the end."""
    speeds = [{"images_per_s": 8.0}, {"images_per_s": 64.0}]  # the first window warms up
    lines = speeds + [{"exam_s": seconds} for seconds in exams]
    monkeypatch.setattr("vader.pretraining.plan.run_pretraining", lambda *_, **__: None)
    monkeypatch.setattr("vader.pretraining.plan.read_metrics", lambda _: lines)
    made = config(photos, minutes=minutes, set=["exam_every=100"])
    assert made.steps == steps
    if steps > 1 and exams:
        spent = 0.5 * steps + exams[0] + exams[1] * (steps / 100 + 1)
        assert 60 * minutes - 1 < spent <= 60 * minutes


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"set": ["temprature=0.1"]}, "temprature"),
        ({"set": ["views.siz=32"]}, "views.siz"),
        ({"set": ["network.widht=3"]}, "network.widht"),
        ({"set": ["temperature"]}, "expected KEY=VALUE, found 'temperature'"),
        ({"set": ["=3"]}, "expected KEY=VALUE"),
        ({"set": ["temperature=hot"]}, "temperature"),
        ({"set": ["batch=many"]}, "batch"),
        ({"set": ["batch=0"]}, "batch"),
        ({"set": ["points=few"]}, "points"),
        ({"set": ["batch=4", "batch.size=4"]}, "--set batch.size"),
        ({"set": ["network=3"]}, "network"),
        ({"set": ["out=elsewhere"]}, "out: expected on the command line"),
        ({"batch": 0}, "batch"),
        ({"batch": -4}, "batch"),
        ({"steps": 0}, "steps"),
        ({"queue": 0}, "queue"),
        ({"size": 33}, "views.size"),
        ({"set": ["views.scale=[0.5, 0.2]"]}, "scale: expected 0 < low <= high <= 1, found 0.5 and 0.2"),
        ({"set": ["views.scale=[0.5, 1.5]"]}, "views: scale"),
        ({"set": ["views.scale=[0.0, 0.5]"]}, "views: scale"),
        ({"set": ["views.ratio=[0.0, 1.0]"]}, "views: ratio: expected 0 < low"),
        ({"set": ["views.ratio=[1.0, inf]"]}, "views: ratio"),
        ({"set": ["views.ratio=[nan, 1.0]"]}, "views: ratio"),
        ({"set": ["views.sigma=[-0.1, 2.0]"]}, "views: sigma: expected 0 <= low"),
        ({"set": ["views.sigma=[2.0, 0.1]"]}, "views: sigma"),
        ({"set": ["views.sigma=[0.1, 30.0]"]}, "<= high <= 24"),
        ({"batch": 32, "set": ["devices=3"]}, "batch 32 must be a multiple of 3 processes"),
        ({"epochs": -1.0}, "--epochs: expected a number above 0"),
        ({"epochs": float("nan")}, "--epochs"),
        ({"epochs": float("inf")}, "--epochs"),
        ({"minutes": 0.0}, "--minutes: expected a number above 0"),
        ({"minutes": 1.0, "devices": 2, "batch": 32}, "--minutes: expected one process"),
        ({"encoder": "resnet9000"}, "resnet9000"),
        ({"encoder": "vit_tiny_patch16_224"}, "vit_tiny_patch16_224"),
        ({"device": "cuda"} if not torch.cuda.is_available() else {"device": "tpu"}, "device"),
        ({"set": ["device=tpu"], "device": "auto"}, "device"),
        ({"objective": "moco", "set": ["network.kind=dense"]}, "network.kind"),
    ],
)
def test_settings_that_are_wrong_are_named(given: dict[str, Any], told: str, photos: Path) -> None:
    with pytest.raises(BadInput) as caught:
        config(photos, **given)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_read_as_toml_reads_them() -> None:
    assert parse_setting("a=1") == ("a", 1)
    assert parse_setting("a.b=0.5") == ("a.b", 0.5)
    assert parse_setting("a=true") == ("a", True)
    assert parse_setting("a=none") == ("a", None)
    assert parse_setting("a=adamw") == ("a", "adamw")
    assert parse_setting("a=[0.1, 2]") == ("a", [0.1, 2])
    assert parse_setting('a=["x=y"]') == ("a", ["x=y"])
    changes: dict[str, Any] = {}
    assign(changes, "a.b.c", 1)
    assign(changes, "a.d", 2)
    assert changes == {"a": {"b": {"c": 1}, "d": 2}}


def test_a_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = = 3")
    for name in ("a.toml", "none.toml"):
        with pytest.raises(BadInput, match=rf"--config .*{name}"):
            read_toml(tmp_path / name)


def test_a_point() -> None:
    assert parse_point(None) is None
    assert parse_point("3,4.5") == (3.0, 4.5)
    for text in ("3", "3,4,5", "a,b"):
        with pytest.raises(BadInput, match="expected X,Y"):
            parse_point(text)
