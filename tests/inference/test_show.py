"""Pictures of what a model sees: the point asked for is the point searched for, at whatever size."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cyclopts.exceptions import CycloptsError

import vader
from vader.cli import app
from vader.encoders import DenseEncoder, open_encoder
from vader.encoders.features import map_of
from vader.encoders.opening import fresh_encoder
from vader.errors import BadInput, BadUsage
from vader.images.geometry import read_at
from vader.images.pictures import Picture, read_some
from vader.images.sources import ImageList, list_images
from vader.inference import show
from vader.inference.show import called, find_similar, pca_colours, place_in
from vader.models.checkpoint import save_model
from vader.models.network import NetworkConfig, build
from vader.reports import draw

CONFIG = NetworkConfig(encoder="test_resnet", dim=8, pyramid_width=16, decoder_width=16)


@pytest.fixture(scope="module")
def encoder() -> DenseEncoder:
    return fresh_encoder(CONFIG, "ours")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    """Two pictures of 400 x 200 px, the first grey with a red square about (300, 50)."""
    folder = tmp_path_factory.mktemp("wide")
    picture = np.full((200, 400, 3), 128, np.uint8)
    picture[30:70, 280:320] = (0, 0, 255)
    assert cv2.imwrite(str(folder / "0.png"), picture)
    assert cv2.imwrite(str(folder / "1.png"), np.roll(picture, -100, 1))
    return list_images(folder)


def colours(stride: int = 4) -> DenseEncoder:
    """An encoder whose embedding is the colour."""
    pool = lambda images: F.avg_pool2d(images, stride, ceil_mode=True, count_include_pad=False) + 1e-3  # noqa: E731
    return DenseEncoder(f"colours{stride}", stride, 3, pool)


@pytest.mark.parametrize("size", [None, 200, 100, 64, 400])
@pytest.mark.parametrize("stride", [4, 8])
def test_the_point_is_in_pixels_of_the_image_whatever_the_size(stride: int, size: int | None, wide: ImageList) -> None:
    """The red square of the first picture is found where it lies in the second, as it is shown."""
    read = read_some(wide, 2, size)
    scale = (size or 200) / 200
    assert read[0].original == (400, 200)
    assert read[0].pixels.shape[1] == 400 * scale
    place = place_in(read[0], (300.0, 50.0))
    assert place == pytest.approx((300 * scale, 50 * scale))
    found = find_similar(colours(stride), read, place)
    assert [one.label for one in found] == ["itself", "1.png"]
    assert all(one.score == pytest.approx(1, abs=2e-3) for one in found)
    x, y = found[1].best
    assert 180 * scale < x < 220 * scale
    assert 30 * scale < y < 70 * scale


def test_maps_are_drawn_where_their_cells_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 100 x 40 px has cells of 16 px that reach to 112 x 48."""
    picture = np.full((40, 100, 3), (255, 0, 0), np.uint8)
    picture[32:, 96:] = (0, 0, 255)
    read = [Picture(picture, (100, 40), name) for name in ("a.png", "b.png")]
    itself, other = find_similar(colours(16), read, (98.0, 38.0))
    assert other.best == (100, 40), "the last cell's centre lies beyond the picture"
    figures = []
    monkeypatch.setattr(draw, "_save", lambda figure, path: figures.append(figure) or path)
    draw.similar(picture, (98.0, 38.0), [itself[1:], other[1:]], tmp_path / "p.png", "\udcff.png")
    (heat,) = figures[0].axes[4].get_images()
    assert heat.get_extent() == [0, 112, 48, 0]
    assert (figures[0].axes[4].get_xlim(), figures[0].axes[4].get_ylim()) == ((0, 100), (40, 0))


