"""Propagation equals loops from the protocols' definitions, and does with real clips what is asked of it."""

import math
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vader.encoders import open_encoder
from vader.errors import BadInput
from vader.exams.propagation import (
    PROTOCOLS,
    PropagationProtocol,
    Propagator,
    affinity,
    carry,
    find_protocol,
    propagate_frames,
    propagate_maps,
    top_k,
)
from vader.exams.propagation.affinity import Box, tile_shape, tiles
from vader.exams.propagation.context import Context, Held
from vader.exams.propagation.labels import cell_labels, pixel_labels, resized_mask, stretched
from vader.exams.propagation.step import carry_frame

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
def test_ties_are_kept_or_cut(normalised, radius: float | None, ties: bool) -> None:
    """Features of few whole numbers, whose products are exact, so that many cells tie with the fifth."""
    maps = noise(4, 2, H, W).sign()
    first = noise(H * W, 3, seed=1).softmax(1)
    p = PropagationProtocol(
        similarity="dot", temperature=1.5, normalised=normalised, ties=ties, context=2, radius=radius
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
    assert p["davis/uvc"].similarity == "dot"
    assert {n for n in p if p[n].normalised == "per frame"} == {n for n in p if "timecycle" in n or "uvc" in n}
    with pytest.raises(BadInput, match=r"davis/crw, .*got 'davis'"):
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


# --- Masks in and out ---------------------------------------------------------------------------------------------


def mask_of(height: int, width: int, objects: int = 4, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).normal(size=(objects, 6, 9)).astype(np.float32)
    fields = np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in coarse])
    return fields.argmax(0).astype(np.uint8)


