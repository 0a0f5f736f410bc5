"""Features in memory or in a file are the same features, and the stated limit holds."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from vader.datasets.example import Example
from vader.encoders import DenseEncoder, open_encoder
from vader.encoders.features import extract
from vader.encoders.store import Budget, Maps, Store, encode, fill, parse_memory
from vader.errors import BadInput
from vader.exams.labelled.segmentation import train_probe
from vader.finetuning.pixels import ProbeConfig
from vader.runtime.progress import Progress

SIDE = 48


def examples(count: int, seed: int = 0) -> list[Example]:
    """Pictures of two sizes in turn, with labels."""
    rng = np.random.default_rng(seed)
    sizes = [(SIDE, SIDE), (40, 60)]
    return [
        Example(str(i), rng.integers(0, 256, (*sizes[i % 2], 3), dtype=np.uint8),
                rng.integers(0, 3, sizes[i % 2]).astype(np.uint8))
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [0, 3000, 10**9])
def test_a_store_gives_back_what_it_got(limit: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3 + i, 5)).astype(np.float16) for i in range(30)]
    budget = Budget(limit)
    with Store(budget, tmp_path) as store:
        for i, array in enumerate(arrays):
            store.append(array)
            assert (store[i] == array).all(), "also between two appendings"
        assert len(store) == 30
        assert all((a == b).all() for a, b in zip(store, arrays, strict=True))
        assert (budget.spilled > 0) == (limit < 10**9)
        assert budget.held == (sum(one.nbytes for one in arrays) if limit == 10**9 else 0)
        assert budget.most <= limit
        assert os.listdir(tmp_path) == [], "its file has no name that a killed process could leave"
    assert budget.held == 0


def test_what_no_disk_holds_is_refused_before_it_is_written(tmp_path: Path) -> None:
    says = rf"{tmp_path}: expected room for about 1000000\.0 GB .* GB free; .*--memory"
    budget = Budget(500)
    with Store(budget, tmp_path, expected=10**12) as store, pytest.raises(BadInput, match=says):
        store.append(np.zeros(1000, np.uint8))
    assert (budget.spilled, budget.held) == (0, 0)
    # The first is small; when the memory is full, the others have shown how large they are.
    with Store(budget, tmp_path, expected=5 * 10**12) as store:
        store.append(np.zeros(0, np.uint8))
        store.append(np.zeros(400, np.uint8))
        with pytest.raises(BadInput, match=rf"about {5000 * 600 / 3:.1f} GB".replace(".", r"\.")):
            store.append(np.zeros(200, np.uint8))
    assert (budget.spilled, budget.held) == (0, 0)
    with Store(budget, tmp_path, expected=4) as store:
        for i in range(4):
            store.append(np.full(300, i, np.uint8))
        assert [one.sum() for one in store] == [0, 300, 600, 900]
    with Store(Budget(10**9), tmp_path, expected=10**5) as store:
        store.append(np.zeros(1000, np.uint8))  # all fit in memory


def test_memory_stays_below_the_limit_on_data_ten_times_larger(tmp_path: Path) -> None:
    """What Python holds and what the budget counts; a batch of features may come on top."""
    encoder = DenseEncoder("wide", 4, 64, lambda x: x[:, :1, ::4, ::4].repeat(1, 64, 1, 1))
    batch, picture = 4, 12 * 12 * 64 * 2
    limit = 20 * picture
    data = [
        Example(str(i), np.full((SIDE, SIDE, 3), i, np.uint8), np.zeros((SIDE, SIDE), np.uint8)) for i in range(200)
    ]
    budget = Budget(limit)
    with Store(budget, tmp_path) as truths, Store(budget, tmp_path) as cells:
        tracemalloc.start()
        fill(Maps(cells), truths, encode(encoder, data, batch=batch))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert budget.spilled > 9 * limit
        assert budget.most <= limit
        assert peak < limit + 3 * batch * picture + 200_000
        assert [float(one[0, 0, 0]) for one in Maps(cells)] == pytest.approx([i / 255 for i in range(200)], abs=1e-3)


def test_a_probe_learns_the_same_from_a_file(tmp_path: Path) -> None:
    weights = []
    for limit in (0, 10**9):
        budget = Budget(limit)
        with Store(budget, tmp_path) as truths, Store(budget, tmp_path) as cells:
            fill(Maps(cells), truths, encode(open_encoder("rgb"), examples(6)))
            weights.append(train_probe(Maps(cells), truths, 3, config=ProbeConfig(steps=20)).weight)
    assert torch.equal(*weights)


def test_maps_come_in_order_whatever_the_batch() -> None:
    encoder, data = open_encoder("rgb"), examples(7)
    alone = [extract(encoder, [one.image], dtype=torch.float16)[0] for one in data]
    for batch in (1, 3, 16):
        found = list(encode(encoder, data, batch=batch))
        assert [example.name for example, _ in found] == [one.name for one in data]
        assert all(torch.equal(a, b) for (_, a), b in zip(found, alone, strict=True))


def test_progress_says_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 20.0])
    monkeypatch.setattr("vader.runtime.progress.time.monotonic", lambda: next(clock))
    lines: list[str] = []
    progress = Progress("rgb, train: ", 40, lines.append)
    for _ in range(3):
        progress(10)
    assert lines == ["rgb, train: 20/40 images  2.0 images/s  ETA 0:00:10",
                     "rgb, train: 30/40 images  1.5 images/s  ETA 0:00:06"]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("4096", 4096)])
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "2GiB", "1e999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--memory: expected an amount such as 2GB"):
        parse_memory(text)


def test_by_default_half_of_what_is_free_is_taken() -> None:
    assert 10**7 < parse_memory(None) < 10**13
