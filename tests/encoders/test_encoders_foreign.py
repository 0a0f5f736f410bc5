"""Other people's files: fabricated with upstream's names, they give what upstream's network gives."""

import argparse
import os
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from test_encoders_variants import lived_in, picture
from torch import Tensor

from vader.encoders import fit, open_encoder
from vader.errors import BadCheckpoint, BadInput

Tensors = dict[str, Tensor]
OPTIONS = argparse.Namespace(arch="resnet50", lr=0.03, world_size=8)  # both keep their options in the file
REAL = Path(__file__).parents[3] / "shared" / "data" / "weights" / "tf_efficientnet_lite0.imagenet.safetensors"


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images - mean) / std


# --- ResNets ------------------------------------------------------------------------------------------------------


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def other(tensors: Tensors) -> Tensors:
    """The key encoder's: the same names, nothing of the same values."""
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def moco_file(version: int, body: Tensors, width: int) -> dict[str, Any]:
    """facebookresearch/moco, main_moco.py."""
    head = {"fc.weight": torch.randn(128, width), "fc.bias": torch.zeros(128)}
    if version == 2:
        head = under("fc.0.", {"weight": torch.randn(width, width), "bias": torch.zeros(width)})
        head |= under("fc.2.", {"weight": torch.randn(128, width), "bias": torch.zeros(128)})
    state = under("module.encoder_q.", body | head) | under("module.encoder_k.", other(body | head))
    state |= {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def densecl_files(body: Tensors) -> dict[str, dict[str, Any]]:
    """WXinlong/DenseCL: a training file, and what tools/extract_backbone_weights.py makes of it (as is published)."""
    neck = {"mlp.0.weight": torch.randn(8, 8), "mlp2.0.weight": torch.randn(8, 8, 1, 1)}
    state = under("backbone.", body) | under("encoder_q.0.", body) | under("encoder_q.1.", neck)
    state |= under("encoder_k.0.", other(body)) | under("encoder_k.1.", other(neck))
    state |= {"queue": torch.randn(128, 64), "queue2": torch.randn(128, 64)}
    return {
        "whole": {"meta": {"epoch": 200}, "state_dict": state},
        "published": {"state_dict": body, "author": "DenseCL"},
    }


def pixpro_file(body: Tensors) -> dict[str, Any]:
    """zdaxie/PixPro, main_pretrain.py: save_checkpoint."""
    head = {"linear1.weight": torch.randn(8, 8, 1, 1), "bn1.running_mean": torch.zeros(8)}
    model = under("module.encoder.", body) | under("module.projector.", head)
    model |= under("module.encoder_k.", other(body)) | under("module.projector_k.", other(head))
    model |= under("module.value_transform.", {"weight": torch.randn(8, 8, 1, 1)})
    return {"opt": OPTIONS, "model": model, "optimizer": {}, "scheduler": {"last_epoch": 3}, "epoch": 100}


def resnet_files(source: torch.nn.Module) -> dict[str, Any]:
    state = source.state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    densecl = densecl_files(body)
    return {
        "moco v1": ("moco", moco_file(1, body, source.fc.in_features)),
        "moco v2": ("moco", moco_file(2, body, source.fc.in_features)),
        "densecl whole": ("densecl", densecl["whole"]),
        "densecl published": ("densecl", densecl["published"]),
        "pixpro": ("pixpro", pixpro_file(body)),
        "dino": ("dino", body),  # dino_resnet50_pretrain.pth
        "dino whole": ("dino", {"teacher": under("module.backbone.", body), "args": OPTIONS, "epoch": 3}),
        "torchvision": ("torchvision:resnet18=", state),
    }


RESNET_KINDS = list(resnet_files(torchvision.models.resnet18()))


@torch.no_grad()
def torchvision_last(source: torch.nn.Module, images: Tensor) -> Tensor:
    x = source.maxpool(source.relu(source.bn1(source.conv1(normalised(images)))))
    return source.layer4(source.layer3(source.layer2(source.layer1(x))))


@pytest.mark.parametrize("kind", RESNET_KINDS)
def test_resnet_files_give_the_source_networks_features(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = lived_in(torchvision.models.resnet18())
    family, content = resnet_files(source)[kind]
    path = tmp_path / "file.pth"
    torch.save(content, path)
    encoder = open_encoder(family + ("" if family.endswith("=") else ":") + f"{path}@last")
    images = picture(2, 3, 64, 96)
    expected = torchvision_last(source, images)
    torch.testing.assert_close(encoder.features(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    facts = encoder.facts
    assert (facts["loaded"]["matched"], facts["loaded"]["missing"]) == (100, 0)
    assert facts["sha256"] == sha256(path.read_bytes()).hexdigest()[:16]
    assert (facts["network"], facts["mean"], facts["std"]) == ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert facts["stride"] == 32


def test_the_official_files_are_of_resnet50(tmp_path: Path) -> None:
    source = lived_in(torchvision.models.resnet50())
    body = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    torch.save(moco_file(2, body, 2048), tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    encoder = open_encoder(f"moco:{tmp_path / 'moco_v2_800ep_pretrain.pth.tar'}")
    assert (encoder.stride, encoder.channels) == (4, 256 + 512 + 1024 + 2048)
    assert encoder.facts["variant"] == "hypercolumn"
    assert encoder.facts["network"] == "resnet50"
    assert encoder.facts["loaded"]["matched"] == 265
    assert "moco_v2_800ep_pretrain.pth.tar" in encoder.facts["lineage"]


# --- Transformers -------------------------------------------------------------------------------------------------


def vit_tensors(width: int, depth: int, patch: int, grid: int, *, v2: bool, registers: int, swiglu: bool) -> Tensors:
    """A file's tensors by upstream's names (dino's and dinov2's vision_transformer.py), of a size that shows."""
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int, size: float = 0.1) -> Tensor:
        return torch.randn(shape, generator=rng) * size

    def linear(name: str, out: int, into: int) -> Tensors:
        return {f"{name}.weight": draw(out, into, size=into**-0.5), f"{name}.bias": draw(out)}

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}

    tensors = {"cls_token": draw(1, 1, width, size=1), "pos_embed": draw(1, grid**2 + 1, width, size=1)}
    tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"] = draw(width, 3, patch, patch), draw(width)
    if v2:
        tensors["mask_token"] = draw(1, width)
    if registers:
        tensors["register_tokens"] = draw(1, registers, width, size=1)
    for i in range(depth):
        one = norm("norm1") | linear("attn.qkv", 3 * width, width) | linear("attn.proj", width, width) | norm("norm2")
        if swiglu:
            one |= linear("mlp.w12", 6 * width, width) | linear("mlp.w3", width, 3 * width)
        else:
            one |= linear("mlp.fc1", 4 * width, width) | linear("mlp.fc2", width, 4 * width)
        if v2:
            one |= {"ls1.gamma": draw(width, size=1), "ls2.gamma": draw(width, size=1)}
        tensors |= under(f"blocks.{i}.", one)
    return tensors | norm("norm")


def slow_vit(w: Tensors, images: Tensor) -> Tensor:
    """The patches' tokens after the last norm, written from the papers: no code of timm's."""
    width, patch = w["cls_token"].shape[-1], w["patch_embed.proj.weight"].shape[-1]
    maps = F.conv2d(normalised(images), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    h, wide = maps.shape[2:]
    x = torch.cat([w["cls_token"].expand(len(images), -1, -1), maps.flatten(2).transpose(1, 2)], 1)
    grid = round((w["pos_embed"].shape[1] - 1) ** 0.5)
    places = w["pos_embed"][:, 1:].transpose(1, 2).reshape(1, width, grid, grid)
    if (h, wide) != (grid, grid):
        places = F.interpolate(places, (h, wide), mode="bicubic", antialias=True)
    x = x + torch.cat([w["pos_embed"][:, :1], places.flatten(2).transpose(1, 2)], 1)
    registers = w["register_tokens"].shape[1] if "register_tokens" in w else 0
    if registers:
        x = torch.cat([x[:, :1], w["register_tokens"].expand(len(images), -1, -1), x[:, 1:]], 1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for i in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
        b = f"blocks.{i}."
        q, k, v = linear(norm(x, b + "norm1"), b + "attn.qkv").chunk(3, -1)
        heads = []
        for head in range(width // 64):
            part = slice(64 * head, 64 * head + 64)
            heads.append(torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 8, -1) @ v[..., part])
        x = x + linear(torch.cat(heads, -1), b + "attn.proj") * w.get(b + "ls1.gamma", torch.ones(()))
        y = norm(x, b + "norm2")
        if b + "mlp.w12.weight" in w:
            gate, value = linear(y, b + "mlp.w12").chunk(2, -1)
            y = linear(F.silu(gate) * value, b + "mlp.w3")
        else:
            y = linear(F.gelu(linear(y, b + "mlp.fc1")), b + "mlp.fc2")
        x = x + y * w.get(b + "ls2.gamma", torch.ones(()))
    patches = norm(x, "norm")[:, 1 + registers :]
    return patches.transpose(1, 2).reshape(len(images), width, h, wide)


VITS: dict[str, dict[str, Any]] = {
    "dino": {"patch": 16, "v2": False, "registers": 0, "swiglu": False},
    "dino/8": {"patch": 8, "v2": False, "registers": 0, "swiglu": False},
    "dinov2": {"patch": 14, "v2": True, "registers": 0, "swiglu": False},
    "dinov2 with registers": {"patch": 14, "v2": True, "registers": 4, "swiglu": False},
    "dinov2 giant": {"patch": 14, "v2": True, "registers": 0, "swiglu": True},
}


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_transformers_are_read_off_their_shapes(kind: str, whole: bool, tmp_path: Path) -> None:
    tensors, patch = vit_tensors(128, 3, grid=5, **VITS[kind]), VITS[kind]["patch"]
    content: Any = tensors
    if whole:  # a training file; dinov2's has its blocks in chunks
        inner = tensors
        if kind.startswith("dinov2"):
            inner = {name.replace("blocks.", "blocks.0."): tensor for name, tensor in tensors.items()}
        head = {"head.mlp.0.weight": torch.zeros(3, 3)}
        content = {"student": under("module.backbone.", other(inner)), "teacher": under("backbone.", inner) | head}
        content["args"] = OPTIONS
    torch.save(content, tmp_path / "vit.pth")
    family = kind.split()[0].removesuffix("/8")
    encoder = open_encoder(f"{family}:{tmp_path / 'vit.pth'}")
    assert (encoder.stride, encoder.channels, encoder.facts["variant"]) == (patch, 128, "last")
    for size in ((5 * patch, 5 * patch), (4 * patch, 7 * patch)):
        images = picture(2, 3, *size)
        expected = slow_vit(tensors, images)
        torch.testing.assert_close(encoder.features(images), expected, rtol=1e-3, atol=1e-4)
    assert encoder.facts["loaded"]["missing"] == 0
    assert encoder.facts["loaded"]["unused"] == whole + VITS[kind]["v2"]


def test_a_ragged_image_is_padded_with_its_edge(tmp_path: Path) -> None:
    tensors = vit_tensors(64, 1, grid=4, **VITS["dino"])
    torch.save(tensors, tmp_path / "vit.pth")
    images = picture(1, 3, 33, 50)
    found = open_encoder(f"dino:{tmp_path / 'vit.pth'}@last").features(images)
    rows, columns = torch.arange(48).clamp_max(32), torch.arange(64).clamp_max(49)
    expected = slow_vit(tensors, images[:, :, rows][..., columns])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# --- timm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["spec", "weights"])
@torch.no_grad()
def test_timm_with_a_file(door: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, path = lived_in(timm.create_model("test_efficientnet", pretrained=False)), tmp_path / "a@b.safetensors"
    save_file(source.state_dict(), path)
    given = {"spec": (f"timm:test_efficientnet={path}@last", None), "weights": ("timm:test_efficientnet@last", path)}
    spec, weights = given[door]
    encoder, images = open_encoder(spec, weights=weights), picture(1, 3, 64, 96)
    mean, std = (torch.tensor(source.pretrained_cfg[word]).view(3, 1, 1) for word in ("mean", "std"))
    expected = source.forward_intermediates((images - mean) / std, intermediates_only=True)[-1]
    torch.testing.assert_close(encoder.features(images), expected)
    assert encoder.facts["loaded"]["unused"] > 0  # the classifier


@torch.no_grad()
def test_a_timm_transformer_with_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_vit", pretrained=False).eval()
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    encoder, images = open_encoder(f"timm:test_vit={tmp_path / 'vit.safetensors'}"), picture(1, 3, 160, 160)
    mean, std = (torch.tensor(source.pretrained_cfg[word]).view(3, 1, 1) for word in ("mean", "std"))
    tokens = source.forward_features((images - mean) / std)[:, source.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).reshape(1, -1, 10, 10)
    torch.testing.assert_close(encoder.features(images), expected)
    assert (encoder.stride, encoder.facts["mean"]) == (16, [0.5, 0.5, 0.5])
    with pytest.raises(BadInput, match=r"expected @last of a transformer.*found @dilated"):
        open_encoder("random:test_vit@dilated")


@pytest.mark.whole
def test_weights_that_cannot_be_downloaded_name_the_way_out(tmp_path: Path) -> None:
    code = "from vader.encoders import open_encoder\nopen_encoder('timm:test_resnet')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vader.errors.BadInput: timm:test_resnet: expected weights to download")
    assert "timm:test_resnet=FILE, --weights FILE" in last


# --- What must not load -------------------------------------------------------------------------------------------


def test_wrong_files_are_refused_in_a_line(tmp_path: Path) -> None:
    source = torchvision.models.resnet18().state_dict()
    torch.save(source, tmp_path / "r18.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    for spec, words in {
        "pixpro:other.pth": "expected a pixpro file",
        "dinov2:other.pth": "expected a dinov2 file",
        "timm:resnet10t=r18.pth": "check that the file is of this network",
        "timm:resnet34=r18.pth": "missing",
        "moco:none.pth": "expected a file",
    }.items():
        kind, file = spec.rsplit(":" if "=" not in spec else "=", 1)
        told = f"{kind}{'=' if '=' in spec else ':'}{tmp_path / file}"
        with pytest.raises((BadCheckpoint, BadInput), match=words) as error:
            open_encoder(told)
        assert "\n" not in str(error.value)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("trapped",))


def test_nothing_in_a_file_executes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bait = {"opt": argparse.Namespace(trap=Trap()), "model": {"module.encoder.conv1.weight": torch.zeros(1)}}
    torch.save(bait, tmp_path / "bait.pth", pickle_module=pickle)
    with pytest.raises(BadCheckpoint, match="plain tensors"):
        open_encoder(f"pixpro:{tmp_path / 'bait.pth'}")
    assert not (tmp_path / "trapped").exists()


# --- A real file --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.exists(), reason="no ImageNet weights here")
@pytest.mark.parametrize(
    ("variant", "stride", "channels"),
    [("last", 32, 320), ("hypercolumn", 4, 496), ("hypercolumn:128", 4, 128), ("dilated", 4, 320)],
)
def test_the_imagenet_weights_open(variant: str, stride: int, channels: int, photo: np.ndarray) -> None:
    encoder = fit(open_encoder(f"timm:tf_efficientnet_lite0={REAL}@{variant}"), [photo])
    images = torch.from_numpy(photo[:64, :96].copy()).permute(2, 0, 1)[None].float() / 255
    found = encoder.features(images)
    assert found.shape == (1, channels, 64 // stride, 96 // stride)
    assert found.isfinite().all()
    assert found.std() > 1e-3
    facts = encoder.facts
    assert (facts["mean"], facts["std"]) == ([0.5] * 3, [0.5] * 3)
    assert facts["sha256"] == "78527e4b1691b185"
    assert facts["loaded"]["missing"] == 0
