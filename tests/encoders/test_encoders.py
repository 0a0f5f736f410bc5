"""Every encoder keeps one contract; features are read and standardised as loops from the definitions would."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import oracles
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from vader.encoders import DenseEncoder, fit, open_encoder, open_encoders, reduce_by_pca
from vader.encoders.features import extract
from vader.encoders.spec import parse
from vader.errors import BadInput
from vader.finetuning.pixels import PixelDraw, corner_cells, full_size, standard_of
from vader.images.colour import raw_colour
from vader.models.checkpoint import save_model
from vader.models.network import NetworkConfig, build

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


@pytest.fixture(scope="module")
def moco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path, config = tmp_path_factory.mktemp("moco") / "model.safetensors", TINY.model_copy(update={"kind": "image"})
    save_model(path, build(config).state_dict(), config, {"recipe": "tiny"})
    return path


KINDS = {  # spec -> stride
    "rgb": 4, "sift": 4, "MODEL": 4, "RUN": 4, "MOCO": 4, "MODEL@hypercolumn": 4, "MODEL@last": 32, "MODEL@dilated": 4,
    "MODEL@dense:8": 4, "MOCO@stage:2": 8, "random:test_resnet": 4, "random:test_resnet@last": 32,
    "random:test_resnet@stage:3": 16, "random:test_resnet@dilated": 4, "random:test_resnet@hypercolumn:7": 4,
    "random:test_resnet@centred": 4, "random:test_efficientnet@dilated:5@centred": 4, "rgb@centred": 4,
    "sift@plain:9": 4, "random-dense:test_resnet": 4, "random:test_vit": 16, "random:test_vit@last:12": 16,
}  # fmt: skip


@pytest.mark.parametrize("spec", KINDS)
def test_every_encoder_keeps_the_contract(spec: str, model: Path, moco: Path) -> None:
    word, at, rest = spec.partition("@")
    asked = {"MODEL": str(model), "RUN": str(model.parent), "MOCO": str(moco)}.get(word, word) + at + rest
    encoder, stride = open_encoder(asked), KINDS[spec]
    assert encoder.name == asked
    waits = ":" in rest.replace("stage:", "") or "centred" in rest
    assert (encoder.pending is not None) == waits
    rng = np.random.default_rng(0)
    encoder = fit(encoder, [rng.integers(0, 256, (64, 70, 3), dtype=np.uint8)])
    assert encoder.name == asked
    assert encoder.pending is None
    assert encoder.stride == stride
    for H, W in ((33, 50), (64, 96), (100, 75)):
        images = torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0))
        features, embedding = encoder.features(images), encoder.embed(images)
        cells = (-(-H // stride), -(-W // stride))
        assert features.shape == (2, encoder.channels, *cells)
        assert embedding.shape[2:] == cells
        assert (features.requires_grad, embedding.requires_grad) == (False, False)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(2, *cells), atol=1e-5)
    if spec != "sift":  # whose descriptors are normalised by definition
        assert not torch.allclose(features.norm(dim=1), torch.ones(2, *cells), atol=1e-2)
    facts = json.loads(json.dumps(encoder.facts))  # they go into reports
    assert {"spec", "source", "variant", "stride", "channels", "mean", "std", "loaded", "lineage"} <= facts.keys()
    assert bool(facts.get("fitted")) == waits


def test_facts_of_our_models_hold_their_card(moco: Path) -> None:
    facts = open_encoder(f"{moco}@dilated").facts
    assert facts["lineage"]["recipe"] == "tiny"
    assert facts["variant"] == "dilated"
    assert facts["loaded"]["matched"] > 20
    assert facts["sha256"] == sha256(moco.read_bytes()).hexdigest()[:16]
    assert facts["mean"] == [round(float(m), 4) for m in build(TINY).encoder.mean.flatten()]


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


def test_centred_similarities_are_those_of_all_principal_components() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 48, 3), dtype=np.uint8) for _ in range(3)]
    full = open_encoder("random:test_resnet")
    turned = reduce_by_pca(full, images, full.channels)
    moved = fit(open_encoder("random:test_resnet@centred"), images)
    pixels = torch.rand(1, 3, 40, 48)
    a, b = (one.embed(pixels).flatten(2)[0].T for one in (turned, moved))
    torch.testing.assert_close(a @ a.T, b @ b.T, atol=1e-4, rtol=0)
    rows = torch.cat([one.flatten(1).T for one in extract(full, images, embed=True)])
    expected = full.embed(pixels) - rows.mean(0)[:, None, None]
    torch.testing.assert_close(moved.features(pixels), expected, atol=1e-5, rtol=0)


def test_an_encoder_that_awaits_pictures_says_so_and_gives_nothing() -> None:
    encoder = open_encoder("random:test_resnet@hypercolumn:7")
    assert (encoder.pending, encoder.channels) == (7, 7)
    with pytest.raises(AssertionError, match="must be fitted first"):
        encoder.features(torch.rand(1, 3, 32, 32))
    with pytest.raises(BadInput, match="train split"):
        fit(encoder, [])
    fitted = fit(encoder, [np.zeros((32, 32, 3), dtype=np.uint8)])
    assert fit(fitted, []) is fitted
    with pytest.raises(BadInput, match="dimensions to reduce to"):
        open_encoder("rgb@plain:4")


def test_large_pictures_are_fitted_on_a_grid_of_their_cells() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 201, 3), dtype=np.uint8)  # 38 x 51 cells
    fitted = reduce_by_pca(open_encoder("rgb"), [image], 2)
    assert fitted.facts["fitted"] == [{"kind": "pca", "dim": 2, "pictures": 1, "cells": 19 * 26, "MB": 0}]


def test_specs_are_taken_apart_even_with_at_signs_in_paths(tmp_path: Path) -> None:
    spec = parse("timm:resnet50=w.pth@hypercolumn:128@centred")
    assert (spec.kind, spec.name, str(spec.file)) == ("timm", "resnet50", "w.pth")
    assert (spec.variant, spec.dim, spec.centred) == ("hypercolumn", 128, True)
    assert (parse("dino:a/b.pth@stage:2:5").variant, parse("dino:a/b.pth@stage:2:5").dim) == ("stage:2", 5)
    for name in ("run@last", "run@home"):
        (tmp_path / name).mkdir()
        assert parse(str(tmp_path / name)).file == tmp_path / name
        assert parse(f"{tmp_path / name}@dilated").variant == "dilated"
    assert parse("timm:resnet18", Path("w.pth")).file == Path("w.pth")


def test_a_plain_word_before_an_equals_sign_is_the_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(f"ours={model}@hypercolumn:8@centred")
    assert encoder.name == "ours"
    encoder = fit(encoder, [np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)])
    assert encoder.name == "ours"
    assert encoder.facts["spec"] == f"{model}@hypercolumn:8@centred"
    assert open_encoder("colour-1.0=rgb").name == "colour-1.0"
    spec = parse("lite0=timm:tf_efficientnet_lite0=w.pth@dilated")
    assert (spec.title, spec.text) == ("lite0", "timm:tf_efficientnet_lite0=w.pth@dilated")
    assert (spec.name, str(spec.file), spec.variant) == ("tf_efficientnet_lite0", "w.pth", "dilated")
    for text in ("timm:resnet50=w.pth", "torchvision:resnet18=w.pth", "moco:lr=1.pth", "random:test_resnet"):
        assert (parse(text).title, parse(text).text) == (None, text)
    # What lies there wins: no word of a path is a name, be it the whole or the part before the sign.
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.1/run", "b=rgb", "x/lr=1"):
        (tmp_path / name).mkdir(parents=True)
        for text in (name, f"{name}@dilated", str(tmp_path / name), f"{tmp_path / name}@dense:8@centred"):
            assert parse(text).title is None
            assert parse(text).file == Path(text.partition("@")[0])
        assert parse(f"a={name}@last").title == "a"
        assert parse(f"a={name}@last").file == Path(name)
    assert parse("a@last=b=rgb").title == "a@last"
    for text in ("two words=rgb", f"{'n' * 41}=rgb", "=rgb", "ours=", "x=rgb"):
        with pytest.raises(BadInput, match="expected a run folder"):
            parse(text)


@pytest.mark.parametrize("spec", ["rbg", "random:", "mocco:file.pth", "no/such/run", "no/such/run@last"])
def test_an_unknown_encoder_is_refused_with_what_is_accepted(spec: str) -> None:
    with pytest.raises(BadInput, match="random-dense:NAME") as error:
        open_encoder(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("random:test_resnet@dilatd", "'dilatd'"),
        ("random:test_resnet@stage:5", "found @stage:5"),
        ("random:test_resnet@dense", "found @dense"),
        ("rgb@dilated", "no variant of rgb"),
        ("MOCO@dense", "it has no decoder"),
        ("MODEL@centered", "'centered'"),
        ("torchvision:resnet18", "torchvision:NAME=FILE"),
        ("timm:resnet18=", "a file after ="),
        ("random:no_such_network", "no_such_network"),
    ],
)
def test_a_wrong_variant_or_source_is_refused_in_a_line(spec: str, words: str, model: Path, moco: Path) -> None:
    with pytest.raises(BadInput, match=words) as error:
        open_encoder(spec.replace("MODEL", str(model)).replace("MOCO", str(moco)))
    assert "\n" not in str(error.value)


def test_weights_are_for_those_who_name_none() -> None:
    for spec in ("rgb", "random:resnet18", "timm:resnet18=a.pth"):
        with pytest.raises(BadInput, match="--weights is for"):
            open_encoder(spec, weights=Path("w.pth"))


def test_weights_of_a_table_go_to_the_network_that_lacks_them(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), file)
    specs = ["rgb", "timm:test_resnet@last", "random:test_resnet@last", f"b=timm:test_resnet={files[1]}@last",
             "a=timm:test_resnet@last", open_encoder("sift")]  # fmt: skip
    found = open_encoders(specs, weights=files[0])
    assert [one.name for one in found] == ["rgb", *specs[1:3], "b", "a", "sift"]
    assert [one.facts.get("file") for one in found] == [None, *map(str, [files[0]]), None, *map(str, files[::-1]), None]
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    by_file = [open_encoder(f"timm:test_resnet={file}@last").features(images) for file in files]
    maps = [one.features(images) for one in found[1:5]]
    assert torch.equal(maps[0], by_file[0])
    assert torch.equal(maps[3], by_file[0])
    assert torch.equal(maps[2], by_file[1])
    assert torch.equal(maps[1], open_encoder("random:test_resnet@last").features(images))
    assert [one.name for one in open_encoders(["sift", "rgb"])] == ["sift", "rgb"]
    with pytest.raises(BadInput, match=r"--weights .* rgb, random:test_resnet"):
        open_encoders(["rgb", "random:test_resnet"], weights=files[0])
    with pytest.raises(BadInput, match=r"--weights: .* timm:test_efficientnet and timm:test_resnet"):
        open_encoders(["timm:test_resnet", "rgb", "timm:test_efficientnet"], weights=files[0])


@pytest.mark.parametrize("spec", ["sift", "random:test_resnet@last", "random:test_resnet@dilated", "random:test_vit"])
def test_pictures_below_32_px_are_refused(spec: str) -> None:
    with pytest.raises(BadInput, match="at least 32 px on each side, found 31x40"):
        open_encoder(spec).features(torch.rand(1, 3, 31, 40))


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
    """So that a probe learns from the very logits that it is scored with; both as a loop over pixels has them."""
    one, (H, W) = noise((3, 9, 12), 0), (35, 46)
    full = full_size(one[None], STRIDE, (H, W))[0]
    place = np.arange(H * W)[None]
    around, shares = corner_cells(place, *(np.array([[side]]) for side in (W, 9, 12)), STRIDE)
    read = np.einsum("pfc,pf->cp", one.flatten(1).T.numpy()[around[0]], shares[0]).reshape(3, H, W)
    cells = one.permute(1, 2, 0).numpy()
    for y, x in np.ndindex(H, W):
        expected = pytest.approx(oracles.bilinear(cells, (x + 0.5) / STRIDE, (y + 0.5) / STRIDE), abs=1e-5)
        assert full[:, y, x].numpy() == expected
        assert read[:, y, x] == expected


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
