"""A config and a batch so small that a step takes milliseconds, for the tests of steps."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.objectives import OBJECTIVES

B, P, D, SIZE = 8, 6, 16, 32
CELLS = (SIZE // 4) ** 2
TINY = {"encoder": "test_resnet", "dim": D, "pyramid_width": 16, "decoder_width": 16, "pyramid_outputs": False}


def tiny(**changes: Any) -> PretrainConfig:
    settings: dict[str, Any] = {
        "images": Path("images"), "out": Path("out"), "steps": 10, "batch": B, "points": P, "queue": 96,
        "network": TINY, "views": {"size": SIZE}, "bn_groups": 1, "lr_encoder": 0.01, "lr_decoder": 0.01,
    }  # fmt: skip
    return PretrainConfig(**(settings | changes))


def moco(**changes: Any) -> PretrainConfig:
    return tiny(objective="moco", network=TINY | {"kind": "image"}, **changes)


def make_batch(seed: int = 0) -> Batch:
    """Smooth coloured pictures; view 2 is view 1 with other colours, so the matches are where the queries are."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(B, 3, 8, 8, generator=generator)
    first = F.interpolate(small, size=SIZE, mode="bicubic").clamp(0, 1)
    second = (first * 0.8 + 0.1 + 0.03 * torch.randn(first.shape, generator=generator)).clamp(0, 1)
    cells = torch.stack([torch.randperm(CELLS, generator=generator)[:P] for _ in range(B)])
    points = torch.stack([cells % (SIZE // 4), cells // (SIZE // 4)], 2) * 4 + 2.0
    return Batch(first, second, cells, points, torch.arange(B) + 100)


def make_learner(config: PretrainConfig, fabric: Fabric) -> Learner:
    return Learner(config, fabric, OBJECTIVES[config.objective])
