"""One contract, kept by every exam of frozen features x every kind of encoder x rendered scenes in every layout.

A report is written and is read back as it was; scores are finite and in their measure's range; they are the same with
the same seeds whatever --memory and --batch; predictions have the labels' sizes and ids, and are what is scored;
`compare` joins the report with itself and refuses another protocol's; nothing is left in the temporary folder.

Scenes come as voc, cityscapes, nyu, davis and, for views of an image, images. No exam of frozen features reads the
layout coco, which belongs to detection; folder, rgbd, camvid, ade20k, animals and posed are read by the same exams
and are no layouts of `vader scenes`. Protocols are the named ones made small. All encoders are evaluated in one
evaluation, and are then checked row by row. Charts and example pictures, nine tenths of the time, are left out:
test_evaluate.py, test_evaluate_clips.py and test_evaluate_pairs.py have them.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Rendered, copied
from PIL import Image

from vader.datasets.davis import open_davis
from vader.datasets.opening import open_labelled
from vader.errors import BadInput
from vader.exams import protocols
from vader.exams.compare import join_reports as compare
from vader.exams.evaluate import Evaluation
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.exams.files import folder_names, read_pictures
from vader.exams.labelled.dinov3 import BinsConfig
from vader.exams.labelled.leopart import SquareConfig
from vader.exams.protocols import constants, find_protocol
from vader.exams.results import Measure
from vader.finetuning.augment import Room, Square
from vader.finetuning.pixels import ProbeConfig
from vader.inference.propagation import PropagationProtocol
from vader.models.checkpoint import save_model
from vader.models.network import NetworkConfig, build
from vader.reports import report as reports

H, W = 48, 64
TRIALS = 2
SHORT = ProbeConfig(steps=8, pictures=2, pixels=32)
TINY = NetworkConfig(encoder="test_resnet", dim=8, pyramid_width=16, decoder_width=16, pyramid_outputs=False)

ENCODERS = {
    "ours": "OURS", "hypercolumn": "random:test_resnet@hypercolumn", "last": "random:test_resnet@last",
    "dilated": "random:test_resnet@dilated", "reduced": "random:test_resnet@hypercolumn:7",
    "vit": "random:test_vit", "rgb": "rgb", "sift": "sift",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An exam: a named protocol, what is made small in it, the layout (None: no data), what is asked for with it."""

    task: str
    protocol: str
    layout: str | None
    changes: dict[str, Any]
    suffix: str = ""

    @property
    def name(self) -> str:
        """The small protocol's."""
        return f"{self.protocol}-small"


SQUARE = {"probe": SquareConfig(views=Square(side=64), grid=16, epochs=2, drop_at=1, batch=4)}
BINS = {"probe": BinsConfig(views=Room(crop=(40, 52)), bins=16, steps=4, warm_up=2, batch=4, without_variance=2)}
NATIVE = {"way": PropagationProtocol(context=2, radius=24.0)}  # frames are not enlarged to 480 px
CASES = {
    "linear on voc": Case("segmentation", "voc-linear/vader", "voc", {"probe": SHORT}),
    "linear on cityscapes": Case("segmentation", "cityscapes-linear/vader", "cityscapes", {"probe": SHORT}),
    "few labels on voc": Case("segmentation", "voc-linear/vader", "voc", {"probe": SHORT}, ":50%"),
    "leopart's on voc": Case("segmentation", "voc-linear/leopart", "voc", SQUARE),
    "k-means on voc": Case("segmentation", "voc-kmeans/vader", "voc", {"restarts": 2}),
    "hummingbird on voc": Case("neighbours", "voc/hummingbird", "voc", {"keys": 400}),
    "hummingbird on cityscapes": Case("neighbours", "cityscapes/hummingbird", "cityscapes", {}),
    "depth on nyu": Case("depth", "nyu-linear/vader", "nyu", {"probe": replace(SHORT, weight_decay=0.0)}),
    "few depths on nyu": Case("depth", "nyu-linear/vader", "nyu", {"probe": SHORT}, ":3"),
    "dinov3's on nyu": Case("depth", "nyu-linear/dinov3", "nyu", BINS),
    "propagation on davis": Case("propagation", "davis/dino", "davis", NATIVE),
    "match on scenes": Case("match", "scenes", None, {"pairs": 2, "size": 64, "points": 40}),
    "match on images": Case("match", "warp-pck", "images", {"size": 64, "points": 40}),
}  # fmt: skip


# Variants of another case, which the core has.
ALIKE = ("linear on cityscapes", "few labels on voc", "hummingbird on cityscapes", "few depths on nyu")


@dataclass(frozen=True)
class Sat:
    """Two evaluations of one case: `other` with another --memory and --batch."""

    case: Case
    root: Path | None
    done: Evaluation
    other: Evaluation
    left: list[str]  # in the temporary folder afterwards
    beside: list[str]  # beside the reports

    def names(self) -> list[str]:
        """The scored pictures'."""
        assert self.root is not None
        return list(open_labelled(find_protocol(self.case.task, self.case.name).data, self.root, "val").names)


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """The small protocols, by name."""
    with pytest.MonkeyPatch.context() as patch:
        for one in CASES.values():
            found = replace(find_protocol(one.task, one.protocol), name=one.name, **one.changes)
            patch.setitem(protocols.PROTOCOLS, (one.task, one.name), found)
        yield


