"""Reading a CNN densely: dilation is shift-and-stitch, levels stay where they are, SIFT is Lowe's."""

import math

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from vader.encoders import open_encoder
from vader.encoders.dilation import dilate
from vader.encoders.handmade import dense_sift
from vader.errors import BadInput
from vader.models.backbones import CNN


def lived_in(module: nn.Module) -> nn.Module:
    """The module with batch-norm statistics that are not the fresh 0 and 1."""
    rng = torch.Generator().manual_seed(0)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=rng) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=rng) + 0.5)
    return module.eval()


def pair(name: str) -> tuple[CNN, CNN]:
    """The same network twice, once dilated."""
    torch.manual_seed(0)
    strided, dilated = CNN(name), CNN(name)
    lived_in(strided)
    dilated.load_state_dict(strided.state_dict())
    return strided, dilate(dilated.eval())


def picture(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


# --- Dilation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side", "shift"),
    [
        ("test_resnet", 352, 0),  # average pools beside strided convolutions
        ("resnet10t", 320, 0),
        ("regnetx_002", 320, 0),  # strided 1x1 shortcuts
        ("test_convnext", 320, 3),  # 2x2 kernels, centred as far as whole cells go: (1 + 2 + 4 - 1) / 2
        pytest.param("vgg11_bn", 192, 3, marks=pytest.mark.whole),  # max pools
        # "same" padding: one cell to the right at each transition. Its receptive field is 500 px wide.
        ("tf_mobilenetv3_small_minimal_100", 640, 7),
    ],
)
@torch.no_grad()
def test_a_dilated_network_is_the_strided_one_on_moved_images_stitched(name: str, side: int, shift: int) -> None:
    """Cell 8 p + o of the dilated map is cell p of the strided network on the image moved by o cells of 4 px.

    Away from borders, where padding differs; networks that lean to one side are centred, which moves the map.
    """
    strided, dilated = pair(name)
    image = picture(1, 3, side, side)
    found = dilated(image)[-1]
    assert found.shape[2:] == (side // 4, side // 4)
    for down, right in ((0, 0), (5, 2), (1, 7)):
        moved = image[..., 4 * down : side - 32 + 4 * down, 4 * right : side - 32 + 4 * right]
        expected = strided(moved)[-1][0]
        p = expected.shape[-1] // 2
        ours, theirs = found[0, :, 8 * p + down + shift, 8 * p + right + shift], expected[:, p, p]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("name", "width"), [("resnet50", 2048)])
