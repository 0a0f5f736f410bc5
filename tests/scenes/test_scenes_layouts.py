"""Rendered data sets, read back by the tools of the real ones and compared with the frames rendered anew."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.ndimage import label
from test_scenes_encoding import close, void_by_loops
from torchvision import datasets

from vader.scenes.exposure import film
from vader.scenes.frame import CLASSES, KINDS, Frame
from vader.scenes.layouts import LAYOUTS, nyu, write
from vader.scenes.layouts.nyu import raw_depth
from vader.scenes.render import render
from vader.scenes.samples import still
from vader.scenes.world import SceneConfig, keypoint_names, make_world

# pycocotools' arrays are older than numpy 2's copy keyword.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COUNT, WIDTH, HEIGHT, SEED = 6, 96, 64, 11
COUNTS = {"davis": 26}
TRAIN, VAL = [0, 1, 2, 3, 5], [4]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of each layout."""
    place = tmp_path_factory.mktemp("sets")
    for layout in LAYOUTS:
        write(place / layout, layout, count=COUNTS.get(layout, COUNT), width=WIDTH, height=HEIGHT, seed=SEED, workers=1)
    return place


def frame(index: int, setting: str = "mixed") -> Frame:
    return still(SceneConfig(setting=setting), SEED, WIDTH, HEIGHT, index)


# --- Plain pictures -----------------------------------------------------------------------------------------------


def test_images(sets: Path) -> None:
    files = sorted((sets / "images" / "images").iterdir())
    assert [path.name for path in files] == [f"{i:06d}.jpg" for i in range(COUNT)]
    for i, path in enumerate(files):
        assert close(Image.open(path), frame(i).image)


# --- VOC ----------------------------------------------------------------------------------------------------------


def test_voc_segmentation(sets: Path) -> None:
    for split, indices in (("train", TRAIN), ("val", VAL), ("trainval", sorted(TRAIN + VAL))):
        read = datasets.VOCSegmentation(str(sets / "voc"), year="2012", image_set=split, download=False)
        assert len(read) == len(indices)
        for (picture, target), i in zip(read, indices, strict=True):
            one = frame(i)
            assert target.mode == "P"
            assert close(picture, one.image)
            expected = np.zeros((HEIGHT, WIDTH), int)
            for instance in one.objects:
                expected[one.instances == instance.number] = 1 + KINDS.index(instance.kind)
            void = void_by_loops(one.instances, 2)
            assert np.array_equal(np.asarray(target), np.where(void, 255, expected))
            values = np.asarray(Image.open(str(read.masks[TRAIN.index(i) if split == "train" else 0])))
            assert values.dtype == np.uint8


def test_voc_objects_and_boxes(sets: Path) -> None:
    read = datasets.VOCDetection(str(sets / "voc"), year="2012", image_set="trainval", download=False)
    assert len(read) == COUNT
    seen = 0
    for (_, target), i in zip(read, range(COUNT), strict=True):
        one = frame(i)
        place = sets / "voc" / "VOCdevkit" / "VOC2012"
        values = np.asarray(Image.open(place / "SegmentationObject" / f"2012_{i + 1:06d}.png"))
        void = void_by_loops(one.instances, 2)
        annotation = target["annotation"]
        assert annotation["filename"] == f"2012_{i + 1:06d}.jpg"
        assert annotation["size"] == {"width": str(WIDTH), "height": str(HEIGHT), "depth": "3"}
        shown = [instance for instance in one.objects if (one.instances == instance.number).any()]
        shown.sort(key=lambda instance: instance.number)
        listed = annotation.get("object", [])  # torchvision leaves the word out where there is none
        assert len(listed) == len(shown)
        for number, (instance, told) in enumerate(zip(shown, listed, strict=True), 1):
            mask = one.instances == instance.number
            assert np.array_equal(values == number, mask & ~void)
            ys, xs = np.nonzero(mask)
            box = {"xmin": xs.min() + 1, "ymin": ys.min() + 1, "xmax": xs.max() + 1, "ymax": ys.max() + 1}
            assert told["bndbox"] == {name: str(value) for name, value in box.items()}
            assert told["name"] == instance.kind
            edge = xs.min() == 0 or ys.min() == 0 or xs.max() == WIDTH - 1 or ys.max() == HEIGHT - 1
            assert told["truncated"] == str(int(edge))
            seen += 1
        assert np.array_equal(values == 255, void)
    assert seen > COUNT
    assert (sets / "voc" / "classes.txt").read_text().split() == ["background", *KINDS]
    ElementTree.parse(place / "Annotations" / "2012_000001.xml")


