"""Steps with NaN or inf: skipped, counted, their batch saved; so many in a row stop the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from samples import forked, pretrain
from tiny import make_learner

from vader.models.network import NetworkConfig
from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.pretrain import step
from vader.pretraining.views import ViewConfig
from vader.runtime.processes import start_fabric
from vader.runtime.states import load_state, states

# The first step has no negatives yet; the second takes the weights to 1e30, and the next forward pass overflows.
HUGE: dict[str, object] = {
    "lr_encoder": "1e30", "lr_decoder": "1e30", "schedule": "constant", "warmup_steps": 0,
    "max_failures": 3, "log_every": 2, "exam_every": 3, "save_every": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def diverged(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("nan") / "run"
    return out, pretrain(photos, out, 20, **HUGE)


def test_three_bad_steps_in_a_row_stop_the_run_with_one_line(diverged: tuple[Path, Any]) -> None:
    out, done = diverged
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("vader: ")]
    assert told == [done.stderr.splitlines()[-1]]
    assert told[0].startswith("vader: 3 steps in a row gave NaN or inf (last: step 5)")
    assert str(out / "failures") in told[0]
    assert done.stdout == ""


def test_skipped_steps_are_counted_and_told(diverged: tuple[Path, Any]) -> None:
    out, done = diverged
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("skipped")] == [3, 4, 5]
    windows = [line for line in lines if "failed_steps" in line]
    assert [(line["step"], line["failed_steps"], "loss" in line) for line in windows] == [(2, 0, True), (4, 2, False)]
    assert load_state(out)[1]["failed_steps"] == 3
    assert done.stderr.count("skipped: loss nan") == 3
    assert "exam after step 3 skipped" in done.stderr


def test_the_batches_are_saved(diverged: tuple[Path, Any]) -> None:
    folders = sorted((diverged[0] / "failures").iterdir())
    assert [folder.name for folder in folders] == [f"step-0000000{step}-rank0" for step in (3, 4, 5)]
    for folder in folders:
        batch = load_file(folder / "batch.safetensors")
        assert batch["first"].shape == batch["second"].shape == (4, 3, 32, 32)
        assert batch["cells"].shape == (4, 8)
        assert batch["points"].shape == (4, 8, 2)
        assert batch["images"].shape == (4,)
        assert 0 <= batch["first"].min() < batch["first"].max() <= 1


def test_what_diverged_can_still_be_resumed(diverged: tuple[Path, Any]) -> None:
    """It fails the same way, from the step where it stopped; its first state's numbers were saved."""
    out, _ = diverged
    assert [folder.name for folder in states(out)] == ["step-00000005"]
    again = forked("pretrain", "--resume", out, "--quiet")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("vader: 3 steps in a row gave NaN or inf (last: step 8)")
    assert load_state(out)[1]["failed_steps"] == 6


# --- One step -----------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(tmp_path: Path) -> tuple[Learner, PretrainConfig]:
    network = NetworkConfig(
        encoder="resnet10t", dim=16, pyramid_width=32, decoder_width=32, pyramid_outputs=False
    )  # fmt: skip
    config = PretrainConfig(
        images=tmp_path, out=tmp_path, steps=9, network=network, views=ViewConfig(size=32), batch=4, points=8,
        queue=64, bn_groups=2, lr_encoder=0.01, lr_decoder=0.01,
    )  # fmt: skip
    return make_learner(config, start_fabric("cpu", "fp32", 1)), config


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 4, 3, 32, 32, generator=rng).contiguous()
    return Batch(
        first, second, torch.randint(64, (4, 8), generator=rng), torch.rand(4, 8, 2, generator=rng) * 32,
        torch.arange(4) + 4 * seed,
    )  # fmt: skip


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    tensors, record = learner.capture()
    pointers = torch.tensor([record["queue"]["pointer"], record["queue"]["filled"]])
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("teacher")}
    return {name: tensor.clone() for name, tensor in kept.items()} | {"pointers": pointers}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["first", "second"])
def test_a_bad_batch_changes_neither_student_nor_queue(
    learner: tuple[Learner, PretrainConfig], bad: float, where: str
) -> None:
    """Not the weights, not the optimizer, not the statistics of batch norm; and the next step is a good one."""
    mine, config = learner
    for number in range(2):
        assert step(mine, config, batch(number), number)[1]
    before, worse = everything(mine), batch(2)
    getattr(worse, where)[1, 0, 3, 4] = bad
    numbers, held = step(mine, config, worse, 2)
    assert not held
    assert not torch.isfinite(numbers["loss"])
    after = everything(mine)
    differing = [name for name in before if not torch.equal(before[name], after[name])]
    assert not differing, differing[:5]
    assert all(bool(tensor.isfinite().all()) for tensor in mine.teacher.state_dict().values())
    numbers, held = step(mine, config, batch(3), 3)
    assert held
    assert torch.isfinite(numbers["loss"])
    assert bool(mine.embed(batch(4).first).isfinite().all())
