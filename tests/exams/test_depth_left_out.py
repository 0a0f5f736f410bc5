"""Depths that are not scored are counted and told; and intervals that few pictures cannot give are left out."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled import make_nyu

from vader.datasets.opening import open_labelled
from vader.errors import BadInput
from vader.exams.labelled import depth
from vader.exams.results import FEWEST, Measure, Result, difference_table, differences, resampled, result_table
from vader.finetuning.pixels import LinearProbe

RMSE = Measure("RMSE", "m", "lower", 3)


def known(valid: int, unknown: int, broken: int, beyond: int) -> dict[str, int]:
    return {"valid": valid, "unknown": unknown, "not finite": broken, "beyond 10 m": beyond}


def test_pixels_are_counted_by_what_keeps_them_from_being_scored() -> None:
    one = np.array([[1, 2, 3, 10, 10.01, 40, 0, 0, np.nan, np.inf, -np.inf, -1]], np.float32)
    assert depth.count_pixels(one, 10) == known(4, 3, 3, 2)
    assert depth.count_pixels(one) == {"valid": 6, "unknown": 3, "not finite": 3}


def test_a_score_has_the_counts_of_all_pictures() -> None:
    depths = [np.full((8, 8), 2, np.float32) for _ in range(3)]
    depths[0][0], depths[1][0, :2], depths[2][1, :3] = 12, 0, np.nan
    probes = [LinearProbe(torch.zeros(1, 2), torch.ones(1))] * 2
    scores = depth.score_probes(
        probes, zip([torch.zeros(2, 2, 2)] * 3, depths, strict=True), farthest=10.0, crops=(None, (0, 240, 0, 640))
    )
    for one in scores[0] + scores[1]:
        assert one.pixels == known(3 * 64 - 13, 2, 3, 8)
    assert scores[0][0].pooled_rmse == pytest.approx(1), "none of them is scored"


def test_a_mat_file_s_broken_numbers_can_be_told_from_holes(tmp_path: Path) -> None:
    make_nyu(tmp_path)
    found = open_labelled("nyu", tmp_path, "train")[1].depth
    assert found is not None
    assert depth.count_pixels(found, 10) == known(40 * 32 - 4, 2, 2, 0)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (known(980, 500, 0, 20), "1.3 % are beyond 10 m"),
        (known(900, 0, 60, 40), "6.0 % are not finite and 4.0 % are beyond 10 m"),
        (known(991, 0, 0, 9), ""),
        (known(10, 990, 0, 0), ""),
        ({}, ""),
    ],
)
def test_many_are_told_under_the_table(pixels: dict[str, int], says: str) -> None:
    result = Result("one", {RMSE: [1.0]}, np.ones((1, 6)), {}, {}, pixels=pixels)
    note = result_table("Results", [result], "A note.").note
    assert note.startswith("A note.")
    assert (says in note) if says else note == "A note."


@pytest.mark.parametrize("subsets", [None, [[0, 1], [2, 3]]])
def test_depths_out_of_reach_are_refused_as_depths(subsets: list[list[int]] | None) -> None:
    """Each head's own pictures count, and metres are named."""
    depths = [np.full((8, 8), 4000 if i > 1 or subsets is None else 4, np.float32) for i in range(4)]
    count = 4 if subsets is None else 2
    with pytest.raises(BadInput, match=f"depths: expected some up to 10 m .* found none in {count} pictures"):
        depth.train_probes(
            [torch.randn(2, 2, 2)] * 4, depths, seeds=[0, 1], configs=[depth.ProbeConfig(steps=1)] * 2,
            subsets=subsets, farthest=10.0,
        )  # fmt: skip


# --- Intervals ------------------------------------------------------------------------------------------------------


def table(first: np.ndarray, second: np.ndarray, kind: str = ""):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = differences(["a", "b"], [2.0, 1.0], [resampled(first), resampled(second)])
    return difference_table(RMSE.column, found, first.shape[1], kind)


@pytest.mark.parametrize("shown", [1, FEWEST - 1, FEWEST])
@pytest.mark.parametrize("counts", [False, True])
def test_few_pictures_give_no_interval(shown: int, counts: bool) -> None:
    """Pictures with nothing to score do not make them more."""
    rng = np.random.default_rng(0)
    first, second = (
        (rng.integers(1, 9, (2, 9, 3, 4)) if counts else rng.uniform(1, 2, (2, 9))).astype(np.float64) for _ in range(2)
    )
    for one in (first, second):
        one[:, shown:] = 0 if counts else np.nan
    found = table(first, second, "camvid")
    value, low, high = (cell.mean for cell in found.rows[0].cells)
    assert value == 1
    if shown < FEWEST:
        assert (low, high) == (None, None)
        assert f"fewer than {FEWEST} pictures" in found.note
        assert "bootstrap" not in found.note
    else:
        assert low is not None
        assert high is not None
        assert low < high
        assert "bootstrap" in found.note


def test_videos_are_told() -> None:
    errors = np.random.default_rng(0).uniform(1, 2, (1, 9))
    for kind, told in (("camvid", True), ("rgbd", True), ("voc", False)):
        assert ("video" in table(errors, errors + 0.1, kind).note) is told