@torch.no_grad()
def test_the_dilated_resnet_is_torchvisions(name: str, width: int) -> None:
    """torchvision can trade the strides of layers 2 to 4 in bottleneck networks: its stride is 4, borders included."""
    theirs = lived_in(torchvision.models.get_model(name, replace_stride_with_dilation=[True, True, True]))
    ours = CNN(name)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.body.load_state_dict(state)
    dilate(ours.eval())
    image = picture(1, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1((image - ours.mean) / ours.std))))
    for level, layer in zip(ours(image), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
        x = layer(x)
        torch.testing.assert_close(level, x, rtol=1e-4, atol=1e-5 * float(x.abs().max()))
    assert x.shape == (1, width, 16, 24)
    spread = {m.dilation for m in ours.body.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
    assert spread == {(4, 4), (8, 8)}


@pytest.mark.parametrize(
    "name",
    [
        "resnetblur18",  # anti-aliasing by a module that is no pool of torch's
        "test_maxvit",  # attention within windows
        "hrnet_w18_small",  # resolutions side by side
    ],
)
def test_networks_that_cannot_be_dilated_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"cannot be dilated \(.*\); use @hypercolumn"):
        open_encoder(f"random:{name}@dilated")


# --- Levels -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_levels_and_hypercolumn_are_the_networks_own() -> None:
    torch.manual_seed(0)  # what random: takes
    body = timm.create_model("resnet10t", features_only=True, pretrained=False).eval()
    image = picture(2, 3, 64, 96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    levels = body((image - mean) / std)[-4:]
    for i, level in enumerate(levels):
        encoder = open_encoder(f"random:resnet10t@stage:{i + 1}")
        assert (encoder.stride, encoder.channels) == (4 * 2**i, level.shape[1])
        torch.testing.assert_close(encoder.features(image), level)
    torch.testing.assert_close(open_encoder("random:resnet10t@last").features(image), levels[-1])
    assert open_encoder("random:resnet10t@last").stride == 32
    column = open_encoder("random:resnet10t@hypercolumn").features(image)
    assert torch.equal(column, open_encoder("random:resnet10t").features(image))
    start = 0
    for level in levels:
        part = column[:, start : start + level.shape[1]]
        unit = level / level.norm(dim=1, keepdim=True)
        torch.testing.assert_close(part, F.interpolate(unit, (16, 24), mode="bilinear"), rtol=1e-4, atol=1e-6)
        start += level.shape[1]
    assert start == column.shape[1]


# --- SIFT ---------------------------------------------------------------------------------------------------------


def slow_sift(grey: np.ndarray, x: float, y: float) -> np.ndarray:
    """One descriptor from its definition: every pixel votes, linearly, for orientations and bins around it."""
    H, W = grey.shape
    votes = np.zeros((4, 4, 8))
    for row in range(max(0, int(y) - 12), min(H, int(y) + 12)):
        for column in range(max(0, int(x) - 12), min(W, int(x) + 12)):
            right = (grey[row, min(column + 1, W - 1)] - grey[row, max(column - 1, 0)]) / 2
            down = (grey[min(row + 1, H - 1), column] - grey[max(row - 1, 0), column]) / 2
            turn = (math.atan2(down, right) / (2 * math.pi) * 8) % 8
            for i in range(4):
                for j in range(4):
                    away_y = abs(row + 0.5 - (y + 4 * (i - 1.5))) / 4
                    away_x = abs(column + 0.5 - (x + 4 * (j - 1.5))) / 4
                    share = max(0, 1 - away_y) * max(0, 1 - away_x)
                    for o in range(8):
                        apart = min((turn - o) % 8, (o - turn) % 8)
                        votes[i, j, o] += share * max(0, 1 - apart) * math.hypot(right, down)
    window = np.exp(-(((np.arange(4) - 1.5)[:, None] ** 2) + (np.arange(4) - 1.5) ** 2) / 8)
    flat = (votes * window[..., None]).reshape(-1) + 1e-3
    flat = np.minimum(flat / np.linalg.norm(flat), 0.2)
    return flat / np.linalg.norm(flat)


def grey_of(image: Tensor) -> np.ndarray:
    return np.einsum("chw,c->hw", image.double().numpy(), [0.299, 0.587, 0.114])


def test_sift_equals_the_slow_one() -> None:
    image = F.interpolate(picture(1, 3, 12, 18), size=(48, 72), mode="bicubic").clamp(0, 1)
    found = dense_sift(image)
    grey = gaussian_filter(grey_of(image[0]), math.sqrt((4 / 3) ** 2 - 0.25), mode="nearest", radius=5)
    for k, l in ((5, 5), (11, 8), (9, 4)):  # away from borders  # noqa: E741
        expected = slow_sift(grey, 4 * k + 2, 4 * l + 2)
        np.testing.assert_allclose(found[0, :, l, k].numpy(), expected, atol=1e-5)


def test_sift_finds_the_same_patches_alike_as_opencvs(photo: np.ndarray) -> None:
    """Their windows and bins differ in detail, but not in what is similar to what."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    ours = open_encoder("sift").embed(image)[0]
    cells = [(k, l) for l in range(6, ours.shape[1] - 6, 4) for k in range(6, ours.shape[2] - 6, 4)]  # noqa: E741
    # OpenCV's bins are 3 times the keypoint's radius at its scale: size 8/3 makes them 4 px. Its angles run the other
    # way round, which changes no similarity. Pixel centres are at whole numbers.
    points = [cv2.KeyPoint(4 * k + 1.5, 4 * l + 1.5, 8 / 3, 0) for k, l in cells]  # noqa: E741
    _, theirs = cv2.SIFT_create().compute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), points)
    mine = torch.stack([ours[:, l, k] for k, l in cells]).numpy()  # noqa: E741
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    upper = np.triu_indices(len(cells), 1)
    assert np.corrcoef((mine @ mine.T)[upper], (theirs @ theirs.T)[upper])[0, 1] > 0.95


def test_sift_is_upright_blind_to_brightness_and_calm_where_nothing_is() -> None:
    image = F.interpolate(picture(1, 3, 12, 12), size=(48, 48), mode="bicubic").clamp(0, 1)
    brighter = dense_sift(image * 0.8 + 0.1)
    torch.testing.assert_close(brighter, dense_sift(image), atol=2e-2, rtol=0)
    blank = dense_sift(torch.full((1, 3, 32, 32), 0.3))
    torch.testing.assert_close(blank, torch.full_like(blank, 128**-0.5))
    facts = open_encoder("sift").facts
    assert (facts["patch"], facts["stride"], facts["channels"]) == (16, 4, 128)
