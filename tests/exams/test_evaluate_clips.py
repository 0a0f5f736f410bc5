"""Whole evaluations of propagated masks against the slow way, by hand; what is written; what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Rendered, copied
from labelled import noise, picture, put, text
from PIL import Image
from samples import shared

from vader.datasets.davis import open_davis
from vader.encoders import open_encoder
from vader.errors import BadInput, VaderError
from vader.exams import protocols
from vader.exams.clips.evaluation import COPIED, ClipResult, open_clips
from vader.exams.clips.pages import SIDES, shown_clips, tinted
from vader.exams.clips.protocols import PROTOCOLS, ClipExam
from vader.exams.clips.scores import davis_scores, score_frames
from vader.exams.evaluate import Evaluation
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.exams.files import read_pictures
from vader.inference.propagation import PropagationProtocol, propagate_frames
from vader.reports.metrics import boundary_f

STAGE = "random:resnet10t@stage:3"  # stride 16
SMALL = PropagationProtocol(context=2, radius=24.0, label_in="bilinear")


@pytest.fixture(autouse=True)
def _small_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames as they are: those of the named protocols are enlarged to 480 px, which takes minutes."""
    for data in ("davis", "davis-2016", "camvid"):
        exam = ClipExam(name=f"{data}/small", data=data, way=SMALL)  # type: ignore[arg-type]
        monkeypatch.setitem(protocols.PROTOCOLS, ("propagation", exam.name), exam)


@pytest.fixture(scope="module")
def clips(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered clips of four frames, 64 x 96."""
    out = copied(rendered("davis", 8, 96, 64, clip=4), tmp_path_factory.mktemp("scenes") / "DAVIS")
    text(out / "ImageSets" / "2017" / "val.txt", "scene-0000", "scene-0001")
    return out


@pytest.fixture(scope="module")
def report(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluation]:
    """Raw colour and a random network at the two clips, written once for all tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        exam = ClipExam(name="davis/small", data="davis", way=SMALL)
        patch.setitem(protocols.PROTOCOLS, ("propagation", exam.name), exam)
        out = tmp_path_factory.mktemp("report") / "out"
        yield evaluate(["rgb", STAGE], "propagation", "davis/small", clips, out, trials=3, device="cpu")


def values(result: object) -> dict[str, float]:
    assert isinstance(result, ClipResult)
    assert {len(v) for v in result.values.values()} == {1}, "nothing is drawn, so there is one trial"
    return {measure.name: found[0] for measure, found in result.values.items()}


def by_hand(pairs: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, list[float]]:
    """J and F of each object: means over the frames between the first and the last, pixel by pixel."""
    found: dict[str, list[float]] = {"J": [], "F": []}
    for clip in pairs:
        for number in range(1, int(clip[0][1].max()) + 1):
            js, fs = [], []
            for mask, truth in clip[1:-1]:
                both = either = 0
                for a, b in zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True):
                    both += a == number and b == number
                    either += a == number or b == number
                js.append(both / either if either else 1.0)
                fs.append(boundary_f(mask == number, truth == number))
            found["J"].append(sum(js) / len(js))
            found["F"].append(sum(fs) / len(fs))
    return found


# --- DAVIS --------------------------------------------------------------------------------------------------------


def test_the_first_mask_copied_scores_as_by_hand(clips: Path, report: Evaluation) -> None:
    truths = [[*clip.masks()] for clip in open_davis(clips)]
    expected = by_hand([[(clip[0], mask) for mask in clip] for clip in truths])
    found = report.results[0]
    assert found.name == COPIED
    assert found.pictures.shape == (1, len(expected["J"]))
    assert found.pictures[0] == pytest.approx([(j + f) / 2 for j, f in zip(*expected.values(), strict=True)])
    assert values(found)["J mean"] == pytest.approx(np.mean(expected["J"]))
    assert values(found)["F mean"] == pytest.approx(np.mean(expected["F"]))
    assert 0 < values(found)["J mean"] < 1, "the objects move"


