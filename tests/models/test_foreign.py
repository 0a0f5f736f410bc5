"""Weights made elsewhere: what matched is told, the features are the source's, and nothing in a file executes."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from vader.errors import BadCheckpoint, BadInput
from vader.models.checkpoint import save_model
from vader.models.foreign import LoadReport, initialise
from vader.models.network import DenseNetwork, ImageNetwork, NetworkConfig, build

Tensors = dict[str, Tensor]
SMALL = {"dim": 16, "pyramid_width": 32, "decoder_width": 32, "pyramid_outputs": False}


def dense(encoder: str = "resnet18", **changes: object) -> DenseNetwork:
    torch.manual_seed(1)  # not the sources' seed
    network = build(NetworkConfig.model_validate(SMALL | {"encoder": encoder} | changes))
    assert isinstance(network, DenseNetwork)
    return network.eval()


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with batch-norm statistics that are not the fresh 0 and 1."""
    rng = torch.Generator().manual_seed(seed)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=rng) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.5)
        elif name.endswith("num_batches_tracked"):
            buffer.fill_(7)
    return module.eval()


def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images - mean) / std


def torchvision_levels(source: nn.Module, images: Tensor) -> list[Tensor]:
    """torchvision's ResNet, level by level, as its own forward runs."""
    x = source.maxpool(source.relu(source.bn1(source.conv1(normalised(images)))))
    levels = []
    for layer in (source.layer1, source.layer2, source.layer3, source.layer4):
        x = layer(x)
        levels.append(x)
    return levels


