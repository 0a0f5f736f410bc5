"""By how much a step moves: the factor, the two rates, the schedules, clipping; and settings that cannot be."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from pydantic import ValidationError
from tiny import SIZE, D, make_batch, make_learner, tiny
from torch import Tensor

from vader.errors import BadInput
from vader.models.network import NetworkConfig
from vader.pretraining.pretrain import rate, step


def moved(fabric: Fabric, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters before and after one step of plain SGD against a queue that is not empty."""
    config = tiny(sgd_momentum=0.0, **changes)
    learner = make_learner(config, fabric)
    generator = torch.Generator().manual_seed(0)
    learner.queue.enqueue(
        F.normalize(torch.randn(96, D, generator=generator), dim=1), torch.zeros(96, dtype=torch.long)
    )
    before = {name: value.detach().clone() for name, value in learner.network.named_parameters()}
    step(learner, config, make_batch(), 0)
    return before, {name: value.detach() - before[name] for name, value in learner.network.named_parameters()}


def test_the_factor_multiplies_gradients_and_not_the_decay(fabric: Fabric) -> None:
    """Which is why it stands at the loss: with SGD it is the rate times ten and the decay by ten."""
    lr, decay = 0.01, 0.1
    start, ten = moved(fabric, factor=10.0, weight_decay=decay)
    _, one = moved(fabric, factor=1.0, weight_decay=decay)
    _, none = moved(fabric, factor=1.0, weight_decay=0.0)
    largest = max(float(change.abs().max()) for change in none.values())
    assert largest > 1e-4
    for name, before in start.items():
        gradient = -none[name] / lr
        torch.testing.assert_close(one[name], -lr * (gradient + decay * before), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(ten[name], -lr * (10 * gradient + decay * before), atol=1e-5, rtol=1e-3)


def test_encoder_and_decoder_have_their_own_rates(fabric: Fabric) -> None:
    _, both = moved(fabric, lr_encoder=0.01, lr_decoder=0.01, weight_decay=0.0)
    _, apart = moved(fabric, lr_encoder=0.001, lr_decoder=0.05, weight_decay=0.0)
    for name, change in both.items():
        expected = change * (0.1 if name.startswith("encoder.") else 5.0)
        torch.testing.assert_close(apart[name], expected, atol=1e-6, rtol=1e-3)
    learner = make_learner(tiny(lr_encoder=3e-7, lr_decoder=3e-3), fabric)
    groups = learner.optimizer.param_groups
    assert [group["lr"] for group in groups] == [3e-7, 3e-3]
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in learner.network.encoder.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(list(learner.network.parameters()))
    assert all(group["weight_decay"] == 1e-4 for group in groups)
    learner.set_rate(0.5)
    learner.set_rate(0.1)
    assert [group["lr"] for group in groups] == pytest.approx([3e-8, 3e-4])  # of the base rates, not of the last


def test_the_schedules() -> None:
    constant, cosine = tiny(warmup_steps=4), tiny(warmup_steps=4, schedule="cosine")
    assert [rate(constant, t, 20) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    values = [rate(cosine, t, 20) for t in range(21)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert values[12] == pytest.approx(0.5)
    assert values[20] == pytest.approx(0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(values[4:]))


def test_clipping_bounds_the_whole_gradient(fabric: Fabric) -> None:
    _, free = moved(fabric, weight_decay=0.0)
    _, clipped = moved(fabric, weight_decay=0.0, clip_grad=0.01)
    norm = math.sqrt(sum(float(change.square().sum()) for change in clipped.values())) / 0.01
    assert norm == pytest.approx(0.01, rel=1e-2)
    free_norm = math.sqrt(sum(float(change.square().sum()) for change in free.values())) / 0.01
    assert free_norm > 0.1
    scale = norm / free_norm
    for name, change in free.items():
        torch.testing.assert_close(clipped[name], change * scale, atol=1e-6, rtol=1e-2)


# --- The config ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": "moco"}, "needs network.kind 'image'"),
        ({"bn_groups": 3}, "must be a multiple of 1 processes x 3 bn_groups"),
        ({"hold": "device", "views": {"size": SIZE, "elastic": 0.1}}, "no elastic views"),
        ({"enqueue": 0}, "expected 1 key"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"no_such_key": 1}, "Extra inputs"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        tiny(**changes)


def test_an_unknown_encoder_is_refused(fabric: Fabric) -> None:
    with pytest.raises(BadInput, match="no_such_net"):
        make_learner(tiny(network=NetworkConfig(encoder="no_such_net")), fabric)
