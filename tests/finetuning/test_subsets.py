"""Nested subsets of a split: the field's counts, nesting, and refusals."""

import itertools

import numpy as np
import pytest

from vader.errors import BadInput
from vader.finetuning.subsets import SHARES, nested_subsets, subset_size


@pytest.mark.parametrize(
    ("count", "sizes"), [(10_582, [212, 529, 1058, 2116, 5291, 10_582]), (795, [16, 40, 80, 159, 398, 795])]
)
def test_sizes_are_those_of_the_papers_curves(count: int, sizes: list[int]) -> None:
    assert [subset_size(count, share) for share in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)] == sizes


def test_halves_go_up_whatever_their_binary_digits() -> None:
    assert [subset_size(10, share) for share in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55)] == [1, 2, 3, 4, 5, 6]
    assert subset_size(100, 0.145) == 15
    assert subset_size(3, 0.01) == 1, "never none"
    assert subset_size(7, 1) == 1, "a whole number is a number of pictures"
    assert subset_size(7, 1.0) == 7


def test_a_smaller_subset_is_part_of_each_larger_one() -> None:
    found = nested_subsets(200, [*SHARES, 3], seed=4)
    ordered = sorted(found.values(), key=len)
    assert [len(one) for one in ordered] == [2, 3, 4, 10, 20, 40, 100, 200]
    for small, large in itertools.pairwise(ordered):
        assert set(small) < set(large)
    for size, one in found.items():
        assert (np.diff(one) > 0).all(), "ascending, so none twice"
        assert (nested_subsets(200, [size], seed=4)[size] == one).all(), "whichever other sizes are asked for"


def test_every_picture_is_as_likely_as_any_other() -> None:
    chosen = np.zeros(20)
    for seed in range(2000):
        chosen[nested_subsets(20, [5], seed)[5]] += 1
    assert chosen == pytest.approx(500, abs=5 * np.sqrt(2000 * 0.25 * 0.75))


def test_names_choose_the_same_pictures_in_any_order() -> None:
    names = [f"picture-{i}" for i in range(30)]
    turned = names[::-1]
    for seed in range(3):
        some = {names[i] for i in nested_subsets(names, [7], seed)[7]}
        assert some == {turned[i] for i in nested_subsets(turned, [7], seed)[7]}
    assert some != {names[i] for i in nested_subsets(names, [7], 9)[7]}


@pytest.mark.parametrize("size", [0, -1, 31, 0.0, 1.5, float("nan"), True])
def test_sizes_that_the_split_does_not_have_are_refused(size: float | int) -> None:
    with pytest.raises(BadInput, match=r"up to 1\.0, or a number from 1 to 30"):
        nested_subsets(30, [size], 0)
