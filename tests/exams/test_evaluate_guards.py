"""What evaluations do about awkward features, little memory, exams without chance and encoders that are broken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Rendered
from labelled import make_voc, put
from scipy.optimize import linear_sum_assignment
from test_neighbours import most_allocated

from vader.encoders import DenseEncoder, open_encoder
from vader.encoders.dense import await_fitting
from vader.encoders.store import Budget
from vader.errors import BadInput
from vader.exams.evaluate import Evaluation
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.exams.kinds import evaluate_one, open_sets
from vader.exams.labelled.nearest import least_budget, tile
from vader.exams.labelled.neighbours import build_memory
from vader.exams.plan import Plan
from vader.exams.protocols import PROTOCOLS, find_protocol
from vader.exams.results import Result

HUMMINGBIRD, FOLDER = ("neighbours", "voc/hummingbird"), ("segmentation", "folder-linear/vader")
LINEAR, KMEANS = ("segmentation", "voc-linear/vader"), ("segmentation", "voc-kmeans/vader")


@pytest.fixture(scope="module")
def scenes(rendered: Rendered) -> Path:
    """VOC's layout, ten pictures, two of them for validation."""
    return rendered("voc", 10)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, the colours of whose three classes overlap."""
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    (root / "classes.txt").write_text("a\nb\nc\n")
    for i in range(12):
        mask = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
        colour = np.array([[60, 90, 120], [150, 100, 90], [90, 140, 100]])[mask] + rng.normal(0, 60, (*mask.shape, 3))
        for part, pixels in (("images", np.clip(colour, 0, 255).astype(np.uint8)), ("masks", mask)):
            put(root / part / f"{i:02d}.png", pixels)
    return root


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe of fewer steps."""
    for exam in (LINEAR, FOLDER):
        linear = find_protocol(*exam)
        monkeypatch.setitem(PROTOCOLS, exam, replace(linear, probe=replace(linear.probe, steps=40)))


def changed(name: str, change) -> DenseEncoder:
    """Raw colour whose features (and so their similarities) are changed."""
    colour = open_encoder("rgb")
    return DenseEncoder(name, 4, 3, lambda x: change(colour.features(x)), facts={"source": "test"})


def first(result: Result) -> list[float]:
    """Each trial's headline."""
    return next(iter(result.values.values()))


def headline(done: Evaluation, row: int = 0) -> list[float]:
    return first(done.results[row])


def sat(encoder: DenseEncoder, exam: tuple[str, str], root: Path, limit: int = 10**9, batch: int = 16) -> Result:
    """One trial without a report."""
    protocol = find_protocol(*exam)
    return evaluate_one(encoder, protocol, open_sets(protocol, root), Plan([0], Budget(limit), batch), lambda *_: None)


# --- Features -----------------------------------------------------------------------------------------------------


def test_scores_do_not_know_the_scale_of_the_features(coloured: Path, tmp_path: Path) -> None:
    encoders = [
        changed("x1", lambda y: y),
        changed("x1e-6", lambda y: 1e-6 * y),
        changed("+1000", lambda y: y + 1000),
    ]
    done = evaluate(encoders, *FOLDER, coloured, tmp_path / "r", trials=3, pictures=False)
    spread = np.ptp(headline(done))
    assert 0 < spread < 0.05
    assert np.mean(headline(done)) > 0.6
    for row in (1, 2):
        assert np.mean(headline(done, row)) == pytest.approx(np.mean(headline(done)), abs=spread)
    told = [done.report.facts["encoders"][one.name]["features"] for one in encoders]
    lost = "float32: float16 would lose 3 of 3 channels to rounding"
    assert told == ["float16", lost, lost]
    assert done.report.facts["protocol"]["features"] == "float16", "it is the same protocol"


@pytest.mark.parametrize("exam", [HUMMINGBIRD, KMEANS])
def test_similarities_do_not_know_the_scale_of_the_features(scenes: Path, exam: tuple[str, str]) -> None:
    as_it_is, minute = (sat(changed("scaled", lambda y, by=by: by * y), exam, scenes) for by in (1.0, 1e-6))
    assert first(minute) == pytest.approx(first(as_it_is), abs=0.01)


def test_an_overflow_after_the_first_pictures_lets_the_encoder_sit_again(scenes: Path) -> None:
    last = open_sets(find_protocol(*LINEAR), scenes).val.image(1).mean() / 255
    late = DenseEncoder(
        "late", 4, 3, lambda x: 1e6 ** (x.mean() - last).abs().lt(1e-5).float() * open_encoder("rgb").features(x)
    )
    found, plain, large = (
        sat(one, LINEAR, scenes, batch=1) for one in (late, open_encoder("rgb"), changed("large", lambda y: 1e6 * y))
    )
    assert [one.facts["features"] for one in (found, plain)] == ["float32: float16 would overflow", "float16"]
    assert found.facts["features"] == large.facts["features"]
    assert np.abs(found.pictures[0, 0] - plain.pictures[0, 0]).max() < 60, "the other picture's score is as ever"
    assert first(large) == pytest.approx(first(plain), abs=0.03)


# --- Memory -------------------------------------------------------------------------------------------------------


