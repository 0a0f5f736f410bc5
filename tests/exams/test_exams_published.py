"""Leopart's and DINOv3's probes: their formulas by loops, their squares by Pillow, their steps by torch's modules."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Rendered
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vader.datasets.example import Example, LabelledSet
from vader.encoders import DenseEncoder, fit, open_encoder
from vader.encoders.store import Budget, Store
from vader.errors import BadInput
from vader.exams import protocols
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.exams.files import read_pictures
from vader.exams.labelled import dinov3 as bins
from vader.exams.labelled import leopart as square
from vader.exams.labelled.dinov3 import BinsConfig, beta1_at, expected_depth, rate_at, sig_loss
from vader.exams.labelled.leopart import SquareConfig, grid_logits, to_grid
from vader.exams.labelled.published import Known, Mirrored
from vader.exams.labelled.segmentation import score_probes
from vader.exams.protocols import constants, find_protocol
from vader.finetuning.augment import Room, Shuffled, Square, room_view, square_crop, squared
from vader.finetuning.pixels import LinearProbe

TINY_SQUARE = Square(side=64)
QUICK = SquareConfig(views=TINY_SQUARE, grid=15, epochs=3, drop_at=2, batch=4)
TINY_ROOM = Room(crop=(40, 52))
BRIEF = BinsConfig(views=TINY_ROOM, bins=16, steps=12, batch=4, warm_up=4, without_variance=3, lr=0.01)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, height: int = 50, width: int = 70, classes: int = 3) -> list[Example]:
    """Smooth pictures whose labels (with some void) and depths follow their colours."""
    found = []
    for i in range(count):
        coarse = np.random.default_rng(i).uniform(0, 255, (4, 5, 3)).astype(np.uint8)
        image = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        labels = image.argmax(2).astype(np.uint8) % classes
        labels[:3] = 255
        depth = (1 + image[..., 0] / 64).astype(np.float32)
        depth[:, :2] = 0
        found.append(Example(f"{i}", image, labels, depth))
    return found


def labelled_set(examples: list[Example]) -> LabelledSet:
    names = tuple(one.name for one in examples)
    return LabelledSet("made", Path("/"), "val", ("a", "b", "c"), names, lambda i: examples[i], ())


def raw(stride: int = 4) -> DenseEncoder:
    """Mean colours of cells and their product."""

    def features(x: Tensor) -> Tensor:
        cells = F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
        return torch.cat([cells, cells.prod(1, keepdim=True)], 1)

    return DenseEncoder("colours", stride, 4, features)


def maps_of(image: np.ndarray, stride: int = 4) -> Tensor:
    return raw(stride).features(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255)[0]


# --- Leopart's probe -----------------------------------------------------------------------------------------------


def test_labels_come_to_the_grid_as_torch_brings_them() -> None:
    labels = np.random.default_rng(0).integers(0, 21, (448, 448), np.uint8)
    expected = F.interpolate(torch.from_numpy(labels)[None, None].float(), (100, 100), mode="nearest")[0, 0]
    assert (to_grid(labels, 100) == expected.long()).all()


@pytest.mark.parametrize("cells", [(28, 28), (112, 112), (14, 14)])
def test_mixed_outputs_are_outputs_of_mixed_features(cells: tuple[int, int]) -> None:
    maps, weight, bias = noise((2, 5, *cells), 0), noise((3, 5), 1), noise((3,), 2)
    whole = F.interpolate(maps, (100, 100), mode="bilinear", align_corners=False)
    assert torch.allclose(
        grid_logits(weight, bias, maps, 100), F.conv2d(whole, weight[..., None, None], bias), atol=1e-4
    )


def test_steps_are_those_of_torchs_own_modules() -> None:
    """Batches of crops through a convolution, the mean over labelled pixels, SGD, its scheduler; two seeds at once."""
    examples, encoder = pictures(9), raw()
    seeds = [3, 4]
    found = square.train_probes(encoder, examples, 3, seeds=seeds, config=QUICK, batch=3)
    shuffled = list(Shuffled(examples, lambda one, rng: square_crop(one, rng, TINY_SQUARE), 3, 3))
    for seed, probe in zip(seeds, found, strict=True):
        head = nn.Conv2d(4, 3, 1)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for one in (head.weight, head.bias):
                one.uniform_(-0.5, 0.5, generator=rng)  # 1 / sqrt(4 channels), as the module has it of itself
        optimizer = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
        for epoch in range(3):
            for start in (0, 4):  # the ninth fills no batch
                some = shuffled[9 * epoch + start : 9 * epoch + start + 4]
                x = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1).float() / 255 for one in some])
                y = torch.stack([torch.from_numpy(np.asarray(one.labels)).float() for one in some])
                maps = F.interpolate(encoder.features(x), (15, 15), mode="bilinear")
                target = F.interpolate(y[:, None], (15, 15), mode="nearest")[:, 0].long()
                optimizer.zero_grad()
                nn.CrossEntropyLoss(ignore_index=255)(head(maps), target).backward()
                optimizer.step()
            scheduler.step()
        assert torch.allclose(probe.weight, head.weight[..., 0, 0], atol=1e-5)
        assert torch.allclose(probe.bias, head.bias, atol=1e-5)


def test_the_square_probe_learns() -> None:
    examples = pictures(12)
    config = replace(QUICK, epochs=40, drop_at=30)
    probe = square.train_probes(raw(), examples, 3, seeds=[0], config=config)[0]
    val = squared(labelled_set(pictures(16)[12:]), 64)
    maps = [maps_of(one.image) for one in val]
    first = LinearProbe(noise((3, 4), 0) / 2, torch.zeros(3))
    scores = score_probes([first, probe], ((m, one.labels) for m, one in zip(maps, val, strict=True)), 3)
    assert scores[1].pixel_accuracy > max(0.8, scores[0].pixel_accuracy + 0.2)


def test_void_alone_and_cells_that_do_not_fit_are_refused() -> None:
    void = [replace(one, labels=np.full_like(one.labels, 255)) for one in pictures(3)]
    with pytest.raises(BadInput, match=r"labels: .*found none in 3 pictures"):
        square.train_probes(raw(), void, 3, seeds=[0], config=QUICK)
    with pytest.raises(BadInput, match="colours: expected a stride that divides the protocol's 448 px, found 12"):
        square.train_probes(raw(12), pictures(2), 3, seeds=[0], config=SquareConfig())


def test_transformers_and_others_have_their_rates(tmp_path: Path) -> None:
    """By what they are: a transformer's patches may be as large as a CNN's deepest cells."""
    config, large = SquareConfig(), tmp_path / "vit32.pth"
    body = VisionTransformer(img_size=64, patch_size=32, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(body.state_dict(), large)
    rates = {
        "random:vit_tiny_patch16_224": 0.01, f"dino:{large}": 0.01, "random:resnet10t@last": 0.1,
        "random:resnet10t": 0.1, "random:resnet10t@stage:3": 0.1, "random-dense:test_resnet": 0.1, "rgb": 0.1,
    }  # fmt: skip
    for spec, rate in rates.items():
        encoder = open_encoder(spec)
        assert config.rate(encoder) == rate, spec
        known = None if spec == "rgb" else "transformer" if rate < 0.1 else "cnn"
        assert encoder.facts.get("architecture") == known, spec
    assert open_encoder(f"dino:{large}").stride == 32
    assert config.rate(fit(open_encoder("random:test_vit@last:8"), [one.image for one in pictures(3)])) == 0.01


def test_the_score_of_squares_is_that_of_a_confusion_made_by_hand() -> None:
    """Colours are channels and the probe says which is largest; three pictures, at 448 px, void left out."""
    examples = pictures(3, 90, 120)
    val = squared(labelled_set(examples), 448)
    probe = LinearProbe(torch.cat([torch.eye(3), torch.zeros(3, 1)], 1), torch.zeros(3))
    pairs, expected = [], np.zeros((3, 3), np.int64)
    for example, one in zip(examples, val, strict=True):
        image = np.array(Image.fromarray(example.image).resize((448, 448), Image.Resampling.BILINEAR))
        truth = np.array(Image.fromarray(np.asarray(example.labels)).resize((448, 448), Image.Resampling.NEAREST))
        assert (one.labels == truth).all()
        found = F.interpolate(maps_of(image, 14)[None], (448, 448), mode="bilinear")[0, :3].argmax(0).numpy()
        for k in range(3):
            for j in range(3):
                expected[k, j] += ((truth == k) & (found == j)).sum()
        pairs.append((maps_of(one.image, 14), one.labels))
    score = score_probes([probe], pairs, 3, stride=14)[0]
    assert expected.sum() == score.confusion.sum() == sum((label != 255).sum() for _, label in pairs)
    assert np.abs(score.confusion - expected).sum() <= 0.001 * expected.sum()  # pictures are one level apart at most
    hits = np.diag(expected)
    assert score.miou == pytest.approx(np.mean(hits / (expected.sum(0) + expected.sum(1) - hits)), abs=1e-3)


# --- DINOv3's probe of depth ---------------------------------------------------------------------------------------


def test_the_loss_is_its_formula_in_a_loop() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.uniform(0.001, 10, 50), rng.uniform(0.1, 10, 50)
    g = [math.log(p + 0.001) - math.log(t + 0.001) for p, t in zip(predicted, truth, strict=True)]
    mean = sum(g) / 50
    variance = sum((one - mean) ** 2 for one in g) / 49
    a, b = torch.from_numpy(predicted), torch.from_numpy(truth)
    assert float(sig_loss(a, b, BinsConfig())) == pytest.approx(math.sqrt(variance + 0.15 * mean**2), rel=1e-12)
    assert float(sig_loss(a, b, BinsConfig(), variance=False)) == pytest.approx(math.sqrt(0.15) * abs(mean), rel=1e-12)
    a = a.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sig_loss(x, b, BinsConfig()), (a,))
    same = b.clone().requires_grad_()
    sig_loss(same, b, BinsConfig()).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all(), "where the prediction is right"


def test_the_depth_is_the_mean_of_the_bins() -> None:
    config = replace(BinsConfig(), bins=3, nearest=1.0, farthest=5.0)
    outputs = torch.tensor([[2.0, -7.0, 0.3], [0.0, 0.0, 0.0]], dtype=torch.float64)[:, :, None, None]
    found = expected_depth(outputs, config)[:, 0, 0].tolist()
    assert found == pytest.approx([(2.1 * 1 + 0.1 * 3 + 0.4 * 5) / 2.6, 3.0])
    edges = torch.zeros(1, 256, 1, 1, dtype=torch.float64)
    edges[0, 255] = 1e9
    assert float(expected_depth(edges, BinsConfig())) == pytest.approx(10, abs=1e-6)


def test_rates_and_momenta_are_the_schedules() -> None:
    config = BinsConfig()
    assert rate_at(0, config) == pytest.approx(3e-7)
    assert rate_at(6400, config) == pytest.approx(3e-7 + 1.5e-4 * (1 + math.cos(math.pi / 6)) / 2)
    assert rate_at(12_799, config) == pytest.approx(3e-4 * 0.75, rel=2e-3)
    assert rate_at(12_800, config) == pytest.approx(3e-4 * 0.75, rel=1e-3)
    assert rate_at(25_599, config) == pytest.approx(1.2e-8 + (3e-4 - 1.2e-8) / 4, rel=1e-9)
    assert rate_at(38_399, config) == pytest.approx(3e-4 / 25_000)
    assert [beta1_at(step, config) for step in (0, 12_799, 12_800)] == [0, 0, 0.85]
    assert beta1_at(25_600, config) == pytest.approx(0.9)
    assert beta1_at(38_399, config) == pytest.approx(0.95, abs=1e-6)


def test_bins_are_learnt_as_torchs_own_modules_learn_them() -> None:
    """BatchNorm2d and Conv2d on whole batches, losses of two pictures each, AdamW; then the folded probe is theirs."""
    examples, encoder = pictures(5), raw()
    found = bins.train_probes(encoder, examples, seeds=[3, 4], config=BRIEF, batch=3)
    shuffled = list(Shuffled(examples, lambda one, rng: room_view(one, rng, TINY_ROOM), 3, 10))
    for seed, probe in zip([3, 4], found, strict=True):
        norm, head = nn.BatchNorm2d(4), nn.Conv2d(4, 16, 1)
        with torch.no_grad():
            head.weight[..., 0, 0] = 0.01 * noise((16, 4), seed)
            head.bias.zero_()
        both = nn.Sequential(norm, head)
        optimizer = torch.optim.AdamW(both.parameters(), weight_decay=1e-4)
        for step in range(12):
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rate_at(step, BRIEF), (beta1_at(step, BRIEF), 0.99)
            some = shuffled[4 * step : 4 * step + 4]
            x = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1).float() / 255 for one in some])
            y = torch.stack([torch.from_numpy(np.asarray(one.depth)) for one in some])
            depth = F.interpolate(
                expected_depth(both(encoder.features(x)), BRIEF)[:, None], y.shape[1:], mode="bilinear"
            )
            losses = []
            for i in (0, 2):
                valid = y[i : i + 2] > 0
                losses.append(sig_loss(depth[i : i + 2, 0][valid], y[i : i + 2][valid], BRIEF, step >= 3))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            nn.utils.clip_grad_norm_(both.parameters(), 35.0)
            optimizer.step()
        both.eval()
        one = encoder.features(x[:1])
        with torch.no_grad():
            assert torch.allclose(probe(one[0]), both(one)[0], atol=1e-4)


def test_the_loss_of_bins_falls() -> None:
    config = replace(BRIEF, bins=64, steps=150, warm_up=10)
    examples = pictures(8)
    losses = []
    for steps in (1, 150):
        probe = bins.train_probes(
            raw(), examples, seeds=[0], config=replace(config, steps=steps, warm_up=min(10, steps))
        )
        test = [(maps_of(one.image), maps_of(one.image[:, ::-1]), np.asarray(one.depth)) for one in examples]
        losses.append(bins.score_probes(probe, test, config, stride=4)[0][0].rmse)
    assert losses[1] < 0.4 < losses[0]


def test_bins_are_scored_from_both_sides() -> None:
    """The mean of a prediction and of the mirrored picture's, mirrored back, clamped; each crop by the formulas."""
    config = replace(BinsConfig(), bins=8)
    probes = [LinearProbe(3 * noise((8, 2), k), noise((8,), k + 5)) for k in range(2)]
    truth = np.random.default_rng(0).uniform(0.5, 11, (48, 64)).astype(np.float32)
    truth[::5] = 0
    truth[1, :3] = np.nan
    maps = noise((2, 12, 16), 0), noise((2, 12, 16), 1)
    seen: list[np.ndarray] = []
    crop = (45, 471, 41, 601)
    found = bins.score_probes(probes, [(*maps, truth), (*maps, np.zeros_like(truth))], config, stride=4,
                              crops=[crop, None], watch=lambda _, one: seen.append(one))  # fmt: skip
    centres = np.linspace(0.001, 10, 8)
    empty = truth.size  # the second picture is without depth
    pixels = {
        "valid": int(((truth > 0) & (truth <= 10)).sum()), "unknown": int((truth == 0).sum()) + empty,
        "not finite": 3, "beyond 10 m": int((truth > 10).sum()),
    }  # fmt: skip
    assert sum(pixels.values()) == 2 * empty
    assert {tuple(score.pixels.items()) for one in found for score in one} == {tuple(pixels.items())}
    for t, probe in enumerate(probes):
        sides = []
        for one in maps:
            weights = np.maximum(probe(one).numpy().astype(np.float64), 0) + 0.1
            cells = torch.from_numpy((weights * centres[:, None, None]).sum(0) / weights.sum(0))
            sides.append(F.interpolate(cells[None, None], (48, 64), mode="bilinear")[0, 0].numpy())
        expected = np.clip((sides[0] + sides[1][:, ::-1]) / 2, 0.001, 10)
        assert seen[0][t] == pytest.approx(expected, abs=1e-5)
        for c, (rows, columns) in enumerate([(slice(4, 47), slice(4, 60)), (slice(None), slice(None))]):
            a, b = expected[rows, columns], truth[rows, columns].astype(np.float64)
            a, b = a[(b > 0) & (b <= 10)], b[(b > 0) & (b <= 10)]
            score = found[t][c]
            assert score.skipped == 1
            assert score.rmse == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-5)
            assert score.abs_rel == pytest.approx(np.mean(np.abs(a - b) / b), rel=1e-5)
            assert score.delta1 == pytest.approx(np.mean(np.maximum(a / b, b / a) < 1.25), abs=1e-3)


