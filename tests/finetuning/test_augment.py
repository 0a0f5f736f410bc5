"""Published probes' random crops: squares as Pillow makes them, truth that stays with its pixels, colours in bounds."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vader.datasets.example import Example
from vader.errors import BadInput
from vader.finetuning.augment import Room, Shuffled, Square, crop_box, nearest, room_view, square_crop, to_square


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (60, 80), (1024, 2048)])
def test_pictures_and_labels_become_pillows_squares(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image, labels = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 21, size, np.uint8)
    expected = np.array(Image.fromarray(image).resize((448, 448), Image.Resampling.BILINEAR))
    assert np.abs(to_square(image, 448).astype(int) - expected).max() <= 1
    # Pillow adds up rounding errors, so it may err where a centre lies on the line between two pixels.
    sure = [(2 * np.arange(448) + 1) * side % 896 != 0 for side in size]
    taken = np.array(Image.fromarray(labels).resize((448, 448), Image.Resampling.NEAREST))
    assert (nearest(labels, 448) == taken)[np.ix_(*sure)].all()
    assert sure[0].sum() > 300


def test_crops_have_the_area_and_shape_that_are_asked_for() -> None:
    rng, config = np.random.default_rng(0), Square()
    boxes = np.array([crop_box(375, 500, rng, config) for _ in range(2000)])
    top, left, height, width = boxes.T
    area, shape = height * width / (375 * 500), width / height
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 375).all() and (left + width <= 500).all()  # noqa: PT018
    assert 0.795 < area.min() < 0.82
    assert 0.93 < area.max() <= 1
    assert 1.05 < shape.min() < shape.max() < 1.34
    assert len(np.unique(top)) > 20 and len(np.unique(left)) > 20  # noqa: PT018
    # Twice as wide as high: no crop of 0.8 of the area is at most 4 : 3, so the middle is taken.
    assert crop_box(1024, 2048, rng, config) == (0, (2048 - 1365) // 2, 1024, 1365)


def test_crops_of_pictures_and_of_labels_are_the_same_parts() -> None:
    y, x = np.mgrid[:300, :400]
    image = np.stack([y // 2, x // 2, 0 * x], 2).astype(np.uint8)
    labels = (y // 2 * 256 + x // 2).astype(np.int32)
    flips = 0
    for seed in range(20):
        found = square_crop(Example("", image, labels), np.random.default_rng(seed), Square())
        assert found.labels is not None
        assert np.abs(found.image[..., 0] - found.labels / 256).max() < 3
        assert np.abs(found.image[..., 1] - found.labels % 256).max() < 3
        flips += bool(found.image[0, 0, 1] > found.image[0, -1, 1])
    assert 3 < flips < 17


def test_every_epoch_has_every_example_in_another_order_and_changed_anew() -> None:
    examples = [Example(f"{i}", np.zeros((32, 32, 3), np.uint8)) for i in range(7)]

    def change(example: Example, rng: np.random.Generator) -> Example:
        return replace(example, name=f"{example.name} {rng.random()}")

    shuffled = Shuffled(examples, change, 5, 3)
    names = [one.name.split() for one in shuffled]
    orders = [tuple(name for name, _ in names[start : start + 7]) for start in (0, 7, 14)]
    assert [sorted(order) for order in orders] == [[*"0123456"]] * 3
    assert len(set(orders)) == 3
    assert len({number for _, number in names}) == 21
    assert [shuffled[i].name.split() for i in (20, 0, 8)] == [names[i] for i in (20, 0, 8)], "in whatever order"
    with pytest.raises(IndexError):
        shuffled[21]


def test_views_of_rooms_keep_depth_with_its_pixels() -> None:
    y, x = np.mgrid[:480, :640]
    image = np.stack([y // 2, x // 3, 0 * x], 2).astype(np.uint8)
    depth = (1 + y * 1000 + x).astype(np.float32)
    corners, turned = [], 0
    for seed in range(30):
        found = room_view(Example("", image, depth=depth), np.random.default_rng(seed), replace(Room(), coloured=0.0))
        assert found.depth is not None
        assert found.image.shape == (416, 544, 3)
        known = found.depth > 0
        turned += not known.all()
        row, column = np.divmod(found.depth - 1, 1000)
        inner = known & (found.image[..., 1] > 20)  # mixed with the black beyond its edges
        assert np.quantile(np.abs(found.image[..., 0] - row / 2)[inner], 0.99) <= 1
        assert np.quantile(np.abs(found.image[..., 1] - column / 3)[inner], 0.99) <= 1
        assert row[known].min() >= 45 and row[known].max() < 472  # noqa: PT018
        assert column[known].min() >= 43 and column[known].max() < 608  # noqa: PT018
        corners.append(bool(column[200, 0] < column[200, 500]))
    assert 5 < sum(corners) < 25
    assert 5 < turned < 25
    with pytest.raises(BadInput, match="at least 416 x 544 px within its border, found 43 x 56 of 48 x 64"):
        room_view(Example("small", image[:48, :64], depth=depth[:48, :64]), np.random.default_rng(0), Room())


def test_colours_change_within_their_bounds() -> None:
    image, depth = np.full((480, 640, 3), 100, np.uint8), np.ones((480, 640), np.float32)
    config = replace(Room(), coloured=1.0, turned=0.0)
    values = np.array([room_view(Example("", image, depth=depth), np.random.default_rng(i), config).image[0, 0]
                       for i in range(150)])  # fmt: skip
    low, high = 100**0.9 * 0.75 * 0.9, min(255, 100**1.1 * 1.25 * 1.1)
    assert low - 1 <= values.min() < low + 15
    assert high - 60 < values.max() <= high + 1
    assert (values[:, 0] != values[:, 1]).mean() > 0.8
