"""Views and matches: what the pixels show is where the maps say, and nothing but (seed, epoch, image) decides it."""

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from vader.errors import BadInput
from vader.images.colour import Colour
from vader.images.geometry import cell_centres, scaling, translation
from vader.images.warp import warp, warp_batch
from vader.pretraining import views as views_module
from vader.pretraining.views import (
    Pair,
    View,
    ViewConfig,
    choose_matches,
    draw_crop,
    draw_pair,
    draw_view,
    generator,
    render,
    shared_cells,
)

SIZE = 64
OPTIONS = {
    "crop": {"p_flip": 0.0},
    "flip": {"p_flip": 1.0},
    "affine": {"degrees": 40, "shear": 15},
    "perspective": {"perspective": 0.5},
    "elastic": {"elastic": 0.5},
    "all": {"degrees": 30, "shear": 10, "perspective": 0.3, "elastic": 0.4},
}
# Enlarged and reduced up to sixfold, square and not, odd and even.
IMAGES = [(40, 40), (61, 97), (203, 150), (33, 200), (501, 380)]


def config(**options: object) -> ViewConfig:
    return ViewConfig(size=SIZE, **options)


def far_from_the_edge(points: np.ndarray, width: int, height: int, margin: float) -> np.ndarray:
    return ((points > margin) & (points < np.array([width, height]) - margin)).all(1)


# --- Pixels against maps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), IMAGES)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_pixel_shows_the_point_that_the_map_names(name: str, width: int, height: int) -> None:
    """A coordinate image goes through the pixels' path and comes back within 0.05 px of the image."""
    image = oracles.coordinate_image(width, height)
    centres = cell_centres(SIZE, SIZE, 1)
    compared = 0
    for number in range(6):
        view = draw_view(config(**OPTIONS[name]), width, height, generator(1, 0, number, 0))
        shown = render(image, view, SIZE)[..., :2].reshape(-1, 2)
        named = view.to_image(centres)
        reach = np.abs(np.diff(named.reshape(SIZE, SIZE, 2), axis=1)).max()  # image pixels a view pixel: the averaging
        reach = max(reach, np.abs(np.diff(named.reshape(SIZE, SIZE, 2), axis=0)).max())
        inner = far_from_the_edge(named, width, height, 1 + reach)
        compared += inner.sum()
        assert np.abs(shown - named)[inner].max() < 0.05
        np.testing.assert_allclose(view.from_image(named), centres, atol=1e-6)
    assert compared > 6 * SIZE * SIZE / 2


@pytest.mark.parametrize("side", [SIZE, 65, 90, 127, 128, 129, 141, 160, 200, 257, 500])
@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_crops_of_any_size_stay_in_place(side: int, mirrored: bool) -> None:
    """Crops have a way of their own through the pixels; at its edges too nothing may move."""
    width, height = side + 7, side + 20
    matrix = translation(3, 11) @ scaling(side / SIZE, side / SIZE)
    if mirrored:
        matrix = matrix @ translation(SIZE, 0) @ scaling(-1, 1)
    view = View(matrix, None, Colour())
    shown = render(oracles.coordinate_image(width, height), view, SIZE)[..., :2].reshape(-1, 2)
    assert np.abs(shown - view.to_image(cell_centres(SIZE, SIZE, 1))).max() < 0.05


def test_a_flip_shows_the_mirrored_picture(photo: np.ndarray) -> None:
    plain = config(p_flip=0.0, scale=(0.5, 0.5))
    view = draw_view(plain, 203, 150, generator(0, 0, 0, 0))
    flipped = draw_view(plain.model_copy(update={"p_flip": 1.0}), 203, 150, generator(0, 0, 0, 0))
    np.testing.assert_array_equal(render(photo, flipped, SIZE), render(photo, view, SIZE)[:, ::-1])
    points = np.array([[1.5, 20.0]])
    np.testing.assert_allclose(flipped.to_image(points), view.to_image(np.array([[SIZE - 1.5, 20.0]])))


