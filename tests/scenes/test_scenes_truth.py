"""Flow against rigid motion, brute force and colours; masks against pycocotools."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from pycocotools import mask as coco

from vader.scenes.frame import Frame
from vader.scenes.render import render
from vader.scenes.shapes import intersect
from vader.scenes.truth import boxes, flow, rle
from vader.scenes.world import SceneConfig, World, make_world

SIZE = 56
NUMPY_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools lags behind


@lru_cache(maxsize=32)
def world(index: int) -> World:
    return make_world(SceneConfig(), 3, index)


@lru_cache(maxsize=64)
def frame(index: int, time: float = 0.0) -> Frame:
    return render(world(index), world(index).camera(SIZE, SIZE, time), time)


def carried(index: int, first: Frame, time: float) -> np.ndarray:
    """(H, W, 3) where the points seen in `first` are at another time, one by one."""
    here, found = world(index), np.full((SIZE, SIZE, 3), np.nan)
    before, after = here.poses(first.time), here.poses(time)
    for i in range(SIZE):
        for j in range(SIZE):
            part = first.parts[i, j]
            if part >= 0:
                x, y = (j + 0.5 - SIZE / 2) / first.camera.focal, (i + 0.5 - SIZE / 2) / first.camera.focal
                point = first.camera.pose @ (np.array([x, y, 1, 0]) * float(first.depth[i, j]) + (0, 0, 0, 1))
                found[i, j] = (after[part] @ np.linalg.solve(before[part], point))[:3]
    return found


@pytest.mark.parametrize("index", range(6))
def test_flow_to_itself_stays(index: int) -> None:
    shot = frame(index, 0.3)
    points, visible = flow(world(index), shot, shot)
    np.testing.assert_array_equal(visible, shot.parts >= 0)
    still = shot.camera.pixels().reshape(SIZE, SIZE, 2)
    np.testing.assert_allclose(points[visible], still[visible], atol=1e-9)
    assert np.isnan(points[shot.parts < 0]).all()


@pytest.mark.parametrize("index", range(8))
def test_flow_goes_where_the_moved_point_is_and_is_visible_where_nothing_is_before_it(index: int) -> None:
    first, second = frame(index), frame(index, 1.2)
    points, visible = flow(world(index), first, second)
    moved = carried(index, first, 1.2)
    known = first.parts >= 0
    pixels, depth = second.camera.project(moved[known])
    np.testing.assert_allclose(points[known][depth > 0], pixels[depth > 0], atol=1e-6)

    scene = world(index).snapshot(1.2)
    rays = moved[known] - second.camera.centre
    nearest = np.full(len(rays), np.inf)
    for part in range(len(scene.shapes)):
        turn = scene.units[part, :, :3]
        start = turn @ second.camera.centre + scene.units[part, :, 3]
        t = intersect(scene.shapes[part], scene.taper(part), tuple(start), tuple((rays @ turn.T).T))
        nearest = np.minimum(nearest, t)  # 1 at the point itself
    inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < SIZE).all(1)
    gap = (1 - nearest) * np.linalg.norm(rays, axis=1)  # metres between the point and what is before it
    shown = visible[known]
    assert 0.2 < shown.mean() < 1
    assert not shown[~inside].any()
    assert not shown[gap > 5e-4].any()
    clear = inside & (np.abs(gap) < 1e-5)
    assert shown[clear].mean() > 0.999  # all but the far side of a sheet
    hit = second.camera.centre + nearest[shown, None] * rays[shown]
    assert np.linalg.norm(hit - moved[known][shown], axis=1).max() < 1e-4


def test_some_points_are_hidden_by_what_moves_in_front() -> None:
    hidden = 0
    for index in range(8):
        first, second = frame(index), frame(index, 1.2)
        points, visible = flow(world(index), first, second)
        with np.errstate(invalid="ignore"):
            within = (points >= 0).all(-1) & (points < SIZE).all(-1)
        hidden += int((within & ~visible).sum())
    assert hidden > 100


@pytest.mark.parametrize("index", range(4))
def test_flow_between_viewpoints_matches_parts_and_colours(index: int) -> None:
    config = SceneConfig(haze=0, shadows=False)
    here = make_world(config, 9, index)
    a, b = here.viewpoints(96, 96, 2, np.random.default_rng(index))
    first, second = render(here, a), render(here, b)
    points, visible = flow(here, first, second)
    to = points[visible].astype(int)
    same = first.parts[visible] == second.parts[to[:, 1], to[:, 0]]
    assert same.mean() > 0.9  # but for borders, where the nearest pixel's centre is another part's
    shown = first.image[visible][same].astype(int)
    there = second.image[to[:, 1], to[:, 0]][same].astype(int)
    other = second.image[to[::-1, 1], to[::-1, 0]][same].astype(int)
    assert np.abs(shown - there).mean() < 0.35 * np.abs(shown - other).mean()


def test_the_other_side_of_a_sheet_is_another_surface() -> None:
    """A rug from above and from below: no point of one picture is seen in the other."""
    from vader.scenes.camera import look_at

    here = make_world(SceneConfig(setting="landscape", objects=(0, 0), clutter=(0, 0)), 0, 0)
    above = render(here, look_at(np.array([0.0, 0, 3]), np.array([0.1, 0, 0]), 40.0, 24, 24))
    below = render(here, look_at(np.array([0.0, 0, -3]), np.array([0.1, 0, 0]), 40.0, 24, 24))
    assert (above.parts >= 0).all()
    points, visible = flow(here, above, below)
    assert ((points > 0) & (points < 24)).all(-1).any()
    assert not visible.any()


def test_boxes_hold_their_instances_and_no_more() -> None:
    for index in range(6):
        shot = frame(index)
        found = boxes(shot)
        assert set(found) == set(np.unique(shot.instances)) - {0}
        for number, (x0, y0, x1, y1) in found.items():
            mask = shot.instances == number
            assert mask[y0:y1, x0:x1].sum() == mask.sum()
            for edge in (mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1]):
                assert edge.any()


def masks() -> list[np.ndarray]:
    """Instances of scenes, noise, nothing, everything, single corners."""
    rng = np.random.default_rng(0)
    found = [frame(i).instances == n for i in range(6) for n in np.unique(frame(i).instances) if n]
    found += [rng.random((13, 17)) < share for share in (0.1, 0.5, 0.9)]
    corner = np.zeros((5, 7), bool)
    corner[0, 0] = True
    return [*found, np.zeros((4, 3), bool), np.ones((4, 3), bool), corner, corner[::-1, ::-1].copy()]


@NUMPY_2
def test_run_lengths_are_cocos() -> None:
    for mask in masks():
        found = rle(mask)
        packed = coco.frPyObjects(found, *mask.shape)
        assert packed["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        np.testing.assert_array_equal(coco.decode(packed), mask)
        assert all(type(count) is int for count in found["counts"] + found["size"])


def test_instances_keep_their_numbers_through_a_clip() -> None:
    for index in range(4):
        kinds = [{thing.number: thing.kind for thing in frame(index, time).objects} for time in (0.0, 1.2)]
        assert kinds[0] == kinds[1]


def test_flow_needs_no_picture() -> None:
    """It reads depths, parts, cameras and times alone."""
    first, second = frame(0), frame(0, 1.2)
    blank = replace(second, image=np.zeros_like(second.image), depth=np.zeros_like(second.depth))
    for a, b in zip(flow(world(0), first, second), flow(world(0), first, blank), strict=True):
        np.testing.assert_array_equal(a, b)
