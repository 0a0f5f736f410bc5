"""Propagation equals loops from the protocols' definitions, and does with real clips what is asked of it."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vader.errors import BadInput
from vader.inference.propagation import PROTOCOLS, PropagationProtocol, affinity, carry, find_protocol, top_k
from vader.inference.propagation.affinity import Box, tile_shape, tiles
from vader.inference.propagation.context import Context, Held
from vader.inference.propagation.step import carry_frame

H, W, T, D = 5, 6, 6, 4  # cells, frames, dimensions of the small clips


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- The loops ----------------------------------------------------------------------------------------------------


def near(p: PropagationProtocol, y: int, x: int, stride: int, whole: bool) -> bool:
    if p.radius is None or whole:
        return True
    far = math.hypot(y, x) if p.shape == "disk" else max(abs(y), abs(x))
    return far * stride <= p.radius if p.rim else far * stride < p.radius


def chosen(found: list[tuple[float, int, int]], p: PropagationProtocol) -> list[tuple[float, int, int]]:
    found = sorted(found, key=lambda one: -one[0])
    if len(found) <= p.top_k:
        return found
    return [one for one in found if one[0] >= found[p.top_k - 1][0]] if p.ties else found[: p.top_k]


def one_frame(maps: np.ndarray, labels: list[np.ndarray], t: int, p: PropagationProtocol, stride: int) -> np.ndarray:
    """Labels (hw, O) of frame t by the table of protocols, cell by cell; maps (T, hw, D)."""
    if p.padded:
        frames = [0, *(max(0, u) for u in range(t - p.context, t))]
    else:
        frames = [0, *range(max(1, t - p.context), t)]
    result = np.zeros_like(labels[0])
    for cell in range(H * W):
        i, j = divmod(cell, W)
        per_frame: list[list[tuple[float, int, int]]] = []
        for slot, frame in enumerate(frames):
            whole = slot == 0 and not p.restrict_first
            some = []
            for other in range(H * W):
                y, x = divmod(other, W)
                if near(p, y - i, x - j, stride, whole):
                    some.append((float(maps[t, cell] @ maps[frame, other]), frame, other))
            per_frame.append(some)
        if p.normalised == "jointly":
            picked = chosen([one for some in per_frame for one in some], p)
            weights = [math.exp(one[0] / p.temperature) for one in picked]
            total = sum(weights)
        else:
            picked, weights = [], []
            for some in per_frame:
                norm = sum(math.exp(one[0] / p.temperature) for one in some)
                mine = chosen(some, p)
                picked += mine
                weights += [math.exp(one[0] / p.temperature) / norm for one in mine]
            total = len(frames)
        for weight, (_, frame, other) in zip(weights, picked, strict=True):
            result[cell] += weight / total * labels[frame][other]
    if p.fed_back == "stretched":
        for column in range(result.shape[1]):
            result[:, column] -= result[:, column].min()
            result[:, column] /= result[:, column].max()
    return result


def by_loops(maps: Tensor, first: Tensor, p: PropagationProtocol, stride: int) -> np.ndarray:
    flat = maps.double().flatten(2).transpose(1, 2).numpy()
    labels = [first.double().numpy()]
    for t in range(1, len(maps)):
        labels.append(one_frame(flat, labels, t, p, stride))
    return np.stack(labels)


def by_the_package(maps: Tensor, first: Tensor, p: PropagationProtocol, stride: int, chunk: int) -> np.ndarray:
    context, found = Context(p), [first]
    for number, one in enumerate(maps):
        keys = one.permute(1, 2, 0).contiguous()
        if number:
            found.append(context.carry_to(keys, stride, chunk))
        context.add(Held(keys, found[-1], number), given=number == 0)
    return torch.stack(found).numpy()


# --- Affinity, top-k, labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 64, 100, 128, 640, 64 * 90])
@pytest.mark.parametrize("k", [1, 5, 11])
def test_top_k_in_groups_equals_sorting(count: int, k: int) -> None:
    similar = noise(13, count, seed=count)
    values, which = top_k(similar, k)
    order = np.argsort(-similar.numpy(), axis=1)[:, :k]
    assert (which.numpy() == order).all()
    assert (values == similar.gather(1, which)).all()


def test_top_k_finds_equal_values_too() -> None:
    similar = torch.zeros(2, 640)
    similar[1, 7:500:70] = 1.0
    values, which = top_k(similar, 9)
    assert values.tolist() == [[0.0] * 9, [1.0] * 8 + [0.0]]
    assert all(len(set(row)) == 9 for row in which.tolist())
    assert (similar.gather(1, which) == values).all()


def test_affinity_and_carry_by_loops() -> None:
    queries, keys, bias = noise(4, 3), noise(6, 3, seed=1), noise(4, 6, seed=2)
    found = affinity(queries, keys, bias)
    labels, weights = noise(6, 2, seed=3), noise(4, 2, seed=4)
    which = torch.tensor([[0, 5], [1, 1], [2, 0], [4, 3]])
    carried = carry(labels, weights, which)
    for n in range(4):
        for m in range(6):
            product = sum(float(queries[n, d] * keys[m, d]) for d in range(3))
            assert float(found[n, m]) == pytest.approx(product + float(bias[n, m]), abs=1e-5)
            assert float(affinity(queries, keys)[n, m]) == pytest.approx(product, abs=1e-5)
        for o in range(2):
            expected = sum(float(weights[n, k] * labels[which[n, k], o]) for k in range(2))
            assert float(carried[n, o]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 16, 1000])
@pytest.mark.parametrize("bounded", [True, False])
def test_tiles_cover_every_cell_once(chunk: int, bounded: bool) -> None:
    rows, columns = tile_shape(11, chunk, bounded)
    assert rows * columns <= chunk
    seen = torch.cat([tile.cells(11, torch.device("cpu")) for tile in tiles(7, 11, rows, columns)])
    assert sorted(seen.tolist()) == list(range(77))
    assert Box(0, 2, 3, 5).cells(11, torch.device("cpu")).tolist() == [3, 4, 14, 15]


# --- Protocols ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_equals_loops(name: str, chunk: int) -> None:
    """With its context and its radius cut down so that both bind, on unlike features."""
    whole = find_protocol(name)
    p = replace(whole, context=3, radius=None if whole.radius is None else 16.0)
    maps = noise(T, D, H, W)
    maps = maps if p.similarity == "dot" else F.normalize(maps, dim=1)
    first = noise(H * W, 3, seed=1).softmax(1)
    found = by_the_package(maps, first, p, 8, chunk)
    assert found == pytest.approx(by_loops(maps, first, p, 8), abs=2e-5)
    assert np.abs(found[1] - found[0]).max() > 0.05, "else a protocol that does nothing would pass"


@pytest.mark.parametrize("normalised", ["jointly", "per frame"])
@pytest.mark.parametrize("radius", [None, 8.0])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_ties_are_kept_or_cut(normalised, radius: float | None, ties: bool, padded: bool) -> None:
    """Features of few whole numbers, whose products are exact, so that many cells tie with the fifth."""
    maps = noise(4, 2, H, W).sign()
    first = noise(H * W, 3, seed=1).softmax(1)
    p = PropagationProtocol(
        similarity="dot", temperature=1.5, normalised=normalised, ties=ties, context=2, radius=radius, padded=padded
    )
    found = by_the_package(maps, first, p, 8, 1000)
    expected = by_loops(maps, first, replace(p, ties=True), 8)
    assert (np.abs(found[1:] - expected[1:]).max() < 1e-5) == ties, "cutting ties gives something else"


def test_products_beyond_what_exp_holds() -> None:
    """exp(89) is beyond float32; the loops compute in float64, which holds up to exp(709)."""
    maps = 8 * noise(3, D, H, W)
    assert float((maps[0].flatten(1).T @ maps[1].flatten(1)).max()) > 200
    first = noise(H * W, 2, seed=1).softmax(1)
    p = replace(find_protocol("davis/uvc"), context=2)
    assert by_the_package(maps, first, p, 8, 1000) == pytest.approx(by_loops(maps, first, p, 8), abs=1e-4)


def test_fewer_neighbours_than_k() -> None:
    """A radius of 0 leaves one cell of each context frame."""
    maps = F.normalize(noise(3, D, H, W), dim=1)
    first = noise(H * W, 2, seed=1).softmax(1)
    for normalised in ("jointly", "per frame"):
        p = PropagationProtocol(radius=0.0, ties=True, normalised=normalised)
        assert by_the_package(maps, first, p, 8, 1000) == pytest.approx(by_loops(maps, first, p, 8), abs=1e-5)


def test_large_maps_equal_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups, many tiles, and fewer similarities at once than a tile has, against one softmax over all."""
    h, w, frames = 24, 31, 3
    maps = F.normalize(noise(frames + 1, h, w, 8), dim=3)
    labels = noise(frames, h * w, 3, seed=1).softmax(2)
    for radius, shape in ((None, "square"), (40.0, "square"), (44.0, "disk")):
        p = PropagationProtocol(top_k=5, temperature=0.1, radius=radius, shape=shape)
        similar = maps[0].flatten(0, 1) @ maps[1:].flatten(0, 2).T
        y, x = np.divmod(np.arange(h * w), w)
        dy, dx = y[:, None] - y, x[:, None] - x
        far = np.hypot(dy, dx) if shape == "disk" else np.maximum(abs(dy), abs(dx))
        inside = torch.from_numpy(far <= (math.inf if radius is None else radius / 8)).repeat(1, frames)
        values, which = similar.masked_fill(~inside, -torch.inf).topk(5, dim=1)
        expected = torch.einsum("nk,nko->no", (values / 0.1).softmax(1), labels.flatten(0, 1)[which])
        for at_once in (1 << 21, 5000):
            monkeypatch.setattr(sys.modules[Box.__module__], "AT_ONCE", at_once)
            found = carry_frame(maps[0], list(maps[1:]), labels, [False] * frames, p, 8)
            assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_constants_of_the_table() -> None:
    """What the table of published protocols says, written down a second time."""
    p = PROTOCOLS
    assert set(p) == {f"davis/{name}" for name in ("timecycle-320", "timecycle-480", "crw", "dino", "dinov3", "uvc")}
    assert [p[n].temperature for n in sorted(p)] == [0.05, 0.1, 0.2, 0.07, 0.07, 1.0]
    assert [p[n].top_k for n in sorted(p)] == [10, 5, 5, 5, 5, 5]
    assert [p[n].context for n in sorted(p)] == [20, 7, 7, 7, 7, 7]
    assert [p[n].radius for n in sorted(p)] == [96, 96, 192, None, None, None]
    assert [p[n].shape for n in sorted(p)][:3] == ["disk", "square", "disk"]
    assert [p[n].rim for n in sorted(p)][:3] == [False, True, True]
    assert [p[n].restrict_first for n in sorted(p)][:3] == [False, True, True]
    assert [p[n].label_in for n in sorted(p)] == ["bilinear", *["nearest"] * 2, *["bilinear"] * 2, "nearest"]
    assert [p[n].fed_back for n in sorted(p)] == [*["raw"] * 3, *["stretched"] * 2, "raw"]
    assert [p[n].label_out for n in sorted(p)] == ["bilinear", "bilinear", "nearest", *["bilinear"] * 3]
    assert [p[n].stretched_out for n in sorted(p)] == [False, True, True, False, False, True]
    assert [p[n].padded for n in sorted(p)] == [True, False, False, True, True, False]
    assert [p[n].ties for n in sorted(p)] == [False, True, True, False, False, True]
    assert [p[n].interpolation == "bicubic" for n in sorted(p)] == [False, False, True, False, False, False]
    assert p["davis/uvc"].similarity == "dot"
    assert {n for n in p if p[n].normalised == "per frame"} == {n for n in p if "timecycle" in n or "uvc" in n}
    with pytest.raises(BadInput, match=r"davis/crw, .*found 'davis'"):
        find_protocol("davis")
    assert p["davis/dino"].facts()["radius"] == 96