def test_reducing_averages_what_it_skips() -> None:
    """Fine texture becomes grey, not noise, when a view holds many image pixels a pixel."""
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    turned = View(scaling(7, 7) @ np.array([[0.99, -0.1, 3], [0.1, 0.99, -2], [0, 0, 1]]), None, Colour())
    for matrix in (scaling(8, 8), translation(1, 2) @ scaling(4, 5), scaling(7.3, 7.9), turned.matrix):
        area = abs(np.linalg.det(matrix[:2, :2]))
        deviation = warp(image, matrix, SIZE).astype(float).std()
        assert deviation < 3 * image.std() / math.sqrt(area)  # a mean of `area` pixels has 1, a single pixel sqrt(area)


@pytest.mark.parametrize("name", ["crop", "affine", "perspective"])
def test_warp_batch_agrees_with_warp(name: str, photo: np.ndarray) -> None:
    options = config(**OPTIONS[name], scale=(0.08, 0.3))
    views = [draw_view(options, 203, 150, generator(0, 0, i, 0)) for i in range(8)]
    matrices = torch.from_numpy(np.stack([view.matrix for view in views])).float()
    images = torch.from_numpy(photo).permute(2, 0, 1).float().expand(8, 3, 150, 203)
    batch = warp_batch(images, matrices, SIZE).permute(0, 2, 3, 1).numpy()
    for view, warped in zip(views, batch, strict=True):
        named = view.to_image(cell_centres(SIZE, SIZE, 1)).reshape(SIZE, SIZE, 2)
        inner = far_from_the_edge(named.reshape(-1, 2), 203, 150, 1).reshape(SIZE, SIZE)
        difference = np.abs(render(photo, view, SIZE) - warped)[inner]
        assert difference.max() < 3  # grey levels: OpenCV rounds weights and results of bytes
        assert difference.mean() < 0.5


def test_warp_batch_supersampled_is_where_it_should_be() -> None:
    width, height = 401, 330
    images = torch.from_numpy(oracles.coordinate_image(width, height)).permute(2, 0, 1)[None]
    matrix = translation(9, 4) @ scaling(4.3, 3.9)
    shown = warp_batch(images, torch.from_numpy(matrix)[None].float(), SIZE, supersample=2)[0, :2].flatten(1).T.numpy()
    named = View(matrix, None, Colour()).to_image(cell_centres(SIZE, SIZE, 1))
    inner = far_from_the_edge(named, width, height, 5)
    assert np.abs(shown - named)[inner].max() < 0.05


