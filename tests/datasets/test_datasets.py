"""Labelled sets: each layout read back against the truth that it was written from, and what is counted of them."""

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from conftest import Rendered
from labelled import MAKE, Truth, make_ade20k, make_camvid, make_rgbd, make_voc, many, noise, picture, put, read, text

from vader.datasets.cityscapes import IDS
from vader.datasets.example import VOID, LabelledSet
from vader.datasets.opening import open_labelled
from vader.datasets.voc import ANIMALS, CLASSES
from vader.errors import BadInput, UnreadableImage
from vader.scenes.frame import CLASSES as SCENE_CLASSES
from vader.scenes.frame import KINDS as SCENE_KINDS
from vader.scenes.frame import Frame
from vader.scenes.layouts.nyu import raw_depth
from vader.scenes.samples import still
from vader.scenes.world import SceneConfig

COUNT, WIDTH, HEIGHT, SEED = 6, 64, 48, 5
PARTS = {"train": [0, 1, 2, 3, 5], "val": [4]}


@pytest.fixture(scope="module")
def scenes(rendered: Rendered) -> Path:
    """Rendered sets in three layouts."""
    for layout in ("voc", "cityscapes"):
        rendered(layout, COUNT, WIDTH, HEIGHT, SEED)
    return rendered("nyu", COUNT, WIDTH, HEIGHT, SEED).parent


def frames(split: str, setting: str) -> list[Frame]:
    return [still(SceneConfig(setting=setting), SEED, WIDTH, HEIGHT, index) for index in PARTS[split]]


# --- Hand-made sets -------------------------------------------------------------------------------------------------


def agrees(found: LabelledSet, truth: Truth) -> None:
    assert found.names == tuple(truth)
    assert len(found) == len(truth)
    for example, (name, expected) in zip(found, truth.items(), strict=True):
        assert example.name == name
        if example.depth is None:
            assert example.labels is not None
            assert np.array_equal(example.labels, expected)
        else:
            assert example.labels is None
            assert np.allclose(example.depth, expected, rtol=1e-6, atol=0, equal_nan=True)
        assert example.image.shape == (*expected.shape, 3)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_hand_made_set_is_read_back(kind: str, split: str, tmp_path: Path) -> None:
    found = open_labelled(kind, tmp_path, split) if (made := MAKE[kind](tmp_path)) else None
    assert found is not None
    assert (found.name, found.root, found.split) == (kind, tmp_path, split)
    agrees(found, made[split])
    for i in range(len(found)):
        assert np.array_equal(found.image(i), found[i].image)
    if kind != "nyu":
        shown = next(path for path in found.files if path.suffix != ".txt")
        assert np.array_equal(found.image(0), read(shown))


def test_a_set_is_a_sequence(tmp_path: Path) -> None:
    make_voc(tmp_path)
    found = open_labelled("voc", tmp_path, "train")
    assert found[-1].name == found.names[-1]
    assert [example.name for example in found[:2]] == list(found.names)
    assert np.array_equal(found.image(-1), found[-1].image)
    for ask in (found.__getitem__, found.image):
        with pytest.raises(IndexError):
            ask(2)


@pytest.mark.parametrize("kind", MAKE)
def test_a_set_can_go_to_another_process(kind: str, tmp_path: Path) -> None:
    MAKE[kind](tmp_path)
    found = open_labelled(kind, tmp_path, "val")
    sent = pickle.dumps(found)
    assert len(sent) < 5000, "no pixels are kept"
    assert np.array_equal(pickle.loads(sent)[0].image, found[0].image)


@pytest.mark.parametrize("kind", ["voc", "cityscapes", "camvid", "ade20k", "folder", "rgbd"])
def test_reading_is_lazy(kind: str, tmp_path: Path) -> None:
    """Opening decodes nothing, and a picture alone does not need its truth."""
    MAKE[kind](tmp_path)
    found = open_labelled(kind, tmp_path, "val")
    truth = [path for path in found.files if path.suffix == ".png"][-1]
    before = found.image(len(found) - 1)
    truth.write_bytes(b"rubbish")
    found = open_labelled(kind, tmp_path, "val")
    assert np.array_equal(found.image(len(found) - 1), before)
    with pytest.raises(UnreadableImage, match=truth.name):
        found[len(found) - 1]


# --- Rendered sets --------------------------------------------------------------------------------------------------