def test_depths_none_of_which_is_valid_are_refused() -> None:
    nothing = [replace(one, depth=np.zeros_like(one.depth)) for one in pictures(3)]
    with pytest.raises(BadInput, match=r"depths: .*found none in 3 pictures"):
        bins.train_probes(raw(), nothing, seeds=[0], config=BRIEF)


def test_examples_are_read_once_and_mirrored() -> None:
    examples = pictures(3)
    for limit in (10**9, 100):
        with Store(Budget(limit)) as images, Store(Budget(limit)) as depths:
            known = Known(labelled_set(examples), [2, 0], images, depths)
            assert [one.name for one in known] == ["2", "0"]
            assert (known[0].image == examples[2].image).all()
            assert known[1].depth is not None
            assert (known[1].depth == examples[0].depth).all()
            del known
    both = list(Mirrored(labelled_set(examples)))
    assert [one.name for one in both] == ["0", "0", "1", "1", "2", "2"]
    assert (both[3].image == examples[1].image[:, ::-1]).all()


# --- Whole evaluations --------------------------------------------------------------------------------------------


def test_the_protocols_have_the_published_constants() -> None:
    for data in ("voc", "cityscapes", "camvid", "ade20k", "folder", "voc-animals"):
        found = constants(find_protocol("segmentation", f"{data}-linear/leopart"))
        probe = found["probe"]
        assert found["data"] == data
        assert (probe["views"]["side"], probe["grid"], probe["epochs"], probe["drop_at"], probe["batch"]) == (
            448, 100, 25, 20, 120,
        )  # fmt: skip
        assert (probe["lr_transformer"], probe["lr_cnn"], probe["momentum"]) == (0.01, 0.1, 0.9)
    found = constants(find_protocol("depth", "nyu-linear/dinov3:20"))
    assert "795" in found["note"]
    assert found["few"] == {"share": None, "pictures": 20}
    assert (found["probe"]["bins"], found["probe"]["steps"], found["probe"]["clip"]) == (256, 38_400, 35)