@pytest.mark.parametrize("name", ["rgb", STAGE])
def test_encoders_score_as_propagating_and_scoring_by_hand(clips: Path, report: Evaluation, name: str) -> None:
    encoder = open_encoder(name)
    scores, pairs = [], []
    for clip in open_davis(clips):
        masks = [*propagate_frames(encoder, clip.images(), {0: clip.mask(0)}, SMALL)]
        pairs.append([*zip(masks, clip.masks(), strict=True)])
        scores.append(score_frames(pairs[-1], void=255, official=True))
    found = next(one for one in report.results if one.name == name)
    table = davis_scores(scores)
    numbers = {f"{letter.upper()} {what}": table[f"{letter}_{what}"] for letter in "jf"
               for what in ("mean", "recall", "decay")}  # fmt: skip
    assert values(found) == pytest.approx({"J&F": table["j_and_f"], **numbers}, abs=1e-12)
    slow = by_hand(pairs)
    assert values(found)["J mean"] == pytest.approx(np.mean(slow["J"]), abs=1e-12)
    assert values(found)["J&F"] == pytest.approx(found.pictures[0].mean(), abs=1e-12), "the interval is of the headline"
    assert values(found)["J mean"] != values(report.results[0])["J mean"], "it does something"


def test_masks_are_what_the_official_tool_reads(clips: Path, report: Evaluation) -> None:
    """SEQUENCE/00000.png of every frame, indexed, of the frames' size, no object but the first mask's."""
    folder = report.folder / "predictions"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["first_mask_copied", "rgb", STAGE.replace(":", "_")]
    )
    encoder = open_encoder("rgb")
    for clip in open_davis(clips):
        names = sorted(path.name for path in (folder / "rgb" / clip.name).iterdir())
        assert names == [f"{t:05d}.png" for t in range(4)]
        masks = propagate_frames(encoder, clip.images(), {0: clip.mask(0)}, SMALL)
        for name, mask in zip(names, masks, strict=True):
            with Image.open(folder / "rgb" / clip.name / name) as image:
                assert image.mode == "P"
                assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # type: ignore[index]
                assert (np.asarray(image) == mask).all()
        with Image.open(folder / "rgb" / clip.name / "00000.png") as image:
            assert (np.asarray(image) == clip.first).all(), "the first is as it was given"


def test_the_report_has_tables_of_sequences_and_pictures(report: Evaluation) -> None:
    page = report.report
    assert page.title == "davis/small on DAVIS 2017 val"
    assert "Clips: 2, frames: 8" in page.lead[0]
    assert "1 trial." in page.lead[0]
    sequences = next(table for table in page.tables if table.title == "J&F of each sequence")
    assert [column.name for column in sequences.columns] == [COPIED, "rgb", STAGE]
    rows = {row.name: [cell.mean for cell in row.cells] for row in sequences.rows}
    for column, result in enumerate(report.results):
        assert isinstance(result, ClipResult)
        for name, score in zip(("scene-0000", "scene-0001"), result.scores, strict=True):
            assert rows[name][column] == pytest.approx(50 * (score.j.mean() + score.f.mean()))
            if len(score.ids) > 1:
                assert rows[f"{name}_2"][column] == pytest.approx(50 * (score.j[1] + score.f[1]))
    (group,) = page.groups
    assert group.figures[-1].media == "image/gif"
    assert all(figure.media == "image/jpeg" for figure in group.figures[:-1])
    assert "worst object" in " ".join(figure.caption for figure in group.figures) or len(group.figures) == 2
    assert (report.folder / "report.html").stat().st_size < 4e6
    assert not [*report.folder.glob(".*")], "what was drawn in passing is gone"
    facts = json.loads((report.folder / "report.json").read_text())["facts"]
    assert facts["protocol"]["way"]["context"] == 2
    assert facts["data"]["clips"].endswith("(2 clips, 8 frames)")
    assert {"encoder", "propagation", "scores", "reading", "writing"} <= facts["seconds"]["rgb"].keys()
    assert "encoder" not in facts["seconds"][COPIED]
    assert [len(one[0]) for one in read_pictures(report.folder)] == [report.results[0].pictures.shape[1]] * 3


