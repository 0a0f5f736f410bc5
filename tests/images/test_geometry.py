"""Where things are: maps are invertible, and reading a map agrees with reading it in plain loops."""

import numpy as np
import oracles
import pytest
import torch

from vader.images.geometry import (
    Flow,
    cell_centres,
    from_corners,
    inside,
    read_at,
    read_cells,
    scaling,
    transform,
    translation,
)


def test_cell_centres_lie_between_their_pixels() -> None:
    centres = cell_centres(2, 3, 4)
    assert centres.tolist() == [[2, 2], [6, 2], [10, 2], [2, 6], [6, 6], [10, 6]]
    assert cell_centres(1, 2, 1).tolist() == [[0.5, 0.5], [1.5, 0.5]]


def test_a_homography_is_its_definition_and_its_inverse_undoes_it() -> None:
    rng = np.random.default_rng(0)
    matrix = np.eye(3) + rng.normal(size=(3, 3)) * [[0.2, 0.2, 5], [0.2, 0.2, 5], [1e-3, 1e-3, 0]]
    points = rng.uniform(0, 100, (50, 2))
    mapped = transform(matrix, points)
    for (x, y), (u, v) in zip(points, mapped, strict=True):
        a, b, c = (row[0] * x + row[1] * y + row[2] for row in matrix)
        assert (u, v) == pytest.approx((a / c, b / c), abs=1e-9)
    np.testing.assert_allclose(transform(np.linalg.inv(matrix), mapped), points, atol=1e-8)
    # An affine map takes a shorter way, also when its last number is not 1.
    affine = np.array([[2.0, 0.5, 3.0], [-0.5, 1.0, 1.0], [0.0, 0.0, 4.0]])
    np.testing.assert_allclose(transform(affine, np.array([[2.0, 6.0]])), [[10 / 4, 6 / 4]])


def test_mirrors_and_shifts_compose_from_right_to_left() -> None:
    mirrored = translation(10, 0) @ scaling(-1, 1)
    np.testing.assert_allclose(transform(mirrored, np.array([[3.5, 2.0], [0.0, 1.0]])), [[6.5, 2.0], [10.0, 1.0]])


def test_from_corners_hits_all_four() -> None:
    source = np.array([[0, 0], [64, 0], [64, 64], [0, 64]], dtype=np.float64)
    target = source + np.array([[3, 1], [-7, 4], [-2, -9], [5, -1]])
    np.testing.assert_allclose(transform(from_corners(source, target), source), target, atol=1e-9)


def flow(lipschitz: float, seed: int = 0) -> Flow:
    rng = np.random.default_rng(seed)
    waves = Flow(rng.normal(size=(4, 2)), rng.normal(size=(4, 2)) * 0.1, rng.uniform(0, 6, 4))
    return Flow(waves.amplitude * lipschitz / waves.lipschitz, waves.frequency, waves.phase)


@pytest.mark.parametrize("seed", range(5))
def test_a_flow_can_be_undone_far_below_a_pixel(seed: int) -> None:
    elastic = flow(0.5, seed)
    points = np.random.default_rng(seed).uniform(-50, 150, (500, 2))
    np.testing.assert_allclose(elastic.invert(elastic.apply(points)), points, atol=1e-9)
    np.testing.assert_allclose(elastic.apply(elastic.invert(points)), points, atol=1e-9)


def test_a_flow_is_the_sum_of_its_waves_and_keeps_its_bound() -> None:
    elastic = flow(0.5)
    point = np.array([[12.5, 30.0]])
    expected = point[0].copy()
    for amplitude, frequency, phase in zip(elastic.amplitude, elastic.frequency, elastic.phase, strict=True):
        expected += amplitude * np.sin(frequency @ point[0] + phase)
    np.testing.assert_allclose(elastic.apply(point)[0], expected, atol=1e-12)
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 100, (2, 2000, 2))
    change = np.linalg.norm(elastic.displacement(a) - elastic.displacement(b), axis=1)
    assert (change <= 0.5 * np.linalg.norm(a - b, axis=1) + 1e-12).all()


def test_a_flow_that_folds_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="too strong"):
        flow(1.2).invert(np.zeros((1, 2)))


def test_inside_includes_the_edge() -> None:
    points = np.array([[0, 0], [10, 5], [10.01, 5], [5, -0.01], [5, 5.01], [-0.01, 2]], dtype=np.float64)
    assert inside(points, 10, 5).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(("h", "w"), [(7, 5), (1, 3)])
def test_read_at_agrees_with_plain_loops(stride: int, h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, h, w))
    # Points over the whole map, beyond its outermost cell centres and on its very edge too.
    points = (
        np.concatenate([rng.uniform(0, 1, (2, 60, 2)) * [w, h], np.full((2, 1, 2), 0.0), [[[w, h]]] * 2], 1) * stride
    )
    read = read_at(torch.from_numpy(maps), torch.from_numpy(points), stride).numpy()
    for b in range(2):
        for n, (x, y) in enumerate(points[b]):
            expected = oracles.bilinear(maps[b].transpose(1, 2, 0), x / stride, y / stride)
            np.testing.assert_allclose(read[b, n], expected, atol=1e-9)


def test_read_at_knows_where_centres_are() -> None:
    """A map that holds its own cells' centres gives back the point asked for; half a pixel off would show."""
    h, w, stride = 6, 9, 4
    centres = torch.from_numpy(cell_centres(h, w, stride).copy()).float()
    maps = centres.T.reshape(1, 2, h, w)
    points = (
        torch.rand(1, 200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([(w - 1) * 4.0, (h - 1) * 4.0])
        + 2
    )
    torch.testing.assert_close(read_at(maps, points, stride), points, atol=1e-4, rtol=0)
    at_centres = read_at(maps, centres[None], stride)
    torch.testing.assert_close(at_centres, centres[None], atol=1e-4, rtol=0)
    torch.testing.assert_close(at_centres, read_cells(maps, torch.arange(h * w)[None]), atol=1e-4, rtol=0)
    shifted = read_at(maps, points + 0.5, stride)
    assert float((shifted - points).abs().median()) > 0.4


def test_nearest_reads_the_cell_that_holds_the_point() -> None:
    maps = torch.randn(1, 4, 5, 8)
    points = torch.rand(1, 100, 2) * torch.tensor([32.0, 20.0])
    cells = (points[..., 1] / 4).long() * 8 + (points[..., 0] / 4).long()
    assert torch.equal(read_at(maps, points, 4, nearest=True), read_cells(maps, cells))


def test_read_at_carries_the_gradient_to_the_cells_it_read() -> None:
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[[5.1, 7.7], [12.0, 3.2]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: read_at(m, points, 4), (maps,))


def test_read_cells_counts_row_by_row_and_image_by_image() -> None:
    maps = torch.arange(2 * 1 * 3 * 4).view(2, 1, 3, 4).float()
    assert read_cells(maps, torch.tensor([[0, 5], [11, 4]])).squeeze(2).tolist() == [[0, 5], [23, 16]]
