"""One signature a verb: names, defaults and texts are the same in Python and on the command line."""

import inspect
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import SMALL, here

import vader
from vader.cli.app import PYTHON_ONLY, app
from vader.encoders import DenseEncoder
from vader.errors import BadInput, BadUsage
from vader.models.network import DenseNetwork
from vader.scenes.verbs import scenes

VERBS = ("browse", "compare", "embed", "evaluate", "index", "pretrain", "propagate", "retrieve", "scenes", "show")
OTHERS = (
    "DenseEncoder", "NetworkConfig", "PretrainConfig", "VaderError", "ViewConfig", "load", "recipes", "__version__",
)  # fmt: skip
SPELT = {"settings": "--set", "film": "--video", "json_": "--json"}
SETTINGS = {key: {"false": False, "none": None}.get(value, value) for key, value in SMALL.items()}  # type: ignore[call-overload]


def function(name: str) -> Any:
    """A verb. Of scenes the room itself can be called."""
    return scenes if name == "scenes" else getattr(vader, name)


def test_the_public_names() -> None:
    assert sorted(dir(vader)) == sorted([*VERBS, *OTHERS])
    assert all(callable(getattr(vader, name)) for name in VERBS)
    assert inspect.signature(vader.scenes) == inspect.signature(scenes)
    assert (files("vader") / "py.typed").is_file()


@pytest.mark.parametrize("name", VERBS)
def test_the_command_line_has_the_functions_names_and_defaults(name: str) -> None:
    verb, command = function(name), app[name].default_command
    assert command is not None
    assert command.__doc__ == verb.__doc__
    mine = dict(inspect.signature(verb).parameters)
    theirs = dict(inspect.signature(command).parameters)
    assert theirs.pop("json_").default is False
    if "words" in theirs:  # MODEL... IMAGES
        theirs.pop("words")
        mine = {key: value for key, value in mine.items() if key not in ("models", "images")}
    mine = {key: value for key, value in mine.items() if key not in PYTHON_ONLY}
    assert mine.keys() == theirs.keys()
    for key, parameter in mine.items():
        assert theirs[key].default in (parameter.default, None if parameter.default == () else parameter.default)
        assert theirs[key].kind in (parameter.kind, inspect.Parameter.POSITIONAL_ONLY)
    documented = inspect.getdoc(verb)
    assert documented is not None
    for key in mine:
        assert f"\n{key}\n    " in documented, f"{name} has no text for {key}"


@pytest.mark.parametrize(("call", "said"), [
    (lambda photos: vader.show("foo", "rgb", photos, out="o"), "--what: expected one of pca, matches, similar"),
    (lambda photos: vader.show("pca", "rgb", photos, out="o", basis="foo"), "--basis"),
    (lambda photos: vader.scenes("o", layout="foo"), "--layout"),
    (lambda photos: vader.pretrain(photos, out="o", recipe="foo"), "--recipe: expected one of quick, default, paper"),
    (lambda photos: vader.embed("rgb", photos, out="o", device="gpu"), "--device"),
    (lambda photos: vader.embed("rgb", photos, out="o", precision="fp16"), "--precision"),
    (lambda photos: vader.compare("ev1"), "ev1"),
])  # fmt: skip
def test_words_that_are_no_choice_are_refused_in_python_too(
    call: Any, said: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said):
        call(photos)
    assert not list(tmp_path.iterdir())


def test_a_loaded_network_is_a_model_like_any_other(photos: Path, tmp_path: Path) -> None:
    run = vader.pretrain(photos, out=tmp_path / "run", steps=2, device="cpu", settings=SETTINGS, quiet=True)
    network = vader.load(run, device="cpu")
    words: Any = {"task": "match", "protocol": "warp-pck", "data": photos, "pictures": False, "quiet": True}
    one = vader.evaluate(network, out=tmp_path / "a", device="cpu", **words)
    two = vader.evaluate([run.folder], out=tmp_path / "b", device="cpu", **words)
    first, second = (report.report.tables[0].rows[-1].cells for report in (one, two))
    assert first == second
    assert vader.show(
        "pca", network, photos, out=tmp_path / "shown", count=2, device="cpu", quiet=True
    ).picture.is_file()


def test_a_whole_config_stands_alone(photos: Path, tmp_path: Path) -> None:
    config = vader.recipes.quick(photos, tmp_path / "run", 12)
    for beside in ({"resume": tmp_path}, {"steps": 3}, {"seed": 0}, {"freeze_encoder": True}):
        with pytest.raises(BadUsage, match=f"found {next(iter(beside))}"):
            vader.pretrain(config=config, **beside)
    assert not (tmp_path / "run").exists()


def test_flags_mean_the_same_in_every_verb() -> None:
    for name in VERBS:
        parameters = inspect.signature(function(name)).parameters
        for flag, default in (("device", "auto"), ("quiet", False)):
            if flag in parameters:
                assert parameters[flag].default == default
        if name not in ("compare", "scenes"):
            assert "precision" in parameters


