"""Portable models and run states: round trips, and what is damaged."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import environment
from torch import Tensor

from vader.errors import BadCheckpoint, BadInput
from vader.models.checkpoint import load_model, save_model
from vader.models.network import Network, NetworkConfig, build
from vader.runtime.files import atomic_folder, prepare_output, remove_leftovers, write_atomic, write_json
from vader.runtime.states import flatten_optimizer, load_state, save_state, states, unflatten_optimizer

CONFIG = NetworkConfig(encoder="resnet10t", dim=16, pyramid_width=32, decoder_width=32, pyramid_outputs=False)


def lived_in(config: NetworkConfig = CONFIG) -> Network:
    torch.manual_seed(0)
    network = build(config).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)  # larger means would silence every ReLU, and all features would be zero
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's file."""
    network = lived_in()
    save_model(tmp_path / "model.safetensors", network.state_dict(), CONFIG, {"lineage": {"steps": 7}})
    return tmp_path / "model.safetensors"


# --- Models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "image"])
def test_a_model_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"kind": kind})
    source = lived_in(config)
    save_model(tmp_path / "model.safetensors", source.state_dict(), config, {"lineage": {"steps": 7}})
    for named in (tmp_path, tmp_path / "model.safetensors", tmp_path / "model.json", str(tmp_path)):
        loaded = load_model(named)
        assert not loaded.training
        assert loaded.config == config
        assert loaded.card["lineage"] == {"steps": 7}
        assert loaded.card["stride"] == 4
        for name, tensor in source.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    pixels = torch.rand(1, 3, 50, 71)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).embed(pixels), source.embed(pixels))


def test_a_models_own_normalisation_wins_over_timms(tmp_path: Path) -> None:
    own = {"mean": [0.1, 0.5, 0.3], "std": [0.4, 0.2, 0.9]}
    source = lived_in()
    save_model(tmp_path / "model.safetensors", source.state_dict(), CONFIG, {"normalisation": own})
    loaded = load_model(tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(own[name]).view(3, 1, 1) for name in ("mean", "std"))
    as_if = (pixels - mean) / std * source.encoder.std + source.encoder.mean  # what timm's numbers turn into the same
    with torch.no_grad():
        torch.testing.assert_close(loaded.embed(pixels), source.embed(as_if), atol=1e-4, rtol=1e-3)
        assert float((loaded.embed(pixels) - source.embed(pixels)).abs().max()) > 0.01
    for wrong in ({"mean": [0.1, 0.2], "std": [1, 1, 1]}, {"mean": [0, 0, 0], "std": [1, 0, 1]}, {"mean": 3}, "mean"):
        save_model(tmp_path / "model.safetensors", source.state_dict(), CONFIG, {"normalisation": wrong})
        with pytest.raises(BadCheckpoint, match="fit the card"):
            load_model(tmp_path)


def test_the_card_names_the_files_hash(model: Path) -> None:
    from hashlib import sha256

    assert json.loads(model.with_suffix(".json").read_text())["sha256"] == sha256(model.read_bytes()).hexdigest()


