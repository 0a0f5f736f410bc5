"""Every encoder keeps one contract; features are read and standardised as loops from the definitions would."""

from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from vader.checkpoint import save_model
from vader.encoders import DenseEncoder, open_encoder, reduce_by_pca
from vader.errors import BadInput
from vader.exams.features import PixelDraw, extract, full_size, read_pixels, standard_of
from vader.health import raw_colour
from vader.network import NetworkConfig, build

TINY = NetworkConfig(encoder="test_resnet", dim=16, pyramid_width=16, decoder_width=16, pyramid_outputs=False)
STRIDE = 4


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- Encoders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(path, build(TINY).state_dict(), TINY, {})
    return path


@pytest.mark.parametrize("spec", ["rgb", "random:test_resnet", "random-dense:test_resnet", "MODEL", "RUN"])
def test_every_encoder_keeps_the_contract(spec: str, model: Path) -> None:
    encoder = open_encoder({"MODEL": str(model), "RUN": str(model.parent)}.get(spec, spec))
    images = torch.rand(2, 3, 50, 67, generator=torch.Generator().manual_seed(0))
    for found in (encoder.features(images), encoder.embed(images)):
        assert found.shape[2:] == (13, 17)
        assert not found.requires_grad
    assert encoder.features(images).shape[1] == encoder.channels
    assert torch.allclose(encoder.embed(images).norm(dim=1), torch.ones(2, 13, 17), atol=1e-5)
    assert not torch.allclose(encoder.features(images).norm(dim=1), torch.ones(2, 13, 17), atol=1e-2)


@pytest.mark.parametrize("spec", ["random:test_resnet", "random-dense:test_resnet"])
def test_random_weights_are_the_same_every_time_and_disturb_no_one(spec: str) -> None:
    images = torch.rand(1, 3, 32, 32)
    torch.manual_seed(1)
    first, after = open_encoder(spec).features(images), torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    torch.manual_seed(2)
    assert torch.equal(open_encoder(spec).features(images), first)


def test_a_model_gives_what_its_network_gives(model: Path) -> None:
    torch.manual_seed(3)
    network = build(TINY).eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(open_encoder(str(model)).features(images), network.features(images))


def test_raw_colour_reads_the_mean_and_ranks_by_distance() -> None:
    encoder, images = open_encoder("rgb"), torch.rand(1, 3, 32, 32)
    assert torch.allclose(encoder.features(images)[0, :, 2, 1], images[0, :, 8:12, 4:8].mean((1, 2)))
    assert torch.equal(encoder.embed(images), raw_colour(images))
    embedding, colours = encoder.embed(images).flatten(2)[0].T, encoder.features(images).flatten(2)[0].T
    assert torch.equal(
        (embedding @ embedding[0]).argsort()[-5:], torch.cdist(colours, colours[:1])[:, 0].argsort().flip(0)[-5:]
    )


def test_reduced_encoders_are_scikit_learns_principal_components() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 40 + 8 * i, 3), dtype=np.uint8) for i in range(3)]
    full = open_encoder("random:test_resnet")
    reduced = reduce_by_pca(full, images, 5)
    rows = np.concatenate([one.flatten(1).T.numpy() for one in extract(full, images, embed=True)])
    theirs = PCA(5, svd_solver="full").fit_transform(rows.astype(np.float64))
    ours = np.concatenate([one.flatten(1).T.numpy() for one in extract(reduced, images)])
    sign = np.sign((ours * theirs).sum(0))
    np.testing.assert_allclose(ours * sign, theirs, atol=2e-5)
    assert reduced.channels == 5
    with pytest.raises(BadInput, match="dimensions to reduce to"):
        reduce_by_pca(full, images, full.channels + 1)


@pytest.mark.parametrize("spec", ["rbg", "random:", "sift", "timm:resnet18", "no/such/run"])
def test_an_unknown_encoder_is_refused_with_what_is_accepted(spec: str) -> None:
    with pytest.raises(BadInput, match="random-dense:NAME") as error:
        open_encoder(spec)
    assert "\n" not in str(error.value)


# --- Features -----------------------------------------------------------------------------------------------------


def test_features_come_in_order_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    sizes = [(40, 36), (36, 40), (40, 36), (41, 50), (36, 40), (40, 36)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    encoder = open_encoder("random:test_resnet")
    maps = extract(encoder, images, batch=2)
    for image, found in zip(images, maps, strict=True):
        alone = encoder.features(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
        assert torch.allclose(found, alone, atol=1e-5)
    assert extract(encoder, images[:1], dtype=torch.float16)[0].dtype == torch.float16
    assert torch.allclose(extract(encoder, images[:1], embed=True)[0].norm(dim=0), torch.ones(10, 9), atol=1e-5)


def test_features_that_are_no_numbers_are_refused_by_name() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    broken = DenseEncoder("broken", 4, 2, lambda images: torch.full((len(images), 2, 8, 8), torch.nan))
    with pytest.raises(BadInput, match=r"encoder broken: .*NaN"):
        extract(broken, [image])
    large = DenseEncoder("large", 4, 2, lambda images: torch.full((len(images), 2, 8, 8), 1e6))
    with pytest.raises(BadInput, match=r"encoder large: .*float32"):
        extract(large, [image], dtype=torch.float16)


def test_reading_pixels_equals_the_full_size_map() -> None:
    """So that a probe learns from the very logits that it is scored with."""
    one, (H, W) = noise((3, 9, 12), 0), (35, 46)
    y, x = np.mgrid[:H, :W]
    pixels = torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).float()
    full = full_size(one[None], STRIDE, (H, W))[0]
    assert torch.allclose(read_pixels(one, pixels, STRIDE), full.flatten(1).T, atol=1e-5)
    far = oracles.bilinear(one.permute(1, 2, 0).numpy(), 30.5 / STRIDE, 7.5 / STRIDE)
    assert full[:, 7, 30].numpy() == pytest.approx(far, abs=1e-5)


def test_standardising_survives_far_means_and_constant_channels() -> None:
    maps = [torch.stack([1000 + 0.1 * noise((6, 7), i), torch.full((6, 7), 5.0)]) for i in range(3)]
    standard = standard_of(maps)
    rows = standard(torch.cat([one.flatten(1).T for one in maps]))
    assert rows.mean(0).tolist() == pytest.approx([0, 0], abs=1e-3)
    assert rows.std(0).tolist() == pytest.approx([1, 0], abs=0.01)


def test_drawn_pixels_are_valid_and_every_picture_comes_once_an_epoch() -> None:
    labels = [np.full((16, 16), i, dtype=np.int64) for i in range(5)]
    labels[3][:] = 255
    for label in labels[:3]:
        label[8:] = 255
    maps = [torch.full((1, 4, 4), float(i)) for i in range(5)]
    draw = PixelDraw(maps, labels, lambda label: label != 255, STRIDE, standard_of(maps), seed=0)
    seen = np.concatenate([draw(2, 3)[1] for _ in range(2)])
    assert sorted(seen.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 4, 4, 4]
