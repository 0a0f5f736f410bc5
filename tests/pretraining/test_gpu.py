"""A GPU computes what the processor does: the loss, a step, propagation, a run and its encoder. Skipped without one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from tiny import TINY, B, P, make_batch, make_learner, tiny
from torch import Tensor

from vader.encoders.opening import open_encoder
from vader.inference.propagation import PROTOCOLS
from vader.inference.propagation.step import carry_frame
from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import info_nce
from vader.pretraining.feed import Batch
from vader.pretraining.pretrain import run_pretraining as pretrain
from vader.pretraining.pretrain import step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(autouse=True)
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten bits of a product are what TF32 keeps; here the two are to be compared to more."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_loss_and_gradient() -> None:
    q, k, n = (F.normalize(noise(rows, 16, seed=i), dim=1) for i, rows in enumerate((64, 64, 20_000)))
    own, others = torch.arange(64) // 8, torch.arange(20_000) % 50
    within = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5
    found = []
    for device in ("cpu", "cuda"):
        queries = q.to(device).detach().requires_grad_()
        contrast = info_nce(
            queries, k.to(device), n.to(device), query_image=own.to(device), negative_image=others.to(device),
            within=within.to(device),
        )  # fmt: skip
        contrast.loss.backward()
        assert queries.grad is not None
        found.append((float(contrast.loss.detach()), float(contrast.accuracy), queries.grad.cpu()))
    assert found[1][:2] == pytest.approx(found[0][:2], rel=1e-5)
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-4, atol=1e-6)


def test_a_step_moves_the_same_way() -> None:
    learners, config = {}, tiny(within_image=4.0, skip_own=True)
    for device in ("cpu", "cuda"):
        fabric = Fabric(accelerator=device, devices=1, precision="32-true")
        batch = make_batch()
        moved = Batch(*(getattr(batch, name).to(device) for name in ("first", "second", "cells", "points", "images")))
        torch.manual_seed(0)
        learner = make_learner(config, fabric)
        if learners:  # the same start, whatever each device's generator drew
            first = learners["cpu start"]
            learner.network.load_state_dict(first)
            learner.teacher.load_state_dict(first)
        else:
            learners["cpu start"] = {k: v.clone() for k, v in learner.network.state_dict().items()}
            learner.teacher.load_state_dict(learners["cpu start"])
        for number in range(3):
            step(learner, config, moved, number)
        learners[device] = {k: v.cpu() for k, v in learner.network.state_dict().items()}
        assert learner.queue.pointer == 3 * B * P % 96
    for name, value in learners["cpu"].items():
        torch.testing.assert_close(
            learners["cuda"][name], value, rtol=1e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_propagation(name: str) -> None:
    h, w, frames, protocol = 40, 53, 4, PROTOCOLS[name]
    maps = F.normalize(noise(frames + 1, h, w, 32), dim=3)
    labels = noise(frames, h * w, 3, seed=1).softmax(2)
    free = [not protocol.restrict_first] + [False] * (frames - 1)
    found = [
        carry_frame(maps[0].to(d), list(maps[1:].to(d)), labels.to(d), free, protocol, 8).cpu() for d in ("cpu", "cuda")
    ]
    off = (found[0] - found[1]).abs().amax(1) > 1e-4  # where rounding makes another cell the k-th
    assert float(off.float().mean()) < 0.01


@pytest.mark.parametrize("hold", ["nothing", "memory", "device"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_examined_and_its_model_opens_on_either(
    photos: Path, tmp_path: Path, hold: str, precision: str
) -> None:
    config = PretrainConfig(
        images=photos, out=tmp_path / "run", steps=6, batch=4, points=8, queue=96, network=TINY, views={"size": 32},
        bn_groups=2, lr_encoder=1e-3, lr_decoder=1e-3, workers=0, held_out=2, log_every=2, exam_every=3, save_every=3,
        device="cuda", precision=precision, hold=hold,
    )  # fmt: skip
    out = pretrain(config, quiet=True)
    record = json.loads((out / "record.json").read_text())
    assert record["scores"]["best"] >= 0
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines() if "loss" in line]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    encoders = [open_encoder(str(out), device) for device in ("cpu", "cuda")]
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (one.features(pixels.to(d)).cpu() for one, d in zip(encoders, ("cpu", "cuda"), strict=True))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