# --- Cityscapes ---------------------------------------------------------------------------------------------------

OFFICIAL = {one.name: one for one in datasets.Cityscapes.classes}
CITYSCAPES = {
    "clutter": "static", "ground": "terrain", "wall": "wall", "sky": "sky", "mug": "static", "table": "static",
    "chair": "static", "lamp": "pole", "tree": "vegetation", "house": "building", "car": "car", "animal": "dynamic",
}  # fmt: skip


def city(place: Path, split: str, *targets: str) -> Any:
    return datasets.Cityscapes(str(place / "cityscapes"), split=split, target_type=list(targets))


@pytest.mark.parametrize(("split", "indices"), [("train", TRAIN), ("val", VAL)])
def test_cityscapes(sets: Path, split: str, indices: list[int]) -> None:
    read = city(sets, split, "semantic", "instance", "color", "polygon")
    assert len(read) == len(indices)
    for at in range(len(read)):
        i = int(Path(read.images[at]).name.split("_")[1])
        assert i in indices
        one = frame(i, "landscape")
        picture, (semantic, instance, colour, _) = read[at]
        assert np.array_equal(np.asarray(picture), one.image)
        expected = np.array([OFFICIAL[CITYSCAPES[name]].id for name in CLASSES])[one.classes]
        assert semantic.mode == "L"
        assert np.array_equal(np.asarray(semantic), expected)
        assert colour.mode == "RGBA"
        colours = np.array([(*OFFICIAL[CITYSCAPES[name]].color, 255) for name in CLASSES])[one.classes]
        assert np.array_equal(np.asarray(colour), colours)
        values = np.asarray(instance)
        assert instance.mode in ("I", "I;16")
        car = one.classes == CLASSES.index("car")
        assert np.array_equal(values[~car], expected[~car])
        pairs = {pair for pair in zip(one.instances[car].tolist(), values[car].tolist(), strict=True) if pair[1] != 26}
        numbers = sorted(value for _, value in pairs)
        assert numbers == [26000 + k for k in range(len(set(one.instances[car].tolist())))]
        for number in set(one.instances[car].tolist()):  # its largest piece alone is numbered
            parts, _ = label(one.instances == number)
            largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
            assert (values[largest] >= 26000).all()
            assert (values[(parts > 0) & ~largest] == 26).all()


def painted(annotation: dict[str, Any], instances: bool) -> np.ndarray:
    """As Cityscapes' own tools make labelIds and instanceIds of polygons."""
    image = Image.new("I", (annotation["imgWidth"], annotation["imgHeight"]), 0)
    counts: dict[str, int] = {}
    for one in annotation["objects"]:
        label, value = one["label"].removesuffix("group"), OFFICIAL[one["label"].removesuffix("group")].id
        if instances and OFFICIAL[label].has_instances and label == one["label"]:
            value = value * 1000 + counts.get(label, 0)
            counts[label] = counts.get(label, 0) + 1
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in one["polygon"]], fill=value)
    return np.asarray(image)


def test_cityscapes_polygons_give_the_maps_back(tmp_path: Path) -> None:
    write(tmp_path / "cityscapes", "cityscapes", count=16, width=160, height=96, seed=5, workers=1,
          config=SceneConfig(setting="mixed"))  # fmt: skip
    cars = pieces = 0
    for split in ("train", "val"):
        for _, (semantic, instance, annotation) in city(tmp_path, split, "semantic", "instance", "polygon"):
            assert np.array_equal(painted(annotation, False), np.asarray(semantic))
            values = np.asarray(instance).astype(int)
            assert np.array_equal(painted(annotation, True), values)
            cars += len(np.unique(values[values >= 26000]))
            pieces += sum(one["label"] == "cargroup" for one in annotation["objects"])
    assert cars, "there was something to see"
    assert pieces
    assert len({path.name for path in (tmp_path / "cityscapes" / "leftImg8bit").glob("*/*")}) == 3