@torch.no_grad()
def assert_same_features(network: DenseNetwork | ImageNetwork, expected: Callable[[Tensor], list[Tensor]]) -> None:
    images = pictures()
    for ours, theirs in zip(network.encoder(images), expected(images), strict=True):
        assert theirs.std() > 1e-3, "dead features would agree with any"
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def moco(version: int, source: nn.Module) -> dict[str, object]:
    """The layout of the official files (facebookresearch/moco, main_moco.py: save_checkpoint)."""
    body: Tensors = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    width = source.fc.in_features
    rng = torch.Generator().manual_seed(0)
    shapes = {"fc.0": (width, width), "fc.2": (128, width)} if version == 2 else {"fc": (128, width)}
    for name, shape in shapes.items():
        body[f"{name}.weight"] = torch.randn(shape, generator=rng)
        body[f"{name}.bias"] = torch.zeros(shape[0])
    state = {f"module.encoder_q.{name}": tensor for name, tensor in body.items()}
    state |= {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in body.items()}
    state |= {"module.queue": torch.randn(128, 64, generator=rng), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    return {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": optimizer}


# --- What must load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_official_moco(version: int, zipped: bool, tmp_path: Path) -> None:
    source = lived_in(torchvision.models.resnet18())
    path = tmp_path / f"moco_v{version}_800ep_pretrain.pth.tar"
    torch.save(moco(version, source), path, _use_new_zipfile_serialization=zipped)
    network = dense()
    report = initialise(network, path)
    assert report.prefix == "module.encoder_q."
    assert report.missing == ()
    assert len(report.matched) == 100
    # The head of the query encoder, all of the key encoder, the queue and its pointer.
    head = {1: 2, 2: 4}[version]
    assert len(report.unused) == head + (len(source.state_dict()) - 2 + head) + 2
    assert {"module.queue", "module.queue_ptr", "module.encoder_k.conv1.weight"} <= set(report.unused)
    assert f"100 tensors matched, 0 missing, {len(report.unused)} not used; not used: module." in str(report)
    assert_same_features(network, lambda images: torchvision_levels(source, images))


@pytest.mark.whole
def test_official_moco_resnet50(tmp_path: Path) -> None:
    source = lived_in(torchvision.models.resnet50())
    torch.save(moco(2, source), tmp_path / "moco.pth.tar")
    network = dense("resnet50")
    assert len(initialise(network, tmp_path / "moco.pth.tar").matched) == 265
    assert_same_features(network, lambda images: torchvision_levels(source, images))


@pytest.mark.parametrize("name", ["r.pth", "r.safetensors"])
@pytest.mark.parametrize("kind", ["dense", "image"])
def test_torchvision(name: str, kind: str, tmp_path: Path) -> None:
    source = lived_in(torchvision.models.resnet18())
    save = {".pth": torch.save, ".safetensors": save_file}[Path(name).suffix]
    save(source.state_dict(), tmp_path / name)
    network = build(NetworkConfig.model_validate(SMALL | {"encoder": "resnet18", "kind": kind})).eval()
    report = initialise(network, tmp_path / name)
    assert (len(report.matched), report.missing) == (100, ())
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert_same_features(network, lambda images: torchvision_levels(source, images))


@pytest.mark.parametrize(
    ("encoder", "unused"),
    [
        ("resnet10t", "fc"),
        ("resnet18", "fc"),
        ("tf_efficientnet_lite0", "conv_head|bn2|classifier"),
        ("mobilenetv3_small_050", "conv_head|classifier"),
        ("convnext_atto", "head"),
        ("regnety_002", "head"),
        ("densenet121", "features.norm5|classifier"),
        ("ese_vovnet19b_slim", "head"),
    ],
)
@pytest.mark.parametrize("features_only", [False, True])
def test_timm(encoder: str, unused: str, features_only: bool, tmp_path: Path) -> None:
    """A classifier or a `features_only` network; timm's own features are the truth."""
    source = lived_in(timm.create_model(encoder, pretrained=False))
    state = source.state_dict()
    network = dense(encoder)
    if features_only:
        body = lived_in(timm.create_model(encoder, pretrained=False, features_only=True))
        state = body.state_dict()
        levels = network.encoder.places
        theirs = lambda images: [body(images)[i] for i in levels]  # noqa: E731
    else:
        # forward_intermediates is the classifier's own path to its levels; densenet has none.
        strides = [4, 8, 16, 32]
        theirs = lambda images: [  # noqa: E731
            x
            for x in source.forward_intermediates(images, intermediates_only=True)
            if images.shape[-1] / x.shape[-1] in strides
        ]
    torch.save(state, tmp_path / "timm.pth")
    report = initialise(network, tmp_path / "timm.pth")
    assert report.missing == ()
    assert len(report.matched) == sum("num_batches" not in n for n in network.encoder.body.state_dict())
    if features_only:
        assert report.unused == ()
    else:
        assert report.unused
        assert all(re.match(unused, name) for name in report.unused), report.unused
    if features_only or hasattr(source, "forward_intermediates"):
        mean, std = network.encoder.mean, network.encoder.std
        assert_same_features(network, lambda images: theirs((images - mean) / std))


def whole(path: Path, **changes: object) -> DenseNetwork:
    """A vader model, saved as a run saves it."""
    torch.manual_seed(0)
    source = lived_in(build(NetworkConfig.model_validate(SMALL | {"encoder": "resnet10t"} | changes)))
    assert isinstance(source, DenseNetwork)
    save_model(path, source.state_dict(), source.config, {})
    return source


def test_a_whole_vader_model(tmp_path: Path) -> None:
    source, network = whole(tmp_path / "model.safetensors"), dense("resnet10t")
    report = initialise(network, tmp_path / "model.safetensors")
    assert (report.missing, report.unused) == ((), ())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_the_encoder_of_a_vader_model_with_another_decoder(tmp_path: Path) -> None:
    source = whole(tmp_path / "model.safetensors", decoder_width=48, dim=24)
    network = dense("resnet10t")
    fresh = network.decoder.embedding.weight.clone()
    report = initialise(network, tmp_path / "model.safetensors")
    assert report.missing == ()
    assert report.unused
    assert all(name.startswith(("pyramid.", "decoder.")) for name in report.unused)
    assert torch.equal(network.decoder.embedding.weight, fresh)
    assert_same_features(network, source.encoder)


def test_a_dense_model_begins_moco_and_a_moco_model_begins_dense(tmp_path: Path) -> None:
    source = whole(tmp_path / "dense.safetensors")
    image = build(NetworkConfig(kind="image", encoder="resnet10t", dim=16)).eval()
    initialise(image, tmp_path / "dense.safetensors")
    assert_same_features(image, source.encoder)
    save_model(tmp_path / "image.safetensors", image.state_dict(), image.config, {})
    network = dense("resnet10t")
    assert all(name.startswith("head.") for name in initialise(network, tmp_path / "image.safetensors").unused)
    assert_same_features(network, source.encoder)


# --- What must be refused -----------------------------------------------------------------------------------------


def refusal(network: DenseNetwork, path: Path, allow: tuple[str, ...] = ()) -> str:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(BadCheckpoint) as caught:
        initialise(network, path, allow)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), "a refused file changes nothing"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoder", ["resnet34", "resnet50", "resnet10t", "tf_efficientnet_lite0", "convnext_atto"])
def test_weights_of_another_encoder(encoder: str, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    assert "check --encoder" in (told := refusal(dense(encoder), tmp_path / "r18.pth")) or "is --encoder" in told


def test_a_larger_network_of_the_same_shapes_is_another_encoder(tmp_path: Path) -> None:
    """All of ResNet-18 is found by name and shape within ResNet-34."""
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "r34.pth")
    assert "larger than the encoder" in refusal(dense("resnet18"), tmp_path / "r34.pth")


def test_missing_names_are_refused_unless_allowed(tmp_path: Path) -> None:
    state = lived_in(torchvision.models.resnet18()).state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("layer4.1.conv2")}
    torch.save(kept, tmp_path / "r.pth")
    told = refusal(dense(), tmp_path / "r.pth")
    assert "99 tensors matched, 1 missing, 2 not used; missing: layer4.1.conv2.weight; not used: fc.weight" in told
    assert "allow_missing" in told
    refusal(dense(), tmp_path / "r.pth", ("layer3",))
    network = dense()
    fresh = network.encoder.body.state_dict()["layer4.1.conv2.weight"].clone()
    report = initialise(network, tmp_path / "r.pth", (r"^layer4\.1\.conv2",))
    assert report.missing == ("layer4.1.conv2.weight",)
    loaded = network.encoder.body.state_dict()
    assert torch.equal(loaded["layer4.1.conv2.weight"], fresh)
    assert torch.equal(loaded["layer4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])


def test_a_file_of_nothing_known_is_refused_even_if_all_is_allowed(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "odd.pth")
    refusal(dense(), tmp_path / "odd.pth", (".*",))


class Evil:
    """Runs a command when it is unpickled by a reader that trusts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("way", ["torch", "old torch", "pickle", "within"])
def test_nothing_in_a_file_executes(way: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "evil.pth"
    state = torchvision.models.resnet18().state_dict()
    if way == "pickle":
        path.write_bytes(pickle.dumps(Evil(trace)))
        pickle.loads(path.read_bytes())
        assert trace.exists(), "a reader that trusts is caught by it"
        trace.unlink()
    elif way == "within":
        torch.save({"state_dict": state, "args": Evil(trace)}, path)
    else:
        torch.save(Evil(trace), path, _use_new_zipfile_serialization=way == "torch")
    assert str(path) in refusal(dense(), path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pth", b""),
        ("a.pth", b"no weights"),
        ("a.safetensors", b"no weights at all"),
        ("a.safetensors", b""),
        ("a.npz", np.arange(9).tobytes()),
    ],
)
def test_what_is_no_weight_file(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refusal(dense("resnet10t"), tmp_path / name)


@pytest.mark.parametrize("cut", [0.3, 0.99])
@pytest.mark.parametrize("name", ["r.pth", "r.safetensors"])
def test_a_truncated_weight_file(cut: float, name: str, tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    {".pth": torch.save, ".safetensors": save_file}[Path(name).suffix](state, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(cut * len(data))])
    refusal(dense("resnet10t"), tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a file, found no .*none\.pth"):
        initialise(dense("resnet10t"), tmp_path / "none.pth")


def test_the_report_names_a_few_and_counts_all() -> None:
    names = tuple("abcdef")
    text = str(LoadReport("f.pth", "", names[:3], names, ()))
    assert text == "f.pth: 3 tensors matched, 6 missing, 0 not used; missing: a, b, c, d, ..."
