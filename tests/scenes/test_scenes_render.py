"""The renderer against marching along rays, every ray against every part, and pictures of more pixels."""

import hashlib
import inspect
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from vader.scenes import textures
from vader.scenes.camera import look_at
from vader.scenes.cast import Snapshot, cast_picture, cast_pixels, shadowed
from vader.scenes.frame import CLASSES, KINDS, Frame
from vader.scenes.render import render
from vader.scenes.shapes import Shape, intersect, moved, normals, rotated
from vader.scenes.textures import noise
from vader.scenes.world import SceneConfig, World, make_world

SOLIDS: list[tuple[Shape, tuple[float, float]]] = [
    ("block", (1, 1)), ("block", (0, 1)), ("block", (0.4, 0.7)), ("block", (0, 0)), ("ball", (1, 1)), ("cone", (1, 1)),
    ("cone", (0, 1)), ("cone", (0.5, 1)), ("cone", (1.3, 1)),
]  # fmt: skip
SHEETS: list[tuple[Shape, tuple[float, float]]] = [
    ("shell", (1, 1)), ("shell", (0.6, 1)), ("shell", (1.2, 1)), ("disc", (0, 1)), ("disc", (0.6, 1)),
    ("panel", (1, 1)),
]  # fmt: skip


@lru_cache(maxsize=32)
def world(index: int, seed: int = 3) -> World:
    return make_world(SceneConfig(), seed, index)


@lru_cache(maxsize=64)
def frame(index: int, size: int = 64, time: float = 0.0) -> Frame:
    return render(world(index), world(index).camera(size, size, time), time)


def half_width(taper: float, z: np.ndarray) -> np.ndarray:
    """From 1 at z = -1 to the taper at z = 1."""
    return 1 + (taper - 1) * (z + 1) / 2


def contains(shape: str, taper: tuple[float, float], p: np.ndarray) -> np.ndarray:
    """Whether points (..., 3) are in a solid."""
    x, y, z = np.moveaxis(p, -1, 0)
    if shape == "ball":
        return x**2 + y**2 + z**2 <= 1
    if shape == "block":
        return (abs(x) <= half_width(taper[0], z)) & (abs(y) <= half_width(taper[1], z)) & (abs(z) <= 1)
    return (np.hypot(x, y) <= half_width(taper[0], z)) & (abs(z) <= 1)