def test_a_point_outside_the_image_is_refused_in_its_own_pixels(
    encoder: DenseEncoder, wide: ImageList, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--at: expected a point in 400x200 px, found 401,50"):
        show.show_similar([encoder], wide, tmp_path, 1, (401.0, 50.0), 64)
    assert show.show_similar([encoder], wide, tmp_path, 1, (399.0, 199.0), 64).exists()


@pytest.mark.parametrize("size", [31, 100, 0, -32])
def test_views_of_matches_have_sides_of_whole_cells(
    size: int, encoder: DenseEncoder, wide: ImageList, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--size: expected a multiple of 32 px"):
        show.show_matches([encoder], wide, tmp_path, 1, size, 0)


def test_small_sizes_are_refused(wide: ImageList, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", build(CONFIG).state_dict(), CONFIG, {})
    with pytest.raises(BadInput, match="--size: expected at least 32 px, found 31"):
        vader.show("pca", tmp_path, wide.root, out=tmp_path / "out", count=1, size=31, device="cpu", quiet=True)
    assert not (tmp_path / "out").exists()


# --- Several encoders -----------------------------------------------------------------------------------------------


class Drawn(list):
    """What was drawn: the real function draws, and its arguments are kept."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        super().__init__()
        real = getattr(draw, name)

        def keep(*words: Any) -> Path:
            self.append(words)
            return real(*words)

        patch.setattr(draw, name, keep)


def test_one_basis_for_a_panel_or_one_for_each_image(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(monkeypatch, "panel")
    encoders, images = [open_encoder("rgb"), colours(8)], list_images(photos)
    for basis in ("panel", "image"):
        assert show.show_pca(encoders, images, tmp_path, 2, None, basis).exists()
    (panel, _, title), (single, _, other) = drawn
    assert "one basis for all images of an encoder" in title
    assert "a basis for each image" in other
    assert [[name for _, name in row] for row in panel] == [["00.jpg", "rgb", "colours8", "11.jpg", "rgb", "colours8"]]
    read = read_some(images, 2, None)
    for column, encoder in enumerate(encoders, 1):
        maps = [map_of(encoder, one.pixels) for one in read]
        assert maps[0].shape[1] == 96 // encoder.stride
        for image, colour in enumerate(pca_colours(maps)):
            np.testing.assert_array_equal(panel[0][3 * image + column][0], colour)
            np.testing.assert_array_equal(single[0][3 * image + column][0], pca_colours([maps[image]])[0])
            assert np.abs(panel[0][3 * image + column][0] - single[0][3 * image + column][0]).mean() > 0.01


def test_bases_of_single_images_differ_from_the_panels() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(5, 6, 7), 3 * torch.randn(5, 6, 7) + 1]
    alone = [pca_colours([one])[0] for one in maps]
    together = pca_colours(maps)
    assert all(np.abs(one - other).mean() > 0.02 for one, other in zip(alone, together, strict=True))
    assert all(one.min() == 0 and one.max() == 1 for one in alone)
    assert pca_colours([torch.randn(2, 6, 7)])[0][..., 2].max() == 0, "two dimensions have two components"


def test_matches_of_an_encoder_are_the_same_alone_and_beside_others(
    encoder: DenseEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(monkeypatch, "matches")
    images = list_images(photos)
    show.show_matches([encoder], images, tmp_path, 2, 64, 0)
    show.show_matches([open_encoder("rgb"), encoder], images, tmp_path, 2, 64, 0)
    (alone, _, title, none), (both, _, other, names) = drawn
    assert (none, names) == ([], ["rgb", "ours"])
    assert len(both) == 2 * len(alone) == 4
    for one, beside in zip(alone, both[1::2], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, beside, strict=True))
    share = f"{np.mean([one[4].mean() for one in alone]):.0%}"
    assert f": {share} within one cell" in title
    assert f", {share} ours within one cell" in other


def test_maps_of_larger_strides_are_read_at_stride_4() -> None:
    torch.manual_seed(0)
    coarse = F.normalize(torch.randn(3, 4, 6), dim=0)
    fine = show._fine(coarse, 16, (64, 96))
    assert fine.shape == (3, 16, 24)
    at = torch.tensor([[[4 * 7 + 2.0, 4 * 5 + 2.0]]])  # the centre of cell (7, 5)
    torch.testing.assert_close(fine[:, 5, 7], F.normalize(read_at(coarse[None], at, 16)[0, 0], dim=0))


def test_similar_answers_below_each_other(
    encoder: DenseEncoder, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(monkeypatch, "similar_beside")
    one = show.show_similar([encoder], list_images(photos), tmp_path, 2, None, 64)
    low = cv2.imread(str(one)).shape[0]
    both = show.show_similar([encoder, colours(8)], list_images(photos), tmp_path, 2, None, 64)
    assert cv2.imread(str(both)).shape[0] > 1.6 * low
    (_, _, alone, *_), (_, _, answers, *_) = drawn
    assert [name for name, _ in answers] == ["ours", "colours8"]
    assert all(len(found) == 3 for _, found in answers), "itself and two others"
    assert [found[4] for found in alone[0][1]] == [found[4] for found in answers[0][1]]


def test_headings_are_short_and_never_alike() -> None:
    def names(*given: str) -> list[str]:
        return called([DenseEncoder(name, 4, 3, lambda images: images) for name in given])

    assert names("rgb") == []
    assert names("/long/way/to/runs/first@last", "moco:/way/moco_v2.pth", "rgb") == [
        "first@last",
        "moco:moco_v2.pth",
        "rgb",
    ]
    file = "timm:tf_efficientnet_lite0=/way/lite0.safetensors@hypercolumn:64"
    assert names(file, "rgb")[0] == "timm:tf_efficientnet_lite0\n@hypercolumn:64"
    assert names("/one/model.safetensors", "/two/model.safetensors") == [
        "/one/model.safetensors",
        "/two/model.safetensors",
    ]


def test_frames_of_two_clips_go_by_their_folders() -> None:
    def shown(*names: str) -> list[Picture]:
        return [Picture(np.zeros((32, 32, 3), np.uint8), (32, 32), name) for name in names]

    assert show.labels(shown("/a/b/0.jpg", "1.jpg")) == ["0.jpg", "1.jpg"]
    assert show.labels(shown("/a/camel/0.jpg", "/a/cows/0.jpg")) == ["camel/0.jpg", "cows/0.jpg"]


def test_the_command_takes_models_and_then_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "show",
        "pca",
        "rgb",
        "random:test_resnet@hypercolumn:4",
        str(photos),
        "--out",
        str(tmp_path),
        "--count",
        "2",
    ]
    quietly: Any = {"exit_on_error": False, "print_error": False, "result_action": "return_value"}
    app([*words, "--device", "cpu", "--basis", "image"], **quietly)
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'pca.png'}\n"
    assert "on 12 of the images" in told.err
    with pytest.raises(BadUsage, match=r"MODEL\.\.\. IMAGES, found rgb"):
        app(["show", "pca", "rgb", "--out", str(tmp_path)], **quietly)
    with pytest.raises(CycloptsError, match="panel"):
        app([*words, "--basis", "none"], **quietly)
    with pytest.raises(BadInput, match="expected a run folder"):
        app([*words[:2], "nothing", *words[2:]], **quietly)
