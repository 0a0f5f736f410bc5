"""The label-free numbers: the exam knows right from wrong, and the guard knows a collapse."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vader.images import colour
from vader.images.decode import decode
from vader.images.geometry import cell_centres, read_cells
from vader.pretraining import health, match_exam
from vader.pretraining.health import diagnose, judge, paired_interval
from vader.pretraining.match_exam import MatchExam, make_exam, match_errors, match_scores
from vader.pretraining.views import ViewConfig, draw_pair

SIZE, STRIDE, CELLS = 64, 4, 16
CONFIG = ViewConfig(size=SIZE)


@pytest.fixture(scope="module")
def pictures(photos: Path) -> list[np.ndarray]:
    return [decode(path) for path in sorted(photos.iterdir())]


@pytest.fixture(scope="module")
def exam(pictures: list[np.ndarray]) -> MatchExam:
    return make_exam(iter(pictures), CONFIG, STRIDE)


def waves(points: np.ndarray) -> Tensor:
    """A smooth embedding of points of an image, (N, 16), normalised: the nearer, the more alike."""
    at = torch.from_numpy(points).float()
    angles = torch.cat([at * (2 * math.pi / period) for period in (48.0, 96.0, 192.0, 800.0)], 1)
    return F.normalize(torch.cat([angles.sin(), angles.cos()], 1), dim=1)


def perfect_maps(pictures: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Maps of both views of every image that know where in the image each cell lies."""
    maps: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        pair = draw_pair(CONFIG, width, height, STRIDE, match_exam.EXAM_SEED, 0, number)
        for half, view in zip(maps, pair.views, strict=True):
            half.append(waves(view.to_image(cell_centres(CELLS, CELLS, STRIDE))).T.reshape(-1, CELLS, CELLS))
    return torch.stack(maps[0]), torch.stack(maps[1])


# --- The exam ------------------------------------------------------------------------------------------------------


def test_perfect_features_pass_and_mirrored_ones_fail(pictures: list[np.ndarray], exam: MatchExam) -> None:
    first, second = perfect_maps(pictures)
    scores = match_scores(first, second, exam)
    assert scores.shape == (len(pictures),)
    assert scores.mean() > 0.99
    assert float(match_errors(first, second, exam).median()) < STRIDE / math.sqrt(2)  # the floor of a perfect match
    for wrong in (second.flip(3), second.flip(2), second.transpose(2, 3), second.roll(1, 0)):
        assert match_scores(first, wrong, exam).mean() < 0.3
    assert match_scores(first, second.roll(2, 3), exam).mean() < 0.3  # two cells off is wrong


def test_scores_are_those_of_plain_loops(exam: MatchExam) -> None:
    maps = F.normalize(torch.randn(2, len(exam), 5, CELLS, CELLS, generator=torch.Generator().manual_seed(0)), dim=2)
    maps[1] = F.normalize(maps[0] + 0.5 * maps[1], dim=1)
    scores = match_scores(maps[0], maps[1], exam)
    for i in range(len(exam)):
        first, second = maps[0, i].numpy(), maps[1, i].numpy()
        expected = oracles.pck(first, second, exam.cells[i, :20].numpy(), exam.points[i, :20].numpy(), STRIDE, STRIDE)
        part = MatchExam(exam.views[i : i + 1], exam.cells[i : i + 1, :20], exam.points[i : i + 1, :20], STRIDE)
        assert match_scores(maps[0, i][None], maps[1, i][None], part)[0] == pytest.approx(expected)
    assert 0 < scores.mean() < 1


