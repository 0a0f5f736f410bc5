"""Scores against loops written from their definitions, and against scikit-learn."""

import math

import cv2
import numpy as np
import oracles
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from vader.errors import BadInput
from vader.reports.metrics import (
    boundary,
    boundary_f,
    confusion,
    depth_errors,
    jaccard,
    miou,
    pck,
    pixel_accuracy,
)


def blobs(seed: int, height: int = 37, width: int = 53) -> np.ndarray:
    """A mask with smooth outlines that also touch the picture's edge."""
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 4) > 0


# --- Labels -------------------------------------------------------------------------------------------------------


def test_confusion_and_miou_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 7, (40, 30)).astype(np.uint8)
    pred = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 7, truth.shape))
    truth[rng.random(truth.shape) < 0.2] = 255
    kept = truth != 255
    found = confusion(pred, truth, 7)
    assert found.dtype == np.int64
    assert (found == confusion_matrix(truth[kept], pred[kept], labels=range(7))).all()
    mean, each = miou(found)
    expected = jaccard_score(truth[kept], pred[kept], labels=range(7), average=None)
    assert each == pytest.approx(expected)
    assert mean == pytest.approx(expected.mean())
    assert pixel_accuracy(found) == pytest.approx((truth == pred)[kept].mean())


def test_void_counts_nowhere() -> None:
    truth = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    right = confusion(np.array([[0, 1, 1, 0]]), truth, 2)
    assert right.tolist() == [[1, 1], [0, 1]]
    assert (confusion(np.array([[0, 1, 1, 1]]), truth, 2) == right).all()
    assert miou(right)[0] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_confusions_of_pictures_add_up() -> None:
    rng = np.random.default_rng(1)
    pred, truth = rng.integers(0, 4, (2, 6, 5, 5))
    together = confusion(pred, truth, 4)
    assert (sum(confusion(p, t, 4) for p, t in zip(pred, truth, strict=True)) == together).all()


def test_a_class_that_never_occurs_is_nan_and_leaves_the_mean_alone() -> None:
    matrix = confusion(np.array([0, 1, 1, 3]), np.array([0, 1, 0, 0]), 4)
    mean, each = miou(matrix)
    assert each[:2] == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(each[2])
    assert each[3] == 0, "predicted but not there"
    assert mean == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert miou(matrix, present_only=False)[0] == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_nothing_to_score_is_nan() -> None:
    nothing = confusion(np.zeros((2, 2), dtype=np.uint8), np.full((2, 2), 255, dtype=np.uint8), 3)
    assert math.isnan(miou(nothing)[0])
    assert math.isnan(pixel_accuracy(nothing))


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(BadInput, match="classes 0 to 2 or 255 for void, found values from 0 to 3"):
        confusion(np.zeros(4, dtype=np.int64), np.array([0, 1, 2, 3]), 3)


# --- Depth --------------------------------------------------------------------------------------------------------


def test_depth_errors_by_hand_and_by_loop() -> None:
    truth = np.array([[1.0, 2.0, 4.0, 0.0]], dtype=np.float32)
    errors = depth_errors(np.array([[1.2, 3.0, 3.0, 9.0]], dtype=np.float32), truth, truth > 0)
    assert errors.rmse == pytest.approx(math.sqrt((0.04 + 1 + 1) / 3), rel=1e-6)
    assert errors.abs_rel == pytest.approx((0.2 + 0.5 + 0.25) / 3, rel=1e-6)
    assert errors.delta1 == pytest.approx(1 / 3)
    rng = np.random.default_rng(2)
    truth, pred = rng.uniform(0.5, 9, (2, 20, 20))
    valid = rng.random((20, 20)) < 0.7
    errors = depth_errors(pred, truth, valid)
    assert (errors.rmse, errors.abs_rel, errors.delta1) == pytest.approx(oracles.depth_errors(pred, truth, valid))


def test_a_prediction_behind_the_camera_is_within_no_factor() -> None:
    truth = np.array([1.0, 1.0])
    assert depth_errors(np.array([-1.0, 1.0]), truth, truth > 0).delta1 == 0.5


def test_no_valid_depth_is_nan() -> None:
    assert math.isnan(depth_errors(np.ones(3), np.ones(3), np.zeros(3, dtype=bool)).rmse)


# --- Masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_j_and_f_equal_loops_from_the_definitions(seed: int) -> None:
    a, b = blobs(seed), blobs(seed + 100)
    assert jaccard(a, b) == pytest.approx(jaccard_score(b.ravel(), a.ravel()))
    assert (boundary(a) == oracles.boundary(a)).all()
    for tolerance in (0.008, 0.03, 0.06):
        assert boundary_f(a, b, tolerance) == pytest.approx(oracles.boundary_f(a, b, tolerance))


def test_f_of_unlike_masks_is_neither_0_nor_1() -> None:
    assert 0.1 < boundary_f(blobs(0), blobs(100), 0.03) < 0.9, "else the test above compares constants"


def test_the_tolerance_is_that_of_davis() -> None:
    """8 px at 480 x 854: ceil(0.008 * 979.7)."""
    truth = np.zeros((480, 854), dtype=bool)
    truth[:, :400] = True
    for shift, score in ((8, 1.0), (9, 0.0)):
        assert boundary_f(np.roll(truth, shift, 1) | truth, truth) == score


def test_empty_masks() -> None:
    nothing, thing = np.zeros((20, 20), dtype=bool), np.zeros((20, 20), dtype=bool)
    thing[5:9, 5:9] = True
    assert jaccard(nothing, nothing) == boundary_f(nothing, nothing) == 1
    assert jaccard(thing, nothing) == boundary_f(thing, nothing) == boundary_f(nothing, thing) == 0
    assert jaccard(thing, thing) == boundary_f(thing, thing) == 1


# --- Matches ------------------------------------------------------------------------------------------------------


def test_pck_counts_the_threshold_itself() -> None:
    assert pck(np.array([0.0, 1.0, 2.5, np.nan]), (1, 2, 3)).tolist() == [0.5, 0.5, 0.75]
    assert np.isnan(pck(np.array([]), (1, 2))).all()
