"""Hummingbird on the map's own cells, by hand; and what its reports say of published numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vader.exams.labelled.neighbours import neighbours_segmentation
from vader.exams.protocols import PROTOCOLS, constants, find_protocol

CELLS, STRIDE, K = 36, 4, 3  # a side, more than the 32 to which maps are pooled; pixels; classes
SIDE = CELLS * STRIDE


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A map (h, w, C) of noise over smooth waves, and labels that follow the waves, some of them void."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.stack([np.sin(a * x + b * y + c) for a, b, c in rng.uniform(2, 9, (K, 3))], 2)
    labels = waves.argmax(2)
    labels[rng.random(labels.shape) < 0.1] = 255
    cells = waves.reshape(CELLS, STRIDE, CELLS, STRIDE, K).mean((1, 3))
    return cells + rng.normal(0, 0.3, cells.shape), labels.astype(np.uint8)


def confusion_by_hand(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The vote of the 30 nearest cells for each cell, read bilinearly at each pixel."""
    keys, queries = (
        one.reshape(-1, K) / np.linalg.norm(one.reshape(-1, K), axis=1)[:, None] for one in (train[0], test[0])
    )
    soft = np.zeros((CELLS, CELLS, K))
    for i in range(CELLS):
        for j in range(CELLS):
            block = train[1][STRIDE * i : STRIDE * (i + 1), STRIDE * j : STRIDE * (j + 1)]
            soft[i, j] = [(block == k).sum() / (block != 255).sum() for k in range(K)]
    votes = np.zeros((CELLS * CELLS, K))
    for n, query in enumerate(queries):
        similar = keys @ query
        best = np.argsort(-similar)[:30]
        weights = np.exp(similar[best] / 0.02 - similar[best].max() / 0.02)
        votes[n] = weights @ soft.reshape(-1, K)[best] / weights.sum()
    at = np.clip((np.arange(SIDE) + 0.5) / STRIDE - 0.5, 0, CELLS - 1)  # of pixels' centres, in cells
    low, share = np.floor(at).astype(int), at - np.floor(at)
    high = np.minimum(low + 1, CELLS - 1)
    rows = votes.reshape(CELLS, CELLS, K)
    rows = rows[low] * (1 - share)[:, None, None] + rows[high] * share[:, None, None]
    called = (rows[:, low] * (1 - share)[:, None] + rows[:, high] * share[:, None]).argmax(2)
    total = np.zeros((K, K), int)
    for truth, found in zip(test[1].ravel(), called.ravel(), strict=True):
        if truth != 255:
            total[truth, found] += 1
    return total


def test_the_full_grid_votes_cell_by_cell() -> None:
    train, test = picture(0), picture(1)
    maps = [torch.from_numpy(one[0].transpose(2, 0, 1).copy()).float() for one in (train, test)]

    def confusion(name: str) -> np.ndarray:
        protocol = replace(find_protocol("neighbours", name), features="float32")
        return neighbours_segmentation([maps[0]], [train[1]], [maps[1]], [test[1]], K, protocol=protocol).confusion

    expected = confusion_by_hand(train, test)
    assert np.abs(confusion("voc/hummingbird-full") - expected).sum() <= 4, "pixels between two classes"
    assert np.abs(confusion("voc/hummingbird") - expected).sum() > 100, "pooled, it is another exam"


def test_the_full_grid_differs_in_nothing_else() -> None:
    full, pooled = (find_protocol("neighbours", f"voc/hummingbird{end}") for end in ("-full", ""))
    assert replace(full, name=pooled.name, cells=pooled.cells) == pooled
    assert full.cells is None


@pytest.mark.parametrize("name", [name for task, name in PROTOCOLS if task == "neighbours"])
def test_each_protocol_says_that_published_numbers_are_others(name: str) -> None:
    told = constants(find_protocol("neighbours", name))
    assert "not comparable with published" in told["note"]
    assert f"{told['keys']:,} keys" in told["note"], "its own memory"
    assert "one pass" in told["note"]
    assert "10,240,000 keys of two augmented epochs" in told["note"], "theirs"
