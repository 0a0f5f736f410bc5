"""Large images by tiles: the map of the whole image, to 1 % of its norm, seams included."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vader.encoders import open_encoder
from vader.encoders import tiling as tiles
from vader.encoders.features import extract, map_of, maps_of
from vader.encoders.fitting import reduce_by_pca
from vader.encoders.opening import fresh_encoder
from vader.encoders.tiling import by_tiles, spans, tile_for, weights
from vader.errors import BadInput
from vader.images.sources import list_images
from vader.inference.maps import write_maps
from vader.inference.propagation.clip import see
from vader.inference.propagation.protocols import PropagationProtocol
from vader.models.groupnorm import Statistics, settable_norms
from vader.models.network import NetworkConfig

CONFIG = NetworkConfig(encoder="test_resnet", dim=8, pyramid_width=16, decoder_width=16, pyramid_outputs=False)
SHARED = Path(os.environ.get("VADER_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """(1, 3, 300, 710): photographs of different light beside each other, of which every tile sees another part."""
    from skimage import data

    parts = [data.astronaut()[:300, :250], data.coffee()[:300, :250], data.chelsea()[:, :210]]
    return torch.from_numpy(np.concatenate(parts, 1)).permute(2, 0, 1)[None].float() / 255


def error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    return float((found - truth).norm() / truth.norm())


def seams(found: Tensor, truth: Tensor) -> float:
    """The most, over all lines between two rows or columns of cells, by which the map's step differs from the true one.

    As a share of the norm of the true map's row or column.
    """
    worst = 0.0
    for axis in (2, 3):
        steps = (found - truth).diff(dim=axis).square().sum((0, 1, 5 - axis)).sqrt()
        worst = max(worst, float((steps / truth.square().sum((0, 1, 5 - axis)).sqrt()[1:]).max()))
    return worst


# --- Where tiles lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [32, 224])
@pytest.mark.parametrize(("tile", "overlap"), [(640, 128), (1280, 256), (1024, 0), (701, 100)])
def test_tiles_cover_an_axis_and_overlap(tile: int, overlap: int, align: int) -> None:
    for length in [33, tile - 1, tile, tile + 1, 2 * tile, 2 * tile + 77, 5001]:
        if tile < overlap + 2 * align:
            with pytest.raises(BadInput, match=f"--tile: expected at least {overlap + 2 * align} px"):
                tiles.check_tile(tile, overlap, stride=align)
            continue
        found = spans(length, tile, overlap, align)
        assert (found[0].start, found[-1].stop) == (0, length)
        assert (found[0].low, found[-1].high) == (0, length)
        assert all(one.start % align == 0 and one.stop - one.start <= tile for one in found)
        for one, after in pairwise(found):
            assert one.high == after.low, "cores lie side by side"
            assert one.stop - after.start >= overlap
            assert one.stop - one.high >= overlap // 2 - align, "and about in the middle of the overlaps"
            assert after.low - after.start >= overlap // 2 - align


@pytest.mark.parametrize("length", [641, 1000, 1281, 3001])
def test_weights_of_all_tiles_sum_to_one(length: int) -> None:
    total = torch.zeros(-(-length // 4))
    for span in spans(length, 640, 128):
        mine = weights(span, length, 4, 64)
        total[span.start // 4 : span.start // 4 + len(mine)] += mine
        assert float(mine.min()) >= 0
        inner = [mine[0]] * (span.start > 0) + [mine[-1]] * (span.stop < length)
        assert all(float(edge) == 0 for edge in inner), "the cells next to the padding do not count"
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


def test_small_images_go_whole() -> None:
    assert tile_for(1080, 1920) is None
    assert tile_for(3000, 4000) == tiles.TILE
    assert tile_for(1080, 1920, 640) == 640
    assert tile_for(600, 640, 640) is None


# --- Norms ----------------------------------------------------------------------------------------------------------


def test_moments_of_parts_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    whole = torch.randn(2, 6, 11, 13) * 3 + 100  # far from zero, where sums of squares would cancel
    moments = Statistics()
    for part in (whole[..., :5, :4], whole[..., 5:, :4], whole[..., :, 4:]):
        moments.add(part, 3)
    norm = nn.GroupNorm(3, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    found = moments.normalise(whole, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(found, norm(whole), atol=1e-4, rtol=1e-4)


class Pointwise(nn.Module):
    """Two norms and nothing that looks aside, so that tiles can be exact; calls are counted."""

    stride = 4

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = (lambda: nn.GroupNorm(2, 8)) if norms else nn.Identity
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), norm(), nn.ReLU(), nn.Conv2d(8, 8, 1), norm(), nn.ReLU())
        self.calls = 0

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        self.calls += 1
        pooled = F.avg_pool2d(images, 4, ceil_mode=True, count_include_pad=False)
        return F.normalize(self.body(pooled) + 0.1, dim=1)


def test_each_pass_makes_one_more_norm_exact(picture: Tensor) -> None:
    network = Pointwise()
    images = picture[..., :288, :704]
    truth = network.embed(images)
    norms = settable_norms(network)
    errors = [error(by_tiles(network.embed, images, 4, 320, 128, n, norms), truth) for n in range(4)]
    assert errors[0] > 0.01, "tiles with norms of their own are not the image's"
    assert errors[1] < errors[0] / 3
    assert errors[2] < 1e-5
    assert errors[3] < 1e-5


def test_networks_without_norms_are_asked_once(picture: Tensor) -> None:
    network = Pointwise(norms=False)
    count = tiles.count_tiles(300, 710, 384, 128)
    assert count == 3
    found = by_tiles(network.embed, picture, 4, 384, 128)
    assert network.calls == count
    torch.testing.assert_close(found, network.embed(picture), atol=1e-6, rtol=1e-5)


# --- Encoders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rgb", "sift"])
def test_encoders_of_short_reach_are_exact(name: str, picture: Tensor) -> None:
    encoder = open_encoder(name)
    for images in (picture, picture.transpose(2, 3)):
        found = by_tiles(encoder.embed, images, encoder.stride, 256, 128, norms=encoder.norms)
        torch.testing.assert_close(found, encoder.embed(images), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_our_network_by_tiles_is_the_whole_image_to_one_percent(turned: bool, picture: Tensor) -> None:
    encoder = fresh_encoder(CONFIG, "ours")
    images = picture.transpose(2, 3) if turned else picture
    truth = maps_of(encoder, images)
    assert error(by_tiles(encoder.embed, images, 4, 512), truth) > 0.02, "the norms are the trap"
    found = maps_of(encoder, images, tile=512)
    assert error(found, truth) < 1e-4, "this network looks no further than the overlap"
    assert seams(found, truth) < 0.01
    torch.testing.assert_close(found.norm(dim=1), torch.ones_like(found[:, 0]), atol=1e-5, rtol=0)


def test_what_wraps_our_network_goes_the_same_way(picture: Tensor) -> None:
    encoder = fresh_encoder(CONFIG, "ours")
    pixels = (picture[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    reduced = reduce_by_pca(encoder, [pixels], 4)
    truth = reduced.embed(picture)
    assert error(by_tiles(reduced.embed, picture, 4, 512, passes=0), truth) > 0.02
    assert error(maps_of(reduced, picture, tile=512), truth) < 0.01


def test_patches_of_transformers_lie_where_the_images_do() -> None:
    """Attention sees a tile as an image of its own, so values differ, but patches must not slide."""
    patch = 14

    def embed(images: Tensor) -> Tensor:
        h, w = (-(-side // patch) for side in images.shape[2:])
        padded = F.pad(images, (0, w * patch - images.shape[3], 0, h * patch - images.shape[2]), mode="replicate")
        return F.normalize(F.pixel_unshuffle(padded, patch), dim=1)

    torch.manual_seed(0)
    images = torch.rand(1, 3, 100, 1500)
    assert spans(1500, 896, 128, math.lcm(32, patch))[1].start % patch == 0
    torch.testing.assert_close(by_tiles(embed, images, patch, 896, 128), embed(images), atol=1e-5, rtol=1e-4)


def test_every_way_to_a_map_goes_by_tiles(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embed and index, show, exams' features, propagation: with a small limit all give the whole image's map."""
    encoder = fresh_encoder(CONFIG, "ours")
    image = (picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    way = PropagationProtocol(resize="short-stride", side=300)
    ways: dict[str, Callable[[], Tensor]] = {
        "map": lambda: map_of(encoder, image),
        "embeddings": lambda: extract(encoder, [image], embed=True)[0],
        "features": lambda: extract(encoder, [image])[0],
        "propagation": lambda: see(encoder, image, way),
    }
    whole = {name: one() for name, one in ways.items()}
    seen: list[int] = []
    whole_features = encoder.features
    monkeypatch.setattr(tiles, "TILE", 448)

    def features(images: Tensor) -> Tensor:
        seen.append(max(images.shape[2:]))
        return whole_features(images)

    encoder = replace(encoder, features=features)
    for name, one in ways.items():
        seen.clear()
        found = one()
        assert max(seen) <= 448, name
        assert error(found[None], whole[name][None]) < 0.01, name
        assert seams(found[None], whole[name][None]) < 0.01, name


# --- On disk --------------------------------------------------------------------------------------------------------


def test_embed_goes_by_tiles_and_says_so(picture: Tensor, tmp_path: Path) -> None:
    encoder = fresh_encoder(CONFIG, "ours")
    pixels = (picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images" / "wide.png"), pixels[..., ::-1])
    assert cv2.imwrite(str(tmp_path / "images" / "small.png"), pixels[:64, :80, ::-1])
    told: list[str] = []
    images = list_images(tmp_path / "images")
    with pytest.raises(BadInput, match="--tile: expected at least"):
        write_maps(encoder, images, tmp_path / "maps", identity="a", tile=64)
    assert not (tmp_path / "maps").exists()
    seen: list[int] = []

    def features(images: Tensor) -> Tensor:
        seen.append(max(images.shape[2:]))
        return encoder.features(images)

    watched = replace(encoder, features=features)
    assert write_maps(watched, images, tmp_path / "maps", identity="a", tile=512, say=told.append)[0] == 2
    assert max(seen) == 512, "the network never sees the whole image"
    assert any("wide.png: 710x300 px, in 4 tiles of up to 512 px" in line for line in told)
    assert not any("small.png" in line for line in told)
    lines = map(json.loads, (tmp_path / "maps" / "manifest.jsonl").read_text().splitlines())
    assert {line["name"]: line.get("tile") for line in lines} == {"wide.png": 512, "small.png": None}
    found = torch.from_numpy(np.load(tmp_path / "maps" / "maps" / "wide.png.npy")).float()[None]
    assert error(found, maps_of(encoder, picture)) < 0.01
    with pytest.raises(BadInput, match="maps of another"):
        write_maps(encoder, images, tmp_path / "maps", identity="a", tile=640)


def test_a_real_frame_and_real_weights() -> None:
    frame = SHARED / "DAVIS" / "JPEGImages" / "480p" / "camel" / "00000.jpg"
    file = SHARED / "weights" / "tf_efficientnet_lite0.imagenet.safetensors"
    if not (frame.is_file() and file.is_file()):
        pytest.skip(f"there is no {frame} or {file}; VADER_DATA names the folder of the shared sets")
    image = cv2.imread(str(frame))[100:388, ..., ::-1]
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    encoder = open_encoder(f"timm:tf_efficientnet_lite0={file}@hypercolumn")
    found, truth = maps_of(encoder, pixels, tile=576), encoder.embed(pixels)
    assert error(found, truth) < 0.01
    assert seams(found, truth) < 0.01
