"""Finding points again, against loops; pairs whose truth is known in closed form; labelled sets of pairs on disk."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled import picture, put, text
from samples import shared

from vader.datasets.coco import open_animal_keypoints
from vader.datasets.posed import carry_points, open_posed
from vader.errors import BadInput
from vader.exams.pairs import PROTOCOLS, WarpProtocol, by_pair, ceiling, chance, draw_warp, view_of, warp_points
from vader.images.finding import find
from vader.images.geometry import cell_centres

WARP = PROTOCOLS["warp-pck"]


def maps(seed: int, h: int, w: int, channels: int = 6) -> torch.Tensor:
    made = torch.randn((channels, h, w), generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(F.pad(made[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    return F.normalize(smooth, dim=0)


# --- Finding ------------------------------------------------------------------------------------------------------


def read_slowly(one: np.ndarray, x: float, y: float, stride: int) -> np.ndarray:
    """Bilinear between cells' centres; beyond them the outermost."""
    _, h, w = one.shape
    column, row = min(max(x / stride - 0.5, 0), w - 1), min(max(y / stride - 0.5, 0), h - 1)
    total = np.zeros(len(one))
    for j in range(w):
        for i in range(h):
            total += one[:, i, j] * max(0, 1 - abs(column - j)) * max(0, 1 - abs(row - i))
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("stride", [4, 8, 14])
def test_all_ways_of_finding_equal_loops(stride: int) -> None:
    first, second = maps(0, 7, 9), maps(1, 8, 6)
    a, b = first.numpy().astype(float), second.numpy().astype(float)
    points = np.random.default_rng(0).uniform(0, [9 * stride, 7 * stride], (60, 2))
    points[0], points[1] = (0, 0), (9 * stride, 7 * stride)  # the corners
    found = find(first, second, points, stride, temperature=0.1, window=1)
    for n, (x, y) in enumerate(points):
        query = read_slowly(a, x, y, stride)
        best, where = -2.0, (0, 0)
        for i, j in itertools.product(range(8), range(6)):
            if (likeness := float(query @ b[:, i, j])) > best:
                best, where = likeness, (i, j)
        i, j = where
        assert found.cells[n] == i * 6 + j
        assert found.points[n].tolist() == [(j + 0.5) * stride, (i + 0.5) * stride]
        back = max(itertools.product(range(7), range(9)), key=lambda at: b[:, i, j] @ a[:, at[0], at[1]])
        assert found.mutual[n] == (back == (min(int(y // stride), 6), min(int(x // stride), 8)))
        weight, mean = 0.0, np.zeros(2)
        for r, c in itertools.product((i - 1, i, i + 1), (j - 1, j, j + 1)):
            if 0 <= r < 8 and 0 <= c < 6:
                share = math.exp((float(query @ b[:, r, c]) - best) / 0.1)
                weight, mean = weight + share, mean + share * np.array([c + 0.5, r + 0.5])
        assert found.soft[n] == pytest.approx(stride * mean / weight, abs=1e-3)
    assert 0 < found.mutual.sum() < 60


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(1).uniform(0, 30, (11, 2))
    whole = find(maps(0, 8, 8), maps(1, 8, 8), points, 4, 0.1, 2)
    monkeypatch.setattr("vader.images.finding.CHUNK", 3)
    parts = find(maps(0, 8, 8), maps(1, 8, 8), points, 4, 0.1, 2)
    for name in ("cells", "points", "parabola", "soft", "mutual"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-5)
    assert len(find(maps(0, 8, 8), maps(1, 8, 8), np.zeros((0, 2)), 4, 0.1, 2).cells) == 0


def waves(points: np.ndarray) -> np.ndarray:
    """(8, N): an embedding that says where a point is, to a fraction of a cell."""
    angles = np.concatenate([points / 12, points / 40], 1)
    return np.concatenate([np.cos(angles), np.sin(angles)], 1).T / 2


def test_exact_maps_find_every_point_and_refinement_goes_between_cells() -> None:
    """The second picture is the first, moved by (5, 3): 1.25 and .75 cells."""
    moved = np.array([5.0, 3.0])
    first = torch.tensor(waves(cell_centres(12, 15, 4) + moved).reshape(8, 12, 15)).float()
    second = torch.tensor(waves(cell_centres(14, 17, 4)).reshape(8, 14, 17)).float()
    points = cell_centres(12, 15, 4)
    truths = points + moved
    found = find(first, second, points, 4, temperature=0.02, window=2)
    errors = np.linalg.norm(found.points - truths, axis=1)
    ideal = ceiling(truths, 1.0, 56, 68, (1, 1.5, 4), 4)
    assert [(errors <= t).mean() for t in (1, 1.5, 4)] == ideal.tolist()
    assert errors == pytest.approx(math.sqrt(2), abs=1e-9), "a quarter of a cell in x and in y"
    assert np.linalg.norm(found.parabola - truths, axis=1).mean() < 0.3
    inner = (truths > 10).all(1) & (truths < [58, 46]).all(1)
    assert np.linalg.norm(found.soft - truths, axis=1)[inner].mean() < 0.7


# --- Scores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "height", "width"), [(4, 61, 40), (16, 33, 50), (7, 20, 20)])
def test_chance_and_ceiling_equal_loops_over_all_cells(stride: int, height: int, width: int) -> None:
    truths = np.random.default_rng(0).uniform(0, [width, height], (25, 2))
    truths[0], truths[1] = (0, 0), (width, height)
    thresholds, scale = (0.1, 0.5, 2.0), 9.5
    hits, best, cells = np.zeros(3), np.zeros(3), 0
    for x, y in truths:
        apart = [
            math.hypot((j + 0.5) * stride - x, (i + 0.5) * stride - y) / scale
            for i in range(-(-height // stride))
            for j in range(-(-width // stride))
        ]
        cells += len(apart)
        hits += [sum(d <= t for d in apart) for t in thresholds]
        best += [min(apart) <= t for t in thresholds]
    assert chance(truths, scale, height, width, thresholds, stride) == pytest.approx(hits / cells)
    assert ceiling(truths, scale, height, width, thresholds, stride) == pytest.approx(best / 25)
    assert np.isnan(chance(truths[:0], scale, height, width, thresholds, stride)).all()


def test_shares_are_of_each_pair() -> None:
    right, pair = np.array([True, False, True, True]), np.array([0, 0, 2, 2])
    assert by_pair(right, pair, 3).tolist()[::2] == [0.5, 1.0]
    assert np.isnan(by_pair(right, pair, 3)[1])


# --- Warps --------------------------------------------------------------------------------------------------------


def test_points_of_a_warp_are_those_of_its_homographies() -> None:
    assert isinstance(WARP, WarpProtocol)
    protocol = replace(WARP, size=96)
    flips, changed = set(), []
    y, x = np.mgrid[:200, :260]
    image = np.stack([x * 0.9, y * 1.2, 120 + 0 * x], 2).astype(np.uint8)
    for number in range(6):
        pair = draw_warp(protocol, 260, 200, number)
        points, truths = warp_points(protocol, pair, number)
        assert len({tuple(p) for p in points}) == 100
        assert set(np.unique(points % 4)) == {2}
        assert (truths >= 0).all()
        assert (truths <= 96).all()
        through = np.linalg.inv(pair.views[1].matrix) @ pair.views[0].matrix
        assert cv2.perspectiveTransform(points[None], through)[0] == pytest.approx(truths, abs=1e-4)
        flips.add(bool(through[0, 0] < 0))
        views = [view_of(protocol, image, pair, k, colour=False) for k in (0, 1)]
        inner = ((truths > 3) & (truths < 93)).all(1)
        seen = [
            cv2.remap(v.astype(np.float32), *(at[inner, None] - 0.5).astype(np.float32).transpose(2, 0, 1), 1)[:, 0]
            for v, at in zip(views, (points, truths), strict=True)
        ]
        assert np.abs(seen[0] - seen[1]).max() < 2.5, "both views show one colour where they show one point"
        changed.append(np.abs(view_of(protocol, image, pair, 0, colour=True).astype(float) - views[0]).mean() > 2)
    assert flips == {False, True}
    assert sum(changed) >= 3


# --- Animals ------------------------------------------------------------------------------------------------------


def table() -> dict[str, Any]:
    flags = [(10, 8, 2), (20, 12, 1), (0, 0, 0)]
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}, {"id": 4, "file_name": "t.png"}],
        "categories": [{"id": 3, "name": "cow", "keypoints": ["nose", "ear", "tail"]}],
        "annotations": [
            {"image_id": 9, "category_id": 3, "bbox": [1, 2, 30, 20], "keypoints": [v for f in flags for v in f]},
            {"image_id": 4, "category_id": 3, "bbox": [0, 0, 9, 9], "keypoints": [5.5, 6, 2] * 3},
        ],
    }


def write_animals(root: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> None:
    for i, name in enumerate("abt"):
        picture(root / "images" / f"{name}.png", i)
    text(root / "val.txt", "a.png", "b.png")
    text(root / "train.txt", "t.png")
    made = table()
    made = change(made) or made
    (root / "keypoints.json").write_text(json.dumps(made))


def test_animals_are_read_as_written(tmp_path: Path) -> None:
    write_animals(tmp_path)
    found = open_animal_keypoints(tmp_path, "val")
    assert found.images.names == ("a.png", "b.png")
    assert found.images.image(1).shape == (32, 40, 3)
    (cow,) = found.animals
    assert (cow.image, cow.category, cow.box) == (1, "cow", (1, 2, 30, 20))
    assert cow.visible.tolist() == [True, False, False], "COCO's 1 is hidden, 0 not labelled"
    assert cow.keypoints[0].tolist() == [10, 8]
    before = found.images.fingerprint()
    write_animals(tmp_path, lambda one: one["annotations"][0]["bbox"].__setitem__(0, 2))
    assert open_animal_keypoints(tmp_path, "val").images.fingerprint() != before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: [one], "annotations and categories|images, annotations, categories"),
        (lambda one: one.pop("categories") and None, "found no categories"),
        (lambda one: one["annotations"][0].pop("bbox") and None, "in entry 0"),
        (lambda one: one["annotations"][0]["keypoints"].pop() and None, "entry 0"),
        (lambda one: one["annotations"][0].update(category_id=8), "in entry 0"),
        (lambda one: one["annotations"][0].update(bbox=[0, 0, 0, 5]), "the box is empty"),
        (lambda one: one["images"].pop(0) and None, "found none for a.png"),
    ],
)
def test_annotations_that_do_not_fit_are_named(tmp_path: Path, change: Any, says: str) -> None:
    write_animals(tmp_path, change)
    with pytest.raises(BadInput, match=says) as caught:
        open_animal_keypoints(tmp_path, "val")
    assert "\n" not in str(caught.value)
    assert "keypoints.json" in str(caught.value)


def test_missing_files_of_animals_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"keypoints.json.*put images/"):
        open_animal_keypoints(tmp_path, "val")
    write_animals(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(BadInput, match=r"a.png, which does not exist"):
        open_animal_keypoints(tmp_path, "val")
    (tmp_path / "keypoints.json").write_text("{")
    text(tmp_path / "val.txt", "b.png")
    with pytest.raises(BadInput, match="expected JSON"):
        open_animal_keypoints(tmp_path, "val")


# --- Posed frames -------------------------------------------------------------------------------------------------

FOCAL, H, W = 50.0, 24, 32
INTRINSICS = np.array([[FOCAL, 0, 15], [0, FOCAL, 11], [0, 0, 1.0]])


def pose(x: float = 0, y: float = 0, z: float = 0, turn: float = 0) -> np.ndarray:
    """A camera at a place, turned about its vertical axis by radians."""
    made = np.eye(4)
    made[:3, :3] = [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
    made[:3, 3] = x, y, z
    return made


GRID = np.stack(np.meshgrid(np.arange(W), np.arange(H)), -1).reshape(-1, 2)


def carry(first: np.ndarray, second: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return carry_points(GRID, (first, second), (a, b), INTRINSICS, near=0.03, far=0.02)


def test_a_camera_moved_beside_a_wall_shifts_the_picture() -> None:
    wall = np.full((H, W), 2.0)
    at, seen = carry(wall, wall, pose(), pose(0.2, -0.08))
    assert at == pytest.approx(GRID + 0.5 + [-FOCAL * 0.2 / 2, FOCAL * 0.08 / 2])
    assert (seen == ((at >= 0) & (at < [W, H])).all(1)).all()
    nearer, seen = carry(wall, np.full((H, W), 1.5), pose(), pose(z=0.5))
    assert nearer == pytest.approx((GRID - [15, 11]) * 2 / 1.5 + [15.5, 11.5])
    assert seen.sum() > 100


def test_points_equal_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(0)
    first = 1.5 + 0.01 * GRID[:, 0].reshape(H, W) + 0.004 * rng.random((H, W))
    first[4:9, 20:] = 0  # unknown
    first[15:, :10] = 1.0  # a thing before the wall
    second = np.full((H, W), 1.68)
    a, b = pose(0.1, 0, 0.05, 0.1), pose(-0.05, 0.02, 0, -0.06)
    at, seen = carry(first, second, a, b)
    count = 0
    for n, (j, i) in enumerate(GRID):
        z = first[i, j]
        if z == 0:
            assert not seen[n]
            assert np.isnan(at[n]).all()
            continue
        local = np.array([(j - 15) / FOCAL * z, (i - 11) / FOCAL * z, z, 1])
        x, y, depth, _ = np.linalg.inv(b) @ a @ local
        wanted = (FOCAL * x / depth + 15.5, FOCAL * y / depth + 11.5)
        assert at[n] == pytest.approx(wanted)
        around = [first[r, c] for r in range(max(0, i - 1), min(H, i + 2)) for c in range(max(0, j - 1), min(W, j + 2))]
        tolerance = max(0.03, 0.02 * z)
        smooth = all(abs(one - z) <= tolerance for one in around if one > 0)
        inside = 0 <= wanted[0] < W and 0 <= wanted[1] < H
        there = inside and abs(1.68 - depth) <= max(0.03, 0.02 * depth)
        assert seen[n] == (smooth and there)
        count += seen[n]
    assert 30 < count < 400


def test_what_a_nearer_thing_hides_is_not_seen() -> None:
    wall = np.full((H, W), 2.0)
    hidden = wall.copy()
    hidden[8:16, 10:20] = 1.0
    hidden[0] = 0
    _, seen = carry(wall, hidden, pose(), pose())
    shown = seen.reshape(H, W)
    assert not shown[8:16, 10:20].any()
    assert not shown[0].any(), "without a depth nobody knows"
    assert shown.sum() == H * W - 80 - W
    at_the_lens = np.full((H, W), 0.02)
    assert not carry(at_the_lens, 0 * wall, pose(), pose())[1].any(), "nor does a depth of 0 agree with what is near"
    _, behind = carry(wall, wall, pose(), pose(z=3))
    assert not behind.any()


def write_posed(root: Path, poses: list[np.ndarray] | None = None) -> list[np.ndarray]:
    """Two frames before a wall, whose pictures' colours say where on the wall they look; val alone."""
    poses = poses or [pose(), pose(0.15, 0.05)]
    for n, one in enumerate(poses):
        x, y = GRID.T.astype(float)
        wall = np.stack([x - 15, y - 11], 1) * 2 / FOCAL + one[:2, 3]
        colours = np.stack([128 + 90 * wall[:, 0], 128 + 90 * wall[:, 1], 128 + 0 * x], 1)
        put(root / f"f{n}.color.png", colours.round().clip(0, 255).astype(np.uint8).reshape(H, W, 3))
        put(root / f"f{n}.depth.png", np.full((H, W), 2000, np.uint16))
        np.savetxt(root / f"f{n}.pose.txt", one)
    np.savetxt(root / "camera-intrinsics.txt", INTRINSICS)
    text(root / "val.txt", *(f"f{n}" for n in range(len(poses))))
    return poses


def test_posed_frames_are_read_as_written(tmp_path: Path) -> None:
    poses = write_posed(tmp_path)
    found = open_posed(tmp_path, "val")
    assert found.poses == pytest.approx(np.stack(poses))
    assert found.intrinsics == pytest.approx(INTRINSICS)
    assert found.distance(0, 1) == pytest.approx(math.hypot(0.15, 0.05))
    assert found.frames[0].depth == pytest.approx(2)
    before = found.frames.fingerprint()
    np.savetxt(tmp_path / "f1.pose.txt", pose(0.3))
    assert open_posed(tmp_path, "val").frames.fingerprint() != before


@pytest.mark.parametrize(
    ("file", "lines", "says"),
    [
        ("f1.pose.txt", None, "f1.pose.txt, which does not exist; put camera-intrinsics"),
        ("f1.pose.txt", ["1 0 0 0"] * 4, "expected a pose"),
        ("f1.pose.txt", ["nan 0 0 0"] * 4, "finite numbers"),
        ("f1.pose.txt", ["1 0 0"] * 4, "4 x 4 finite numbers"),
        ("camera-intrinsics.txt", ["one two"], "expected 3 rows"),
        ("camera-intrinsics.txt", ["1 0 0", "0 1 0", "0 1 1"], "expected rows"),
        ("camera-intrinsics.txt", None, "which does not exist"),
    ],
)
def test_wrong_poses_are_named(tmp_path: Path, file: str, lines: list[str] | None, says: str) -> None:
    write_posed(tmp_path)
    if lines is None:
        (tmp_path / file).unlink()
    else:
        text(tmp_path / file, *lines)
    with pytest.raises(BadInput, match=says) as caught:
        open_posed(tmp_path, "val")
    assert "\n" not in str(caught.value)


def test_the_kitchens_geometry_carries_colours() -> None:
    """Its README has 8.8 grey levels of difference at 10 frames, 12.9 at 20, and 18 and more without the pose."""
    found = open_posed(shared("rgbd/kitchen"), "train")
    pixels = np.stack(np.meshgrid(np.arange(320), np.arange(240)), -1).reshape(-1, 2)[::3]
    for gap, known in ((1, 8.8), (2, 12.9)):
        differences: dict[str, list[float]] = {"right": [], "half a pixel aside": [], "without the pose": []}
        for a in range(0, 58, 6):
            first, second = found.frames[a], found.frames[a + gap]
            assert first.depth is not None
            assert second.depth is not None
            depths, poses = (first.depth, second.depth), (found.poses[a], found.poses[a + gap])
            for name in differences:
                both = (poses[0], poses[0]) if name == "without the pose" else poses
                at, seen = carry_points(pixels, depths, both, found.intrinsics, 0.03, 0.02)
                at = at + 0.5 * (name == "half a pixel aside")
                x, y = (at[seen] - 0.5).astype(np.float32).reshape(-1, 1, 2).transpose(2, 0, 1)
                shown = cv2.remap(second.image.astype(np.float32), x, y, 1, borderMode=cv2.BORDER_REPLICATE)[:, 0]
                own = first.image.reshape(-1, 3)[::3][seen]
                differences[name].append(float(np.abs(shown - own).mean()))
        means = {name: float(np.mean(some)) for name, some in differences.items()}
        assert means["right"] == pytest.approx(known, abs=1.5)
        assert means["without the pose"] > 18
        assert means["half a pixel aside"] > means["right"]
