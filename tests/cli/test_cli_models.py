"""The command over good and bad images: a run folder and its lengths, maps and pictures of a model."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from samples import forked, here, pretrain, pretrain_words, quiet, refused, start

from vader.encoders import open_encoder
from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.sources import list_images
from vader.inference.maps import write_maps
from vader.models.checkpoint import load_model, save_model
from vader.models.network import NetworkConfig, build

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
    done = forked(*words[:at], "--epochs", 1.5, *words[at + 2 :])
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


@pytest.mark.whole
def test_more_bad_images_than_allowed_stop_the_run(mixed: Path, tmp_path: Path) -> None:
    refused(quiet(mixed, tmp_path / "out", max_bad_share=0.01), "more than the allowed share of 0.01")
    assert not (tmp_path / "out").exists()


@pytest.mark.whole
def test_the_length_in_minutes(photos: Path, tmp_path: Path) -> None:
    words = pretrain_words(photos, tmp_path / "out", 0)
    at = words.index("--steps")
    since = time.monotonic()
    done = forked(*words[:at], "--minutes", 0.05, *words[at + 2 :])
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "out" / "config.json").read_text())["steps"]
    assert f"{steps} steps in 0.05 minutes" in done.stderr
    assert 1 <= steps < 1000
    assert time.monotonic() - since > 3


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


@pytest.mark.whole
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
        done = forked("embed", model, mixed, "--out", out, "--device", "cpu", "--precision", "fp32")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{out}\n"
        found = manifest(out)
        assert len(found) == 37, "a single pixel is enlarged"
        skipped = [one["name"] for one in json.loads((out / "skipped.json").read_text())]
        assert skipped == ["cut.jpg", "text.jpg"]
    assert begun is None or begun < 37
    assert path.stat().st_mtime_ns == written, "what was there is left alone"
    network, encoder = load_model(model), open_encoder(str(model))
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
    with pytest.raises(BadInput, match="maps of another"):
        write_maps(encoder, list_images(mixed), out, identity=encoder.identity, size=64)
    with pytest.raises(BadInput, match="maps of another"):
        write_maps(encoder, list_images(mixed), out, identity=encoder.identity, precision="bf16")
    with pytest.raises(BadInput, match="expected a new or empty folder"):
        write_maps(encoder, list_images(mixed), mixed, identity=encoder.identity)


def test_embed_refuses_another_model(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    done = forked("embed", model, photos / "00.jpg", "--out", out, "--device", "cpu", "--size", 50, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert manifest(out)["00.jpg"]["embedded_size"] == [50, 50]
    other = tmp_path / "other"
    shutil.copytree(model, other)
    card = json.loads((other / "model.json").read_text()) | {"sha256": "0" * 64}
    (other / "model.json").write_text(json.dumps(card))
    refused(here("embed", other, photos / "00.jpg", "--out", out, "--device", "cpu", "--size", 50), "another model")


def test_maps_of_a_list_stay_in_their_folder(model: Path, photos: Path, tmp_path: Path) -> None:
    """A list may name files elsewhere; their maps do not follow them there."""
    (tmp_path / "lists").mkdir()
    relative = os.path.relpath(photos / "00.jpg", tmp_path / "lists")
    (tmp_path / "lists" / "list.txt").write_text(f"{relative}\n{photos / '01.jpg'}\n")
    out = tmp_path / "out" / "maps"
    images = list_images(tmp_path / "lists" / "list.txt")
    assert write_maps(open_encoder(str(model)), images, out, identity="a")[0] == 2
    found = [path.resolve() for path in tmp_path.rglob("*.npy")]
    assert len(found) == 2
    assert all(path.is_relative_to(out.resolve()) for path in found)
    assert not list(photos.rglob("*.npy"))


@pytest.fixture(scope="module")
def pictures(model: Path, mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place, done = tmp_path_factory.mktemp("pictures"), {}
    for what in ("pca", "matches", "similar"):
        done[what] = forked("show", what, model, mixed, "--out", place, "--count", 3, "--device", "cpu", "--size", 64)
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
    refused(here("show", "similar", model, photos, "--at", "9000,3", *words), "--at: expected a point in")
    refused(here("show", "pca", model, photos, "--out", "/proc/none", "--device", "cpu"), "/proc/none")
    assert not list(tmp_path.rglob("*.png"))


def test_moco_runs_embeds_and_shows(photos: Path, tmp_path: Path) -> None:
    """The baseline goes through the same commands."""
    done = pretrain(photos, tmp_path / "run", 2, objective="moco", network__kind="image")
    assert done.returncode == 0, done.stderr
    done = forked("embed", tmp_path / "run", photos / "01.jpg", "--out", tmp_path / "maps", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    width, height = 97, 131
    assert manifest(tmp_path / "maps")["01.jpg"]["shape"][1:] == [-(-height // 4), -(-width // 4)]
