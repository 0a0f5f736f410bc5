"""Colours: torchvision's meaning of every factor, and one result whether the workers or the device change them."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as pil

from vader.images.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, Colour, paint, paint_batch
from vader.pretraining.views import ViewConfig, draw_view, generator


def change(operation: int, value: float) -> Colour:
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[operation] = value
    return Colour(factors=tuple(factors))


def batch_of(image: np.ndarray, *colours: Colour) -> np.ndarray:
    """`paint_batch` of copies of one image, as (B, H, W, 3) in 0..255."""
    images = torch.from_numpy(image).permute(2, 0, 1).float().div(255).expand(len(colours), 3, *image.shape[:2])
    painted = paint_batch(images, torch.from_numpy(np.stack([c.pack() for c in colours])))
    return painted.permute(0, 2, 3, 1).numpy() * 255


FACTORS = [(op, value) for op in (BRIGHTNESS, CONTRAST, SATURATION) for value in (0.6, 0.9, 1.2, 1.4)]


@pytest.mark.parametrize(("operation", "value"), FACTORS)
def test_factors_mean_what_torchvisions_mean(operation: int, value: float, photo: np.ndarray) -> None:
    """Within one grey level (Pillow cuts decimals off, OpenCV rounds them)."""
    theirs = {BRIGHTNESS: pil.adjust_brightness, CONTRAST: pil.adjust_contrast, SATURATION: pil.adjust_saturation}
    expected = np.asarray(theirs[operation](Image.fromarray(photo), value)).astype(int)
    painted = paint(photo, change(operation, value))
    assert np.abs(painted - expected).max() <= 1
    assert np.abs(painted.astype(int) - photo).max() > 5
    assert np.abs(batch_of(photo, change(operation, value))[0] - painted).max() <= 1


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.03, 0.1, 0.5])
def test_hue_turns_as_torchvisions(turns: float, photo: np.ndarray) -> None:
    """Within 1 grey level on average and 10 anywhere: Pillow's and OpenCV's hues have 256 steps, ours none."""
    expected = np.asarray(pil.adjust_hue(Image.fromarray(photo), turns)).astype(int)
    painted, exact = paint(photo, change(HUE, turns)), batch_of(photo, change(HUE, turns))[0]
    assert np.abs(painted.astype(int) - photo).mean() > 2
    for result, other in ((painted, expected), (exact, expected), (exact, painted)):
        difference = np.abs(result.astype(float) - other)
        assert difference.mean() < 1
        assert difference.max() < 10


def test_hue_wraps() -> None:
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    for result in (paint(red, change(HUE, 1 / 3)), batch_of(red, change(HUE, 1 / 3))[0]):
        np.testing.assert_allclose(result[0, 0], [0, 255, 0], atol=10)
    for result in (paint(red, change(HUE, -1 / 3)), batch_of(red, change(HUE, -1 / 3))[0]):  # across 0
        np.testing.assert_allclose(result[0, 0], [0, 0, 255], atol=10)
    halves = [paint(red, change(HUE, turns)) for turns in (-0.5, 0.5)] + [
        *batch_of(red, change(HUE, -0.5), change(HUE, 0.5))
    ]
    for result in halves:  # half a turn either way is the same place
        np.testing.assert_allclose(result[0, 0], [0, 255, 255], atol=10)


def test_grey_and_solarise_are_pillows(photo: np.ndarray) -> None:
    grey = np.asarray(pil.to_grayscale(Image.fromarray(photo), 3)).astype(int)
    assert np.abs(paint(photo, Colour(grey=True)) - grey).max() <= 1
    solarised = np.asarray(ImageOps.solarize(Image.fromarray(photo), 128))
    np.testing.assert_array_equal(paint(photo, Colour(solarise=True)), solarised)
    batch = batch_of(photo, Colour(grey=True), Colour(solarise=True), Colour())
    assert np.abs(batch[0] - grey).max() <= 1
    assert np.abs(batch[1] - solarised).max() < 1.01  # 128 becomes 127, or stays if its last bit is missing
    assert np.abs(batch[2] - photo).max() < 0.01
    np.testing.assert_array_equal(paint(photo, Colour()), photo)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_is_a_gaussian_of_that_deviation(sigma: float, photo: np.ndarray) -> None:
    expected = gaussian_filter(photo.astype(float), (sigma, sigma, 0), mode="mirror", truncate=4)
    assert np.abs(paint(photo, Colour(sigma=sigma)) - expected).max() < 2
    assert np.abs(batch_of(photo, Colour(sigma=sigma), Colour(sigma=2.0))[0] - expected).max() < 1


def test_an_images_blur_does_not_depend_on_the_others_of_its_batch(photo: np.ndarray) -> None:
    alone, beside = batch_of(photo, Colour(sigma=0.8)), batch_of(photo, Colour(sigma=0.8), Colour(sigma=2.0))
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-3)  # of 255; a longer kernel moves pixels by .02


def test_colours_change_in_the_drawn_order(photo: np.ndarray) -> None:
    ours = Colour((CONTRAST, BRIGHTNESS, SATURATION, HUE), (1.4, 0.6, 1.0, 0.0))
    reverse = Colour((BRIGHTNESS, CONTRAST, SATURATION, HUE), (1.4, 0.6, 1.0, 0.0))
    expected = paint(paint(photo, change(CONTRAST, 0.6)), change(BRIGHTNESS, 1.4))
    np.testing.assert_array_equal(paint(photo, ours), expected)
    assert np.abs(paint(photo, reverse).astype(int) - expected).max() > 10
    batch = batch_of(photo, ours, reverse)
    assert np.abs(batch[0] - expected).max() <= 2
    assert np.abs(batch[1] - paint(photo, reverse)).max() <= 2


def test_each_image_of_a_batch_gets_its_own_colours(photo: np.ndarray) -> None:
    """Whole drawn changes, hue aside (it has its own tolerance): on the device as in the workers."""
    options = ViewConfig(hue=0.0)
    colours = [draw_view(options, 203, 150, generator(0, 0, i, 0)).colour for i in range(12)]
    assert len({c.grey for c in colours}) == len({c.sigma > 0 for c in colours}) == 2
    for painted, colour in zip(batch_of(photo, *colours), colours, strict=True):
        difference = np.abs(painted - paint(photo, colour))
        assert difference.max() < 5
        assert difference.mean() < 0.6