# --- NYU ----------------------------------------------------------------------------------------------------------


def letters(file: h5py.File, name: str) -> list[str]:
    """A cell of strings, as those read it who use NYU."""
    return ["".join(chr(c[0]) for c in file[reference]) for reference in file[name][0]]


def test_nyu(sets: Path) -> None:
    with h5py.File(sets / "nyu" / "nyu_depth_v2_labeled.mat") as file:
        shapes = {name: (file[name].shape, file[name].dtype.str) for name in nyu.ARRAYS}
        maps = (COUNT, WIDTH, HEIGHT)
        assert shapes == {
            "images": ((COUNT, 3, WIDTH, HEIGHT), "|u1"), "depths": (maps, "<f4"), "rawDepths": (maps, "<f4"),
            "labels": (maps, "<u2"), "instances": (maps, "|u1"),
        }  # fmt: skip
        assert letters(file, "names") == list(CLASSES)
        assert letters(file, "sceneTypes") == ["room"] * COUNT
        assert len(set(letters(file, "scenes"))) == COUNT
        assert len(letters(file, "rawDepthFilenames")) == len(letters(file, "rawRgbFilenames")) == COUNT
        for i in range(COUNT):
            one = frame(i, "room")
            assert np.array_equal(file["images"][i].T, one.image)
            assert np.array_equal(file["depths"][i].T, one.depth)
            assert np.array_equal(file["rawDepths"][i].T, raw_depth(one))
            labels, instances = file["labels"][i].T, file["instances"][i].T
            assert np.array_equal(np.array(letters(file, "names"))[labels - 1], np.array(CLASSES)[one.classes])
            pairs = set(zip(one.instances.ravel().tolist(), instances.ravel().tolist(), strict=True))
            assert [new for _, new in sorted(pairs)] == list(range(len(pairs)))
            assert (0, 0) in pairs
        for name, words in (("images", b"uint8"), ("depths", b"single"), ("labels", b"uint16"), ("names", b"cell")):
            assert file[name].attrs["MATLAB_class"] == words
        assert file[file["names"][0, 0]].attrs["MATLAB_class"] == b"char"


def test_nyus_files_are_matlabs(sets: Path) -> None:
    content = (sets / "nyu" / "nyu_depth_v2_labeled.mat").read_bytes()
    assert content.startswith(b"MATLAB 7.3 MAT-file, ")
    assert content[124:128] == b"\x00\x02IM"
    assert content[512:520] == b"\x89HDF\r\n\x1a\n"
    assert content[520] == 0, "the superblock that MATLAB's own files have"
    with pytest.raises(NotImplementedError, match="HDF"):  # so scipy knows it for a 7.3 file
        scipy.io.loadmat(sets / "nyu" / "nyu_depth_v2_labeled.mat")
    splits = scipy.io.loadmat(sets / "nyu" / "splits.mat")
    assert splits["trainNdxs"].tolist() == [[i + 1] for i in TRAIN]
    assert splits["testNdxs"].tolist() == [[i + 1] for i in VAL]