# --- Matches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(61, 97), (150, 101)])
@pytest.mark.parametrize("name", OPTIONS)
def test_matches_are_those_that_a_search_over_pixels_finds(name: str, width: int, height: int) -> None:
    """Two rendered coordinate images, searched pixel by pixel, give the same cells and the same places."""
    beyond = 150
    image = oracles.coordinate_image(width, height, beyond)
    corner = translation(beyond, beyond)  # of the image in its larger canvas
    centres = cell_centres(SIZE // 4, SIZE // 4, 4)
    curved = name in ("perspective", "elastic", "all")  # where one Newton step is not all
    agreed = 0
    for number in range(3):
        pair = draw_pair(config(**OPTIONS[name]), width, height, 4, 0, 0, number)
        first, second = (render(image, replace(view, matrix=corner @ view.matrix), SIZE) for view in pair.views)
        found = oracles.match_by_search(first, second, 4, width, height)
        ours = dict(zip(pair.cells.tolist(), pair.points, strict=True))
        for cell, (point, place) in found.items():
            if not far_from_the_edge(point[None], width, height, 0.05)[0] and cell not in ours:
                continue  # on the very edge of the image, where the last digit decides
            assert cell in ours, f"cell {cell} was not matched"
            assert np.abs(ours[cell] - place).max() < (0.15 if curved else 0.05)
            assert np.abs(oracles.bilinear(second[..., :2], *ours[cell]) - point).max() < 0.05
            agreed += 1
        for cell, point in ours.items():  # the other way round: what the search lacks lies at an edge
            source = pair.views[0].to_image(centres[[cell]])
            at_edge = not far_from_the_edge(point[None], SIZE, SIZE, 1.6)[0]
            assert cell in found or at_edge or not far_from_the_edge(source, width, height, 0.05)[0]
    assert agreed > 60


def test_shared_cells_stop_at_the_images_edge() -> None:
    turned = View(translation(32, 32) @ np.diag([2.0, 2.0, 1.0]) @ translation(-32, -32), None, Colour())
    cells, points = shared_cells(turned, turned, SIZE, 4, 64, 64)
    centres = cell_centres(16, 16, 4)
    inner = np.flatnonzero(((centres > 16) & (centres < 48)).all(1))  # the middle half of the view shows the image
    assert cells.tolist() == inner.tolist()
    np.testing.assert_allclose(points, centres[inner], atol=1e-9)


def test_chosen_matches_are_matches() -> None:
    options = config()
    pair = draw_pair(options, 150, 101, 4, 0, 0, 3)
    place = dict(zip(pair.cells.tolist(), pair.points, strict=True))
    cells, points = choose_matches(pair, options, 4, 32, generator(0, 0, 3, 2))
    assert len(set(cells.tolist())) == 32
    for cell, point in zip(cells.tolist(), points, strict=True):
        np.testing.assert_array_equal(place[cell], point)
    few = Pair(pair.views, pair.cells[:5], pair.points[:5])
    cells, _ = choose_matches(few, options, 4, 32, generator(0, 0, 3, 2))
    assert len(cells) == 32
    assert set(cells.tolist()) <= set(few.cells.tolist())


def test_same_view_pairs_differ_in_colour_alone() -> None:
    pair = draw_pair(config(pairing="same"), 150, 101, 4, 0, 0, 1)
    np.testing.assert_array_equal(pair.views[0].matrix, pair.views[1].matrix)
    assert pair.views[0].colour != pair.views[1].colour
    np.testing.assert_allclose(pair.points, cell_centres(16, 16, 4)[pair.cells], atol=1e-9)
    assert len(pair.cells) == 256


def test_unmatched_pairs_have_points_at_random() -> None:
    options = config(pairing="unmatched")
    pair = draw_pair(options, 150, 101, 4, 0, 0, 1)
    cells, points = choose_matches(pair, options, 4, 4000, generator(0, 0, 1, 2))
    assert set(cells.tolist()) == set(range(256))  # anywhere in view 1, shared or not
    assert points.min() >= 0
    assert points.max() <= SIZE
    assert np.abs(points.mean(0) - SIZE / 2).max() < 2
    for axis in (0, 1):
        assert abs(np.corrcoef(cell_centres(16, 16, 4)[cells][:, axis], points[:, axis])[0, 1]) < 0.06


# --- Drawing -------------------------------------------------------------------------------------------------------


def same_pair(a: Pair, b: Pair) -> bool:
    return all(
        np.array_equal(x.matrix, y.matrix) and x.colour == y.colour for x, y in zip(a.views, b.views, strict=True)
    ) and np.array_equal(a.points, b.points)


def test_a_pair_depends_on_seed_epoch_and_image_alone() -> None:
    options = config(elastic=0.2, degrees=10)
    first = draw_pair(options, 150, 101, 4, 5, 2, 17)
    np.random.seed(99)
    torch.manual_seed(99)
    for number in range(5):
        draw_pair(options, 90, 140, 4, 5, 2, number)
    assert same_pair(first, draw_pair(options, 150, 101, 4, 5, 2, 17))
    for other in [(6, 2, 17), (5, 3, 17), (5, 2, 18)]:
        assert not same_pair(first, draw_pair(options, 150, 101, 4, *other))
    assert not np.array_equal(first.views[0].matrix, first.views[1].matrix)


def test_redraws_leave_the_first_view_as_it_was() -> None:
    easy, hard = config(), config(min_shared=200)
    for number in range(20):
        a, b = (draw_pair(c, 150, 101, 4, 0, 0, number) for c in (easy, hard))
        np.testing.assert_array_equal(a.views[0].matrix, b.views[0].matrix)
        assert len(b.cells) >= 200


def test_view_2_is_redrawn_at_most_ten_times_and_then_takes_view_1s_geometry(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def counting(*args: object) -> View:
        drawn.append(draw_view(*args))
        return drawn[-1]

    monkeypatch.setattr(views_module, "draw_view", counting)
    pair = draw_pair(config(min_shared=256, scale=(0.2, 0.3)), 150, 101, 4, 0, 0, 0)  # only equal views share all
    assert len(drawn) == 2 + views_module.REDRAWS
    np.testing.assert_array_equal(pair.views[0].matrix, pair.views[1].matrix)
    assert len(pair.cells) == 256


def test_the_last_redraw_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    options, drawn = config(min_shared=256, scale=(0.2, 0.3)), []

    def improving(*args: object) -> View:
        drawn.append(draw_view(*args))
        return drawn[0] if len(drawn) == 2 + views_module.REDRAWS else drawn[-1]

    monkeypatch.setattr(views_module, "draw_view", improving)
    pair = draw_pair(options, 150, 101, 4, 0, 0, 0)
    assert pair.views[1] is drawn[0]


def test_an_impossible_pair_is_refused_with_a_reason() -> None:
    with pytest.raises(BadInput, match=r"150x101 px gives no two 64 px views that share 257 cells \(best: 256\)"):
        draw_pair(config(min_shared=257), 150, 101, 4, 0, 0, 0)


def test_the_default_draw_always_shares_32_cells() -> None:
    """At 224 px, on odd sizes, with every pair's points within view 2."""
    rng = np.random.default_rng(0)
    options = ViewConfig()
    for number in range(500):
        width, height = (int(n) for n in rng.integers(33, 700, 2))
        pair = draw_pair(options, width, height, 4, 0, 0, number)
        assert len(pair.cells) == len(set(pair.cells.tolist())) >= 32
        assert pair.points.min() >= 0
        assert pair.points.max() <= 224


@pytest.mark.parametrize(("width", "height"), [(200, 150), (97, 320)])
def test_crops_are_distributed_as_torchvisions(width: int, height: int) -> None:
    options, rng, n = ViewConfig(), np.random.default_rng(0), 3000
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = [RandomResizedCrop.get_params(picture, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    ours = np.array([draw_crop(options, width, height, rng) for _ in range(n)], dtype=np.float64)
    theirs = np.array([(x, y, w, h) for y, x, h, w in theirs], dtype=np.float64)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all()
    assert (ours[:, 1] + ours[:, 3] <= height).all()
    for name, of in {
        "x": lambda c: c[:, 0],
        "y": lambda c: c[:, 1],
        "area": lambda c: c[:, 2] * c[:, 3] / (width * height),
        "log ratio": lambda c: np.log(c[:, 2] / c[:, 3]),
    }.items():
        a, b = np.sort(of(ours)), np.sort(of(theirs))
        everywhere = np.union1d(a, b)
        gap = np.abs(np.searchsorted(a, everywhere, "right") - np.searchsorted(b, everywhere, "right")).max() / n
        assert gap < 1.95 * math.sqrt(2 / n), name  # Kolmogorov-Smirnov, 0.1 %


def test_a_crop_that_cannot_fit_is_the_centre_as_torchvision_has_it() -> None:
    options = ViewConfig(scale=(1.0, 1.0))
    for width, height in [(300, 100), (100, 300), (301, 97)]:
        y, x, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
        assert draw_crop(options, width, height, np.random.default_rng(0)) == (x, y, w, h)


def test_settings_are_drawn_as_often_as_they_say() -> None:
    options, n = config(p_solarise=0.1), 2000
    drawn = [draw_view(options, 100, 100, generator(0, 0, i, 0)) for i in range(n)]
    colours = [view.colour for view in drawn]
    shares = {
        0.5: np.mean([view.matrix[0, 0] < 0 for view in drawn]),
        0.8: np.mean([c.factors != (1, 1, 1, 0) for c in colours]),
        0.2: np.mean([c.grey for c in colours]),
        0.1: np.mean([c.solarise for c in colours]),
    }
    for expected, share in shares.items():
        assert share == pytest.approx(expected, abs=0.04)
    sigmas = [c.sigma for c in colours if c.sigma]
    assert len(sigmas) / n == pytest.approx(0.5, abs=0.04)
    assert (min(sigmas), max(sigmas)) == pytest.approx((0.1, 2.0), abs=0.02)
    factors = np.array([c.factors for c in colours])
    np.testing.assert_allclose(factors.min(0), [0.6, 0.6, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(factors.max(0), [1.4, 1.4, 1.4, 0.1], atol=0.01)
    assert len({c.order for c in colours}) == 24
