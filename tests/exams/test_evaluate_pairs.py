"""Exams of matching on made pairs, where an encoder that knows the place finds every point; scores against loops."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelled import picture, put
from test_matching import read_slowly, write_animals, write_posed

from vader.encoders import DenseEncoder
from vader.encoders.store import Budget
from vader.errors import BadInput
from vader.exams.pairs import (
    PROTOCOLS,
    KeypointsProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
    query_cells,
)
from vader.exams.pairs.evaluation import PairResult, blocks, match_pairs, pair_baselines
from vader.exams.pairs.pages import lines, pair_pages
from vader.exams.pairs.sets import ALONE, CHANGED, open_pairs, to_side
from vader.exams.plan import Plan
from vader.exams.results import resampled
from vader.reports import draw
from vader.scenes.samples import view_pair
from vader.scenes.world import SceneConfig


def small(name: str, kind: type, **change: object) -> object:
    found = PROTOCOLS[name]
    assert isinstance(found, kind)
    return replace(found, **change)  # type: ignore[type-var]


WARP = small("warp-pck", WarpProtocol, size=96, points=40)
POSED = small("posed-rgbd", PosedProtocol, grid=2, points=60, fewest=5)
ANIMALS = small("keypoints", KeypointsProtocol, side=40, common=2)


def plan(batch: int = 4) -> Plan:
    return Plan([0], Budget(10**8), batch)


def knows_the_place(stride: int = 4, moved: int = 0, name: str = "ideal") -> DenseEncoder:
    """Of pictures whose red and green say where they look; `moved` cells aside."""

    def features(images: torch.Tensor) -> torch.Tensor:
        cells = F.avg_pool2d(images[:, :2], stride, ceil_mode=True, count_include_pad=False)
        cells = cells.roll(moved, 3)
        return torch.cat([f(cells * k) for f in (torch.sin, torch.cos) for k in (4.0, 16.0, 1.2)], 1)

    return DenseEncoder(name, stride, 12, features)


def colour_of_the_mean(stride: int) -> DenseEncoder:
    """Some encoder that is neither right nor at chance."""

    def features(images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(images, stride, ceil_mode=True, count_include_pad=False) - 0.5

    return DenseEncoder(f"mean-{stride}", stride, 3, features)


def gradients(root: Path, count: int = 3) -> Path:
    for i in range(count):
        y, x = np.mgrid[: 200 + 10 * i, :240]
        put(root / f"{i}.png", np.stack([x, 255 - y, 0 * x + 90], 2).clip(0, 255).astype(np.uint8))
    return root


def value(result: PairResult, name: str) -> float:
    return next(v[0] for m, v in result.values.items() if m.name == name)


def headline(result: PairResult) -> float:
    return next(iter(result.values.values()))[0]


# --- Views of an image --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gradients(tmp_path_factory.mktemp("views"))


def test_who_knows_the_place_finds_every_point_of_a_warp(views: Path) -> None:
    material = open_pairs(WARP, views)
    assert (len(material), material.counted, material.groups) == (6, 3, (CHANGED, ALONE))
    ideal, aside = (match_pairs(knows_the_place(moved=m), WARP, material, plan()) for m in (0, 2))
    alone = f"within 4 px, {ALONE}"
    assert value(ideal, alone) > 0.98
    assert value(aside, alone) < 0.5, "8 px to the right in both views: forgiven where they neither flip nor scale"
    assert headline(ideal) < 0.9, "colours say nothing of the place once they are changed"
    chance, still = pair_baselines(WARP, material, plan())
    assert headline(chance) == pytest.approx(math.pi * 16 / 96**2, rel=0.1)
    assert chance.name == "a cell at random"
    assert value(still, alone) < 0.5
    assert list(chance.values) == list(ideal.values) == list(still.values)
    assert [m.name for m in ideal.values] == [
        "within 4 px", "within 8 px", "within 16 px", "within 22.4 px", alone, "within 4 px, soft-argmax",
        "mutual matches", "within 4 px, mutual",
    ]  # fmt: skip


def test_the_headline_is_the_mean_of_the_pairs_that_are_compared(views: Path) -> None:
    material = open_pairs(WARP, views)
    found = match_pairs(colour_of_the_mean(4), WARP, material, plan())
    assert found.pictures.shape == (1, 3)
    assert headline(found) == pytest.approx(found.pictures.mean())
    six = np.tile(found.pictures, 2)  # fewer than five are not drawn from
    assert resampled(six).mean() == pytest.approx(headline(found), abs=0.03)
    assert np.isnan(resampled(found.pictures)).all()
    assert found.matches is not None
    errors = np.linalg.norm(found.matches.found - found.matches.truths, axis=1)
    for i in range(3):
        assert found.pictures[0, i] == (errors[found.matches.pair == i] <= 4).mean()
    mine = (found.matches.pair < 3) & found.matches.mutual
    assert value(found, "mutual matches") == pytest.approx(mine.sum() / 120)
    assert value(found, "within 4 px, mutual") == pytest.approx((errors[mine] <= 4).mean())


def test_every_encoder_is_asked_for_the_same_points_whatever_batch_and_memory(views: Path) -> None:
    material = open_pairs(WARP, views)
    found = [match_pairs(colour_of_the_mean(stride), WARP, material, plan()) for stride in (4, 16, 6)]
    assert all((one.matches.points == found[0].matches.points).all() for one in found)  # type: ignore[union-attr]
    again = open_pairs(WARP, views)
    for batch, memory in ((1, 10**8), (64, 1000)):
        other = match_pairs(colour_of_the_mean(4), WARP, again, Plan([0], Budget(memory), batch))
        assert other.matches is not None
        assert found[0].matches is not None
        assert other.matches.found.tolist() == found[0].matches.found.tolist()
    assert again.facts() == material.facts()


def test_of_many_images_some_are_taken_evenly(tmp_path: Path) -> None:
    material = open_pairs(small("warp-pck", WarpProtocol, size=96, points=40, images=2), gradients(tmp_path, 5))
    assert material.names[:2] == ("0.png", "2.png")
    assert "2 of 5 images" in material.facts()["val"]
    assert len(material.pictures) == 2
    assert material.pictures[1].shape == (96, 96, 3)


def test_where_no_image_can_be_read_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("hello")
    material = open_pairs(WARP, tmp_path)
    with pytest.raises(BadInput, match=r"found none: .*words\.jpg"):
        pair_baselines(WARP, material, plan())


def test_images_that_cannot_be_read_are_left_out_counted_and_named(tmp_path: Path) -> None:
    (gradients(tmp_path) / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    said: list[str] = []
    material = open_pairs(WARP, tmp_path)
    sitting = plan()
    sitting.say = said.append
    found = match_pairs(knows_the_place(), WARP, material, sitting)
    assert found.skipped == 1
    assert np.isnan(found.pictures[0]).tolist() == [False, True, False]
    assert len(found.unread) == 1
    assert "1.png" in found.unread[0]
    assert any("left out" in line and "1.png" in line for line in said)
    assert [one.skipped for one in pair_baselines(WARP, material, plan())] == [1, 1]
    tables, _ = pair_pages([found], WARP, material, tmp_path / "out", {"ideal": "ideal"})
    assert "1 of 3 pairs" in tables[0].note
    assert "1.png" in tables[0].note
    for name in "02":
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"found none: .*0.png"):
        match_pairs(knows_the_place(), WARP, open_pairs(WARP, tmp_path), plan())


def test_features_that_are_not_finite_and_data_that_is_not_there(views: Path, tmp_path: Path) -> None:
    broken = DenseEncoder("broken", 4, 3, lambda images: torch.full((len(images), 3, 24, 24), torch.nan))
    with pytest.raises(BadInput, match="encoder broken: expected finite features"):
        match_pairs(broken, WARP, open_pairs(WARP, views), plan())
    with pytest.raises(BadInput, match="warp-pck: expected --data"):
        open_pairs(WARP, None)
    for name in ("warp-pck", "keypoints", "posed-rgbd"):
        with pytest.raises(BadInput, match="does not exist"):
            open_pairs(PROTOCOLS[name], tmp_path / "nowhere")


def test_blocks_are_whole_and_as_large_as_a_batch() -> None:
    links = [(0, 1), (2, 3), (4, 5), (4, 6), (6, 7), (8, 9)]
    assert list(blocks(links, 1)) == [[0], [1], [2, 3, 4], [5]]
    assert list(blocks(links, 4)) == [[0, 1], [2, 3, 4], [5]]
    assert list(blocks(links, 99)) == [[0, 1, 2, 3, 4, 5]]
    assert list(blocks([(0, 1), (2, 3), (1, 0)], 1)) == [[0, 1, 2]]


# --- Animals ------------------------------------------------------------------------------------------------------


def many_animals(root: Path) -> None:
    """Three cows in two images, a dog in each, one cow with too few keypoints."""
    rng = np.random.default_rng(0)
    write_animals(root)
    picture(root / "images" / "b.png", 1, (50, 36))
    animals = []
    for image, kind in ((7, 3), (9, 3), (9, 3), (7, 5), (9, 5)):
        keypoints = [v for x, y in rng.uniform(1, 31, (3, 2)).tolist() for v in (x, y, 2)]
        box = [0, 0, 10 + len(animals), 30 - 5 * len(animals)]
        animals.append({"image_id": image, "category_id": kind, "bbox": box, "keypoints": keypoints})
    animals[2]["keypoints"][2] = animals[2]["keypoints"][5] = 1
    animals[1]["keypoints"][8] = 0
    made = json.loads((root / "keypoints.json").read_text())
    made["annotations"][:1] = animals
    made["categories"].append({"id": 5, "name": "dog", "keypoints": ["nose", "ear", "tail"]})
    (root / "keypoints.json").write_text(json.dumps(made))


def test_keypoints_equal_a_loop_over_pairs_points_and_cells(tmp_path: Path) -> None:
    many_animals(tmp_path)
    protocol = replace(ANIMALS, thresholds=(0.2, 0.4, 0.8), headline=0.4)  # some of which noise meets
    material = open_pairs(protocol, tmp_path)
    assert [name.partition(":")[0] for name in material.names] == ["cow", "cow", "dog", "dog"]
    assert sorted(material.links[:2]) == [(0, 1), (1, 0)], "both directions; one cow shows too little"
    assert len(material.pictures) == 1, "the train split's, for a PCA"
    encoder = colour_of_the_mean(4)
    found = match_pairs(encoder, protocol, material, plan())
    table = json.loads((tmp_path / "keypoints.json").read_text())["annotations"]
    chosen = [(table[0], table[1]), (table[1], table[0]), (table[3], table[4]), (table[4], table[3])]
    wanted = []
    for i, (a, b) in enumerate(chosen):
        maps = []
        for n in material.links[i]:
            pixels = material.picture(n)
            assert pixels.shape == ((40, 50, 3), (56, 40, 3))[n], "32 x 40 and 50 x 36, the short side at 40"
            maps.append(encoder.embed(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)[0].numpy().astype(float))
        (sx, sy), (su, sv) = (((1.25, 1.25), (40 / 36, 56 / 50))[n] for n in material.links[i])
        _, h, w = maps[1].shape
        both = [n for n in range(3) if a["keypoints"][3 * n + 2] == b["keypoints"][3 * n + 2] == 2]
        target = [[b["keypoints"][3 * n] * su, b["keypoints"][3 * n + 1] * sv] for n in both]
        assert material.truth(i).truths == pytest.approx(np.array(target))
        hits = []
        for k in range(3):
            (x, y, seen), (u, v, there) = (one["keypoints"][3 * k : 3 * k + 3] for one in (a, b))
            if seen == there == 2:
                query = read_slowly(maps[0], x * sx, y * sy, 4)
                best = int(np.argmax([query @ maps[1][:, r, c] for r in range(h) for c in range(w)]))
                apart = math.hypot((best % w + 0.5) * 4 - u * su, (best // w + 0.5) * 4 - v * sv)
                longer = max(b["bbox"][2] * su, b["bbox"][3] * sv)
                hits.append([apart / longer <= alpha for alpha in protocol.thresholds])
        wanted.append(np.mean(hits, 0))
    assert found.shares == pytest.approx(np.stack(wanted))
    assert [round(value(found, f"PCK@{a}"), 9) for a in (0.4, 0.2, 0.8)] == [
        round(float(np.mean(wanted, 0)[k]), 9) for k in (1, 0, 2)
    ]
    assert found.pictures[0] == pytest.approx(np.stack(wanted)[:, 1])


def test_a_class_has_at_most_so_many_pairs_and_pairs_are_needed(tmp_path: Path) -> None:
    many_animals(tmp_path)
    few = open_pairs(replace(ANIMALS, pairs=1), tmp_path)
    assert len(few) == 2
    assert few.groups == ("cow", "dog")
    assert few.links == open_pairs(replace(ANIMALS, pairs=1), tmp_path).links
    made = json.loads((tmp_path / "keypoints.json").read_text())
    made["annotations"][4]["image_id"] = 7
    (tmp_path / "keypoints.json").write_text(json.dumps(made))
    assert len(open_pairs(ANIMALS, tmp_path)) == 2, "two dogs in one image are no pair"
    with pytest.raises(BadInput, match="two images of one class with 4 keypoints visible in both"):
        open_pairs(replace(ANIMALS, common=4), tmp_path)


def test_resizing_keeps_points_on_their_pixels() -> None:
    image = np.zeros((90, 61, 3), np.uint8)
    image[60:64, 40:44] = 255
    for side in (30, 122):
        resized, factors = to_side(image, side)
        assert min(resized.shape[:2]) == side
        rows, columns = np.nonzero(resized[..., 0] > 127)
        middle = (np.array([columns.min() + columns.max(), rows.min() + rows.max()]) + 1) / 2
        assert middle == pytest.approx(np.array([42, 62]) * factors, abs=0.5)


# --- Posed frames and scenes --------------------------------------------------------------------------------------


def test_who_knows_the_place_finds_every_point_between_cameras(tmp_path: Path) -> None:
    write_posed(tmp_path)
    material = open_pairs(POSED, tmp_path)
    assert material.links == ((0, 1),)
    assert material.truth(0).group == "0.1 to 0.2 m"
    ideal = match_pairs(knows_the_place(), POSED, material, plan())
    assert value(ideal, "within 4 px") == 1
    assert len(ideal.shares) == 1
    aside = match_pairs(knows_the_place(stride=8), replace(POSED, thresholds=(1, 8)), material, plan())
    assert 0 < value(aside, "within 1 px") < 0.5, "cells of 8 px are rarely within one"
    with pytest.raises(BadInput, match="expected pairs with points that both pictures show"):
        match_pairs(knows_the_place(), POSED, open_pairs(replace(POSED, fewest=1000), tmp_path), plan())
    with pytest.raises(BadInput, match=r"less than 0.1 m apart"):
        open_pairs(replace(POSED, edges=(0, 0.1)), tmp_path)


def test_from_the_same_place_a_pixel_lies_where_it_lay(tmp_path: Path) -> None:
    write_posed(tmp_path, [np.eye(4), np.eye(4)])
    truth = open_pairs(POSED, tmp_path).truth(0)
    assert len(truth.points) > 5
    assert np.allclose(truth.points, truth.truths, atol=1e-6)
    assert (truth.points % 1 == 0.5).all(), "centres of pixels"


def test_scenes_need_no_data_and_have_their_exact_flow(tmp_path: Path) -> None:
    protocol = small("scenes", ScenesProtocol, pairs=1, size=48, points=50)
    material = open_pairs(protocol, None)
    found = match_pairs(colour_of_the_mean(4), protocol, material, plan())
    assert found.matches is not None
    for i in range(1):
        pair = view_pair(SceneConfig(), protocol.seed, 48, 48, i)
        assert (material.picture(2 * i + 1) == pair.second.image).all()
        cells, wanted = query_cells(pair.points, pair.visible, 4)
        known = {(x * 4 + 2, y * 4 + 2): at for x, y, at in zip(cells % 12, cells // 12, wanted, strict=True)}
        truth = material.truth(i)
        assert 0 < len(truth.points) <= 50
        for point, at in zip(truth.points, truth.truths, strict=True):
            assert at == pytest.approx(known[tuple(point)])
        low, high = (float(word) for word in truth.group.split(" degrees")[0].split(" to "))
        assert low <= pair.angle <= high
    tables, _ = pair_pages([found], protocol, material, tmp_path, {})
    assert [table.title for table in tables[:4]] == [
        f"within {t} px by angle between the cameras" for t in (1, 2, 4, 8)
    ]
    assert [bool(table.note) for table in tables[:4]] == [True, False, False, False], "said once"
    errors = np.linalg.norm(found.matches.found - found.matches.truths, axis=1)
    for table, threshold in zip(tables, protocol.thresholds, strict=False):
        assert [row.name for row in table.rows] == list(material.groups)
        means = [row.cells[0].mean for row in table.rows if row.cells[0].mean is not None]
        assert means == pytest.approx([100 * (errors <= threshold).mean()]), "the one pair, in its row"


# --- Pages --------------------------------------------------------------------------------------------------------


def test_pages_have_tables_pictures_and_every_match(tmp_path: Path, views: Path) -> None:
    material = open_pairs(WARP, views)
    encoders = [knows_the_place(name="a b"), colour_of_the_mean(16)]
    results = [match_pairs(one, WARP, material, plan()) for one in encoders]
    results += pair_baselines(WARP, material, plan())
    tables, groups = pair_pages(results, WARP, material, tmp_path, {"a b": "a_b", "mean-16": "mean-16"})
    by_group, stride = tables
    assert [row.name for row in by_group.rows] == [CHANGED, ALONE]
    assert by_group.rows[1].cells[0].mean == pytest.approx(100 * value(results[0], f"within 4 px, {ALONE}"))
    assert [row.name for row in stride.rows] == ["4 px", "16 px"]
    assert stride.rows[0].cells[0].mean == pytest.approx(4 / math.sqrt(2))
    assert stride.rows[0].cells[1].mean == 100, "no truth is farther than 2.83 px from a cell of 4"
    assert stride.rows[1].cells[1].mean == pytest.approx(100 * math.pi / 16, abs=12)
    assert stride.rows[1].cells[5].mean == pytest.approx(100 * math.pi * 16 / 96**2, rel=0.5)
    assert all(len(group.figures) == 2 for group in groups), "encoders side by side, baselines not among them"
    assert f"{round(40 * results[0].pictures[0, 0])} of 40 within 4 px" in groups[0].figures[0].caption
    with np.load(tmp_path / "predictions" / "a_b.matches.npz") as kept:
        assert kept["names"].tolist() == list(material.names)
        errors = np.linalg.norm(kept["found"] - kept["truths"], axis=1)
        assert (errors[kept["pair"] < 3] <= 4).mean() == pytest.approx(headline(results[0]))


def test_right_matches_are_green_and_wrong_ones_red() -> None:
    first, second = np.zeros((20, 30, 3), np.uint8), np.zeros((26, 24, 3), np.uint8)
    points, found = np.array([[5.5, 4.5], [20.5, 10.5]]), np.array([[3.5, 6.5], [10.5, 22.5]])
    drawn = lines(first, second, points, found, np.array([True, False]))
    assert drawn.shape == (52, 2 * (30 + 8 + 24), 3)
    colours = [[int(word[k : k + 2], 16) for k in (1, 3, 5)] for word in (draw.GOOD, draw.BAD)]
    for at, move in ((points, 0), (found, 38)):
        for (x, y), colour in zip(at, colours, strict=True):
            assert drawn[int(2 * y), int(2 * (x + move))].tolist() == colour
    assert (drawn[45, 20] == 255).all(), "below the lower picture it is white"


def test_all_encoders_are_frozen_data_of_named_protocols() -> None:
    assert list(PROTOCOLS) == ["warp-pck", "scenes", "keypoints", "posed-rgbd"]
    for name, one in PROTOCOLS.items():
        assert one.name == name
        assert one.headline in one.thresholds
    text_of = {str(one) for one in PROTOCOLS.values()}
    assert len(text_of) == 4
