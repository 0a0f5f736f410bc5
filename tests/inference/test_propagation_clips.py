"""Masks into cells and out again, and clips: what propagation does with objects that come, go and return."""

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
from vader.inference.propagation import (
    PROTOCOLS,
    PropagationProtocol,
    Propagator,
    find_protocol,
    propagate_frames,
    propagate_maps,
)
from vader.inference.propagation.labels import cell_labels, pixel_labels, resized_mask, stretched

D = 4  # dimensions of the small maps


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("name", ["davis/dino", "davis/dinov3", "davis/uvc"])
def test_an_object_that_fills_the_frame_is_seen(name: str) -> None:
    """Stretched by its extremes it has none; rounding is no extreme."""
    for noise_of in (0.0, 3e-7):
        shares = torch.tensor([[0.0, 1.0]]).repeat(6 * 13, 1) - noise_of * torch.rand(6 * 13, 2)
        assert (pixel_labels(shares, (48, 104), (51, 110), 8, PROTOCOLS[name]) == 1).all()
    shares = torch.zeros(6 * 13, 2)
    shares[:40, 0] = 1
    assert not pixel_labels(shares, (48, 104), (48, 104), 8, PROTOCOLS[name]).any(), "one that is nowhere stays there"


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

    with pytest.raises(BadInput, match="masks: expected at least one"):
        go(frames, {})
    with pytest.raises(BadInput, match="frame 1: expected 64x64 px as the first frame, found 64x60"):
        go([frames[0], frames[0][:, :60]], {0: mask})
    with pytest.raises(BadInput, match=r"mask of frame 0: expected 64x64 px .* found 32x64"):
        go(frames, {0: mask[:32]})
    crowd = np.arange(64 * 64, dtype=np.int32).reshape(64, 64) % 300
    with pytest.raises(BadInput, match="at most 254 objects, found 298"):
        go(frames, {0: crowd})
    propagator = Propagator(p, stride=8, size=(64, 64))
    with pytest.raises(BadInput, match="frame 0: expected 8x8 cells at stride 8 for 64x64 px, found 8x7"):
        propagator.step(torch.zeros(3, 8, 7), mask)
    with pytest.raises(BadInput, match="expected finite features"):
        propagator.step(torch.full((3, 8, 8), torch.nan), mask)