def test_nearest_labels_equal_pillow() -> None:
    """DINO brings the mask straight to the grid."""
    for height, width, size, stride in ((480, 854, (480, 832), 8), (480, 854, (480, 832), 16), (97, 61, (96, 64), 8)):
        mask = mask_of(height, width)
        found = cell_labels(mask, range(4), "nearest", size, stride)
        grid = Image.fromarray(mask).resize((size[1] // stride, size[0] // stride), Image.Resampling.NEAREST)
        assert (found.argmax(1).numpy() == np.array(grid).ravel()).all()
        assert (found.sum(1) == 1).all()
        assert (resized_mask(mask, size) == np.array(Image.fromarray(mask).resize(size[::-1], 0))).all()


def test_bilinear_labels_equal_opencv() -> None:
    """TimeCycle: to the square by nearest pixel, one map an object, each to the grid."""
    mask = mask_of(480, 854)
    square = np.array(Image.fromarray(mask).resize((480, 480), Image.Resampling.NEAREST))
    for stride in (4, 8):
        found = cell_labels(mask, range(4), "bilinear", (480, 480), stride).numpy()
        for number in range(4):
            one = cv2.resize((square == number).astype(np.float32), (480 // stride,) * 2)
            assert found[:, number] == pytest.approx(one.ravel(), abs=1e-4)


def test_area_labels_are_shares_of_a_cell() -> None:
    mask = mask_of(22, 30)
    found = cell_labels(mask, range(4), "area", (22, 30), 4).numpy().reshape(6, 8, 4)
    for i in range(6):
        for j in range(8):
            cell = mask[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert found[i, j] == pytest.approx([(cell == number).mean() for number in range(4)])


def norm_by_loops(maps: np.ndarray) -> np.ndarray:
    return np.stack([(one - one.min()) / (one - one.min()).max() for one in maps])


def test_masks_come_out_as_each_protocol_has_it() -> None:
    shares = noise(6 * 13, 4).mul(0.4).softmax(1)
    grid = shares.T.reshape(1, 4, 6, 13)
    large = F.interpolate(grid, scale_factor=8, mode="bilinear", align_corners=False)[0].numpy()
    size, out = (48, 104), (51, 110)

    def nearest(mask: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(mask.astype(np.uint8)).resize(out[::-1], Image.Resampling.NEAREST))

    def found(name: str) -> np.ndarray:
        return pixel_labels(shares, size, out, 8, PROTOCOLS[name])

    assert (found("davis/dino") == nearest(norm_by_loops(large).argmax(0))).all()
    assert (found("davis/crw") == nearest(large.argmax(0))).all()
    small = norm_by_loops(grid[0].numpy()).argmax(0)
    assert (found("davis/dinov3") == nearest(small)).all()
    assert (found("davis/dino") != found("davis/crw")).any()
    small = stretched(shares).numpy().T
    assert small == pytest.approx(norm_by_loops(shares.numpy().T), abs=1e-6)
    assert not stretched(torch.full((5, 1), 0.3)).any(), "an object that is the same everywhere is nowhere"


# --- Clips --------------------------------------------------------------------------------------------------------


def squares(*places: tuple[int, int, int], size: int = 64) -> np.ndarray:
    """A mask of 16 x 16 px squares, (label, row, column) each."""
    mask = np.zeros((size, size), dtype=np.uint8)
    for label, row, column in places:
        mask[row : row + 16, column : column + 16] = label
    return mask


def overlap(found: np.ndarray, expected: np.ndarray, label: int) -> float:
    """Intersection over union."""
    return float(((found == label) & (expected == label)).sum() / ((found == label) | (expected == label)).sum())


def ideal_map(shown: np.ndarray, labels: tuple[int, ...]) -> Tensor:
    """What the cells show, as features at stride 8."""
    planes = torch.from_numpy(np.stack([shown == label for label in labels])).float()
    return F.normalize(F.avg_pool2d(planes[None], 8)[0] + 1e-3, dim=0)


def run(maps: list[Tensor], masks: dict[int, np.ndarray], p: PropagationProtocol, **more: int | None) -> np.ndarray:
    return np.stack(list(propagate_maps(maps, masks, Propagator(p, stride=8, size=(64, 64), **more))))


EVERYWHERE = PropagationProtocol(radius=None, label_in="nearest", context=2)


def test_an_object_that_vanishes_and_returns_is_found() -> None:
    shown = [squares((3, 8, 8 * i)) if i in (0, 1, 6) else squares() for i in range(7)]
    found = run([ideal_map(one, (0, 3)) for one in shown], {0: shown[0]}, EVERYWHERE)
    assert not found[2:6].any()
    assert overlap(found[6], shown[6], 3) > 0.8, "longer away than the context is long"


def test_later_masks_add_objects_and_move_no_others() -> None:
    shown = [squares((2, 0, 8 * i), (5, 40, 16)) for i in range(6)]
    maps = [ideal_map(one, (0, 2, 5)) for one in shown]
    later = np.where(shown[2] == 5, 5, 0).astype(np.uint8)
    later[32:40] = 2  # known, so that the mask has no say in it
    found = run(maps, {0: squares((2, 0, 0)), 2: later}, EVERYWHERE)
    assert not (found[:2] == 5).any()
    assert ((found[2] == 5) == (shown[2] == 5)).all(), "as given"
    for t in range(1, 6):
        assert overlap(found[t], shown[t], 2) > 0.8
        assert overlap(found[t], shown[t], 5) > 0.8 or t == 1, "though its first frame has left the context"
    late = run(maps, {2: shown[2]}, EVERYWHERE)
    assert not late[:2].any(), "nothing is known before the first mask"
    assert (late[2] == shown[2]).all()
    assert min(overlap(late[5], shown[5], label) for label in (2, 5)) > 0.8


def test_void_is_background() -> None:
    first = squares((4, 8, 8), (255, 40, 40))
    maps = [ideal_map(first, (0, 4, 255))] * 3
    assert set(np.unique(run(maps, {0: first}, EVERYWHERE))) == {0, 4}
    assert set(np.unique(run(maps, {0: first}, EVERYWHERE, void=None))) == {0, 4, 255}


def test_objects_of_few_pixels_are_dropped() -> None:
    first = squares((4, 8, 8))
    first[40, 40:50] = 7  # 10 pixels
    kept = first.copy()
    kept[40, 50] = 7
    p = replace(find_protocol("davis/timecycle-480"), resize="native", fed_back="raw")
    maps = [ideal_map(first, (0, 4, 7))] * 2
    sizes = []
    for mask in (first, kept):
        propagator = Propagator(p, stride=8, size=(64, 64))
        list(propagate_maps(maps, {0: mask}, propagator))
        assert propagator.ids is not None
        sizes.append(propagator.ids.tolist())
    assert sizes == [[0, 4], [0, 4, 7]]


def test_a_clip_goes_on_where_it_was_stopped() -> None:
    for name in ("davis/dino", "davis/crw"):
        p = replace(PROTOCOLS[name], resize="native", context=2)
        maps = [F.normalize(noise(D, 8, 8, seed=i), dim=0) for i in range(8)]
        masks = {0: squares((1, 8, 8)), 3: squares((9, 40, 0))}
        whole = run(maps, masks, p)
        for stop in (1, 4, 6):
            first, second = (Propagator(p, stride=8, size=(64, 64)) for _ in range(2))
            before = [first.step(one, masks.get(i)) for i, one in enumerate(maps[:stop])]
            second.restore({name: tensor.clone() for name, tensor in first.state().items()})
            after = [second.step(one, masks.get(stop + i)) for i, one in enumerate(maps[stop:])]
            assert (np.stack(before + after) == whole).all()


def test_masks_leave_one_by_one_and_old_frames_are_let_go() -> None:
    alive: list[weakref.ref] = []

    def maps() -> Iterator[Tensor]:
        for i in range(12):
            yield F.normalize(noise(D, 8, 8, seed=i), dim=0)

    propagator = Propagator(replace(EVERYWHERE, context=3), stride=8, size=(64, 64))
    for count, _ in enumerate(propagate_maps(maps(), {0: squares((1, 8, 8))}, propagator)):
        alive.append(weakref.ref(propagator.context.recent[-1].keys))
        assert sum(one() is not None for one in alive) <= min(count + 1, 1 + 3)
        assert propagator.count == count + 1, "a mask waits for no later frame"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pictures_in_masks_out(name: str) -> None:
    """A red square on its way over blue, raw colours; frames of odd size."""
    frames, truth = [], []
    for i in range(4):
        truth.append(squares((7, 16, 10 + 3 * i), size=70)[:66])
        frames.append(np.where(truth[-1][..., None] == 7, (220, 30, 20), (20, 40, 200)).astype(np.uint8))
    p = PROTOCOLS[name]
    p = replace(p, side=64 if p.resize == "short-stride" else 128 if p.side else None)
    p = replace(p, radius=p.radius and 16.0, temperature=min(p.temperature, 0.1))
    found = list(propagate_frames(open_encoder("rgb"), iter(frames), {0: truth[0]}, p))
    for mask, expected in zip(found, truth, strict=True):
        assert mask.shape == expected.shape
        assert mask.dtype == np.uint8
        assert overlap(mask, expected, 7) > 0.6, name


def test_bad_clips_are_refused() -> None:
    encoder, p = open_encoder("rgb"), PropagationProtocol()
    frames = [np.zeros((64, 64, 3), dtype=np.uint8)] * 3
    mask = squares((1, 8, 8))

    def go(frames: list[np.ndarray], masks: dict[int, np.ndarray]) -> None:
        list(propagate_frames(encoder, frames, masks, p))

    with pytest.raises(BadInput, match="expected one for the first frame at least, got none"):
        go(frames, {})
    with pytest.raises(BadInput, match="frame 1: expected 64x64 px as the first frame, got 64x60"):
        go([frames[0], frames[0][:, :60]], {0: mask})
    with pytest.raises(BadInput, match=r"mask of frame 0: expected 64x64 px .* got 32x64"):
        go(frames, {0: mask[:32]})
    crowd = np.arange(64 * 64, dtype=np.int32).reshape(64, 64) % 300
    with pytest.raises(BadInput, match="at most 254 objects, got 298"):
        go(frames, {0: crowd})
    propagator = Propagator(p, stride=8, size=(64, 64))
    with pytest.raises(BadInput, match="frame 0: expected 8x8 cells at stride 8 for 64x64 px, got 8x7"):
        propagator.step(torch.zeros(3, 8, 7), mask)
    with pytest.raises(BadInput, match="expected finite features"):
        propagator.step(torch.full((3, 8, 8), torch.nan), mask)
