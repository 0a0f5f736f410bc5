"""Whether float16 keeps what features say, and channels that say nothing, whatever the features' scale."""

import numpy as np
import pytest
import torch
from fields import noise

from vader.encoders.features import LOST, lost_in_half
from vader.finetuning.pixels import standard_of

MAPS = [noise((3, 9, 8), seed) for seed in range(4)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x, ""),
        (lambda x: 1e-3 * x, ""),
        (lambda x: x + 30, ""),
        (lambda x: 3e-7 * x, "lose 3 of 3 channels to rounding"),
        (lambda x: 1e-12 * x, "lose 3 of 3 channels to rounding"),  # all of it is 0
        (lambda x: x + 1000, "lose 3 of 3 channels to rounding"),
        (lambda x: x + torch.tensor([0.0, 1000, 0]).view(3, 1, 1), "lose 1 of 3 channels to rounding"),
        (lambda x: torch.cat([x, torch.full_like(x, 999.9)]), ""),  # constant: nothing to lose
        (lambda x: torch.cat([x, 1e-9 * x]), ""),  # what float32's own rounding leaves of a dead channel
        (lambda x: 1e5 * x, "overflow"),
    ],
)
def test_what_float16_would_do(change, says: str) -> None:
    assert lost_in_half(change(one) for one in MAPS) == says


def test_the_loss_is_the_rounding_s_share_of_the_variance() -> None:
    """Of channels ever farther from 0, by numpy; the farthest that is kept is just below the limit."""
    means = np.linspace(10, 300, 60)
    values = np.random.default_rng(0).normal(size=(60, 500)) + means[:, None]
    values = values.astype(np.float32)
    wrong = (values.astype(np.float16).astype(np.float64) - values).var(1)
    expected = int((wrong > LOST * values.astype(np.float64).var(1)).sum())
    assert 10 < expected < 55
    assert lost_in_half([torch.from_numpy(values).view(60, 20, 25)]) == f"lose {expected} of 60 channels to rounding"


def test_an_overflow_between_the_cells_that_are_looked_at_is_seen() -> None:
    large = torch.zeros(1, 64, 64)
    large[0, 0, 1] = 1e5
    assert lost_in_half([MAPS[0][:1], large]) == "overflow"


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6])
def test_standardised_channels_do_not_know_their_scale(scale: float) -> None:
    maps = [scale * torch.cat([one, torch.full_like(one[:1], 0.1), 1e-9 * one[:1]]) for one in MAPS]
    standard = standard_of(maps)
    rows = standard(torch.cat([one.flatten(1).T for one in maps]))
    assert rows.std(0, correction=0).tolist() == pytest.approx([1, 1, 1, 0, 0], abs=1e-4)
    assert rows.mean(0).tolist() == pytest.approx([0] * 5, abs=1e-4)