def rays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """From points well outside towards points near the shape; (count, 3) each."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(count, 3))
    start *= rng.uniform(2.5, 4, (count, 1)) / np.linalg.norm(start, axis=1, keepdims=True)
    return start, rng.uniform(-1.2, 1.2, (count, 3)) - start


def meet(shape: Shape, taper: tuple[float, float], start: np.ndarray, way: np.ndarray) -> np.ndarray:
    return intersect(shape, taper, tuple(start.T), tuple(way.T))


@pytest.mark.parametrize(("shape", "taper"), SOLIDS)
def test_rays_enter_solids_where_marching_finds_them_first_inside(shape: Shape, taper: tuple[float, float]) -> None:
    start, way = rays(300, 1)
    found = meet(shape, taper, start, way)
    steps = np.linspace(0, 4, 3001)
    inside = contains(shape, taper, start[:, None] + steps[:, None] * way[:, None])  # (N, steps)
    assert not inside[:, 0].any()
    hit = inside.any(1)
    assert 0.2 < hit.mean() < 0.95
    high = steps[inside.argmax(1)]
    low = high - steps[1]
    for _ in range(40):
        middle = (low + high) / 2
        within = contains(shape, taper, start + middle[:, None] * way)
        low, high = np.where(within, low, middle), np.where(within, middle, high)
    assert np.abs(found[hit] - high[hit]).max() < 1e-9
    missed = ~hit & np.isfinite(found)  # those can only have grazed it between two steps
    assert not contains(shape, taper, start[missed] + (found[missed] + steps[1])[:, None] * way[missed]).any()


@pytest.mark.parametrize(("shape", "taper"), SHEETS)
def test_rays_meet_sheets_where_a_sign_changes_within_bounds(shape: Shape, taper: tuple[float, float]) -> None:
    start, way = rays(300, 2)
    found = meet(shape, taper, start, way)

    def signed(t: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(start + t[:, None] * way, -1, 0)
        return np.hypot(x, y) - half_width(taper[0], z) if shape == "shell" else z

    def bounded(t: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(start + t[:, None] * way, -1, 0)
        if shape == "shell":
            return abs(z) <= 1
        return (
            (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= taper[0]) if shape == "disc" else np.maximum(abs(x), abs(y)) <= 1
        )

    first = np.full(300, np.inf)
    steps = np.linspace(0, 4, 2001)
    for a, b in pairwise(steps):
        low, high = np.full(300, a), np.full(300, b)
        crosses = (signed(low) > 0) != (signed(high) > 0)
        if not crosses.any():
            continue
        sign = signed(low) > 0
        for _ in range(35):
            middle = (low + high) / 2
            same = (signed(middle) > 0) == sign
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        first = np.where(crosses & bounded(low) & np.isinf(first), low, first)
    hit = np.isfinite(first)
    assert 0.1 < hit.mean() < 0.95
    assert (np.isfinite(found) == hit).mean() > 0.99  # a pair of crossings within a step escapes marching
    both = hit & np.isfinite(found)
    wrong = np.abs(found[both] - first[both])
    assert np.median(wrong) < 1e-9
    assert (wrong < 1e-8).mean() > 0.99


@pytest.mark.parametrize(("shape", "taper"), SOLIDS)
def test_normals_point_out_and_at_right_angles_to_the_surface(shape: Shape, taper: tuple[float, float]) -> None:
    start, way = rays(200, 3)
    t = meet(shape, taper, start, way)
    hit = np.isfinite(t)
    points = start[hit] + t[hit, None] * way[hit]
    found = normals(shape, taper, points)
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert not contains(shape, taper, points + 1e-5 * found).any()
    assert contains(shape, taper, points - 1e-5 * found).all()
    rng = np.random.default_rng(4)
    tangent = np.cross(found, rng.normal(size=found.shape))
    tangent *= 1e-4 / np.linalg.norm(tangent, axis=1, keepdims=True)
    # A curved surface falls away by about half the square of the step; a normal off by 1 % would show.
    outside = ~contains(shape, taper, points + tangent + 2e-8 * found)
    within = contains(shape, taper, points + tangent - 1e-6 * found)
    assert (outside & within).mean() > 0.98  # but for steps over an edge


def on_surface(scene: Snapshot, part: int, p: np.ndarray) -> np.ndarray:
    """How far points in a part's unit coordinates are from its surface, in these, about."""
    shape, taper = scene.shapes[part], scene.taper(part)
    x, y, z = p.T
    if shape == "ball":
        return abs(np.linalg.norm(p, axis=1) - 1)
    if shape == "block":
        sides = [abs(x) - half_width(taper[0], z), abs(y) - half_width(taper[1], z), abs(z) - 1]
        return abs(np.max(sides, axis=0))
    if shape == "panel":
        return np.maximum(abs(z), np.maximum(np.maximum(abs(x), abs(y)) - 1, 0))
    radius = np.hypot(x, y)
    if shape == "disc":
        return np.maximum(abs(z), np.maximum(np.maximum(radius - 1, taper[0] - radius), 0))
    side = radius - half_width(taper[0], z)
    return np.maximum(abs(side), np.maximum(abs(z) - 1, 0)) if shape == "shell" else abs(np.maximum(side, abs(z) - 1))


@pytest.mark.parametrize("index", range(6))
def test_points_at_the_depths_lie_on_their_parts(index: int) -> None:
    shot, scene = frame(index, time=0.7), world(index).snapshot(0.7)
    camera = shot.camera
    points = camera.centre + shot.depth.reshape(-1, 1).astype(float) * camera.directions(camera.pixels())
    inverses = np.linalg.inv(world(index).poses(0.7))
    for part in np.unique(shot.parts[shot.parts >= 0]).tolist():
        mine = points[shot.parts.ravel() == part]
        size = np.array(world(index).parts[part].size)
        local = (mine @ inverses[part, :3, :3].T + inverses[part, :3, 3]) / size
        assert on_surface(scene, part, local).max() < 5e-6 * (np.abs(shot.depth[shot.parts == part]).max() / size.min())


@pytest.mark.parametrize("index", range(4))
def test_normals_agree_with_differences_of_depth(index: int) -> None:
    shot = frame(index, 128)
    camera = shot.camera
    flat = (camera.pixels() - 64) / camera.focal
    points = np.column_stack([flat, np.ones(len(flat))]).reshape(128, 128, 3) * shot.depth[..., None].astype(float)
    with np.errstate(invalid="ignore"):
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        guess = np.cross(down, across)
        guess /= np.linalg.norm(guess, axis=2, keepdims=True)
    parts = shot.parts
    middle = parts[1:-1, 1:-1]
    whole = (middle >= 0) & (parts[1:-1, 2:] == middle) & (parts[1:-1, :-2] == middle)
    whole &= (parts[2:, 1:-1] == middle) & (parts[:-2, 1:-1] == middle)
    cosine = (guess * shot.normals[1:-1, 1:-1]).sum(2)[whole]
    assert (cosine > 0.98).mean() > 0.93
    assert np.median(cosine) > 0.9999