def test_raw_depth_has_the_holes_of_a_sensor() -> None:
    """By loops from the definition: frame, grazing surfaces, steps."""
    for i in range(3):
        one = frame(i, "mixed")
        raw, edge = raw_depth(one), max(1, round(0.02 * HEIGHT))
        near = np.minimum(one.depth, 20)
        holes = np.zeros((HEIGHT, WIDTH), bool)
        for y, x in np.ndindex(HEIGHT, WIDTH):
            framed = min(x, y, WIDTH - 1 - x, HEIGHT - 1 - y) < edge
            ray = np.array([x + 0.5 - WIDTH / 2, y + 0.5 - HEIGHT / 2, one.camera.focal])
            cosine = -one.normals[y, x] @ ray / np.linalg.norm(ray)
            around = near[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            step = around.max() - around.min() > 0.1 * near[y, x]
            holes[y, x] = framed or step or cosine < np.sin(np.radians(10)) or one.depth[y, x] > 10
        assert (holes != (raw == 0)).mean() < 1e-3  # a rounding may decide otherwise
        assert np.array_equal(raw[raw > 0], one.depth[raw > 0])
        assert 0.05 < holes.mean() < 0.9


# --- DAVIS --------------------------------------------------------------------------------------------------------


def test_davis(sets: Path) -> None:
    root = sets / "davis"
    names = {split: (root / "ImageSets" / "2017" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert names == {"train": ["scene-0000"], "val": ["scene-0001"]}
    for clip, (sequence, length) in enumerate((("scene-0000", 24), ("scene-0001", 2))):
        pictures = sorted((root / "JPEGImages" / "480p" / sequence).iterdir())
        annotations = sorted((root / "Annotations" / "480p" / sequence).iterdir())
        assert [path.stem for path in pictures] == [path.stem for path in annotations]
        assert [path.stem for path in pictures] == [f"{t:05d}" for t in range(length)]
        world = make_world(SceneConfig(), SEED, clip)
        first = render(world, world.camera(WIDTH, HEIGHT))
        numbers = [number for number in np.unique(first.instances) if number]
        for t in (0, 1, length - 1):
            one = render(world, world.camera(WIDTH, HEIGHT, t / 10), t / 10)
            image = Image.open(annotations[t])
            assert image.mode == "P"
            assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            expected = np.zeros((HEIGHT, WIDTH), int)
            for new, number in enumerate(numbers, 1):
                expected[one.instances == number] = new
            assert np.array_equal(np.asarray(image), expected)
            assert close(Image.open(pictures[t]), film(one, SceneConfig().exposure, (SEED, clip, 2)).image)
        assert np.asarray(Image.open(annotations[0])).max() == len(numbers) > 0


# --- COCO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "indices"), [("train", TRAIN), ("val", VAL)])
@pytest.mark.parametrize("task", ["instances", "keypoints"])
def test_coco(sets: Path, split: str, indices: list[int], task: str, capsys: pytest.CaptureFixture[str]) -> None:
    read = COCO(sets / "coco" / "annotations" / f"{task}_{split}2017.json")
    assert sorted(read.getImgIds()) == [i + 1 for i in indices]
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == list(KINDS)
    seen = 0
    for i in indices:
        one, (info,) = frame(i), read.loadImgs(i + 1)
        assert close(Image.open(sets / "coco" / f"{split}2017" / info["file_name"]), one.image)
        shown = [instance for instance in one.objects if (one.instances == instance.number).any()]
        annotations = read.loadAnns(read.getAnnIds(imgIds=[i + 1]))
        assert len(annotations) == len(shown)
        for instance, told in zip(shown, annotations, strict=True):
            mask = one.instances == instance.number
            assert np.array_equal(read.annToMask(told).astype(bool), mask)
            assert told["area"] == mask.sum()
            assert coco_mask.toBbox(read.annToRLE(told)).tolist() == told["bbox"]
            assert told["iscrowd"] == 0
            (category,) = read.loadCats(told["category_id"])
            assert category["name"] == instance.kind
            if task == "keypoints":
                names = category["keypoints"]
                assert names == list(keypoint_names(instance.kind))
                assert {x for pair in category["skeleton"] for x in pair} <= set(range(1, len(names) + 1))
                assert all(a != b for a, b in category["skeleton"])
                check_keypoints(instance, told)
            else:
                assert "keypoints" not in told
            seen += 1
    assert seen


def check_keypoints(instance: Any, told: dict[str, Any]) -> None:
    values = np.array(told["keypoints"]).reshape(-1, 3)
    assert len(values) == len(instance.keypoints) >= 6
    for (x, y, v), point, visible, ahead in zip(
        values, instance.keypoints, instance.visible, instance.in_front, strict=True
    ):
        inside = ahead and 0 <= point[0] <= WIDTH and 0 <= point[1] <= HEIGHT
        assert v == (2 if inside and visible else 1 if inside else 0)
        assert np.allclose((x, y), point - 0.5 if inside else 0, atol=0.0051)
    assert told["num_keypoints"] == (values[:, 2] > 0).sum()


def test_cocos_evaluation_finds_the_truth_perfect(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.cocoeval import COCOeval

    truth = COCO(sets / "coco" / "annotations" / "instances_train2017.json")
    found = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": one["bbox"], "score": 1.0,
         "segmentation": truth.annToRLE(one)}
        for one in truth.loadAnns(truth.getAnnIds())
    ]  # fmt: skip
    for kind in ("bbox", "segm"):
        exam = COCOeval(truth, truth.loadRes(found), kind)
        exam.evaluate()
        exam.accumulate()
        exam.summarize()
        assert exam.stats[0] > 0.999


# --- All of them -----------------------------------------------------------------------------------------------------


def test_cameras_json(sets: Path) -> None:
    for layout in LAYOUTS:
        told = json.loads((sets / layout / "cameras.json").read_text())["pictures"]
        assert len(told) == COUNTS.get(layout, COUNT)
        if layout == "nyu":
            continue
        ending = ".png" if layout == "cityscapes" else ".jpg"
        found = {path.relative_to(sets / layout).as_posix() for path in (sets / layout).rglob(f"*{ending}")}
        if layout == "cityscapes":
            found = {name for name in found if name.startswith("leftImg8bit/")}
        assert {name for name in found if "Annotations" not in name} == set(told)
        for t, name in enumerate(sorted(told, key=lambda name: Path(name).name.split("_")[1:] or Path(name).name)):
            if layout not in ("davis", "coco"):
                one = frame(t, LAYOUTS[layout].setting).camera
                assert told[name] == {"intrinsics": one.intrinsics.tolist(), "pose": one.pose.tolist()}
    world = make_world(SceneConfig(), SEED, 0)
    told = json.loads((sets / "davis" / "cameras.json").read_text())["pictures"]
    pose = told["JPEGImages/480p/scene-0000/00017.jpg"]["pose"]
    assert np.allclose(pose, world.camera(WIDTH, HEIGHT, 1.7).pose, atol=1e-12)
    told = json.loads((sets / "coco" / "cameras.json").read_text())["pictures"]
    assert told["val2017/000000000005.jpg"]["pose"] == frame(4).camera.pose.tolist()


def test_nyu_depth_and_cameras_put_the_floor_at_height_0(sets: Path) -> None:
    cameras = json.loads((sets / "nyu" / "cameras.json").read_text())["pictures"]
    floor = 0
    with h5py.File(sets / "nyu" / "nyu_depth_v2_labeled.mat") as file:
        for i, name in enumerate(letters(file, "rawRgbFilenames")):
            depth, labels = file["depths"][i].T, file["labels"][i].T
            ground = labels - 1 == CLASSES.index("ground")
            rows, columns = np.nonzero(ground & (depth < nyu.FARTHEST))
            pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))])
            points = np.linalg.solve(np.array(cameras[name]["intrinsics"]), pixels) * depth[rows, columns]
            world = np.array(cameras[name]["pose"]) @ np.concatenate([points, np.ones((1, len(rows)))])
            assert (np.abs(world[2]) < 0.03).all()  # a rug lies on it
            floor += int((np.abs(world[2]) < 1e-4).sum())
    assert floor > 1000


def test_scenes_json(sets: Path) -> None:
    for layout in LAYOUTS:
        told = json.loads((sets / layout / "scenes.json").read_text())
        assert told["layout"] == layout
        assert told["seed"] == SEED
        assert told["count"] == COUNTS.get(layout, COUNT)
        assert told["size"] == {"height": HEIGHT, "width": WIDTH}
        assert told["generator"].startswith("vader ")
        assert SceneConfig(**told["config"]).setting == LAYOUTS[layout].setting
    assert json.loads((sets / "voc" / "scenes.json").read_text())["classes"]["animal"] == 8
    assert (told["train"], told["val"]) == (5, 1)