def test_pretrain_from_python_picks_a_recipe(photos: Path, tmp_path: Path) -> None:
    """A fresh encoder learns: a config's own default, the paper's 3e-7, would leave it as it is."""
    run = vader.pretrain(photos, out=tmp_path / "run", steps=4, device="cpu", settings=SETTINGS, quiet=True)
    assert run.folder == tmp_path / "run"
    assert run.model.is_file()
    assert run.steps == 4
    assert {"best", "start", "raw_colour", "hypercolumn", "chance"} <= run.scores.keys()
    assert json.loads(json.dumps(run.as_json()))["verdict"] == run.verdict
    config = json.loads((run.folder / "config.json").read_text())
    assert config["lr_encoder"] == 1e-2
    network = vader.load(run.folder, device="cpu")
    assert isinstance(network, DenseNetwork)
    assert network.embed(torch.rand(1, 3, 32, 32)).shape == (1, 16, 8, 8)
    assert Path(run) == run.folder, "a result is a path, too"
    resumed = vader.pretrain(resume=run.folder, extend=2, quiet=True)
    assert resumed.folder == run.folder
    with pytest.raises(BadUsage, match="expected IMAGES and --out RUN"):
        vader.pretrain(photos)
    with pytest.raises(BadUsage, match="one of --steps, --epochs, --minutes"):
        vader.pretrain(photos, out=tmp_path / "other", steps=1, minutes=1)
    assert not (tmp_path / "other").exists()


def test_published_weights_that_cannot_be_had_are_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import
    words = ["--encoder", "resnet10t", "--init", "timm", "--steps", 1, "--device", "cpu", "--quiet"]
    done = here("pretrain", photos, "--out", tmp_path / "run", *words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "timm:resnet10t: expected weights to download or in the Hub's cache" in done.stderr
    assert "--init FILE" in done.stderr
    assert not (tmp_path / "run").exists()


def test_published_weights_are_loaded_by_the_encoders_name(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """timm's download is replaced by a network whose weights are known."""
    import timm

    make = timm.create_model
    torch.manual_seed(5)
    published = make("test_resnet")

    def create(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        return published if pretrained else make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    settings = SETTINGS | {"network.encoder": "test_resnet", "lr_encoder": 0.0, "lr_decoder": 0.0}
    run = vader.pretrain(
        photos, out=tmp_path / "run", init="timm", steps=2, device="cpu", settings=settings, quiet=True
    )
    network = vader.load(run.folder, device="cpu")
    assert isinstance(network, DenseNetwork)
    found = network.encoder.body.state_dict()
    for name, expected in published.state_dict().items():
        if name in found and "running" not in name and "num_batches" not in name:
            assert torch.equal(found[name], expected), name
    config = json.loads((run.folder / "config.json").read_text())
    assert config["init"] == "timm"


@pytest.mark.parametrize(("word", "dim", "stride"), [("rgb", 4, 4), ("random:test_resnet@hypercolumn:5", 5, 4),
                                                     ("random:test_vit", 64, 16)])  # fmt: skip
def test_embed_takes_any_encoder(word: str, dim: int, stride: int, photos: Path, tmp_path: Path) -> None:
    done = vader.embed(word, photos, out=tmp_path / "maps", device="cpu", precision="fp32", quiet=True)
    assert (done.images, done.written, done.skipped) == (12, 12, ())
    one = np.load(tmp_path / "maps" / "maps" / "01.jpg.npy")
    assert one.shape == (dim, -(-131 // stride), -(-97 // stride))
    np.testing.assert_allclose(np.linalg.norm(one.astype(np.float32), axis=0), 1, atol=2e-3)
    again = vader.embed(word, photos, out=tmp_path / "maps", device="cpu", precision="fp32", quiet=True)
    assert again.written == 0
    with pytest.raises(BadInput, match="maps of another"):
        vader.embed("sift", photos, out=tmp_path / "maps", device="cpu", precision="fp32", quiet=True)
    with pytest.raises(BadInput, match="precision"):
        vader.embed(word, photos, out=tmp_path / "maps", device="cpu", precision="bf16", quiet=True)


def test_bf16_is_near_fp32_and_is_told(photos: Path, tmp_path: Path) -> None:
    word = "random:test_resnet"
    encoders = [vader.load(word, device="cpu", precision=precision) for precision in ("fp32", "bf16")]
    assert all(isinstance(one, DenseEncoder) for one in encoders)
    images = torch.rand(1, 3, 64, 64)
    exact, near = (one.embed(images) for one in encoders)
    assert exact.dtype == near.dtype == torch.float32
    assert 0 < float((exact - near).abs().max()) < 0.1
    words = ["--task", "match", "--protocol", "warp-pck", "--data", photos, "--device", "cpu", "--quiet", "--json"]
    done = here("evaluate", word, *words, "--precision", "bf16", "--no-pictures", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["facts"]["encoders"][word]["precision"] == "bf16"


@pytest.mark.parametrize("words", [
    ["embed", "rgb", "PHOTOS", "--out", "maps", "--device", "cpu"], ["show", "pca", "rgb", "PHOTOS", "--out", "shown"],
    ["scenes", "rendered", "--layout", "images", "--count", "2", "--size", "32x32", "--workers", "1"],
    ["index", "rgb", "PHOTOS", "--out", "index", "--stride", "16"],
], ids=lambda words: words[0])  # fmt: skip
def test_json_of_every_verb_is_json(
    words: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(*[photos if word == "PHOTOS" else word for word in words], "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""
