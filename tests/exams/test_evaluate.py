"""Scores against independent ones, trials side by side against alone, whole evaluations of rendered scenes."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Rendered
from PIL import Image
from samples import forked, start
from sklearn.metrics import confusion_matrix

from vader.encoders import DenseEncoder
from vader.errors import BadInput
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.exams.files import folder_names, read_pictures
from vader.exams.labelled import depth, segmentation
from vader.exams.results import differences, mean_iou, resampled
from vader.finetuning.heads import stacked
from vader.finetuning.pixels import LinearProbe, PixelDraw, ProbeConfig, Standard, full_size

STRIDE = 4
SHORT = ProbeConfig(steps=40, pictures=4, pixels=32)


def noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labelled(count: int, seed: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Maps of noise, and labels 0 to 3 and void, of two sizes."""
    rng = np.random.default_rng(seed)
    sizes = [(41, 30), (24, 36)]
    labels = [rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), sizes[i % 2]) for i in range(count)]
    return [noise((5, -(-a.shape[0] // 4), -(-a.shape[1] // 4)), seed + i) for i, a in enumerate(labels)], labels


MAPS, LABELS = labelled(6, 0)


# --- Heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_drawn_features_are_those_of_the_full_size_map(dtype: torch.dtype) -> None:
    """So that a probe learns from the very logits that it is scored with, up to a picture's edges."""
    height, width = 37, 26
    one = noise((3, 10, 7), 0).to(dtype)
    numbers = np.arange(height * width).reshape(height, width)
    standard = Standard(torch.tensor([0.5, 0.0, -1.0]), torch.tensor([1.0, 2.0, 0.0]))
    rows, targets = PixelDraw([one], [numbers], lambda label: label % 3 != 1, STRIDE, standard, 0)(1, 400)
    assert (targets % 3 != 1).all()
    assert {0, height * width - 1} & set(targets.tolist()) or len(set(targets.tolist())) > 200
    full = full_size(one[None].float(), STRIDE, (height, width))[0].flatten(1).T[targets]
    expected = (full - standard.mean) * standard.scale
    assert torch.allclose(rows, expected, atol=1e-5 if dtype == torch.float32 else 1e-2)


def test_every_valid_pixel_is_as_likely_even_where_few_are() -> None:
    label = np.full((50, 50), 255, np.uint8)
    label[3, :4] = [0, 1, 2, 3]
    standard = Standard(torch.zeros(1), torch.ones(1))
    draw = PixelDraw([torch.zeros(1, 13, 13)], [label], lambda some: some != 255, STRIDE, standard, 0)
    found = np.bincount(draw(1, 4000)[1], minlength=256)
    assert found[:4].sum() == 4000
    assert np.abs(found[:4] - 1000).max() < 120


@pytest.mark.parametrize("subsets", [None, [[0, 1, 2, 3], [2, 3, 4, 5], [1, 4]]])
def test_heads_side_by_side_are_the_heads_alone(subsets: list[list[int]] | None) -> None:
    configs = [SHORT, SHORT, replace(SHORT, lr=0.001, weight_decay=0.1)]
    together = segmentation.train_probes(MAPS, LABELS, 4, seeds=[0, 1, 7], configs=configs, subsets=subsets)
    for i, (seed, config) in enumerate(zip([0, 1, 7], configs, strict=True)):
        chosen = subsets[i] if subsets else range(6)
        alone = segmentation.train_probe(
            [MAPS[k] for k in chosen], [LABELS[k] for k in chosen], 4, seed=seed, config=config
        )
        assert torch.allclose(together[i].weight, alone.weight, atol=1e-6)
        assert torch.allclose(together[i].bias, alone.bias, atol=1e-6)
    assert not torch.allclose(together[0].weight, together[1].weight, atol=1e-3)


def test_depth_heads_side_by_side_are_the_heads_alone() -> None:
    truths = [(1 + np.abs(np.sin(np.arange(a.size).reshape(a.shape) / 50))).astype(np.float32) for a in LABELS]
    together = depth.train_probes(MAPS, truths, seeds=[3, 4], configs=[SHORT, SHORT])
    for seed, found in zip([3, 4], together, strict=True):
        alone = depth.train_probe(MAPS, truths, seed=seed, config=SHORT)
        assert torch.allclose(found.weight, alone.weight, atol=1e-5)
        assert torch.allclose(found.bias, alone.bias, atol=1e-5)


def test_the_sweep_scores_pictures_that_its_probes_did_not_see() -> None:
    order = np.random.default_rng(0).permutation(6)
    found = segmentation.sweep_probe(MAPS, LABELS, 4, rates=(0.01, 0.1), config=SHORT)
    kept, held = order[1:], order[:1]
    probe = segmentation.train_probe(
        [MAPS[i] for i in kept],
        [LABELS[i] for i in kept],
        4,
        config=ProbeConfig(steps=40, pictures=4, pixels=32, lr=0.1),
    )
    expected = segmentation.score_probes([probe], [(MAPS[i], LABELS[i]) for i in held], 4)[0]
    assert found.keys() == {0.01, 0.1}
    assert np.abs(found[0.1].confusion - expected.confusion).sum() <= 4  # pixels between two classes


@pytest.mark.parametrize(("stride", "size"), [(4, (41, 30)), (14, (56, 61)), (3, (20, 31)), (32, (33, 70))])
@pytest.mark.parametrize("smooth", [True, False])
def test_classes_are_the_largest_of_the_full_size_logits(stride: int, size: tuple[int, int], smooth: bool) -> None:
    cells = [-(-side // stride) for side in size]
    probes = [LinearProbe(noise((4, 3), k), noise((4,), k + 9)) for k in range(3)]
    one = noise((3, *cells), 0) * (0.1 if smooth else 3)
    found = segmentation.classify(stacked(probes), 3, one, stride, size)
    for probe, mine in zip(probes, found, strict=True):
        logits = full_size(probe(one)[None], stride, size)[0]
        two = logits.topk(2, dim=0).values
        clear = (two[0] - two[1] > 1e-4).numpy()
        assert clear.mean() > 0.98
        assert (mine == logits.argmax(0).numpy())[clear].all()


# --- Scores -------------------------------------------------------------------------------------------------------


def predictions() -> tuple[list[segmentation.SegmentationScore], list[np.ndarray]]:
    probes = segmentation.train_probes(MAPS, LABELS, 4, seeds=[0, 1], configs=[SHORT, SHORT])
    seen: list[np.ndarray] = []
    scores = segmentation.score_probes(
        probes, zip(MAPS, LABELS, strict=True), 4, watch=lambda _, found: seen.append(found)
    )
    return scores, seen


def test_mean_iou_is_that_of_plain_loops_and_of_other_libraries() -> None:
    scores, seen = predictions()
    for trial, score in enumerate(scores):
        truth = np.concatenate([label.ravel() for label in LABELS])
        found = np.concatenate([one[trial].ravel() for one in seen])
        truth, found = truth[truth != 255], found[truth != 255]
        ious = []
        for k in range(4):
            both = sum(int(a == k and b == k) for a, b in zip(truth, found, strict=True))
            either = sum(int(a == k or b == k) for a, b in zip(truth, found, strict=True))
            ious.append(both / either)
        assert score.iou == pytest.approx(ious, abs=1e-12)
        assert score.miou == pytest.approx(np.mean(ious), abs=1e-12)
        assert (score.confusion == confusion_matrix(truth, found, labels=range(4))).all()
        assert mean_iou(score.counts.sum(0)) == pytest.approx(score.miou, abs=1e-12)


def test_mean_iou_is_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    scores, seen = predictions()
    metric = classification.MulticlassJaccardIndex(4, ignore_index=255)
    for one, label in zip(seen, LABELS, strict=True):
        metric.update(torch.from_numpy(one[0].astype(np.int64))[None], torch.from_numpy(label.astype(np.int64))[None])
    assert scores[0].miou == pytest.approx(float(metric.compute()), abs=1e-6)


def test_pictures_of_void_alone_are_skipped_and_counted() -> None:
    probe = segmentation.train_probe(MAPS, LABELS, 4, config=SHORT)
    pairs = [(MAPS[0], LABELS[0]), (MAPS[1], np.full_like(LABELS[1], 255))]
    score = segmentation.score_probes([probe], pairs, 4)[0]
    assert score.skipped == 1
    assert score.miou == segmentation.score_probes([probe], pairs[:1], 4)[0].miou


def test_only_scored_classes_that_occur_are_in_the_mean() -> None:
    counts = np.array([[3, 0, 1, 0], [4, 2, 1, 0], [5, 0, 3, 0]])  # hits, truths, called
    each = [3 / 6, 0, 1 / 3]
    assert mean_iou(counts) == pytest.approx(np.mean(each))
    assert mean_iou(counts, (0, 2, 3)) == pytest.approx(np.mean([each[0], each[2]]))
    assert np.isnan(mean_iou(counts, (3,)))


def test_depth_errors_of_frame_and_crop_are_their_formulas() -> None:
    probe = depth.train_probe([noise((2, 12, 16), 0)], [np.full((48, 64), 2.0, np.float32)], config=SHORT)
    rng = np.random.default_rng(0)
    maps = [noise((2, 12, 16), 5 + i) for i in range(3)]
    truths = [rng.uniform(0.5, 12, (48, 64)).astype(np.float32) for _ in maps]
    truths[0][::3] = 0
    truths[2][:] = np.nan
    crop = (45, 471, 41, 601)
    full, cropped = depth.score_probes(
        [probe], zip(maps, truths, strict=True), farthest=10.0, crops=[None, crop]
    )[0]  # fmt: skip
    for score, rows, columns in ((full, range(48), range(64)), (cropped, range(4, 47), range(4, 60))):
        rmses, squares, pixels = [], 0.0, 0
        for one, truth in zip(maps[:2], truths[:2], strict=True):
            found = depth.predict_depth(probe, one, STRIDE, (48, 64), 10.0)
            errors = [(float(found[i, j]) - float(truth[i, j])) ** 2
                      for i in rows for j in columns if 0 < truth[i, j] <= 10]  # fmt: skip
            rmses.append(np.sqrt(np.mean(errors)))
            squares, pixels = squares + sum(errors), pixels + len(errors)
        assert score.rmse == pytest.approx(np.mean(rmses), rel=1e-6)
        assert score.pooled_rmse == pytest.approx(np.sqrt(squares / pixels), rel=1e-6)
        assert score.skipped == 1
        assert np.isnan(score.errors[2]).all()
    assert depth.inside(crop, (480, 640)).nonzero()[0].min() == 45
    assert depth.inside(crop, (480, 640)).sum() == (471 - 45) * (601 - 41)


# --- Intervals ----------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_that_of_a_loop_over_draws() -> None:
    rng = np.random.default_rng(3)
    truths = rng.integers(1, 50, (2, 9, 4))
    hits = rng.integers(0, truths + 1)
    counts = np.stack([hits, truths, hits + rng.integers(0, 30, hits.shape)], 2)
    found = resampled(counts, scored=(0, 1, 3), seed=5)
    weights = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=1000)
    for r in (0, 17, 999):
        trials = []
        for trial in counts:
            total = sum(w * one for w, one in zip(weights[r], trial, strict=True))
            trials.append(np.mean([total[0, k] / (total[1, k] + total[2, k] - total[0, k]) for k in (0, 1, 3)]))
        assert found[r] == pytest.approx(np.mean(trials), abs=1e-12)
    errors = rng.uniform(0, 1, (2, 9))
    errors[:, 4] = np.nan
    weights[:, 4] = 0
    assert resampled(errors, seed=5)[17] == pytest.approx(
        np.average(np.nan_to_num(errors).mean(0), weights=weights[17]), abs=1e-12
    )


def test_paired_differences_are_surer_than_unpaired_ones() -> None:
    """Pictures differ far more than encoders do; what is the same in both cancels."""
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0, 10, (1, 60))
    first, second = hardness + 0.1, hardness + rng.normal(0, 0.02, (1, 60))
    one = differences(["a", "b"], [first.mean(), second.mean()], [resampled(first), resampled(second)])[0]
    assert (one.first, one.second) == ("a", "b")
    assert one.value == pytest.approx(first.mean() - second.mean())
    assert 0.08 < one.low < one.value < one.high < 0.12
    unpaired = differences(["a", "b"], [0.0, 0.0], [resampled(first), resampled(second, seed=1)])[0]
    assert unpaired.high - unpaired.low > 20 * (one.high - one.low)


# --- Whole evaluations --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(rendered: Rendered) -> Path:
    """VOC and NYU layouts, ten pictures each, two of them for validation."""
    rendered("voc", 10)
    return rendered("nyu", 10).parent


def test_the_command_makes_a_whole_report(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    done = forked("evaluate", "rgb", "random:resnet10t@last:8", "--task", "segmentation", "--data", scenes / "voc",
                 "--protocol", "voc-linear/vader", "--out", out, "--trials", 1, "--device", "cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rgb, train: 8/8 images" in done.stderr
    assert "| rgb | " in done.stdout
    assert sorted(p.name for p in out.iterdir()) == [
        "pictures.npz", "predictions", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["report"], "nothing beside it"
    report = json.loads((out / "report.json").read_text())
    facts = report["facts"]
    assert facts["protocol"]["name"] == "voc-linear/vader"
    assert facts["protocol"]["probe"]["steps"] == 600
    assert facts["seeds"] == [0]
    assert facts["data"]["train"].endswith("(8 pictures)")
    assert {"command", "commit", "hardware", "peak memory, MiB", "seconds", "encoders"} <= facts.keys()
    assert facts["encoders"]["random:resnet10t@last:8"]["fitted"][0]["dim"] == 8
    # The table's number, from the predictions on disk (of the first trial) by a library that knows nothing of ours.
    row = report["tables"][0]["rows"][0]
    truth, found = [], []
    for path in sorted((out / "predictions" / "rgb").iterdir()):
        with Image.open(path) as image:
            assert image.mode == "P"
            found.append(np.array(image))
        with Image.open(next((scenes / "voc").glob(f"**/SegmentationClass/{path.name}"))) as image:
            truth.append(np.array(image))
    flat, called = (np.concatenate([one.ravel() for one in some]) for some in (truth, found))
    matrix = confusion_matrix(flat[flat != 255], called[flat != 255]).astype(float)
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert row["cells"][0]["values"][0] == pytest.approx(100 * ious.mean(), abs=1e-9)
    assert [one.shape[:2] for one in read_pictures(out)] == [(1, 2), (1, 2)]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 2 + 4, "bars, two confusion matrices, best and worst of each"


def test_depth_by_the_library_with_few_labels(scenes: Path, tmp_path: Path) -> None:
    done = evaluate(["rgb"], "depth", "nyu-linear/vader:50%", scenes / "nyu", tmp_path / "r", trials=2, memory=10_000)
    values = {measure.name: mean for measure, mean in done.results[0].values.items()}
    assert list(values) == ["RMSE", "RMSE pooled", "abs-rel", "δ1", "RMSE, Eigen crop", "RMSE pooled, Eigen crop",
                            "abs-rel, Eigen crop", "δ1, Eigen crop"]  # fmt: skip
    assert 0.1 < np.mean(values["RMSE"]) < 5
    assert values["RMSE"][0] != values["RMSE"][1], "each trial has its own pictures"
    path = next((tmp_path / "r" / "predictions" / "rgb").rglob("*.png"))
    with Image.open(path) as image:
        depths = np.array(image)
    assert depths.shape == (48, 64)
    assert 300 < np.median(depths) < 10_000, "millimetres"
    (examples,) = done.report.groups
    assert [figure.caption.split(":")[0] for figure in examples.figures] == ["rgb, best", "rgb, worst"]


def test_without_pictures_all_numbers_are_the_same(scenes: Path, tmp_path: Path) -> None:
    arguments = (["rgb"], "segmentation", "voc-kmeans/vader", scenes / "voc")
    drawn, plain = (evaluate(*arguments, tmp_path / name, trials=2, pictures=name == "a") for name in ("a", "b"))
    assert [len(group.figures) for group in drawn.report.groups] == [2, 2], "bars and confusion; best and worst"
    assert not plain.report.groups
    assert plain.report.tables == drawn.report.tables
    assert np.array_equal(*(read_pictures(one.folder)[0] for one in (drawn, plain)))
    assert "data:image" not in (plain.folder / "report.html").read_text()
    files = [[path.relative_to(one.folder) for path in sorted(one.folder.rglob("*"))] for one in (drawn, plain)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("task", "protocol"), [("neighbours", "voc/hummingbird"), ("segmentation", "voc-kmeans/vader")]
)
def test_exams_without_training(scenes: Path, tmp_path: Path, task: str, protocol: str) -> None:
    done = evaluate(["rgb", "rgb@centred"], task, protocol, scenes / "voc", tmp_path / "r", trials=1, pictures=False)
    headline = next(iter(done.results[0].values.values()))
    assert 0 < headline[0] < 1
    assert "–" not in (tmp_path / "r" / "report.md").read_text().split("\n\n")[2].splitlines()[2]
    if "kmeans" in protocol:  # predictions are filed under classes, not clusters
        score = done.results[0]
        with Image.open(tmp_path / "r" / "predictions" / "rgb" / "2012_000005.png") as image:
            found = np.array(image)
        with Image.open(next((scenes / "voc").glob("**/SegmentationClass/2012_000005.png"))) as image:
            truth = np.array(image)
        assert ((found == truth) & (truth != 255)).sum() == score.pictures[0, 0, 0].sum()


def blank(name: str, value: float) -> DenseEncoder:
    return DenseEncoder(name, 4, 2, lambda x: torch.full((len(x), 2, -(-x.shape[2] // 4), -(-x.shape[3] // 4)), value))


def test_what_cannot_be_used_is_refused_and_leaves_nothing(scenes: Path, tmp_path: Path) -> None:
    arguments = ("segmentation", "voc-linear/vader", scenes / "voc", tmp_path / "r")
    for encoders, changes, says in [
        ([blank("broken", float("nan"))], {}, "encoder broken: .*NaN"),
        ([blank("a", 0.0), blank("a", 1.0)], {}, "each encoder once"),
        ([], {}, "at least one encoder"),
        (["rgb"], {"trials": 0}, "--trials: expected at least 1"),
        (["rgb"], {"batch": 0}, "--batch: expected at least 1"),
        (["rgb"], {"memory": "lots"}, "--memory"),
    ]:
        with pytest.raises(BadInput, match=says):
            evaluate(encoders, *arguments, **changes)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine.txt").touch()
    with pytest.raises(BadInput, match="is not empty"):
        evaluate(["rgb"], *arguments)
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["mine.txt"]


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((40, 40, 3), 50 * i, np.uint8)).save(tmp_path / "data" / "images" / f"{i}.png")
        Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "data" / "masks" / f"{i}.png")
    (tmp_path / "data" / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(BadInput, match=r"\d\.png: expected ids 0-1, 255, found 7"):
        evaluate(["rgb"], "segmentation", "folder-linear/vader", tmp_path / "data", tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.whole
def test_a_stopped_run_leaves_nothing(scenes: Path, tmp_path: Path) -> None:
    """By SIGTERM, which Python does not hear of by itself as it does of Ctrl-C."""
    running = start("evaluate", "rgb", "--task", "segmentation", "--protocol", "voc-linear/vader", "--data",
                    scenes / "voc", "--out", tmp_path / "r", "--trials", 20)  # fmt: skip
    assert running.stderr is not None
    assert "train" in running.stderr.readline(), "its heads learn now"
    time.sleep(0.2)
    assert [p.name for p in tmp_path.iterdir()] != []
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_names_of_encoders_become_names_of_folders() -> None:
    names = ["a/b", "a_b", "a:b", "timm:x@last:8", "..", "é"]
    found = folder_names(names)
    assert found["timm:x@last:8"] == "timm_x@last_8"
    assert len(set(found.values())) == len(names)
    assert not {"", ".", ".."} & set(found.values())
    assert not any("/" in name for name in found.values())