@pytest.mark.parametrize("index", range(6))
def test_maps_agree_with_each_other(index: int) -> None:
    shot = frame(index)
    kinds = {thing.number: thing.kind for thing in shot.objects}
    assert list(kinds) == list(range(1, len(kinds) + 1))
    for number in np.unique(shot.instances):
        names = {CLASSES[c] for c in np.unique(shot.classes[shot.instances == number])}
        assert names == {kinds[number]} if number else not names & set(KINDS)
    sky = shot.classes == CLASSES.index("sky")
    np.testing.assert_array_equal(sky, shot.parts == -1)
    np.testing.assert_array_equal(sky, np.isinf(shot.depth))
    length = np.linalg.norm(shot.normals, axis=2)
    np.testing.assert_allclose(length, ~sky, atol=1e-5)
    ahead = shot.camera.directions(shot.camera.pixels()) @ shot.camera.pose[:3, :3]
    assert ((shot.normals.reshape(-1, 3) * ahead).sum(1) <= 1e-6).all()


# --- Every ray against every part ----------------------------------------------------------------------------------


def brute(scene: Snapshot, origin: np.ndarray, ways: np.ndarray, only: np.ndarray | None = None) -> np.ndarray:
    """(P, N) where rays from one or N origins meet each part, whatever bounds it."""
    found = np.full((len(scene.shapes), len(ways)), np.inf)
    for part in range(len(scene.shapes)) if only is None else np.flatnonzero(only).tolist():
        turn = scene.units[part, :, :3]
        start = np.broadcast_to(origin @ turn.T + scene.units[part, :, 3], ways.shape)
        found[part] = meet(scene.shapes[part], scene.taper(part), start, ways @ turn.T)
    return found


@pytest.mark.parametrize("index", range(6))
def test_casting_within_bounds_is_casting_at_everything(index: int) -> None:
    scene, camera = world(index).snapshot(0.4), world(index).camera(48, 40, 0.4)
    every = brute(scene, camera.centre, camera.directions(camera.pixels()))
    depth, parts = cast_picture(scene, camera)
    np.testing.assert_allclose(depth.ravel(), every.min(0), rtol=1e-9)
    assert (parts.ravel() == np.where(np.isinf(every.min(0)), -1, every.argmin(0))).mean() > 0.999
    some = np.random.default_rng(0).uniform(-5, 50, (300, 2))  # beyond the picture too
    depth, parts = cast_pixels(scene, camera, some)
    every = brute(scene, camera.centre, camera.directions(some))
    np.testing.assert_allclose(depth, every.min(0), rtol=1e-9)


@pytest.mark.parametrize("index", range(6))
def test_shadows_are_where_something_is_between_a_point_and_the_light(index: int) -> None:
    here = world(index)
    scene, light = here.snapshot(0.0), here.light
    camera = here.camera(32, 32)
    depth, parts = cast_picture(scene, camera)
    hit = np.flatnonzero(parts.ravel() >= 0)
    points = camera.centre + depth.ravel()[hit, None] * camera.directions(camera.pixels())[hit] * (1 - 1e-4)
    found = shadowed(scene, points, light.where, light.distant)
    ways = np.broadcast_to(light.where, points.shape) if light.distant else light.where - points
    nearest = brute(scene, points, ways, scene.casts).min(0)
    np.testing.assert_array_equal(found, nearest < (np.inf if light.distant else 1))
    assert found.any()


@pytest.mark.parametrize("index", range(5))
def test_keypoints_are_seen_unless_something_is_in_front(index: int) -> None:
    shot, scene = frame(index, time=0.5), world(index).snapshot(0.5)
    things = {thing.number: thing for thing in world(index).things if thing.number}
    assert set(things) == {seen.number for seen in shot.objects}
    for seen in shot.objects:
        points = things[seen.number].points(0.5)
        size = float(np.linalg.norm(things[seen.number].box))
        for point, pixel, visible in zip(points, seen.keypoints, seen.visible, strict=True):
            way = point - shot.camera.centre
            np.testing.assert_allclose(shot.camera.project(point[None])[0][0], pixel)
            if not (0 <= pixel[0] < 64 and 0 <= pixel[1] < 64):
                assert not visible
                continue
            gap = (1 - brute(scene, shot.camera.centre, way[None]).min()) * np.linalg.norm(way)
            if gap < min(0.04 * size, 0.1):  # metres of something before the point
                assert visible
            if gap > min(0.12 * size, 0.3):
                assert not visible


