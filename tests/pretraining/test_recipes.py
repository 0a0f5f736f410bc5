"""Whole configs: the constants of the papers, what follows from the hardware, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest

from vader.errors import BadInput
from vader.pretraining import recipes
from vader.pretraining.config import PretrainConfig, explained
from vader.pretraining.pretrain import rate

IMAGENET = 1_281_167


def made(name: recipes.RecipeName, count: int = 1000, **changes: Any) -> PretrainConfig:
    return recipes.RECIPES[name](Path("images"), Path("out"), count, **changes)


def test_the_papers_constants() -> None:
    config = made("paper", IMAGENET)
    assert (config.temperature, config.factor, config.queue, config.momentum) == (0.07, 10.0, 65_536, 0.999)
    assert (config.lr_encoder, config.lr_decoder, config.sgd_momentum, config.weight_decay) == (3e-7, 3e-3, 0.9, 1e-4)
    assert (config.batch, config.points, config.steps, config.schedule) == (128, 32, 6_000_000, "constant")
    assert (config.network.encoder, config.network.dim, config.network.kind) == ("resnet50", 128, "dense")
    assert (config.views.size, config.views.scale, config.bn_groups) == (224, (0.2, 1.0), 4)


def test_mocos_constants_under_the_papers_recipe() -> None:
    """`main_moco.py` of MoCo v2 on four devices: `docs/paper.md` and its README."""
    config = made("paper", IMAGENET, objective="moco")
    assert (config.temperature, config.factor, config.queue, config.momentum) == (0.2, 1.0, 65_536, 0.999)
    assert (config.optimizer, config.sgd_momentum, config.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (config.lr_encoder, config.lr_decoder, config.batch) == (0.015, 0.015, 128)
    assert (config.schedule, config.warmup_steps) == ("cosine", 0)
    assert config.steps == 200 * IMAGENET // 128
    assert (config.network.kind, config.network.dim, config.skip_own) == ("image", 128, False)
    assert (config.views.p_blur, config.views.sigma, config.views.hue) == (0.5, (0.1, 2.0), 0.1)
    assert rate(config, config.steps // 2, config.steps) == pytest.approx(0.5, abs=1e-3)
    assert made("paper", IMAGENET, objective="moco", batch=256).lr_encoder == 0.03
    assert made("paper", IMAGENET, objective="moco", temperature=0.5, steps=7).temperature == 0.5


@pytest.mark.parametrize("name", ["paper", "default", "quick"])
@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (2, 1), (4, 1), (2, 2), (8, 1), (3, 1)])
def test_a_group_of_batch_norm_holds_as_many_images_on_any_number_of_devices(
    name: recipes.RecipeName, devices: int, nodes: int
) -> None:
    batch = 96 if devices == 3 else 128
    alone = made(name, batch=batch)
    shared = made(name, batch=batch, devices=devices, nodes=nodes)
    processes = devices * nodes
    assert alone.bn_groups == 4
    images = batch // (processes * shared.bn_groups)
    assert images == {1: 32, 2: 32, 4: 32, 8: 16, 3: 32}[processes]
    assert made(name, batch=batch, devices=devices, nodes=nodes, bn_groups=2).bn_groups == 2, "the user's own"


def test_quick_asks_for_discrimination_within_an_image() -> None:
    """As measured in `docs/settings.md`; what a user says of it goes before, and MoCo has none of it."""
    config = made("quick", 4085)
    assert (config.points, config.enqueue, config.within_image, config.queue) == (128, 4, 4.0, 32 * 128 - 128)
    assert made("quick", 500).queue == 4 * 32 * 4, "four batches at least"
    assert made("quick", 4085, points=32, enqueue="all").queue == 4 * 32 * 32
    assert made("quick", within_image=None).within_image is None
    moco = made("quick", 4085, objective="moco")
    assert (moco.within_image, moco.queue) == (None, 4 * 32)
    plain = made("default", 4085)
    assert (plain.points, plain.enqueue, plain.within_image) == (32, "all", None)
    assert made("default", IMAGENET).queue == 65_536
    with pytest.raises(ValueError, match="enqueue"):
        made("quick", enqueue="some")


def told(name: recipes.RecipeName, **changes: Any) -> str:
    return recipes.explain(name, made(name, **changes), 1000, 800)


def test_what_is_told_of_a_config() -> None:
    assert "epochs of 800 images" in told("quick")
    assert "instead of the paper's 65536" in told("quick")
    assert "instead of the paper's 65536" in told("quick", objective="moco")
    assert "instead of the paper's 65536" not in told("quick", queue=2048), "the user chose it"
    assert "instead of the paper's" not in told("paper")
    assert "give --init" in told("paper")
    assert "give --init" not in told("paper", objective="moco"), "MoCo starts from scratch"


def test_contradictions_are_refused() -> None:
    with pytest.raises(BadInput, match="batch 128 must be a multiple of 3 processes x 1 bn_groups"), explained():
        recipes.paper(Path("images"), Path("out"), 1000, devices=3)