def test_the_median_and_the_worst_object_are_shown(report: Evaluation, clips: Path) -> None:
    material = open_clips(ClipExam(name="davis/small", data="davis", way=SMALL), clips)
    names = [clip.name for clip, _ in material.objects]
    few, many = sorted(set(names), key=names.count)
    each = np.array([0.9 if name == few else 0.5 for name in names])
    each[names.index(few)] = 0.1  # worst; then all of the other clip, the median among them; then the rest of this one
    of_many = [i for i, name in enumerate(names) if name == many]
    each[of_many] += 0.01 * np.arange(len(of_many))[::-1]
    median = sorted(range(len(names)), key=lambda i: each[i])[len(names) // 2]
    copy, *others = (one for one in report.results if isinstance(one, ClipResult))
    apart = np.linspace(-0.1, 0.1, len(others))  # encoders differ, the mean over them counts
    results = [
        replace(copy, pictures=1 - each[None]),
        *(replace(one, pictures=each[None] + move) for one, move in zip(others, apart, strict=True)),
    ]
    (middle, of_middle), (last, of_last) = shown_clips(results, material)
    assert (middle.name, last.name) == (many, few)
    label = names[: median + 1].count(many)
    assert (
        of_middle == f"median object of {len(names)}, {many}_{label}: J&F {100 * each[median]:.1f} % over the encoders"
    )
    assert of_last.startswith(f"worst object of {len(names)}, {few}_1: J&F 10.0 %")


def test_objects_are_counted_and_void_is_background_as_davis_has_it(tmp_path: Path) -> None:
    """A clip whose first mask lacks the object 2 of 3, with void in its masks."""
    truths = []
    for t in range(4):
        mask = np.zeros((64, 96), np.uint8)
        mask[8:32, 8 + 3 * t : 40 + 3 * t] = 1
        mask[40:60, 50:80] = 3
        mask[20:44, 30:60] = 255
        picture(tmp_path / "JPEGImages" / "480p" / "a" / f"{t:05d}.jpg", t, (64, 96))
        truths.append(put(tmp_path / "Annotations" / "480p" / "a" / f"{t:05d}.png", mask) % 255)
    text(tmp_path / "ImageSets" / "2017" / "val.txt", "a")
    copy, rgb = evaluate(
        ["rgb"], "propagation", "davis/small", tmp_path, tmp_path / "out", device="cpu", pictures=False
    ).results
    expected = by_hand([[(truths[0], truth) for truth in truths]])
    assert copy.pictures[0] == pytest.approx([(j + f) / 2 for j, f in zip(*expected.values(), strict=True)])
    assert copy.pictures[0, 1] == 1, "nothing there and nothing found"
    assert rgb.pictures.shape == (1, 3)
    with Image.open(tmp_path / "out" / "predictions" / "rgb" / "a" / "00000.png") as image:
        assert (np.asarray(image) == truths[0]).all()


def test_a_tint_keeps_void_and_the_background() -> None:
    image = np.full((8, 12, 3), 200, np.uint8)
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 6:], mask[:, 9:] = 1, 255
    found = tinted(image, mask, 0)
    assert found[0, 0].tolist() == found[0, -1].tolist() == [200, 200, 200]
    assert found[0, 7].tolist() == [164, 100, 100], "half of the picture, half of (128, 0, 0)"
    assert found[0, 5].tolist() == [255, 255, 255], "a line between labels"
    assert tinted(image, mask)[0, [0, 5]].tolist() == [[100, 100, 100]] * 2, "without a background 0 is a class"
    assert SIDES[0] < SIDES[1]


@pytest.mark.parametrize("both", [False, True])
def test_masks_of_2016_are_one_object(clips: Path, tmp_path: Path, both: bool) -> None:
    """A list of 2016 alone, or asked for beside 2017's; masks of 0 and 255."""
    for clip in open_davis(clips):
        for t in range(4):
            name = f"480p/{clip.frame(t)}"
            put(tmp_path / "JPEGImages" / f"{name}.jpg", clip.image(t))
            put(tmp_path / "Annotations" / f"{name}.png", np.where(clip.mask(t) > 0, 255, 0).astype(np.uint8))
    text(tmp_path / "ImageSets" / "2016" / "val.txt", "scene-0000", "scene-0001")
    if both:
        text(tmp_path / "ImageSets" / "2017" / "val.txt", "scene-0000")
    protocol = "davis-2016/small" if both else "davis/small"
    found = evaluate(["rgb"], "propagation", protocol, tmp_path, tmp_path / "out", device="cpu", pictures=False)
    assert found.report.title.endswith("DAVIS 2016 val")
    assert found.results[0].pictures.shape == (1, 2)
    truths = [[(mask > 0).astype(np.uint8) for mask in clip.masks()] for clip in open_davis(clips)]
    expected = by_hand([[(clip[0], mask) for mask in clip] for clip in truths])
    assert values(found.results[0])["J mean"] == pytest.approx(np.mean(expected["J"]))
    with Image.open(tmp_path / "out" / "predictions" / "rgb" / "scene-0000" / "00003.png") as image:
        assert set(np.unique(np.asarray(image))) <= {0, 1}