def void_by_loops(regions: np.ndarray, reach: int) -> np.ndarray:
    found = np.zeros(regions.shape, bool)
    for y, x in np.ndindex(regions.shape):
        near = regions[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        found[y, x] = (near != regions[y, x]).any()
    return found


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("split", PARTS)
def test_scenes_as_voc(split: str, below: str, scenes: Path) -> None:
    found = open_labelled("voc", scenes / "voc" / below, split)
    assert found.classes == ("background", *SCENE_KINDS), "its own names, wherever the root is"
    assert found.names == tuple(f"2012_{i + 1:06d}" for i in PARTS[split])
    for example, frame in zip(found, frames(split, "mixed"), strict=True):
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for one in frame.objects:
            expected[frame.instances == one.number] = found.classes.index(one.kind)
        assert np.array_equal(example.labels, np.where(void_by_loops(frame.instances, 2), VOID, expected))
        assert np.abs(example.image.astype(float) - frame.image).mean() < 4  # a JPEG


@pytest.mark.parametrize("split", PARTS)
def test_scenes_as_cityscapes(split: str, scenes: Path) -> None:
    found = open_labelled("cityscapes", scenes / "cityscapes", split)
    assert len(found.classes) == 19
    ours = {"ground": "terrain", "wall": "wall", "sky": "sky", "lamp": "pole", "tree": "vegetation"}
    ours |= {"house": "building", "car": "car"}
    label = np.array([found.classes.index(ours[one]) if one in ours else VOID for one in SCENE_CLASSES])
    rendered = dict(zip(PARTS[split], frames(split, "landscape"), strict=True))
    assert len(found) == len(rendered)
    assert list(found.names) == sorted(found.names)
    for example in found:
        frame = rendered[int(example.name.split("_")[1])]
        assert np.array_equal(example.image, frame.image)
        assert np.array_equal(example.labels, label[frame.classes])


@pytest.mark.parametrize("kind", ["nyu", "nyu-filled"])
@pytest.mark.parametrize("split", PARTS)
def test_scenes_as_nyu(split: str, kind: str, scenes: Path) -> None:
    found = open_labelled(kind, scenes / "nyu", split)
    assert found.names == tuple(f"{i + 1:04d}" for i in PARTS[split])
    assert found.note == ("depth: rawDepths" if kind == "nyu" else "depth: depths")
    for example, frame in zip(found, frames(split, "room"), strict=True):
        assert np.array_equal(example.image, frame.image)
        expected = raw_depth(frame) if kind == "nyu" else np.minimum(frame.depth, 10)
        assert example.depth is not None
        assert np.array_equal(example.depth, expected)
        assert (kind == "nyu") == bool((example.depth == 0).any())


# --- What is special to one layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lists", ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"])
@pytest.mark.parametrize("name", ["trainaug.txt", "train_aug.txt"])
def test_vocs_augmented_masks_are_preferred_for_training(name: str, lists: str, tmp_path: Path) -> None:
    made = make_voc(tmp_path / "VOC2012")
    names = [*made["val"], *made["train"]]  # not the order of train.txt
    truth = {one: put(tmp_path / "VOC2012" / "SegmentationClassAug" / f"{one}.png", noise(9, 21)) for one in names}
    text(tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / name, *(lists.format(one) for one in names))
    found = open_labelled("voc", tmp_path, "train")
    assert found.note == f"train_aug: {name} with SegmentationClassAug"
    agrees(found, truth)
    agrees(open_labelled("voc", tmp_path, "val"), made["val"])
    shutil.rmtree(tmp_path / "VOC2012" / "SegmentationClassAug")
    found = open_labelled("voc", tmp_path, "train")
    assert "not train_aug: there is no SegmentationClassAug" in found.note
    agrees(found, made["train"])


def test_vocs_animals(tmp_path: Path) -> None:
    made = make_voc(tmp_path)
    found = open_labelled("voc-animals", tmp_path, "val")
    agrees(found, made["val"])
    assert found.classes == CLASSES
    assert tuple(found.classes[k] for k in found.scored) == ANIMALS
    assert open_labelled("voc", tmp_path, "val").scored == ()
    text(tmp_path / "classes.txt", "background", "cat")
    with pytest.raises(BadInput, match="found no chair; use voc"):
        open_labelled("voc-animals", tmp_path, "val")


def test_cityscapes_ids_are_those_of_its_evaluation() -> None:
    """Read off the palette that torchvision has of them."""
    from torchvision.datasets import Cityscapes

    counted = [one for one in Cityscapes.classes if not one.ignore_in_eval]
    assert {one.name: one.id for one in sorted(counted, key=lambda one: one.train_id)} == IDS
    assert list(IDS) == [one.name for one in sorted(counted, key=lambda one: one.train_id)]


def test_camvids_own_names_and_its_authors_paths(tmp_path: Path) -> None:
    made = make_camvid(tmp_path)
    assert len(open_labelled("camvid", tmp_path, "val").classes) == 11
    text(tmp_path / "val.txt", "/SegNet/CamVid/val/c.jpg /SegNet/CamVid/valannot/c.png")
    agrees(open_labelled("camvid", tmp_path, "val"), made["val"])
    text(tmp_path / "classes.txt", "void", *(f"class {k}" for k in range(1, 12)))
    found = open_labelled("camvid", tmp_path, "val")
    assert found.classes == tuple(f"class {k}" for k in range(1, 12))
    values = np.where(made["val"]["val/c"] == VOID, 11, made["val"]["val/c"]).astype(int)
    assert np.array_equal(found[0].labels, np.where(values == 0, VOID, values - 1))


def test_ade20ks_names(tmp_path: Path) -> None:
    make_ade20k(tmp_path / "ADEChallengeData2016")
    assert open_labelled("ade20k", tmp_path, "val").classes[149] == "class 150"
    rows = [f"{k}\t0.1\t10\t1\t0\tthing {k}, object" for k in range(1, 151)]
    rows[1] = "2\t0.1\t10\t1\t0\tscreen, silver screen"
    rows[2] = "3\t0.1\t10\t1\t0\tscreen, CRT screen"
    text(tmp_path / "ADEChallengeData2016" / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName", *rows)
    found = open_labelled("ade20k", tmp_path, "val")
    assert found.classes[:4] == ("thing 1", "screen", "screen, CRT screen", "thing 4")
    assert len(set(found.classes)) == 150
    text(tmp_path / "ADEChallengeData2016" / "objectInfo150.txt", "Idx", *rows[1:])
    with pytest.raises(BadInput, match="150 classes"):
        open_labelled("ade20k", tmp_path, "val")


def test_a_folder_without_lists_is_split_by_a_hash(tmp_path: Path) -> None:
    many(tmp_path, 40)
    train, val = (open_labelled("folder", tmp_path, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (32, 8)
    assert {*train.names, *val.names} == {str(i) for i in range(40)}
    assert "8 of 40 pictures, by a hash" in val.note
    order = sorted(map(str, range(40)), key=lambda name: hashlib.sha256(f"vader 0/{name}".encode()).hexdigest())
    assert set(val.names) == set(order[:8])
    assert set(val.names) == {"3", "4", "7", "12", "16", "21", "23", "38"}, "the same for ever"
    for grown in range(40, 44):
        picture(tmp_path / "images" / f"{grown}.png", grown, (4, 4))
        put(tmp_path / "masks" / f"{grown}.png", noise(grown, 2, size=(4, 4)))
        before, val = val, open_labelled("folder", tmp_path, "val")
        assert len(set(before.names) - set(val.names)) <= 1
    (two := tmp_path / "two").mkdir()
    many(two, 2)
    assert [len(open_labelled("folder", two, split)) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize("form", ["lists", "sync", "official", "side by side", "scenes", "official scenes"])
def test_nyu_as_folders(form: str, tmp_path: Path) -> None:
    places = {"sync": "sync", "official": "official_splits/test", "official scenes": "official_splits/test"}
    place = tmp_path / {"scenes": "test"}.get(form, places.get(form, ""))
    truth: Truth = {}
    lines = []
    for i, name in enumerate(("office/rgb_00003", "study/rgb_00001")):
        depth = name.replace("rgb_", "sync_depth_")
        shown = place / ("rgb/" if form == "side by side" else "") / f"{name}.jpg"
        picture(shown, i)
        file = place / "depth" / f"{name}.png" if form == "side by side" else place / f"{depth}.png"
        truth[name] = put(file, noise(i, 9000, np.uint16)) / 1000
        lines.append(f"/{name}.jpg /{depth}.png 518.8579")
    if form in ("lists", "sync", "official"):
        text(tmp_path / "nyudepthv2_test_files_with_gt.txt", *lines)
    elif form == "side by side":
        text(tmp_path / "test.txt", *(f"{name}.jpg" for name in truth))
    found = open_labelled("nyu", tmp_path, "val")
    agrees(found, truth)
    with pytest.raises(BadInput):
        open_labelled("nyu", tmp_path, "train")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.float64, np.uint16, np.int32, np.uint8])
def test_splits_of_any_storage(kind: type, compressed: bool, tmp_path: Path) -> None:
    from vader.datasets.matlab import read_columns

    values = np.random.default_rng(0).permutation(200)[:, None].astype(kind)
    columns = {
        "trainNdxs": values,
        "other": "a text",
        "testNdxs": np.array([[3]], kind),
        "cell": np.array([{}, 1], object),
    }
    scipy.io.savemat(tmp_path / "splits.mat", columns, do_compression=compressed)
    found = read_columns(tmp_path / "splits.mat", ("testNdxs", "trainNdxs"))
    assert found == {"trainNdxs": tuple(values[:, 0]), "testNdxs": (3,)}
    data = (tmp_path / "splits.mat").read_bytes()
    for length in (0, 100, 140, 300):
        (tmp_path / "splits.mat").write_bytes(data[:length])
        with pytest.raises(BadInput, match=r"splits\.mat"):
            read_columns(tmp_path / "splits.mat", ("testNdxs", "trainNdxs"))


# --- Counting and fingerprints --------------------------------------------------------------------------------------


def test_counts(tmp_path: Path) -> None:
    made = make_voc(tmp_path)
    found = open_labelled("voc", tmp_path, "train")
    told: list[tuple[int, int]] = []
    counts = found.check(say=lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]
    assert counts.examples == 2
    for k, name in [*enumerate(CLASSES), (VOID, "void")]:
        assert counts.pixels[name] == sum(int(values == k) for truth in made["train"].values() for values in truth.flat)
        assert counts.pictures[name] == sum(
            any(values == k for values in truth.flat) for truth in made["train"].values()
        )
    first = found.check(limit=1)
    assert first.examples == 1
    assert sum(first.pixels.values()) == 32 * 40
    assert found.check(limit=100) == counts


def test_counts_of_depth(tmp_path: Path) -> None:
    made = make_rgbd(tmp_path)
    counts = open_labelled("rgbd", tmp_path, "val").check()
    invalid = int((made["val"]["frame-1"] == 0).sum())
    assert invalid >= 3 * 40
    assert counts.pixels == {"invalid": invalid, "valid": 32 * 40 - invalid}
    put(tmp_path / "frame-1.depth.png", np.zeros((32, 40), np.uint16))
    counts = open_labelled("rgbd", tmp_path, "val").check()
    assert counts.pictures == {"invalid": 1, "valid": 0}, "a picture without any depth is read, for exams to skip"


@pytest.mark.parametrize("kind", MAKE)
def test_a_fingerprint_is_of_the_content(kind: str, tmp_path: Path) -> None:
    (root := tmp_path / "here").mkdir()
    MAKE[kind](root)
    prints = {split: open_labelled(kind, root, split).fingerprint() for split in ("train", "val")}
    assert all(len(one) == 16 and int(one, 16) for one in prints.values())
    assert prints["train"] != prints["val"]
    shutil.copytree(root, tmp_path / "else" / "there")
    moved = open_labelled(kind, tmp_path / "else" / "there", "val")
    assert moved.fingerprint() == prints["val"]
    for path in moved.files:
        data = path.read_bytes()
        for at in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert moved.fingerprint() != prints["val"], path
        path.write_bytes(data)
    assert moved.fingerprint() == prints["val"]


def test_a_fingerprint_reads_the_ends_of_long_files(tmp_path: Path) -> None:
    make_rgbd(tmp_path)
    found = open_labelled("rgbd", tmp_path, "val")
    long = next(path for path in found.files if "depth" in path.name)
    content = bytearray(300_000)
    seen = set()
    for at in (None, 0, 65_535, 299_999, 300_000 - 65_536):
        changed = bytearray(content)
        if at is not None:
            changed[at] = 1
        long.write_bytes(changed)
        seen.add(found.fingerprint())
    long.write_bytes(content + b"\0")
    seen.add(found.fingerprint())
    assert len(seen) == 6


def test_a_fingerprint_is_of_the_order_and_the_names(tmp_path: Path) -> None:
    make_voc(tmp_path)
    before = open_labelled("voc", tmp_path, "train").fingerprint()
    text(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "2007_000002", "2007_000001")
    assert open_labelled("voc", tmp_path, "train").fingerprint() != before