@pytest.fixture(scope="module")
def scenes(rendered: Rendered) -> Path:
    """VOC and NYU layouts, ten pictures each, two of them for validation."""
    rendered("voc", 10)
    return rendered("nyu", 10).parent


def shrunk(monkeypatch: pytest.MonkeyPatch, key: tuple[str, str], **changes: object) -> None:
    whole = protocols.PROTOCOLS[key]
    monkeypatch.setitem(protocols.PROTOCOLS, key, replace(whole, probe=replace(whole.probe, **changes)))  # type: ignore


@pytest.mark.parametrize("few", ["", ":50%"])
def test_scenes_sit_leoparts_probe(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: str) -> None:
    name = "voc-linear/leopart"
    shrunk(monkeypatch, ("segmentation", name), epochs=2, drop_at=1, batch=5)
    done = evaluate(["rgb"], "segmentation", name + few, scenes / "voc", tmp_path / "r", trials=2, batch=4,
                    pictures=False)  # fmt: skip
    values = {measure.name: found for measure, found in done.results[0].values.items()}
    assert list(values) == ["mIoU", "pixel accuracy"]
    assert done.results[0].facts["learning rate of the probe"] == 0.1
    # The score again from the predictions on disk, which are squares, and Pillow's square of the truth.
    expected, K = np.zeros((21, 21)), 21
    for path in sorted((tmp_path / "r" / "predictions" / "rgb").iterdir()):
        with Image.open(path) as image:
            found = np.array(image).astype(int)
        with Image.open(next((scenes / "voc").glob(f"**/SegmentationClass/{path.name}"))) as image:
            truth = np.array(image.resize((448, 448), Image.Resampling.NEAREST)).astype(int)
        assert found.shape == (448, 448)
        expected += np.bincount((truth * K + found)[truth != 255], minlength=K * K).reshape(K, K)
    hits, union = np.diag(expected), expected.sum(0) + expected.sum(1) - np.diag(expected)
    assert values["mIoU"][0] == pytest.approx((hits[union > 0] / union[union > 0]).mean(), abs=1e-9)
    assert values["pixel accuracy"][0] == pytest.approx(hits.sum() / expected.sum(), abs=1e-9)
    assert read_pictures(tmp_path / "r")[0][0, :, 1].sum() == expected.sum()


@pytest.mark.parametrize("few", ["", ":3"])
def test_scenes_sit_dinov3s_probe(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: str) -> None:
    name = "nyu-linear/dinov3"
    shrunk(monkeypatch, ("depth", name), steps=30, warm_up=10, without_variance=5, lr=0.01, views=Room(crop=(40, 52)))
    out = tmp_path / "r"
    done = evaluate(["rgb"], "depth", name + few, scenes / "nyu", out, trials=2, memory=60_000, pictures=False)
    values = {measure.name: found for measure, found in done.results[0].values.items()}
    assert list(values) == ["RMSE, Eigen crop", "abs-rel, Eigen crop", "δ1, Eigen crop", "RMSE", "abs-rel", "δ1"]
    assert 0.1 < np.mean(values["RMSE"]) < 5
    assert values["RMSE"][0] != values["RMSE"][1]
    assert np.mean(read_pictures(out)[0][0]) == pytest.approx(values["RMSE, Eigen crop"][0])
    with Image.open(next((out / "predictions" / "rgb").rglob("*.png"))) as image:
        assert np.array(image).shape == (48, 64)
