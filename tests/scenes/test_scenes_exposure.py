"""What a camera's automatics do to pictures: how far values move, what stays, and that it is the seed's alone."""

from dataclasses import replace

import numpy as np
import pytest

from vader.scenes.exposure import BALANCE, GAMMA, NOISE, film, shoot
from vader.scenes.frame import Frame
from vader.scenes.samples import clip, reexposed, still, view_pair
from vader.scenes.world import SceneConfig

PLAIN, REAL = SceneConfig(exposure=0.0), SceneConfig(exposure=0.5)


@pytest.fixture(scope="module")
def grey() -> Frame:
    frame = still(PLAIN, 5, 48, 48, 0)
    return replace(frame, image=np.full((48, 48, 3), 128, np.uint8))


def test_a_shots_light_is_multiplied_by_up_to_so_many_stops(grey: Frame) -> None:
    """The mean over 48 x 48 pixels has noise of NOISE * stops / 48; gains are undone by the definition."""
    gains = []
    for index in range(60):
        means = shoot(grey, 0.5, (1, index)).image.astype(float).mean((0, 1))
        gains.append(GAMMA * np.log2(means / 128))  # stops, by channel
    gains = np.array(gains)
    assert np.abs(gains).max() <= 0.5 * (1 + BALANCE) + 0.02
    assert np.abs(gains.mean(1)).max() > 0.4
    within = gains - gains.mean(1, keepdims=True)
    assert 0.05 < within.std() < 0.5 * BALANCE
    image = shoot(grey, 0.5, (1, 0)).image.astype(float)
    assert (image - image.mean((0, 1))).std() == pytest.approx(NOISE * 0.5, rel=0.05)


def test_a_clips_exposure_swings_slowly(grey: Frame) -> None:
    frames = [film(replace(grey, time=t / 10), 0.5, (3, 1)).image.astype(float) for t in range(40)]
    stops = GAMMA * np.log2(np.array([one.mean() for one in frames]) / 128)
    assert np.abs(np.diff(stops)).max() < 0.5 * 2 * np.pi / 10 * (1 + BALANCE) + 0.03  # of a swing in one second
    assert np.ptp(stops) > 0.5
    assert (frames[0] != frames[1]).mean() > 0.5  # each frame has noise of its own


def test_truth_and_exposure_zero_stay_as_rendered() -> None:
    plain, shot = still(PLAIN, 5, 48, 40, 3), still(REAL, 5, 48, 40, 3)
    assert (plain.image != shot.image).any()
    for name in ("classes", "instances", "depth", "normals", "parts"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(shot, name))
    assert shoot(plain, 0.0, (1,)) is plain


def test_the_same_seed_gives_the_same_shots_and_two_shots_differ() -> None:
    first, again = view_pair(REAL, 7, 40, 40, 2), view_pair(REAL, 7, 40, 40, 2)
    np.testing.assert_array_equal(first.second.image, again.second.image)
    later = reexposed(view_pair(PLAIN, 7, 40, 40, 2), 0.5, (7, 2))
    np.testing.assert_array_equal(first.first.image, later.first.image)
    np.testing.assert_array_equal(first.second.image, later.second.image)
    one, two = clip(REAL, 7, 40, 40, 2, 5, 0), clip(REAL, 7, 40, 40, 2, 5, 0)
    np.testing.assert_array_equal(one[1].image, two[1].image)
    assert [frame.time for frame in one] == [0.0, 0.2]
    same = shoot(first.first, 0.5, (9, 1)).image, shoot(first.first, 0.5, (9, 2)).image
    assert (same[0] != same[1]).mean() > 0.5