@pytest.mark.parametrize(
    ("name", "stride", "expected", "upright"),
    [
        ("timecycle-320", 4, (320, 320), (320, 320)),
        ("timecycle-480", 8, (480, 480), (480, 480)),
        ("crw", 8, (480, 854), (854, 480)),
        ("dino", 8, (480, 832), (832, 480)),
        ("uvc", 8, (480, 832), (832, 480)),
        ("dinov3", 16, (960, 1712), (1712, 960)),
        ("dinov3", 14, (966, 1708), (1708, 966)),
    ],
)
def test_frames_are_resized(name: str, stride: int, expected: tuple, upright: tuple) -> None:
    p = PROTOCOLS[f"davis/{name}"]
    assert p.size(480, 854, stride) == expected
    assert p.size(854, 480, stride) == upright
    assert p.resized(np.zeros((480, 854, 3), dtype=np.uint8), stride).shape[:2] == expected


def test_protocols_that_make_no_sense() -> None:
    with pytest.raises(BadInput, match="expected `side`"):
        PropagationProtocol(resize="square")
    for wrong in ({"temperature": 0.0}, {"top_k": 0}, {"context": -1}, {"radius": -1.0}):
        with pytest.raises(BadInput, match="expected temperature > 0"):
            PropagationProtocol(**wrong)