@pytest.fixture(scope="module")
def scenes(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Ten pictures in a layout, written when they are first asked for."""
    root = tmp_path_factory.mktemp("scenes")

    def of(layout: str) -> Path:
        made = rendered(layout, 10, W, H, clip=5 if layout == "davis" else None)
        if layout != "voc":
            return made
        place = root / layout
        if not place.exists():  # as many patches as classes, for k-means at stride 32: six pictures of four
            lists = next(copied(made, place).rglob("ImageSets")) / "Segmentation"
            lines = (lists / "trainval.txt").read_text().splitlines()
            for split, some in (("train", lines[:4]), ("val", lines[4:])):
                (lists / f"{split}.txt").write_text("".join(f"{line}\n" for line in some))
        return place

    return of


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    torch.manual_seed(3)
    model = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(model, build(TINY).state_dict(), TINY, {})
    return [f"{name}={model if spec == 'OURS' else spec}" for name, spec in ENCODERS.items()]


@pytest.fixture(scope="module")
def another(small: None, scenes: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one more protocol."""
    found = replace(find_protocol("segmentation", "voc-linear/vader"), name="another", probe=replace(SHORT, steps=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(protocols.PROTOCOLS, ("segmentation", "another"), found)
        out = tmp_path_factory.mktemp("another") / "report"
        exam = ("segmentation", "another", scenes("voc"))
        return evaluate(["rgb"], *exam, out, trials=1, device="cpu", pictures=False).folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each class has the cases of its task."""
    if "sat" in metafunc.fixturenames:
        chosen = [
            pytest.param(name, marks=pytest.mark.whole) if name in ALIKE else name
            for name, case in CASES.items() if case.task in metafunc.cls.tasks
        ]  # fmt: skip
        metafunc.parametrize("sat", chosen, indirect=True, scope="class")


@pytest.fixture(scope="class")
def sat(
    request: pytest.FixtureRequest, small: None, scenes: Callable[[str], Path], specs: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sat:  # fmt: skip
    case = CASES[request.param]
    root, place, temporary = (scenes(case.layout) if case.layout else None, *map(tmp_path_factory.mktemp, ("r", "t")))
    run = partial(evaluate, specs, case.task, case.name + case.suffix, root, trials=TRIALS, seed=5, device="cpu",
                  pictures=False)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        done = run(place / "a")
        other = run(place / "b", memory=1_000_000 if case.task == "neighbours" else 200_000, batch=3)
    left, beside = ([path.name for path in folder.iterdir()] for folder in (temporary, place))
    return Sat(case, root, done, other, left, sorted(beside))


def row(done: Evaluation, name: str) -> dict[Measure, list[float]]:
    return next(one.values for one in done.results if one.name == name)


def image(path: Path) -> np.ndarray:
    with Image.open(path) as found:
        return np.array(found)


def check_labels(sat: Sat, folder: Path, values: dict[str, float]) -> None:
    assert sat.root is not None
    data = find_protocol(sat.case.task, sat.case.name).data
    labelled = open_labelled(data, sat.root, "val")
    right = known = 0
    for example in labelled:
        found, truth = image(folder / f"{example.name}.png"), np.asarray(example.labels)
        if "leopart" in sat.case.protocol:
            truth = np.array(Image.fromarray(truth.astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST))
        assert found.shape == truth.shape
        assert found.max() < len(labelled.classes), "a class, and nowhere void"
        right, known = right + ((found == truth) & (truth != 255)).sum(), known + (truth != 255).sum()
    assert sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.png")) == sorted(
        labelled.names
    )
    assert values["pixel accuracy"] == pytest.approx(right / known, abs=1e-12)


def check_depth(sat: Sat, folder: Path, values: dict[str, float]) -> None:
    assert sat.root is not None
    errors = []
    for example in open_labelled("nyu", sat.root, "val"):
        found, truth = image(folder / f"{example.name}.png"), np.asarray(example.depth, np.float64)
        assert (found.shape, found.dtype) == (truth.shape, np.uint16)
        metres = found / 1000
        assert 0 <= metres.min() <= metres.max() <= 10
        valid = (truth > 0) & (truth <= 10)
        errors.append(np.sqrt(np.mean((metres - truth)[valid] ** 2)))
    if "RMSE" in values:
        assert values["RMSE"] == pytest.approx(np.mean(errors), abs=2e-3), "millimetres are rounded"


def check_masks(sat: Sat, folder: Path, values: dict[str, float]) -> None:
    assert sat.root is not None
    for clip in open_davis(sat.root):
        first = clip.mask(0)
        for t in range(len(clip)):
            found = image(folder / f"{clip.frame(t)}.png")
            assert found.shape == first.shape
            assert set(np.unique(found)) <= {0, *np.unique(first)}, "no object that was not given"
        assert (image(folder / f"{clip.frame(0)}.png") == first).all()
    assert values["J&F"] == pytest.approx((values["J mean"] + values["F mean"]) / 2)


def check_matches(sat: Sat, path: Path, values: dict[str, float]) -> None:
    with (
        np.load(path.with_name(f"{path.name}.matches.npz")) as found,
        np.load(path.with_name("rgb.matches.npz")) as rgb,
    ):
        assert np.array_equal(found["points"], rgb["points"]), "every encoder is asked for the same points"
        assert found["found"].shape == found["truths"].shape
        assert ((found["found"] >= 0) & (found["found"] <= 64)).all(), "in the picture"
        assert found["pair"].max() < len(found["names"])
        head = protocols.PROTOCOLS["match", sat.case.name].headline
        right = np.linalg.norm(found["found"] - found["truths"], axis=1) <= head
        counted = sat.done.results[-1].pictures.shape[1]
        shares = [right[found["pair"] == i].mean() for i in range(counted) if (found["pair"] == i).any()]
        assert values[f"within {head:g} px"] == pytest.approx(np.mean(shares))


CHECKS = {
    "segmentation": check_labels,
    "neighbours": check_labels,
    "depth": check_depth,
    "propagation": check_masks,
    "match": check_matches,
}


# --- The contract ---------------------------------------------------------------------------------------------------


class Contract:
    """What holds of every exam; a class below for each task, so that workers share them."""

    tasks: tuple[str, ...] = ()

    # --- Reports ------------------------------------------------------------------------------------------------------

    def test_a_report_is_written_and_read_back(self, sat: Sat) -> None:
        found = reports.read(sat.done.folder)
        assert reports.to_json(found) == reports.to_json(sat.done.report)
        assert found.facts["protocol"] == reports.from_json(reports.to_json(found)).facts["protocol"]
        told: Any = found.facts["protocol"]
        assert told["name"] == sat.case.name + sat.case.suffix
        assert told.keys() == constants(find_protocol(sat.case.task, sat.case.name + sat.case.suffix)).keys()
        rows = [one.name for one in found.tables[0].rows]
        assert rows[-len(ENCODERS) :] == list(ENCODERS), "rows without an encoder come first"
        for mine, kept in zip(sat.done.results, read_pictures(sat.done.folder), strict=True):
            assert np.array_equal(mine.pictures, kept, equal_nan=True)
        assert {"report.html", "report.md", "predictions"} <= {path.name for path in sat.done.folder.iterdir()}

    def test_nothing_is_left_beside_the_reports_and_in_the_temporary_folder(self, sat: Sat) -> None:
        assert sat.left == []
        assert sat.beside == ["a", "b"]

    def test_compare_joins_the_report_with_itself_and_refuses_another_protocol(self, sat: Sat, another: Path) -> None:
        joined = compare([sat.done.folder, sat.done.folder])
        assert [(r.name, r.cells) for r in joined.tables[0].rows] == [
            (r.name, r.cells) for r in sat.done.report.tables[0].rows
        ]
        with pytest.raises(BadInput, match="expected the protocol of"):
            compare([sat.done.folder, another])

    # --- Rows ---------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ENCODERS)
    def test_scores_are_finite_and_within_their_range(self, sat: Sat, name: str) -> None:
        found = row(sat.done, name)
        assert len({len(values) for values in found.values()}) == 1
        for measure, values in found.items():
            assert len(values) in (1, TRIALS), "one trial where nothing is drawn"
            low = -1.0 if "decay" in measure.name else 0.0
            high = 1.0 if measure.unit == "%" else np.inf
            for value in values:
                assert np.isfinite(value), measure.name
                assert low <= value <= high, measure.name
        cells = next(one.cells for one in reports.read(sat.done.folder).tables[0].rows if one.name == name)
        for (measure, values), cell in zip(found.items(), cells, strict=True):
            assert cell.mean == pytest.approx(measure.scale * np.mean(values))

    @pytest.mark.parametrize("name", ENCODERS)
    def test_memory_and_batch_change_no_number(self, sat: Sat, name: str) -> None:
        found, other = row(sat.done, name), row(sat.other, name)
        assert list(found) == list(other)
        # Sums in another order differ by some 1e-9, which turns pixels whose two best classes are as good as equal: a
        # few in ten thousand of SIFT's, which is 0 where nothing is.
        for measure, values in found.items():
            assert values == pytest.approx(other[measure], rel=1e-6, abs=1e-3), measure.name

    @pytest.mark.parametrize("name", ENCODERS)
    def test_predictions_have_the_sizes_and_ids_of_the_labels_and_are_what_is_scored(self, sat: Sat, name: str) -> None:
        folder = sat.done.folder / "predictions"
        place = folder_names([name])[name]
        CHECKS[sat.case.task](sat, folder / place, {m.name: v[0] for m, v in row(sat.done, name).items()})


class TestSegmentation(Contract):
    tasks = ("segmentation",)


class TestNeighbours(Contract):
    tasks = ("neighbours",)


class TestDepth(Contract):
    tasks = ("depth",)


class TestPropagation(Contract):
    tasks = ("propagation",)


class TestMatch(Contract):
    tasks = ("match",)
