"""Batches: wherever images are held and colours are changed, a pair is a function of (seed, epoch, image, view)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vader.images.sources import Faults, list_images
from vader.images.warp import BILINEAR_LIMIT
from vader.pretraining.config import FeedConfig
from vader.pretraining.feed import Batch, Feed, Pairs, refuse_unusable
from vader.pretraining.views import ViewConfig

PLAIN = {"p_jitter": 0.0, "p_grey": 0.0, "p_blur": 0.0}
CPU = torch.device("cpu")
MODES = [("nothing", "worker"), ("nothing", "device"), ("memory", "worker"), ("memory", "device"), ("device", "device")]


def feed(photos: Path, *, views: dict[str, Any], batch: int = 4, start: int = 0, **changes: Any) -> Feed:
    settings: dict[str, Any] = {"points": 8, "stride": 4, "seed": 3, "workers": 0} | changes
    config = FeedConfig(views=ViewConfig(**{"size": 32} | views), batch=batch, **settings)
    images = list_images(photos)
    pairs = Pairs(images, np.arange(len(images)), config)
    if config.hold != "nothing":
        pairs.hold()
    return Feed(pairs, CPU, start)


def batches(source: Feed, count: int) -> list[Batch]:
    one = iter(source)
    return [next(one) for _ in range(count)]


@pytest.mark.parametrize(("hold", "finish"), MODES)
@pytest.mark.parametrize("colours", [False, True])
def test_every_way_of_holding_and_finishing_gives_the_same_pairs(
    photos: Path, hold: str, finish: str, colours: bool
) -> None:
    """Numbers to the bit; pixels to what rounding to bytes, and torch's reading instead of OpenCV's, make of them."""
    views = {} if colours else PLAIN
    expected = batches(feed(photos, views=views), 3)
    found = batches(feed(photos, views=views, hold=hold, finish=finish), 3)
    for one, two in zip(expected, found, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.cells, two.cells)
        assert torch.equal(one.points, two.points)
        for a, b in ((one.first, two.first), (one.second, two.second)):
            assert a.shape == b.shape == (4, 3, 32, 32)
            assert b.dtype == torch.float32
            assert 0 <= float(b.min()) <= float(b.max()) <= 1
            if finish == "worker":
                assert torch.equal(a, b)
            elif hold != "device" and not colours:
                torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
            else:
                gap = (a - b).abs().mean((1, 2, 3))
                assert float(gap.max()) < 0.05
                assert float(gap.median()) < 0.02
    wrong = batches(feed(photos, views=views, seed=4), 1)[0]
    assert float((wrong.first - expected[0].first).abs().mean()) > 0.05, "another seed is no match"


def test_a_view_on_the_device_does_not_depend_on_its_batch(photos: Path) -> None:
    """In batches of one, of four and of all: some views hold over two source pixels a pixel, others do not."""
    views = PLAIN | {"scale": (0.05, 1.0), "min_shared": 1}
    together = feed(photos, views=views, batch=12, hold="device")
    matrices = [together.pairs[0, place]["matrices"] for place in range(12)]
    coarse = [bool(np.linalg.norm(m[:, :2, :2], axis=1).max() > BILINEAR_LIMIT) for m in matrices]
    assert 2 <= sum(coarse) <= 10
    whole = batches(together, 1)[0]
    parts = batches(feed(photos, views=views, batch=1, hold="device"), 12)
    assert [int(part.images) for part in parts] == whole.images.tolist()
    for i, part in enumerate(parts):
        torch.testing.assert_close(part.first[0], whole.first[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(part.second[0], whole.second[i], atol=1e-5, rtol=0)


def test_a_feed_that_starts_late_goes_on_as_the_first_would(photos: Path) -> None:
    straight = batches(feed(photos, views={}, batch=5), 4)
    later = batches(feed(photos, views={}, batch=5, start=2), 2)
    for one, two in zip(straight[2:], later, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.first, two.first)
    seen = torch.cat([one.images for one in straight]).tolist()
    assert sorted(seen[:12]) == list(range(12)), "an epoch holds each image once"


def test_images_that_cannot_be_held_are_named_and_replaced(photos: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "05x.jpg").write_text("This is no picture.")
    source = feed(tmp_path, views={}, batch=13, hold="memory")
    assert [source.pairs.images.names[i] for i in source.pairs.broken] == ["05x.jpg"]
    one = batches(source, 1)[0]
    assert [name for name, _ in one.faults] == ["05x.jpg"]
    assert len(one.images) == 13
    faults = Faults(total=13, max_share=0.5)
    refuse_unusable(feed(tmp_path, views={}).pairs, np.array([], dtype=np.int64), faults)
    assert [fault["name"] for fault in faults.as_json()] == ["05x.jpg"]


def test_a_batch_knows_how_its_views_map_to_the_image(photos: Path) -> None:
    """Cells of view 1 go through both matrices to the matched points of view 2, wherever images are held."""
    for hold, finish in MODES:
        for batch in batches(feed(photos, views={}, hold=hold, finish=finish), 2):
            assert batch.matrices is not None
            assert batch.matrices.shape == (4, 2, 3, 3)
            for cells, points, (first, second) in zip(batch.cells, batch.points, batch.matrices, strict=True):
                centres = torch.stack([cells % 8, cells // 8, torch.zeros_like(cells)], 1).double() * 4 + 2
                centres[:, 2] = 1
                moved = centres @ (torch.linalg.inv(second) @ first).T
                torch.testing.assert_close((moved[:, :2] / moved[:, 2:]).float(), points, atol=1e-3, rtol=0)