def test_search_and_memory_stay_within_the_stated_memory(scenes: Path, tmp_path: Path) -> None:
    roomy = evaluate(["rgb"], *HUMMINGBIRD, scenes, tmp_path / "a", trials=1, pictures=False)
    tight = evaluate(["rgb"], *HUMMINGBIRD, scenes, tmp_path / "b", trials=1, memory=40_000, pictures=False)
    assert headline(tight) == pytest.approx(headline(roomy), abs=1e-3)
    classes = len(roomy.results[0].confusion)
    size = 8 * 192 * (3 + classes) * 2  # eight pictures of 12 x 16 patches in float16
    files = [done.report.facts["features, MB"]["written to a file"] for done in (roomy, tight)]
    assert files[0] == 0
    assert files[1] >= size / 1e6
    with pytest.raises(BadInput, match=r"--memory: expected at least \d+ bytes for a search of 3 channels, found 1000"):
        evaluate(["rgb"], *HUMMINGBIRD, scenes, tmp_path / "c", trials=1, memory=1000)


def test_search_takes_what_the_budget_has_left(scenes: Path) -> None:
    def most(limit: int) -> int:
        return most_allocated(lambda: sat(open_encoder("rgb"), HUMMINGBIRD, scenes, limit))

    products = 4 * 192 * 8 * 192
    assert most(10**8) > products
    assert most(150_000) < products / 2


@pytest.mark.parametrize("C", [3, 64, 2048])
def test_the_least_budget_suffices_and_a_byte_less_does_not(C: int) -> None:
    least = least_budget(C, 30)
    assert tile(1000, C, 30, least) == (1, 16)
    with pytest.raises(BadInput, match=f"at least {least} bytes"):
        tile(1000, C, 30, least - 4)
    assert tile(1000, C, 30, 2 * least)[1] >= 16, "as many queries as fit leave room for keys"


def test_a_memory_that_no_disk_holds_is_refused(tmp_path: Path) -> None:
    budget, protocol = Budget(100), replace(find_protocol(*HUMMINGBIRD), features="float32")
    pairs = [(torch.ones(4, 8, 8), np.zeros((32, 32), np.uint8))]
    with pytest.raises(BadInput, match=rf"{tmp_path}: expected room for about 320000\.0 GB"):
        build_memory(pairs, 10**13, 4, 4, protocol, rng=np.random.default_rng(0), budget=budget, folder=tmp_path)
    assert (budget.held, budget.spilled) == (0, 0)


# --- Chance -------------------------------------------------------------------------------------------------------


def test_an_exam_without_chance_is_sat_once(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = evaluate(["rgb"], *HUMMINGBIRD, scenes, tmp_path / "a", trials=5, pictures=False)
    assert len(headline(done)) == 1
    assert done.report.facts["seeds"] == [0]
    text = (tmp_path / "a" / "report.md").read_text()
    assert "nothing is random" in text
    assert "±" not in text.split("## Results")[1].split("Mean")[0]
    monkeypatch.setitem(PROTOCOLS, HUMMINGBIRD, replace(find_protocol(*HUMMINGBIRD), keys=8 * 40))
    drawn = evaluate(["rgb"], *HUMMINGBIRD, scenes, tmp_path / "b", trials=2, pictures=False)
    assert len(set(headline(drawn))) == 2
    assert "nothing is drawn" not in (tmp_path / "b" / "report.md").read_text()


def test_hungarian_is_over_the_scored_classes(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc")
    done = evaluate(["rgb"], "neighbours", "voc-animals/hummingbird", tmp_path / "voc", tmp_path / "r", trials=1,
                    pictures=False)  # fmt: skip
    result = done.results[0]
    values = {measure.name: value for measure, value in result.values.items()}
    assert list(values) == ["mIoU-9", "mIoU of all classes", "pixel accuracy", "mIoU-9, Hungarian"]
    counts = result.confusion.astype(float)
    each = np.array([[counts[i, j] / (counts[i].sum() + counts[:, j].sum() - counts[i, j]) if counts[i].sum() else 0
                      for j in range(21)] for i in range(21)])  # fmt: skip
    rows, columns = linear_sum_assignment(-each)
    scored = [0, 8, 9, 10, 12, 13, 15, 17, 18]  # background, cat, chair, cow, dog, horse, person, sheep, sofa
    assert values["mIoU-9, Hungarian"][0] == pytest.approx(np.mean([each[rows[i], columns[i]] for i in scored]))
    assert values["mIoU-9, Hungarian"] != values["mIoU-9"]


# --- Early --------------------------------------------------------------------------------------------------------


def test_more_labels_than_pictures_are_refused_before_any_encoder_is_opened(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--protocol voc-linear/vader:50: .* 8 .* of voc in .*voc.*found 50"):
        evaluate(["no such encoder"], "segmentation", "voc-linear/vader:50", scenes, tmp_path / "r")


@pytest.mark.parametrize("fitted", [False, True])
def test_the_last_encoder_s_fault_is_told_before_the_first_sits(scenes: Path, tmp_path: Path, fitted: bool) -> None:
    seen: list[int] = []
    good = changed("good", lambda y: (seen.append(len(y)), y)[1])
    broken = changed("broken", lambda y: y * torch.nan)
    with pytest.raises(BadInput, match=r"encoder broken: .*NaN"):
        evaluate([good, await_fitting(broken, "b", 2) if fitted else broken], *LINEAR, scenes, tmp_path / "r")
    assert seen == [1]
    assert not list(tmp_path.iterdir())


def test_a_stride_that_the_protocol_has_no_use_for_is_told_first(scenes: Path, tmp_path: Path) -> None:
    odd = DenseEncoder("odd", 5, 3, lambda x: x[:, :, ::5, ::5])
    with pytest.raises(BadInput, match="odd: expected a stride that divides"):
        evaluate(["rgb", odd], "segmentation", "voc-linear/leopart", scenes, tmp_path / "r")