def test_named_protocols() -> None:
    whose = ("timecycle-320", "timecycle-480", "crw", "dino", "dinov3", "uvc")
    davis_names = {f"{year}/{name}" for name in whose for year in ("davis", "davis-2016")}
    assert PROTOCOLS.keys() == davis_names | {"camvid/dino", "camvid/timecycle-480"}
    assert all(name == one.name and name.split("/")[0] == one.data for name, one in PROTOCOLS.items())
    assert PROTOCOLS["camvid/dino"].way == PROTOCOLS["davis/dino"].way


# --- CamVid -------------------------------------------------------------------------------------------------------


def make_camvid(root: Path, frames: int = 4) -> list[np.ndarray]:
    """A clip of noise that moves by 4 px a frame, its classes with it; void and a class that comes later."""
    whole = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    classes = np.kron(noise(1, 3, size=(4, 8)), np.ones((16, 16), np.uint8)).astype(np.uint8) + np.uint8(4)
    classes[:, :12] = 11  # void
    made, lines = [], []
    for t in range(frames):
        labels = classes[:, 4 * t : 4 * t + 96].copy()
        if t == frames - 1:
            labels[:8, -8:] = 9  # nobody can know of it
        put(root / "val" / f"{t}.png", whole[:, 4 * t : 4 * t + 96])
        made.append(put(root / "valannot" / f"{t}.png", labels))
        lines.append(f"val/{t}.png valannot/{t}.png")
    picture(root / "train" / "a.png", 0, (64, 96))
    put(root / "trainannot" / "a.png", made[0])
    text(root / "train.txt", "train/a.png trainannot/a.png")
    text(root / "val.txt", *lines)
    return made


def test_a_clip_of_classes_scores_as_by_hand(tmp_path: Path) -> None:
    truths = make_camvid(tmp_path / "CamVid")
    report = evaluate(["rgb"], "propagation", "camvid/small", tmp_path / "CamVid", tmp_path / "out", device="cpu")
    for result, folder in zip(report.results, ("first_mask_copied", "rgb"), strict=True):
        total = np.zeros((3, 11), dtype=int)
        right = labelled = 0
        for t in range(1, 4):
            with Image.open(tmp_path / "out" / "predictions" / folder / "val" / f"{t}.png") as image:
                found = np.asarray(image)
            if folder != "rgb":
                assert (found == np.where(truths[0] == 11, 255, truths[0])).all()
            counts = np.zeros((3, 11), dtype=int)
            for a, b in zip(found.ravel().tolist(), truths[t].ravel().tolist(), strict=True):
                if b == 11:
                    continue
                counts[1, b] += 1
                if a != 255:
                    counts[2, a] += 1
                counts[0, b] += a == b
                right, labelled = right + (a == b), labelled + 1
            assert (result.pictures[0, t - 1] == counts).all()
            total += counts
        union = total[1] + total[2] - total[0]
        ious = [total[0, k] / union[k] for k in range(11) if union[k]]
        assert result.pictures.shape == (1, 3, 3, 11), "the first frame is left out, the last is not"
        assert values(result) == pytest.approx({"mIoU": np.mean(ious), "pixel accuracy": right / labelled})
        assert len(ious) == 4, "three classes and the one that came later"
        assert min(ious) == 0
    copy, rgb = (values(one)["mIoU"] for one in report.results)
    assert rgb > copy + 0.1
    assert "show 3 of 11 classes" in report.report.lead[0]
    table = next(one for one in report.report.tables if one.title == "IoU of each class")
    assert "bicyclist" in table.note
    assert "pavement" not in table.note
    assert [figure.media for figure in report.report.groups[0].figures] == ["image/jpeg", "image/gif"]


# --- Bad input ----------------------------------------------------------------------------------------------------