# --- Pictures ------------------------------------------------------------------------------------------------------


def test_noise_has_its_mean_and_deviation_and_no_seams() -> None:
    q = np.random.default_rng(0).uniform(-200, 200, (100_000, 3)).astype(np.float32)
    found = noise(q)
    assert abs(found.mean()) < 0.03
    assert abs(found.std() - 1) < 0.06
    assert np.abs(noise(q + np.float32(2e-3)) - found).max() < 0.1
    assert np.abs(noise(q + np.float32(1)) - found).mean() > 0.5


def test_noise_of_many_points_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV refuses pictures of 32,767 rows and more, which a picture of 4096 x 4096 pixels would need."""
    textures._noise(np.zeros((textures.BLOCK, 3), np.float32))  # a block is not refused
    q = np.random.default_rng(0).uniform(-200, 200, (3000, 3)).astype(np.float32)
    whole = noise(q)
    sizes: list[int] = []
    block = textures._noise
    monkeypatch.setattr(textures, "BLOCK", 1024)
    monkeypatch.setattr(textures, "_noise", lambda q: sizes.append(len(q)) or block(q))
    np.testing.assert_array_equal(noise(q), whole)
    assert sizes == [1024, 1024, 952]
    assert noise(q[:0]).shape == (0,)


def test_colours_move_with_their_surfaces() -> None:
    """A table with all its patterns, moved and turned along with camera and sun, looks as before."""
    here = make_world(SceneConfig(setting="landscape", kinds=("table", "house"), haze=0), 2, 0)
    turn = moved((3.0, -2.0, 0.0)) @ rotated("z", 1.1)
    things = tuple(replace(thing, place=turn @ thing.place) for thing in here.things)
    there = replace(here, things=things, light=replace(here.light, where=turn[:3, :3] @ here.light.where))
    camera = here.camera(64, 64)
    first, second = render(here, camera), render(there, replace(camera, pose=turn @ camera.pose))
    ground = first.parts >= 0
    assert np.abs(first.image.astype(int) - second.image)[ground].mean() < 0.3
    np.testing.assert_allclose(first.depth, second.depth, rtol=1e-5)


def test_edges_look_as_in_a_picture_of_sixteen_times_the_pixels() -> None:
    config = SceneConfig(setting="landscape", texture=0, haze=0, shadows=False)
    for index in range(3):
        here = make_world(config, 8, index)
        small, large = here.camera(64, 64), here.camera(256, 256)
        fine = render(here, large).image.astype(float)
        wanted = np.sqrt((fine.reshape(64, 4, 64, 4, 3) ** 2).mean((1, 3)))  # the mean of light, not of its root
        plain, smooth = fine[2::4, 2::4], render(here, small).image.astype(float)
        parts = render(here, small).parts
        edge = np.zeros((64, 64), bool)
        edge[:, 1:] |= parts[:, 1:] != parts[:, :-1]
        edge[1:] |= parts[1:] != parts[:-1]
        assert np.abs(smooth - wanted)[edge].mean() < 0.6 * np.abs(plain - wanted)[edge].mean()


def digest(seed: int, index: int) -> str:
    here = make_world(SceneConfig(), seed, index)
    shot = render(here, here.camera(64, 48, 0.5), 0.5)
    arrays = (shot.image, shot.classes, shot.instances, shot.depth, shot.normals, shot.parts)
    views = here.viewpoints(64, 48, 3, np.random.default_rng(1))
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays) + b"".join(v.pose.tobytes() for v in views)).hexdigest()


@pytest.mark.whole
def test_a_seed_and_an_index_give_the_same_bytes_in_every_process() -> None:
    source = (
        "import hashlib\nimport numpy as np\nfrom vader.scenes.render import render\n"
        "from vader.scenes.world import SceneConfig, make_world\n"
    )
    source += inspect.getsource(digest) + "print(digest(5, 0), digest(5, 1))"
    command = [sys.executable, "-c", source]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert other == [digest(5, 0), digest(5, 1)]
    assert len({digest(5, 0), digest(5, 1), digest(6, 0), digest(6, 1)}) == 4


def test_a_camera_inside_of_nothing_sees_only_sky() -> None:
    here = make_world(SceneConfig(setting="landscape", objects=(0, 0), clutter=(0, 0)), 0, 0)
    shot = render(here, look_at(np.array([0.0, 0, 30]), np.array([0.0, 1, 60]), 200.0, 16, 12))
    assert (shot.parts == -1).all()
    assert shot.objects == ()


def test_every_shape_is_tested() -> None:
    assert {shape for shape, _ in SOLIDS + SHEETS} == set(get_args(Shape))
