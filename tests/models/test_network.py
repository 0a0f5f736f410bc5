"""The network: the paper's counts, sizes for any image, cells that stay where they are, and virtual groups."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from vader.errors import BadInput
from vader.models.backbones import CNN, LEVEL_STRIDES
from vader.models.batchnorm import use_virtual_groups
from vader.models.cost import cost, fitting_decoder
from vader.models.network import Decoder, DenseNetwork, ImageNetwork, NetworkConfig, Pyramid, build, hypercolumn

SMALL = NetworkConfig(encoder="test_resnet", dim=16, pyramid_width=16, decoder_width=16, pyramid_outputs=False)


def small(**changes: object) -> DenseNetwork:
    torch.manual_seed(0)
    network = build(SMALL.model_copy(update=changes)).eval()
    assert isinstance(network, DenseNetwork)
    return network


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- What it costs -------------------------------------------------------------------------------------------------


def test_the_papers_network_has_the_papers_counts() -> None:
    with torch.device("meta"):
        network = DenseNetwork(NetworkConfig())
        slim = DenseNetwork(NetworkConfig(pyramid_outputs=False))
    assert count(network.encoder) == 23_508_032
    assert count(network.pyramid) + count(network.decoder) == 4_984_704
    assert count(slim.pyramid) + count(slim.decoder) == 2_624_384
    assert network.encoder.channels == [256, 512, 1024, 2048]


def resnet50_macs(size: int) -> int:
    """A ResNet-50's convolutions, one after another."""
    total, side, width_in = (size // 2) ** 2 * 7 * 7 * 3 * 64, size // 4, 64
    for stage, blocks in enumerate([3, 4, 6, 3]):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and block == 0 else 1
            total += side**2 * width_in * width
            side //= stride
            total += side**2 * (9 * width * width + width * 4 * width)
            if block == 0:
                total += side**2 * width_in * 4 * width
            width_in = 4 * width
    return total


def decoder_macs(size: int) -> int:
    """Laterals, 3x3 outputs, the branches' 3x3s at their strides, and the last 1x1."""
    cells = {stride: (size // stride) ** 2 for stride in LEVEL_STRIDES}
    total = sum(c * 256 * (64 * stride) + c * 9 * 256 * 256 for stride, c in cells.items())
    total += cells[4] * 9 * 256 * 128 + cells[8] * 9 * 256 * 128
    total += cells[16] * 9 * 256 * 128 + cells[8] * 9 * 128 * 128
    total += cells[32] * 9 * 256 * 128 + (cells[16] + cells[8]) * 9 * 128 * 128
    return total + cells[4] * 128 * 128


def test_multiply_adds_are_those_of_a_hand_calculation() -> None:
    network = DenseNetwork(NetworkConfig()).train()
    network.encoder.eval()  # as a frozen one is
    spent = cost(network, 64)
    assert spent.encoder_parameters == 23_508_032
    assert spent.decoder_parameters == 4_984_704
    assert spent.encoder_macs == resnet50_macs(64)
    assert spent.decoder_macs == decoder_macs(64)
    assert resnet50_macs(224) == pytest.approx(4.09e9, rel=0.002)  # as published
    assert network.training
    assert network.decoder.training
    assert not network.encoder.training, "counting leaves the modules' modes as they were"


def test_the_decoder_suits_the_encoder() -> None:
    paper = {"pyramid_width": 256, "decoder_width": 128, "pyramid_outputs": True}
    light = fitting_decoder("test_resnet")
    assert light["pyramid_width"] < 256
    spent = cost(DenseNetwork(NetworkConfig(encoder="test_resnet", **light)), 64)
    assert spent.decoder_macs <= 1.5 * spent.encoder_macs or light["pyramid_width"] == 64
    for widths in (paper, light):
        NetworkConfig(encoder="test_resnet", **widths)


def test_the_papers_decoder_suits_the_papers_encoder() -> None:
    assert fitting_decoder("resnet50") == {"pyramid_width": 256, "decoder_width": 128, "pyramid_outputs": True}


# --- What it is made of --------------------------------------------------------------------------------------------


def test_every_level_is_doubled_as_often_as_it_needs() -> None:
    decoder = Decoder(16, 32, 8)
    kinds = [[type(layer).__name__ for layer in branch] for branch in decoder.branches]
    for stride, branch in zip(LEVEL_STRIDES, kinds, strict=True):
        doublings = {4: 0, 8: 1, 16: 2, 32: 3}[stride]
        assert branch.count("Upsample") == doublings
        assert branch.count("Conv2d") == branch.count("GroupNorm") == branch.count("ReLU") == max(1, doublings)
        assert branch[:3] == ["Conv2d", "GroupNorm", "ReLU"]
    ups = [layer for branch in decoder.branches for layer in branch if isinstance(layer, nn.Upsample)]
    assert all((up.mode, up.scale_factor, up.align_corners) == ("bilinear", 2, False) for up in ups)
    norms = [layer for layer in Decoder(256, 128, 128).modules() if isinstance(layer, nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {32}


def test_the_pyramid_sums_from_the_top() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid([2, 3, 4, 5], 8, outputs=True)
    levels = [torch.randn(1, c, side, side) for c, side in zip([2, 3, 4, 5], [8, 4, 2, 1], strict=True)]
    total, expected = torch.zeros(1, 8, 1, 1), []
    for i in (3, 2, 1, 0):
        size = levels[i].shape[-1]
        total = pyramid.laterals[i](levels[i]) + (
            total if i == 3 else total.repeat_interleave(2, 2).repeat_interleave(2, 3)
        )
        assert total.shape[-1] == size
        expected.insert(0, pyramid.outputs[i](total))
    for ours, theirs in zip(pyramid(levels), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_images_are_normalised_as_the_encoder_was_trained() -> None:
    half = CNN("tf_efficientnet_lite0")
    assert half.mean.flatten().tolist() == half.std.flatten().tolist() == [0.5, 0.5, 0.5]
    usual = CNN("resnet18")
    torch.testing.assert_close(usual.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(usual.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))
    seen: list[Tensor] = []
    half.body.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    half.eval()(torch.full((1, 3, 32, 32), 0.75))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 32, 32), 0.5))


@pytest.mark.parametrize("name", ["no_such_net", "vit_tiny_patch16_224"])
def test_an_encoder_that_cannot_serve_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=name):
        CNN(name)


# --- Where its cells are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("H", "W"), [(32, 32), (33, 32), (37, 70), (64, 95), (65, 34), (99, 61)])
def test_any_size_from_32_px_gives_a_cell_for_every_four_pixels(H: int, W: int) -> None:
    images = torch.rand(2, 3, H, W)
    with torch.no_grad():
        maps = small().embed(images)
        columns = hypercolumn(small().encoder, images)
    assert maps.shape == (2, 16, -(-H // 4), -(-W // 4))
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, *maps.shape[2:]))
    assert columns.shape == (2, 32 + 48 + 192 + 96, *maps.shape[2:])


@pytest.mark.parametrize(("H", "W"), [(31, 64), (64, 31), (1, 1)])
def test_smaller_images_are_refused(H: int, W: int) -> None:
    with pytest.raises(BadInput, match=f"at least 32 px on each side, found {H}x{W}"):
        small()(torch.rand(1, 3, H, W))


@torch.no_grad()
def test_padding_is_of_the_mean_and_right_and_below() -> None:
    network, image = small(), torch.rand(1, 3, 50, 70)
    padded = network.encoder.mean.expand(1, 3, 64, 96).clone()
    padded[..., :50, :70] = image
    torch.testing.assert_close(network.features(image), network.features(padded)[..., :13, :18])
    seen: list[Tensor] = []
    network.encoder.body.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network.features(image)
    assert seen[0].shape == (1, 3, 64, 96)
    assert float(seen[0][..., 50:, :].abs().max()) < 1e-6  # zeros, as the convolutions pad with
    assert float(seen[0][..., 70:].abs().max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("width", [512, 501])
def test_an_image_moved_by_32_px_has_its_map_moved_by_8_cells(width: int) -> None:
    """Two crops of a strip, also of a width that is padded; group norm, which looks at the whole map, left out."""
    network = small()
    for branch in network.decoder.branches:
        for i, layer in enumerate(branch):
            if isinstance(layer, nn.GroupNorm):
                branch[i] = nn.Identity()
    strip = torch.rand(1, 3, 40, 600)
    left, right = (network.features(strip[..., x : x + width]) for x in (0, 32))
    interior = slice(50, 70)  # cells of the right crop farther from both ends than the network sees
    torch.testing.assert_close(left[..., 58:78], right[..., interior], atol=1e-5, rtol=1e-4)
    assert float((left[..., 59:79] - right[..., interior]).abs().max()) > 1e-3
    assert float((left[..., 57:77] - right[..., interior]).abs().max()) > 1e-3


@torch.no_grad()
def test_the_image_network_pools_and_its_map_is_the_hypercolumn() -> None:
    network = build(SMALL.model_copy(update={"kind": "image"})).eval()
    assert isinstance(network, ImageNetwork)
    images = torch.rand(2, 3, 64, 64)
    top = network.encoder(images)[-1]
    pooled = torch.stack([top[b].flatten(1).mean(1) for b in range(2)])
    torch.testing.assert_close(network(images), network.head(pooled))
    maps = network.features(images)
    finest = F.normalize(network.encoder(images)[0], dim=1)
    torch.testing.assert_close(maps[:, :32], finest)
    embedded = network.embed(images)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(2, 16, 16))
    torch.testing.assert_close(F.cosine_similarity(embedded, maps), torch.ones(2, 16, 16))


# --- Virtual groups ------------------------------------------------------------------------------------------------


def norms(*kinds: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(*(kind(6) for kind in kinds))
    for layer in layers:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layers


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_is_normalised_as_if_it_were_alone(kind: type[nn.Module], groups: int) -> None:
    layers = norms(kind).train()
    grouped = copy.deepcopy(layers)
    assert use_virtual_groups(grouped, groups) == 1
    x = torch.randn(8, 6, 3, 5) * torch.linspace(0.5, 3, 8).view(8, 1, 1, 1) + torch.arange(8).view(8, 1, 1, 1)
    expected = torch.cat([copy.deepcopy(layers)(part) for part in x.chunk(groups)])
    torch.testing.assert_close(grouped(x), expected)
    if groups > 1:
        assert float((expected - layers(x)).abs().max()) > 0.1
    assert list(grouped.state_dict()) == list(layers.state_dict())
    layers.load_state_dict(grouped.state_dict())
    torch.testing.assert_close(grouped.eval()(x), layers.eval()(x))  # nothing changes outside training
    assert isinstance(grouped[0], kind)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_the_updates_of_all_groups_weigh_as_one(kind: type[nn.Module]) -> None:
    plain, grouped = norms(kind).train(), norms(kind).train()
    use_virtual_groups(grouped, 4)
    part = torch.randn(2, 6, 4, 4) + 3
    x = part.repeat(4, 1, 1, 1)  # four equal groups
    one = copy.deepcopy(plain)
    one(part)
    grouped(x)
    torch.testing.assert_close(grouped[0].running_mean, one[0].running_mean)
    torch.testing.assert_close(grouped[0].running_var, one[0].running_var)


def test_groups_must_divide_the_batch() -> None:
    layers = norms(nn.BatchNorm2d).train()
    use_virtual_groups(layers, 4)
    with pytest.raises(AssertionError, match="multiple of 4 images, found 6"):
        layers(torch.randn(6, 6, 2, 2))


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet"])
def test_a_whole_network_in_groups_is_its_parts_side_by_side(encoder: str) -> None:
    network = small(encoder=encoder).train()
    grouped = copy.deepcopy(network)
    kinds = {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert use_virtual_groups(grouped, 2) == sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) > 0
    assert kinds == ({BatchNormAct2d} if encoder == "test_efficientnet" else {nn.BatchNorm2d})
    assert list(grouped.state_dict()) == list(network.state_dict())
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = torch.cat([network(images[:2]), network(images[2:])])
        torch.testing.assert_close(grouped(images), expected, atol=1e-4, rtol=1e-4)