@pytest.mark.whole
def test_a_model_loads_and_embeds_without_the_training_code(model: Path) -> None:
    """In a fresh process, with nothing but what `vader.load` itself imports."""
    code = f"""
        import sys
        import torch
        import vader
        assert "torch.nn" in sys.modules and "vader.network" not in sys.modules
        network = vader.load({str(model)!r})
        maps = network.embed(torch.rand(2, 3, 33, 50))
        assert maps.shape == (2, 16, 9, 13), maps.shape
        assert torch.allclose(maps.norm(dim=1), torch.ones(2, 9, 13), atol=1e-5)
        training = [n for n in sys.modules if n.startswith("vader.") and n.split(".")[1] in
            ("pretrain", "run", "feed", "learner", "contrast", "foreign", "health", "recipes", "commands", "views")]
        assert not training, training
        assert "vader.draw" not in sys.modules and "cyclopts" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr


def cut(keep: float) -> Any:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])

    return damage


def card(**changes: Any) -> Any:
    def damage(path: Path) -> None:
        path = path.with_suffix(".json")
        full = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in full.items() if value is not None}))

    return damage


def card_text(text: str) -> Any:
    return lambda path: path.with_suffix(".json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut(0.5), "expected a vader model"),
        (cut(0.0), "expected a vader model"),
        (lambda path: path.write_bytes(b"\xff" * 4000), "expected a vader model"),
        (lambda path: path.with_suffix(".json").unlink(), "No such file"),
        (card_text("{"), "expected a vader model and its .json card"),
        (card_text("[]"), "expected a vader model and its .json card"),
        (card_text('{"a": 1}'), "no 'schema' in the card"),
        (card(schema=99), "expected schema 1, found 99"),
        (card(network=None), "no 'network' in the card"),
        (card(network=3), "fit the card"),
        (card(network=CONFIG.model_dump() | {"typo": 1}), "typo"),
        (card(network=CONFIG.model_dump() | {"dim": 17}), "fit the card"),
        (card(network=CONFIG.model_dump() | {"decoder_width": -1}), "decoder_width"),
        (card(network=CONFIG.model_dump() | {"encoder": "resnet18"}), "fit the card"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(damage: Any, words: str, model: Path) -> None:
    damage(model)
    with pytest.raises(BadCheckpoint) as caught:
        load_model(model)
    assert words in str(caught.value)
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "nothing/model.safetensors", "model.pth"])
def test_a_missing_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a run folder or a model\.safetensors"):
        load_model(tmp_path / name)


# --- States -------------------------------------------------------------------------------------------------------


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, 3, 4, 5, generator=rng)
    return {
        "a.weight": weight,
        "b.channels_last": weight.to(memory_format=torch.channels_last),
        "c.bf16": weight.bfloat16(),
        "d.count": torch.tensor(7),
        "e.view": weight[:, 1],
        "f.nan": torch.tensor([torch.nan, -0.0, torch.inf]),
        "g.empty": torch.zeros(0, 3),
    }


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tensors, record = some_tensors(), {"number": 0.1 + 0.2, "list": [1, None, "é"], "steps": 9}
    folder = save_state(tmp_path, 12, tensors, record, keep=2)
    assert folder == tmp_path / "checkpoints" / "step-00000012"
    loaded, told = load_state(tmp_path)
    assert told == {"schema": 1, "step": 12} | record
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        bits = [one.contiguous().view(-1).view(torch.uint8) if one.numel() else one for one in (loaded[name], tensor)]
        assert torch.equal(*bits), name  # NaN and the sign of zero included


def test_the_last_k_states_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    for number in (1, 9, 10, 99_999):
        save_state(tmp_path, number, {"a": torch.tensor([number])}, {}, keep=3)
    assert [path.name for path in states(tmp_path)] == ["step-00000009", "step-00000010", "step-00099999"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [p.name for p in states(tmp_path)]
    assert int(load_state(tmp_path)[0]["a"]) == 99_999


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1, 2):
        save_state(tmp_path, 5, {"a": torch.tensor([value])}, {}, keep=1)
    assert int(load_state(tmp_path)[0]["a"]) == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(kind: Any) -> None:
    def fresh() -> tuple[list[Tensor], Any]:
        rng = torch.Generator().manual_seed(0)
        parameters = [torch.randn(3, generator=rng, requires_grad=True) for _ in range(3)]
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.01}]
        return parameters, kind(groups, weight_decay=0.1, **extra)

    def advance(parameters: list[Tensor], optimizer: Any, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.grad = torch.randn(3, generator=rng)
        optimizer.step()

    (a, first), (b, second) = fresh(), fresh()
    for seed in range(3):
        advance(a, first, seed)
    tensors, record = flatten_optimizer(first)
    record = json.loads(json.dumps(record))
    unflatten_optimizer(second, {name: tensor.clone() for name, tensor in tensors.items()}, record)
    for one, two in zip(a, b, strict=True):
        two.data.copy_(one.data)
    for seed in range(3, 6):
        advance(a, first, seed)
        advance(b, second, seed)
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one, two)


# --- Files that are whole or not there ----------------------------------------------------------------------------


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(TypeError):
        write_atomic(path, 5)  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_names_that_are_no_utf8_survive_json(tmp_path: Path) -> None:
    value = [os.fsdecode(b"\xff.jpg"), "é"]
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value
    assert "é" in (tmp_path / "a.json").read_text()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_atomic_folder_that_fails_leaves_the_old_one(error: type[BaseException], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with atomic_folder(folder) as fresh:
        (fresh / "a").write_text("old")
        assert not folder.exists()

    def fail() -> None:
        with atomic_folder(folder) as fresh:
            (fresh / "a").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_leftovers_are_known_by_their_names(tmp_path: Path) -> None:
    kept = [".hidden", ".git", "step-00000001", "model.json", ".env.local"]
    for name in (*kept, ".model.json.1234", ".step-00000001.77/x", ".old-step-00000001.8/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("way", ["a file", "below a file", "not empty", "too long", "/proc/none", "/dev/null/none"])
def test_an_output_folder_that_cannot_be_one(way: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "not empty": tmp_path}
    places["too long"] = tmp_path / ("n" * 256)
    with pytest.raises(BadInput, match="--out: "):
        prepare_output(places.get(way, Path(way)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
