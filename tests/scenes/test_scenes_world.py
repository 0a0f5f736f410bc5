"""Worlds: what stands in them, how it moves, where cameras stand, and what the config changes."""

from functools import lru_cache

import numpy as np
import pytest
from pydantic import ValidationError

from vader.scenes import world as worlds
from vader.scenes.frame import KINDS, Frame
from vader.scenes.render import render
from vader.scenes.samples import processes, stills
from vader.scenes.world import ATTEMPTS, SceneConfig, World, keypoint_names, make_world, moments


@lru_cache(maxsize=32)
def world(index: int) -> World:
    return make_world(SceneConfig(), 3, index)


@lru_cache(maxsize=64)
def frame(index: int, size: int = 64, time: float = 0.0) -> Frame:
    return render(world(index), world(index).camera(size, size, time), time)


def test_all_kinds_turn_up_with_their_keypoints() -> None:
    seen: dict[str, int] = dict.fromkeys(KINDS, 0)
    for index in range(40):
        for thing in make_world(SceneConfig(), 0, index).things:
            if thing.number:
                seen[thing.kind] += 1
                assert len(thing.keypoints) == len(keypoint_names(thing.kind)) >= 6
                assert len(set(keypoint_names(thing.kind))) == len(thing.keypoints)
    assert min(seen.values()) >= 5, seen


def test_viewpoints_see_the_middle_from_up_to_a_right_angle_apart() -> None:
    widest = 0.0
    for index in range(8):
        views = world(index).viewpoints(40, 30, 5, np.random.default_rng(index))
        assert len(views) == 5
        axes = np.stack([view.pose[:3, 2] for view in views])
        widest = max(widest, float(np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1))).max()))
        for view in views:
            pixel, depth = view.project(world(index).path.focus[None])
            np.testing.assert_allclose(pixel[0], (20, 15), atol=1e-9)
            assert depth > 0
            x0, y0, x1, y1 = world(index).walls
            assert x0 < view.centre[0] < x1
            assert y0 < view.centre[1] < y1
    assert 60 < widest < 110


def test_clips_move_and_keep_objects_in_view() -> None:
    moved, kept = [], []
    for index in range(8):
        first, last = frame(index, 64, 0.0), frame(index, 64, 2.0)
        moved.append((first.image != last.image).mean())
        before = set(np.unique(first.instances)) - {0}
        kept.append(len(before & set(np.unique(last.instances))) / max(1, len(before)))
    assert min(moved) > 0.2
    assert np.mean(kept) > 0.8


def test_a_clips_camera_has_a_free_view_all_along() -> None:
    """World 7 of this seed has one at both ends, and something before the camera in between."""
    seed, times = 20_201_215, (0.0, 0.5, 1.0, 1.5, 2.0, 2.3)
    assert sorted(set(moments(2.3))) == list(times)
    assert set(moments(0.1)) == {0.0, 0.1, 2.0}
    free = [[one.sees(one.camera(32, 32, t), t) for t in times] for one in
            (make_world(SceneConfig(), seed, 7), make_world(SceneConfig(), seed, 7, moments(2.3)))]  # fmt: skip
    assert free[0] == [True, False, False, False, True, True]
    assert free[1] == [True] * 6
    for index in (1, 2):
        one, other = make_world(SceneConfig(), seed, index), make_world(SceneConfig(), seed, index, moments(2.3))
        assert one.path.azimuth == other.path.azimuth, "a free world stays"


