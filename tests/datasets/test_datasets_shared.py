"""Real subsets, where they are at hand: VADER_DATA names their folder; counts as their README has them."""

import numpy as np
from PIL import Image
from samples import shared

from vader.datasets.opening import open_labelled
from vader.datasets.voc import CLASSES


def test_the_shared_voc() -> None:
    root = shared("VOC2012")
    train, val = (open_labelled("voc-animals", root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (720, 240)
    assert "not train_aug" in train.note
    assert train.classes == CLASSES
    assert train.check().pictures["void"] == 435, "SBD's masks have no border"
    shown = np.zeros(256, int)
    for example in val:
        assert example.labels is not None
        shown += np.bincount(example.labels.ravel(), minlength=256) >= 0.004 * example.labels.size
    counts = {CLASSES[k]: int(shown[k]) for k in range(21)}
    known = {"dog": 50, "cat": 50, "person": 86, "horse": 50, "sheep": 49, "cow": 50, "chair": 15, "sofa": 18, "car": 5}
    assert {name: counts[name] for name in known} == known
    assert [k for k in range(21) if shown[k] >= 15] == list(val.scored)


def test_the_shared_camvid() -> None:
    root = shared("CamVid")
    train, val = (open_labelled("camvid", root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (120, 101)
    assert (train.classes[0], train.classes[-1]) == ("sky", "bicyclist")
    pixels = train.check().pixels
    assert sum(pixels.values()) == 120 * 480 * 360
    known = {"road": 0.32, "building": 0.23, "sky": 0.17, "pedestrian": 0.006, "bicyclist": 0.003}
    for name, share in known.items():
        assert abs(pixels[name] / sum(pixels.values()) - share) < 0.01
    counts = np.zeros(256, int)
    for path in (root / "trainannot").iterdir():
        with Image.open(path) as image:
            counts += np.bincount(np.asarray(image).ravel(), minlength=256)
    assert list(pixels.values()) == counts[:12].tolist()


def test_the_shared_kitchen() -> None:
    root = shared("rgbd/kitchen")
    train, val = (open_labelled("rgbd", root, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (60, 25)
    assert train.names[-1] == "frame-000590"
    depth = np.stack([example.depth for found in (train, val) for example in found if example.depth is not None])
    assert depth.shape == (85, 240, 320)
    assert abs((depth == 0).mean() - 0.26) < 0.02
    assert abs(np.median(depth[depth > 0]) - 1.8) < 0.1
    assert 3 < depth.max() < 4.5
