"""A protocol's name fixes its constants, and wrong names are answered with the right ones."""

import dataclasses
import json

import pytest

from vader.errors import BadInput
from vader.exams.kinds import EXAMS
from vader.exams.labelled.linear import few_pictures
from vader.exams.labelled.protocols import Few
from vader.exams.protocols import PROTOCOLS, constants, find_protocol

WANTED = {
    "segmentation": [f"{d}-{e}" for d in ("voc", "voc-animals", "cityscapes", "camvid", "ade20k", "folder")
                     for e in ("linear/vader", "kmeans/vader", "linear/leopart")],
    "depth": ["nyu-linear/vader", "nyu-linear/dinov3", "rgbd-linear/vader"],
    "neighbours": ["voc/hummingbird", "voc/hummingbird-full", "camvid/hummingbird", "folder/hummingbird"],
    "propagation": [f"davis/{e}" for e in ("timecycle-320", "timecycle-480", "crw", "dino", "dinov3", "uvc")]
    + ["camvid/dino", "camvid/timecycle-480"],
}  # fmt: skip


@pytest.mark.parametrize(("task", "name"), [(task, name) for task, names in WANTED.items() for name in names])
def test_every_name_is_there_frozen_and_knows_its_data(task: str, name: str) -> None:
    found = find_protocol(task, name)
    assert (found.name, found.data) == (name, name.partition("/")[0].removesuffix("-linear").removesuffix("-kmeans"))
    assert type(found) in EXAMS
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.data = "other"


def test_no_two_protocols_share_their_constants() -> None:
    texts = {json.dumps(constants(one), sort_keys=True) for one in PROTOCOLS.values()}
    assert len(texts) == len(PROTOCOLS)


def test_constants_of_the_field() -> None:
    nyu = find_protocol("depth", "nyu-linear/vader")
    assert (nyu.crop, nyu.nearest, nyu.farthest) == ((45, 471, 41, 601), 0.001, 10.0)
    assert find_protocol("depth", "rgbd-linear/vader").crop is None
    assert find_protocol("segmentation", "voc-linear/vader").void == 255


@pytest.mark.parametrize(
    ("suffix", "few"), [("5%", Few(share=0.05)), ("0.5%", Few(share=0.005)), ("20", Few(pictures=20))]
)
def test_a_suffix_says_how_many_have_labels(suffix: str, few: Few) -> None:
    found = find_protocol("segmentation", f"voc-linear/vader:{suffix}")
    assert found.few == few
    assert found.name == f"voc-linear/vader:{suffix}"
    assert dataclasses.replace(found, few=None, name="voc-linear/vader") == find_protocol(
        "segmentation", "voc-linear/vader"
    )


def test_few_pictures_are_nested_and_follow_the_seed() -> None:
    names = [f"n{i}" for i in range(40)]
    few, more = (few_pictures(Few(share=share), names, [0, 1]) for share in (0.1, 0.5))
    assert few is not None
    assert more is not None
    assert [len(one) for one in (*few, *more)] == [4, 4, 20, 20]
    assert all(set(a) < set(b) for a, b in zip(few, more, strict=True))
    assert few[0] != few[1]
    assert few_pictures(None, names, [0]) is None
    with pytest.raises(BadInput, match="from 1 to 40"):
        few_pictures(Few(pictures=41), names, [0])


@pytest.mark.parametrize(
    ("task", "name", "says"),
    [
        ("segment", "voc-linear/vader", "--task: .*found 'segment'"),
        ("segmentation", "voc", "one of voc-linear/vader, .*folder-kmeans/vader.*found 'voc'"),
        ("depth", "voc-linear/vader", "one of nyu-linear/vader, nyu-linear/dinov3, rgbd-linear/vader for depth"),
        ("segmentation", "voc-linear/vader:", "5% or a number"),
        ("segmentation", "voc-linear/vader:0", "5% or a number"),
        ("segmentation", "voc-linear/vader:101%", "5% or a number"),
        ("segmentation", "voc-linear/vader:few", "5% or a number"),
        ("segmentation", "voc-kmeans/vader:5%", "expected a linear probe"),
        ("neighbours", "voc/hummingbird:5", "expected a linear probe"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(task: str, name: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        find_protocol(task, name)
    assert "\n" not in str(caught.value)