@pytest.mark.parametrize(("free", "taken"), [({4: 1, 7: 1}, 7), ({4: 1, 11: 0}, 4), ({}, ATTEMPTS - 1), ({3: 2}, 3)])
def test_of_blocked_worlds_the_last_least_blocked_one(
    free: dict[int, int], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`free` says at how many of two times each draw has a free view."""
    made: list[World] = []
    build = worlds.room
    monkeypatch.setattr(worlds, "room", lambda *a: made.append(build(*a)) or made[-1])
    monkeypatch.setattr(World, "sees", lambda self, camera, time: time < free.get(len(made) - 1, 0))
    found = make_world(SceneConfig(setting="room", objects=(0, 0), clutter=(0, 0)), 0, 0, (0.0, 1.0))
    assert found is made[taken]
    assert len(made) == (4 if 2 in free.values() else ATTEMPTS)


@pytest.mark.whole
def test_other_processes_render_the_same() -> None:
    with processes(2) as over:
        spread = stills(SceneConfig(), 3, 5, 32, 32, over)
    for one, other in zip(stills(SceneConfig(), 3, 5, 32, 32), spread, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.depth, other.depth)


def test_the_config_does_what_it_says() -> None:
    empty = SceneConfig(objects=(0, 0), clutter=(0, 0))
    assert {thing.kind for i in range(8) for thing in make_world(empty, 0, i).things} == {"ground", "wall"}
    for index in range(3):
        here = make_world(SceneConfig(setting="landscape", kinds=("car", "mug"), objects=(2, 2)), 0, index)
        assert {thing.kind for thing in here.things if thing.number} == {"car"}
    sharp = []
    for strength in (0.0, 1.0):
        rooms = [make_world(SceneConfig(setting="room", texture=strength), 1, i) for i in range(4)]
        shots = [render(room, room.camera(64, 64)).image.astype(int) for room in rooms]
        sharp.append(np.mean([np.abs(np.diff(shot, axis=1)).mean() for shot in shots]))
        assert all(part.surface.colour == part.surface.second for part in rooms[0].parts) == (strength == 0)
    assert sharp[0] < 0.85 * sharp[1]
    lit = make_world(SceneConfig(shadows=False), 3, 1)
    assert render(lit, lit.camera(64, 64)).image.mean() > frame(1).image.mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objects": (3, 2)}, "least <= most"),
        ({"kinds": ()}, "expected one or more"),
        ({"setting": "room", "kinds": ("car",)}, "one that a room can have, found car"),
        ({"kinds": ("boat",)}, "Input should be"),
        ({"fog": 1}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SceneConfig(**settings)


def test_paws_stay_in_the_paws_while_animals_walk() -> None:
    """Each animal's last keypoints are the middles of the four blocks that its legs swing."""
    config, found = SceneConfig(kinds=("animal",), objects=(1, 2)), 0
    for index in range(3):
        here = make_world(config, 0, index)
        for number, thing in enumerate(here.things):
            if thing.kind != "animal":
                continue
            own = [p for p in np.flatnonzero(here.owner == number) if here.parts[p].shape == "block"]
            assert len(own) == 4
            for time in (0.0, 0.7, 1.9):
                np.testing.assert_allclose(thing.points(time)[-4:], here.poses(time)[own, :3, 3], atol=1e-9)
            steps = np.linalg.norm(thing.points(0.7) - thing.points(0.0), axis=1)
            found += bool(np.ptp(steps[-4:]) > 0.01)  # not all paws go as far
    assert found >= 2


def test_things_stand_on_the_floor_or_on_a_table_and_not_in_each_other() -> None:
    """By sampling points of each object's parts: none lies under the floor or deep within another's block."""
    rng = np.random.default_rng(0)
    for index in range(10):
        here = world(index)
        poses = here.poses(0.0)
        samples = {}
        for number, thing in enumerate(here.things):
            if thing.kind in ("ground", "wall"):
                continue
            own = np.flatnonzero(here.owner == number)
            flat = {"disc": (1, 1, 0), "panel": (1, 1, 0)}
            sizes = [np.multiply(here.parts[p].size, flat.get(here.parts[p].shape, (1, 1, 1))) for p in own]
            local = [rng.uniform(-0.5, 0.5, (20, 3)) * size for size in sizes]
            samples[number] = np.concatenate(
                [q @ poses[p, :3, :3].T + poses[p, :3, 3] for q, p in zip(local, own, strict=True)]
            )
            assert samples[number][:, 2].min() > -0.02
        for number, points in samples.items():
            for p in np.flatnonzero((here.owner != number) & np.isin(here.owner, list(samples))):
                part = here.parts[p]
                if part.shape == "block" and part.taper == (1, 1):
                    q = (points - poses[p, :3, 3]) @ poses[p, :3, :3]
                    assert not (np.abs(q) < np.array(part.size) - 0.01).all(1).any()
