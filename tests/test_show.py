"""Pictures of what a model sees: the point asked for is the point searched for, at whatever size."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vader import commands, show
from vader.checkpoint import save_model
from vader.errors import BadInput
from vader.images.folder import ImageList, list_images
from vader.network import DenseNetwork, Network, NetworkConfig, build
from vader.show import find_similar, read_some

CONFIG = NetworkConfig(encoder="test_resnet", dim=8, pyramid_width=16, decoder_width=16)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build(CONFIG).eval()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ImageList:
    """Two pictures of 400 x 200 px, the first grey with a red square about (300, 50)."""
    folder = tmp_path_factory.mktemp("wide")
    picture = np.full((200, 400, 3), 128, np.uint8)
    picture[30:70, 280:320] = (0, 0, 255)
    assert cv2.imwrite(str(folder / "0.png"), picture)
    assert cv2.imwrite(str(folder / "1.png"), np.roll(picture, -100, 1))
    return list_images(folder)


class Colours(DenseNetwork):
    """A network whose embedding is the colour."""

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(F.avg_pool2d(images, 4, ceil_mode=True) + 1e-3, dim=1)


@pytest.mark.parametrize("size", [None, 200, 100, 64, 400])
def test_the_point_is_in_pixels_of_the_image_whatever_the_size(size: int | None, wide: ImageList) -> None:
    """The red square of the first picture is found where it lies in the second, as it is shown."""
    read = read_some(wide, 2, size)
    scale = (size or 200) / 200
    assert read[0].original == (400, 200)
    assert read[0].pixels.shape[1] == 400 * scale
    place, found = find_similar(Colours(CONFIG), read, (300.0, 50.0), "cpu")
    assert place == pytest.approx((300 * scale, 50 * scale))
    assert [one[4] for one in found] == ["itself", "1.png"]
    assert all(score == pytest.approx(1, abs=1e-3) for score, *_ in found)
    x, y = found[1][3]
    assert 180 * scale < x < 220 * scale
    assert 30 * scale < y < 70 * scale


def test_a_point_outside_the_image_is_refused_in_its_own_pixels(
    network: Network, wide: ImageList, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--at: expected a point in 400x200 px, got 401,50"):
        show.show_similar(network, wide, tmp_path, 1, (401.0, 50.0), 64, "cpu")
    assert show.show_similar(network, wide, tmp_path, 1, (399.0, 199.0), 64, "cpu").exists()


@pytest.mark.parametrize("size", [31, 100, 0, -32])
def test_views_of_matches_have_sides_of_whole_cells(
    size: int, network: Network, wide: ImageList, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--size: expected a multiple of 32 px"):
        show.show_matches(network, wide, tmp_path, 1, size, 0, "cpu")


def test_small_sizes_are_refused(network: Network, wide: ImageList, tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", network.state_dict(), CONFIG, {})
    with pytest.raises(BadInput, match="--size: expected at least 32 px, got 31"):
        commands.show("pca", tmp_path, wide.root, tmp_path / "out", 1, None, 31, 0, "cpu", True)
    assert not (tmp_path / "out").exists()