def spoil_missing(root: Path) -> None:
    (root / "Annotations" / "480p" / "a" / "00001.png").unlink()


def spoil_size(root: Path) -> None:
    picture(root / "JPEGImages" / "480p" / "a" / "00002.jpg", 0, (64, 100))


def spoil_mask(root: Path) -> None:
    put(root / "Annotations" / "480p" / "a" / "00002.png", np.ones((32, 48), np.uint8))


def spoil_many(root: Path) -> None:
    labels = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96) % 300
    put(root / "Annotations" / "480p" / "a" / "00000.png", labels)


def spoil_empty(root: Path) -> None:
    put(root / "Annotations" / "480p" / "a" / "00000.png", np.zeros((64, 96), np.uint8))


def spoil_short(root: Path) -> None:
    (root / "JPEGImages" / "480p" / "a" / "00002.jpg").unlink()


def spoil_picture(root: Path) -> None:
    (root / "JPEGImages" / "480p" / "a" / "00002.jpg").write_bytes(b"no picture")


def spoil_list(root: Path) -> None:
    (root / "ImageSets" / "2017" / "val.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_missing, r"expected a mask .*00001\.png"),
        (spoil_size, r"00002\.jpg: expected 96 x 64 pixels .* found 100 x 64"),
        (spoil_mask, r"00002\.png: expected 96 x 64 pixels .* found 48 x 32"),
        (spoil_many, r"00000\.png: expected at most 254 objects"),
        (spoil_empty, r"00000\.png: expected an object in the first mask"),
        (spoil_short, r"a: expected at least 3 frames"),
        (spoil_picture, r"00002\.jpg"),
        (spoil_list, r"val\.txt"),
    ],
)
def test_wrong_clips_are_refused_before_a_frame_is_encoded(tmp_path: Path, spoil: object, told: str) -> None:
    root = tmp_path / "data"
    for t in range(3):
        picture(root / "JPEGImages" / "480p" / "a" / f"{t:05d}.jpg", t, (64, 96))
        mask = np.zeros((64, 96), np.uint8)
        mask[8:32, 8:40] = 1
        put(root / "Annotations" / "480p" / "a" / f"{t:05d}.png", mask)
    text(root / "ImageSets" / "2017" / "val.txt", "a")
    said: list[str] = []
    spoil(root)  # type: ignore[operator]
    with pytest.raises(VaderError, match=told) as fault:
        evaluate(
            ["rgb"], "propagation", "davis/small", root, tmp_path / "out", device="cpu", pictures=False, say=said.append
        )
    assert "\n" not in str(fault.value)
    assert not said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"], "nothing is left"


def test_classes_need_a_clip_of_one_size(tmp_path: Path) -> None:
    make_camvid(tmp_path / "CamVid")
    picture(tmp_path / "CamVid" / "val" / "2.png", 0, (64, 90))
    put(tmp_path / "CamVid" / "valannot" / "2.png", np.zeros((64, 90), np.uint8))
    said: list[str] = []
    with pytest.raises(BadInput, match=r"val/2.png: expected 96 x 64 pixels as val/0, the first frame, found 90 x 64"):
        evaluate(
            ["rgb"], "propagation", "camvid/small", tmp_path / "CamVid", tmp_path / "out", device="cpu",
            say=said.append,
        )  # fmt: skip
    assert not said, "no frame is encoded before"
    make_camvid(tmp_path / "void")
    put(tmp_path / "void" / "valannot" / "0.png", np.full((64, 96), 11, np.uint8))
    with pytest.raises(BadInput, match="found only void"):
        evaluate(["rgb"], "propagation", "camvid/small", tmp_path / "void", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


# --- Real clips ---------------------------------------------------------------------------------------------------


def test_the_shared_clips_open() -> None:
    """Counts as the README of the data has them."""
    found = open_clips(PROTOCOLS["davis/dino"], shared("DAVIS"))
    assert "Clips: 8, frames: 160, objects: 8" in found.lead()
    assert found.clips[0].size == (480, 854)
    assert len(found.pictures) == 64
    whole = open_clips(PROTOCOLS["camvid/dino"], shared("CamVid"))
    assert whole.clips[0].size == (360, 480)
    assert "clip of 101 frames" in whole.lead()