def test_the_pixels_of_the_exam_are_where_its_points_say() -> None:
    """Coordinate pictures, decoded from their colours alone: the exam's views, cells and points belong together."""
    exact = [oracles.coordinate_image(w, h) for w, h in ((120, 90), (61, 97), (200, 180))]
    pictures = [np.clip(image, 0, 255).astype(np.uint8) for image in exact]
    exam = make_exam(iter(pictures), CONFIG, STRIDE, colour=False)
    assert exam.views.shape == (3, 2, 3, SIZE, SIZE)
    assert exam.views.dtype == torch.uint8
    for pair, cells, points in zip(exam.views, exam.cells, exam.points, strict=True):
        first, second = (half.permute(1, 2, 0).numpy().astype(np.float64) for half in pair)
        for cell, point in zip(cells.tolist(), points.tolist(), strict=True):
            x, y = (cell % CELLS + 0.5) * STRIDE, (cell // CELLS + 0.5) * STRIDE
            gap = oracles.bilinear(first, x, y) - oracles.bilinear(second, *point)
            assert np.abs(gap[:2]).max() < 2  # bytes have steps of 1, and edges are mirrored


def test_the_exam_is_the_same_for_every_run(pictures: list[np.ndarray], exam: MatchExam) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    again = make_exam(iter(pictures), ViewConfig(size=SIZE, pairing="same", degrees=20), STRIDE)
    assert torch.equal(again.views, exam.views)
    assert torch.equal(again.points, exam.points)
    plain = make_exam(iter(pictures), CONFIG, STRIDE, colour=False)
    assert torch.equal(plain.points, exam.points)
    assert not torch.equal(plain.views, exam.views)
    assert exam.cells.shape == (len(pictures), match_exam.EXAM_QUERIES)
    assert len(exam) == len(pictures)


def test_chance_is_the_share_of_cells_near_the_points(exam: MatchExam) -> None:
    hits, total = 0, 0
    for point in exam.points.flatten(0, 1).tolist():
        for row in range(CELLS):
            for column in range(CELLS):
                total += 1
                hits += math.dist(point, ((column + 0.5) * STRIDE, (row + 0.5) * STRIDE)) <= STRIDE
    assert exam.chance == pytest.approx(hits / total, rel=1e-3)
    noise = F.normalize(torch.randn(2, len(exam), 32, CELLS, CELLS, generator=torch.Generator().manual_seed(0)), dim=2)
    assert match_scores(noise[0], noise[1], exam).mean() == pytest.approx(exam.chance, abs=0.012)


def test_embedding_an_exam_keeps_images_and_views_apart(exam: MatchExam) -> None:
    def shrink(images: Tensor) -> Tensor:
        assert float(images.max()) <= 1
        return F.avg_pool2d(images, 4)

    first, second = match_exam.embed_exam(shrink, exam, torch.device("cpu"), batch=5)
    for k, maps in enumerate((first, second)):
        torch.testing.assert_close(maps, F.avg_pool2d(exam.views[:, k].float() / 255, 4))


def test_the_most_similar_raw_colour_is_the_nearest_colour() -> None:
    cells = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    cells[..., :8] = cells[..., :8] * 0.3 + 0.7  # near white and near black, where a plain cosine misleads
    cells[..., 8:12] *= 0.3
    images = F.interpolate(cells, scale_factor=4, mode="nearest")
    embedded = colour.raw_colour(images)
    assert embedded.shape == (1, 4, 16, 16)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(1, 16, 16))
    vectors, colours = embedded[0].flatten(1).T.double(), F.avg_pool2d(images, 4)[0].flatten(1).T.double()
    likeness, distance = vectors @ vectors.T, torch.cdist(colours, colours)
    likeness.fill_diagonal_(-2)
    distance.fill_diagonal_(9)
    found = likeness.argmax(1)
    best = distance.min(1).values
    near = distance.gather(1, found[:, None])[:, 0]
    assert float((found == distance.argmin(1)).float().mean()) > 0.97
    assert float((near - best).max()) < 1 / 255  # where they differ, it is by less than a grey level
    plain = F.normalize(cells[0].flatten(1).T, dim=1)
    plain = (plain @ plain.T).fill_diagonal_(-2)
    assert float((plain.argmax(1) == distance.argmin(1)).float().mean()) < 0.6
    assert colour.raw_colour(torch.rand(1, 3, 33, 38)).shape == (1, 4, 9, 10)


# --- Statistics ----------------------------------------------------------------------------------------------------


def statistics_of(exam: MatchExam, make: Callable[[], Tensor]) -> dict[str, float]:
    first = F.normalize(make(), dim=1)
    return health.statistics(first, first, exam)


