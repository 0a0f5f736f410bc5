"""The command as a user meets it: exit codes, one line for what is wrong, and what each verb writes."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from samples import environment, pretrain, pretrain_words, settings, start, vader

from vader.checkpoint import load_model, save_model
from vader.cli import app
from vader.commands import assign, make_config, parse_point, parse_setting, read_toml
from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.folder import list_images
from vader.network import NetworkConfig, build
from vader.predict import embed_to_disk
from vader.pretrain import PretrainConfig


def refused(done: subprocess.CompletedProcess[str], words: str, code: int = 1) -> None:
    """One line on standard error that begins with the program's name, and nothing else."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("vader: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def quiet(images: object, out: object, *words: object, **changes: object) -> subprocess.CompletedProcess[str]:
    return vader(
        "pretrain", images, "--out", out, "--steps", 4, "--device", "cpu", "--precision", "fp32", "--quiet", *words,
        *settings(**changes),
    )  # fmt: skip


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

    assert package.load is load_model
    assert package.PretrainConfig is PretrainConfig
    assert set(dir(package)) >= {"pretrain", "load", "recipes", "VaderError"}
    assert package.recipes.RECIPES.keys() == {"paper", "default", "quick"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("first", ["from vader import PretrainConfig, pretrain", "import vader.pretrain"])
def test_pretrain_is_the_function_whatever_was_imported_first(first: str, photos: Path, tmp_path: Path) -> None:
    """In a fresh process: the file of the same name may not take the function's place."""
    code = f"""
        {first}
        import vader
        vader.PretrainConfig
        from vader import pretrain
        from vader.pretrain import PretrainConfig, rate
        import vader.run, vader.pretrain, vader.health
        assert vader.pretrain is pretrain and pretrain.__name__ == "pretrain", vader.pretrain
        assert vader.PretrainConfig is PretrainConfig
        assert vader.recipes.__name__ == "vader.recipes" and vader.health.__name__ == "vader.health"
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
        (["pretrain", "a", "--resume", "b"], "run folder alone"),
        (["pretrain", "a", "--out", "b", "--extend", "3"], "--extend"),
        (["embed", "a", "b"], "--out"),
        (["show", "stars", "a", "b", "--out", "c"], "stars"),
        (["learn"], "learn"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str], told: str, tmp_path: Path) -> None:
    """In this process; `main` turns these into one line and code 2, as the next test sees."""
    from cyclopts.exceptions import CycloptsError

    with pytest.raises(CycloptsError) as caught:
        app(words, exit_on_error=False, print_error=False)
    assert told in str(caught.value)


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
        (too_small, "expected at least 32 px a side, got 40x31"),
        (all_broken, "could be used"),
    ],
)
def test_images_that_cannot_be_used(make: Any, told: str, tmp_path: Path) -> None:
    images, out = make(tmp_path), tmp_path / "out"
    refused(quiet(images, out), told)
    assert not out.exists()


def test_an_output_that_cannot_be_used(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    refused(quiet(photos, mine), "is not empty")
    assert [path.read_text() for path in mine.iterdir()] == ["years of work"]
    refused(quiet(photos, "/proc/none"), "cannot write to /proc/none")
    refused(vader("pretrain", photos, "--out", mine, "--minutes", 1, "--quiet", *settings()), "is not empty")


def test_weights_that_cannot_be_used_leave_nothing(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"no weights")
    refused(quiet(photos, tmp_path / "out", "--init", tmp_path / "w.pth"), "w.pth: expected safetensors or a torch")
    assert not (tmp_path / "out").exists()


def test_views_that_cannot_be_drawn_are_refused_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    refused(quiet(photos, tmp_path / "out", views__min_shared=65, workers=1), "share 65 cells")
    assert not (tmp_path / "out").exists()


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


# --- Bad images among good ones -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 good images and three bad ones."""
    folder = tmp_path_factory.mktemp("mixed")
    for k in range(3):
        for path in photos.iterdir():
            shutil.copy(path, folder / f"{k}-{path.name}")
    (folder / "text.jpg").write_text("This is no picture.")
    cv2.imwrite(str(folder / "pixel.png"), np.zeros((1, 1, 3), np.uint8))
    (folder / "cut.jpg").write_bytes((photos / "01.jpg").read_bytes()[:1500])
    return folder


@pytest.fixture(scope="module")
def run(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run over them, long enough to meet each; one epoch and a half."""
    out = tmp_path_factory.mktemp("run") / "run"
    words = pretrain_words(mixed, out, 0, workers=1, held_out=7)
    at = words.index("--steps")
    done = vader(*words[:at], "--epochs", 1.5, *words[at + 2 :])
    return out, done


def test_bad_images_are_skipped_counted_and_named(run: tuple[Path, Any], mixed: Path) -> None:
    out, done = run
    assert done.returncode == 0, done.stderr
    skipped = {one["name"]: one["reason"] for one in json.loads((out / "record.json").read_text())["skipped"]}
    assert skipped.keys() == {"text.jpg", "pixel.png", "cut.jpg"}
    assert "1x1" in skipped["pixel.png"]
    with pytest.raises(UnreadableImage):
        decode(mixed / "cut.jpg")
    assert "Traceback" not in done.stderr


def test_the_length_in_epochs(run: tuple[Path, Any]) -> None:
    """An epoch is a pass over the images that are trained on: of 39, seven are held out."""
    out, done = run
    steps = json.loads((out / "config.json").read_text())["steps"]
    assert steps == round(1.5 * 32 / 4)
    assert f"{steps} steps (1.5 epochs of 32 images)" in done.stderr


def test_a_run_folder_has_what_is_promised(run: tuple[Path, Any]) -> None:
    out, done = run
    assert done.stdout == f"{out}\n"
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "config.json", "record.json", "metrics.jsonl", "checkpoints", "model.safetensors", "model.json",
        "last.safetensors", "last.json",
    }  # fmt: skip
    record = json.loads((out / "record.json").read_text())
    assert record["versions"]["torch"] == torch.__version__ or record["versions"]["torch"]
    assert record["verdict"]["word"] == "undecided", "seven held-out images are too few"
    assert record["verdict"]["best_chosen_on"] == "the images it is judged on"
    assert record["data"]["images"] == 39
    assert len(record["data"]["fingerprint"]) == 64
    card = (out / "model.json").read_text()
    assert str(out.parent) not in card, "a model that is given away does not tell where things lie"
    assert json.loads(card)["lineage"]["data"]["source"] == Path(record["data"]["source"]).name


def test_more_bad_images_than_allowed_stop_the_run(mixed: Path, tmp_path: Path) -> None:
    refused(quiet(mixed, tmp_path / "out", max_bad_share=0.01), "more than the allowed share of 0.01")
    assert not (tmp_path / "out").exists()


def test_the_length_in_minutes(photos: Path, tmp_path: Path) -> None:
    words = pretrain_words(photos, tmp_path / "out", 0)
    at = words.index("--steps")
    since = time.monotonic()
    done = vader(*words[:at], "--minutes", 0.05, *words[at + 2 :])
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "out" / "config.json").read_text())["steps"]
    assert f"{steps} steps in 0.05 minutes" in done.stderr
    assert 1 <= steps < 1000
    assert time.monotonic() - since > 3


# --- Settings -----------------------------------------------------------------------------------------------------

NOTHING: dict[str, Any] = {
    "recipe": "quick", "objective": None, "encoder": "resnet10t", "init": None, "steps": None, "epochs": None,
    "minutes": None, "batch": None, "size": None, "queue": None, "views": None, "seed": None, "workers": None,
    "devices": None, "config": None, "freeze_encoder": False, "device": "cpu", "precision": "fp32", "set": [],
}  # fmt: skip


def config(photos: Path, **given: Any) -> PretrainConfig:
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
    ("given", "told"),
    [
        ({"set": ["temprature=0.1"]}, "temprature"),
        ({"set": ["views.siz=32"]}, "views.siz"),
        ({"set": ["network.widht=3"]}, "network.widht"),
        ({"set": ["temperature"]}, "expected KEY=VALUE, got 'temperature'"),
        ({"set": ["=3"]}, "expected KEY=VALUE"),
        ({"set": ["temperature=hot"]}, "temperature"),
        ({"set": ["batch=many"]}, "batch"),
        ({"set": ["batch=0"]}, "batch"),
        ({"set": ["points=few"]}, "points"),
        ({"set": ["batch=4", "batch.size=4"]}, "batch is no group"),
        ({"set": ["network=3"]}, "network"),
        ({"set": ["out=elsewhere"]}, "out: it is given on the command line"),
        ({"batch": 0}, "batch"),
        ({"batch": -4}, "batch"),
        ({"steps": 0}, "steps"),
        ({"queue": 0}, "queue"),
        ({"size": 33}, "views.size"),
        ({"set": ["views.scale=[0.5, 0.2]"]}, "scale: expected 0 < low <= high <= 1, got 0.5 and 0.2"),
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
        ({"minutes": 1.0, "devices": 2, "batch": 32}, "--minutes measures"),
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


# --- embed and show -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh small model."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network_config = NetworkConfig(
        encoder="resnet10t", dim=16, pyramid_width=32, decoder_width=32, pyramid_outputs=False
    )  # fmt: skip
    save_model(folder / "model.safetensors", build(network_config).state_dict(), network_config, {})
    return folder


def manifest(out: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    found = {line["name"]: line for line in lines}
    assert len(found) == len(lines), "each image once"
    return found


def test_embed_writes_a_map_an_image_and_completes_what_was_killed(model: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    process = start("embed", model, mixed, "--out", out, "--device", "cpu", "--batch", 1, "--precision", "fp32")
    while not (out / "manifest.jsonl").exists() or len((out / "manifest.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.003)
    process.kill()
    process.communicate()
    begun = len(manifest(out)) if (out / "manifest.jsonl").read_text().endswith("\n") else None
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"name": "2-11.j')  # a kill in the middle of a line
    path = out / json.loads((out / "manifest.jsonl").read_text().splitlines()[0])["map"]
    written = path.stat().st_mtime_ns
    for _ in range(2):  # the second time nothing is left to do, and that is fine
        done = vader("embed", model, mixed, "--out", out, "--device", "cpu", "--precision", "fp32")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{out}\n"
        found = manifest(out)
        assert len(found) == 37, "a single pixel is enlarged"
        skipped = [one["name"] for one in json.loads((out / "skipped.json").read_text())]
        assert skipped == ["cut.jpg", "text.jpg"]
    assert begun is None or begun < 37
    assert path.stat().st_mtime_ns == written, "what was there is left alone"
    network = load_model(model)
    for name in ("0-01.jpg", "1-04.jpg", "2-11.jpg"):
        line, pixels = found[name], decode(mixed / name)
        one = np.load(out / line["map"])
        height, width = pixels.shape[:2]
        assert one.dtype == np.float16
        assert list(one.shape) == line["shape"] == [16, -(-height // 4), -(-width // 4)]
        assert line["file_size"] == line["embedded_size"] == [width, height]
        np.testing.assert_allclose(np.linalg.norm(one.astype(np.float32), axis=0), 1, atol=2e-3)
        with torch.no_grad():
            truth = network.embed(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0]
        np.testing.assert_allclose(one.astype(np.float32), truth.numpy(), atol=2e-3)
    with pytest.raises(BadInput, match="another model, size, precision or image list"):
        embed_to_disk(network, list_images(mixed), out, identity=network.card["sha256"], size=64)
    with pytest.raises(BadInput, match="another model, size, precision or image list"):
        embed_to_disk(network, list_images(mixed), out, identity=network.card["sha256"], precision="bf16")
    with pytest.raises(BadInput, match="expected a new or empty folder"):
        embed_to_disk(network, list_images(mixed), mixed, identity=network.card["sha256"])


def test_embed_refuses_another_model(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    done = vader("embed", model, photos / "00.jpg", "--out", out, "--device", "cpu", "--size", 50, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert manifest(out)["00.jpg"]["embedded_size"] == [50, 50]
    other = tmp_path / "other"
    shutil.copytree(model, other)
    card = json.loads((other / "model.json").read_text()) | {"sha256": "0" * 64}
    (other / "model.json").write_text(json.dumps(card))
    refused(vader("embed", other, photos / "00.jpg", "--out", out, "--device", "cpu", "--size", 50), "another model")


def test_maps_of_a_list_stay_in_their_folder(model: Path, photos: Path, tmp_path: Path) -> None:
    """A list may name files elsewhere; their maps do not follow them there."""
    (tmp_path / "lists").mkdir()
    relative = os.path.relpath(photos / "00.jpg", tmp_path / "lists")
    (tmp_path / "lists" / "list.txt").write_text(f"{relative}\n{photos / '01.jpg'}\n")
    out = tmp_path / "out" / "maps"
    images = list_images(tmp_path / "lists" / "list.txt")
    assert embed_to_disk(load_model(model), images, out, identity="a") == 2
    found = [path.resolve() for path in tmp_path.rglob("*.npy")]
    assert len(found) == 2
    assert all(path.is_relative_to(out.resolve()) for path in found)
    assert not list(photos.rglob("*.npy"))


@pytest.fixture(scope="module")
def pictures(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place, done = tmp_path_factory.mktemp("pictures"), {}
    for what in ("pca", "matches", "similar"):
        done[what] = vader("show", what, model, mixed, "--out", place, "--count", 3, "--device", "cpu", "--size", 64)
    return done


@pytest.mark.parametrize("what", ["pca", "matches", "similar"])
def test_show_draws_pictures(what: str, pictures: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = pictures[what]
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.name == f"{what}.png"
    image = cv2.imread(str(path))
    assert min(image.shape[:2]) > 150
    assert image.std() > 20
    assert len(np.unique(image.reshape(-1, 3)[::7], axis=0)) > 500, "more than a blank page with text"


def test_show_refuses_what_it_cannot_draw(model: Path, photos: Path, tmp_path: Path) -> None:
    words = ["--out", tmp_path / "out", "--device", "cpu"]
    refused(vader("show", "similar", model, photos, "--at", "9000,3", *words), "--at: expected a point in")
    refused(vader("show", "pca", model, photos, "--out", "/proc/none", "--device", "cpu"), "/proc/none")
    assert not list(tmp_path.rglob("*.png"))


def test_moco_runs_embeds_and_shows(photos: Path, tmp_path: Path) -> None:
    """The baseline goes through the same commands."""
    done = pretrain(photos, tmp_path / "run", 2, objective="moco", network__kind="image")
    assert done.returncode == 0, done.stderr
    done = vader("embed", tmp_path / "run", photos / "01.jpg", "--out", tmp_path / "maps", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    width, height = 97, 131
    assert manifest(tmp_path / "maps")["01.jpg"]["shape"][1:] == [-(-height // 4), -(-width // 4)]


def test_an_interrupt_before_the_first_step_is_exit_code_130(photos: Path, tmp_path: Path) -> None:
    import signal

    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("vader")), *map(str, pretrain_words(photos, tmp_path / "out", 50))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # "recipe quick: ..."
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