def test_statistics_are_their_definitions(exam: MatchExam) -> None:
    maps = F.normalize(
        torch.randn(2, len(exam), 6, CELLS, CELLS) * torch.tensor([3, 2, 1, 1, 0.3, 0.1])[:, None, None], dim=2
    )
    told = health.statistics(maps[0], maps[1], exam, sample=10**9)
    queries = read_cells(maps[0], exam.cells).double().numpy()
    rows = queries.reshape(-1, 6)
    assert told["rank"] == pytest.approx(oracles.effective_rank(rows), rel=1e-4)
    assert told["deviation"] == pytest.approx(rows.std(0, ddof=1).mean() * math.sqrt(6), rel=1e-4)
    gaps, pairs = [], []
    for i in range(len(exam)):
        for n, (x, y) in enumerate(exam.points[i].tolist()):
            column, row = min(int(x // STRIDE), CELLS - 1), min(int(y // STRIDE), CELLS - 1)
            key = maps[1, i, :, row, column].double().numpy()
            gaps.append(((queries[i, n] - key) ** 2).sum())
        for j in range(i):
            pairs.append(math.exp(-2 * ((queries[i, 0] - queries[j, 0]) ** 2).sum()))
    assert told["alignment"] == pytest.approx(np.mean(gaps), rel=1e-4)
    assert told["uniformity"] == pytest.approx(math.log(np.mean(pairs)), rel=1e-4)


def test_statistics_at_their_ends(exam: MatchExam) -> None:
    shape = (len(exam), 8, CELLS, CELLS)
    spread = statistics_of(exam, lambda: torch.randn(shape))
    assert spread["rank"] == pytest.approx(8, abs=0.1)
    assert spread["deviation"] == pytest.approx(1, abs=0.02)
    point = statistics_of(exam, lambda: torch.ones(shape))
    assert point["rank"] == pytest.approx(1, abs=1e-3)
    assert point["deviation"] == pytest.approx(0, abs=1e-3)
    assert point["uniformity"] == pytest.approx(0, abs=1e-3)


# --- Judgement -----------------------------------------------------------------------------------------------------


def test_a_collapse_is_called_one(exam: MatchExam) -> None:
    shape = (len(exam), 8, CELLS, CELLS)
    point = statistics_of(exam, lambda: torch.ones(shape) + 0.01 * torch.randn(shape))
    assert "collapse: all pixels" in (diagnose(point, 8) or "")
    line = torch.zeros(shape)
    line[:, 0] = torch.randn(len(exam), CELLS, CELLS).sign()  # two opposite points: spread out, yet of one dimension
    flat = statistics_of(exam, lambda: line)
    assert "collapse of dimensions: the embeddings use 1.0 of 8" in (diagnose(flat | {"deviation": 0.5}, 8) or "")
    assert diagnose(statistics_of(exam, lambda: torch.randn(shape)), 8) is None
    assert "collapse" in (diagnose({"deviation": math.nan}, 8) or "")


def test_other_troubles_have_names_of_their_own() -> None:
    stuck = {"step": 200, "loss": 69.0, "chance_loss": 69.3}
    assert "nothing is learned yet" in (diagnose(stuck, 128) or "")
    assert diagnose(stuck | {"step": 50}, 128) is None
    assert diagnose(stuck | {"loss": 40.0}, 128) is None
    shortcut = {"step": 200, "loss": 40.0, "chance_loss": 69.3, "match": 0.02, "chance_match": 0.015}
    assert "shortcut" in (diagnose(shortcut, 128) or "")
    assert diagnose(shortcut | {"match": 0.3}, 128) is None


def test_the_interval_covers_what_it_should() -> None:
    rng = np.random.default_rng(0)
    low, high = paired_interval(rng.normal(0.1, 0.2, 400))
    half = 1.96 * 0.2 / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    covered = 0
    for _ in range(100):
        low, high = paired_interval(rng.normal(0.3, 1.0, 60), resamples=500)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


def test_the_verdict_pairs_the_images() -> None:
    rng = np.random.default_rng(1)
    before = rng.uniform(0, 1, 200)  # images differ far more than the two encoders do
    assert judge(before + 0.02 + rng.normal(0, 0.02, 200), before).word == "better"
    assert judge(before - 0.02 + rng.normal(0, 0.02, 200), before).word == "worse"
    same = judge(before + rng.normal(0, 0.02, 200) - 0.0, before)
    assert same.word == "the same"
    assert same.low < 0 < same.high
    equal = judge(before, before)
    assert (equal.word, equal.low, equal.high) == ("the same", 0, 0)
    better = judge(np.full(50, 0.75), np.full(50, 0.25))
    assert (better.score, better.before, better.low, better.high) == (0.75, 0.25, 0.5, 0.5)
    assert "better than at the start: matches within one cell 0.250 -> 0.750" in str(better)
