"""J and F against loops from their definitions, on real and made-up masks; DAVIS clips read, and refused."""

import math
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from skimage.morphology import dilation, disk

from vader.datasets.davis import DavisClip, mask_png, open_davis
from vader.errors import BadInput, UnreadableImage
from vader.exams.clips.scores import davis_scores, foreground, score_clip, score_frames, sequence_scores
from vader.images.encode import colour_map
from vader.reports.metrics import _dilated, _packed, boundary, boundary_f, jaccard, mask_statistics
from vader.scenes.layouts import write

DATA = Path(os.environ.get("VADER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "DAVIS"


# --- The definitions, once more -----------------------------------------------------------------------------------


def slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels unlike their right, lower or lower-right neighbour, one after the other, where the mask is or begins."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    H, W = mask.shape
    bits = mask.tolist()
    found = []
    for i in range(max(0, rows[0] - 1), rows[-1] + 1):
        for j in range(max(0, columns[0] - 1), columns[-1] + 1):
            around = [(i, j + 1), (i + 1, j), (i + 1, j + 1)]
            if any(y < H and x < W and bits[y][x] != bits[i][j] for y, x in around):
                found.append((i, j))
    return found


def slow_scores(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J, and F by distances between boundary pixels."""
    union = int((pred | truth).sum())
    j = int((pred & truth).sum()) / union if union else 1.0
    radius = math.ceil(0.008 * math.sqrt(pred.shape[0] ** 2 + pred.shape[1] ** 2))
    ours, theirs = slow_boundary(pred), slow_boundary(truth)
    if not ours and not theirs:
        return j, 1.0
    if not ours or not theirs:
        return j, 0.0
    precision = np.mean(cKDTree(theirs).query(ours)[0] <= radius)
    recall = np.mean(cKDTree(ours).query(theirs)[0] <= radius)
    return j, float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def slow_statistics(values: list[float]) -> tuple[float, float, float]:
    """Mean, recall and decay, frame by frame; the ends of the quarters by whole numbers."""
    n = len(values)
    ends = [(1 + q * (n - 1) / 4) for q in range(5)]
    ends = [math.floor(end + 0.5) for end in ends]  # 1-based; halves up
    first = [values[i - 1] for i in range(ends[0], ends[1] + 1)]
    last = [values[i - 1] for i in range(ends[3], ends[4] + 1)]
    recall = sum(value > 0.5 for value in values) / n
    return sum(values) / n, recall, sum(first) / len(first) - sum(last) / len(last)


def moved(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """The mask shifted, with nothing coming in at the edges."""
    result = np.zeros_like(mask)
    H, W = mask.shape
    result[max(0, down) : H + min(0, down), max(0, right) : W + min(0, right)] = mask[
        max(0, -down) : H + min(0, -down), max(0, -right) : W + min(0, -right)
    ]
    return result


def worse(mask: np.ndarray) -> dict[str, np.ndarray]:
    """Ways to be wrong."""
    left = np.arange(mask.shape[1]) < np.median(np.nonzero(mask)[1])
    return {
        "same": mask,
        "shifted": moved(mask, 5, -9),
        "shifted out": moved(mask, mask.shape[0] // 2, 0),
        "eroded": cv2.erode(mask.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0,
        "half": mask & left,
        "split": mask & ~(np.abs(np.arange(mask.shape[1]) - np.median(np.nonzero(mask)[1])) < 6),
        "inverted": ~mask,
        "empty": np.zeros_like(mask),
    }


def blobs(seed: int, height: int = 150, width: int = 267, share: float = 0.2) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 13)
    return smooth > np.quantile(smooth, 1 - share)


def needs_data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"no DAVIS clips at {DATA}; set VADER_DATA")
    return DATA


# --- J and F ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 8, 13])
def test_dilation_of_bits_equals_scikit_image(radius: int) -> None:
    for seed, density in ((0, 0.02), (1, 0.3), (2, 0.001)):
        mask = np.random.default_rng(seed).random((41, 67)) < density
        mask[[0, -1], [0, -1]] = True
        pitch = mask.shape[1] + radius
        found = _dilated(_packed(mask, pitch), radius, pitch)
        expected = dilation(mask.astype(np.uint8), disk(radius)) > 0
        bits = [[(found >> (i * pitch + j)) & 1 for j in range(mask.shape[1])] for i in range(mask.shape[0])]
        assert (np.array(bits, dtype=bool) == expected).all()


@pytest.mark.parametrize("seed", range(3))
def test_made_up_masks_score_as_the_definitions_say(seed: int) -> None:
    truth = blobs(seed)
    if seed:  # 0 touches the edges
        truth &= np.pad(np.ones((110, 227), dtype=bool), 20)
    scores = {}
    for name, pred in worse(truth).items():
        scores[name] = jaccard(pred, truth), boundary_f(pred, truth)
        assert scores[name] == pytest.approx(slow_scores(pred, truth), abs=1e-9), name
        assert boundary_f(truth, pred) == pytest.approx(scores[name][1], abs=1e-12), name
        assert [tuple(at) for at in np.argwhere(boundary(pred)).tolist()] == slow_boundary(pred)
    assert scores["same"] == (1, 1)
    assert 0.05 < scores["half"][1] < 0.95
    assert len({round(f, 3) for _, f in scores.values()}) > 5, "else constants are compared"


def test_real_masks_score_as_the_definitions_say() -> None:
    clips = open_davis(needs_data())
    assert len(clips) >= 2
    masks = [clip.mask(7) == 1 for clip in clips]
    for number, truth in enumerate(masks):
        wrong = worse(truth)
        kept = ("shifted", "eroded") if number % 2 else ("split", "half")
        for name in kept:
            found = jaccard(wrong[name], truth), boundary_f(wrong[name], truth)
            assert found == pytest.approx(slow_scores(wrong[name], truth), abs=1e-6)
        other = masks[(number + 1) % len(masks)]  # swapped
        assert (jaccard(other, truth), boundary_f(other, truth)) == pytest.approx(slow_scores(other, truth), abs=1e-6)


# --- Statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 18, 38, 67, 102, 257, 300])
def test_statistics_equal_loops(count: int) -> None:
    values = np.random.default_rng(count).random(count)
    values[0] = 0.5  # not above it
    found = mask_statistics(values)
    assert (found.mean, found.recall, found.decay) == pytest.approx(slow_statistics(values.tolist()), abs=1e-12)


def test_quarters_share_a_frame() -> None:
    """Of 9 frames the ends are 1, 3, 5, 7 and 9: the first quarter is frames 1 to 3, the last 7 to 9."""
    found = mask_statistics(np.array([1, 1, 0.4, 0, 0, 0, 0.1, 0.1, 0.4]))
    assert found.decay == pytest.approx(2.4 / 3 - 0.6 / 3)
    assert math.isnan(mask_statistics(np.zeros(0)).mean)


def clip_of(frames: int = 7, seed: int = 0) -> np.ndarray:
    """Three objects and void; the second leaves before the end."""
    masks = np.zeros((frames, 60, 80), dtype=np.uint8)
    for t in range(frames):
        masks[t, 5:20, 5 + 3 * t : 25 + 3 * t] = 1
        masks[t, 40:55, 10:30] = 2 if t < 4 else 0
        masks[t, 30:50, 50 : 60 + t] = 3
        masks[t, :3] = 255
    return masks


def test_clips_objects_and_sets_as_the_definitions_say() -> None:
    truth = clip_of()
    predicted = np.where(truth == 255, 0, np.roll(truth, 2, axis=2))
    predicted[2][predicted[2] == 3] = 1  # a swap
    predicted[0], predicted[-1] = 0, 0  # neither is scored
    score = score_frames(zip(predicted, truth, strict=True), void=255, official=True)
    assert score.ids == (1, 2, 3)
    rows = []
    for i in score.ids:
        each = [slow_scores(predicted[t] == i, truth[t] == i) for t in range(1, 6)]
        assert score.j_frames is not None
        assert score.j_frames[i - 1] == pytest.approx([j for j, _ in each], abs=1e-9)
        assert score.f[i - 1] == pytest.approx(np.mean([f for _, f in each]), abs=1e-9)
        rows.append([slow_statistics([one[which] for one in each]) for which in (0, 1)])
    expected = np.mean(rows, 0).ravel().tolist()  # over objects
    names = [f"{letter}_{name}" for letter in "jf" for name in ("mean", "recall", "decay")]
    found = davis_scores([score])
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-9)
    assert found["j_and_f"] == pytest.approx((expected[0] + expected[3]) / 2)
    by_name = sequence_scores({"a": score, "b": score_clip(*(np.uint8(one == 1) for one in (predicted, truth)))})
    assert list(by_name) == ["a", "a_1", "a_2", "a_3", "b_1"]
    assert by_name["a_2"]["j_decay"] == pytest.approx(rows[1][0][2])
    assert by_name["a"] == found


def test_each_object_counts_the_same_whatever_its_sequence() -> None:
    three = score_frames(zip(clip_of(), clip_of(), strict=True), void=255)
    one = score_clip(np.zeros((4, 20, 20), np.uint8), np.pad(np.ones((4, 4, 4), np.uint8), ((0, 0), (8, 8), (8, 8))))
    assert davis_scores([three, one])["j_mean"] == pytest.approx(3 / 4)
    assert davis_scores([three, one])["objects"] == 4
    assert math.isnan(davis_scores([])["j_mean"])


def test_objects_are_those_of_the_first_mask() -> None:
    truth = clip_of()
    truth[:, 57:, 60:] = 5  # and none is called 4
    predicted = np.where(truth == 255, 0, truth)
    score = score_frames(zip(predicted, truth, strict=True), void=255, official=True)
    assert score.ids == (1, 2, 3, 4, 5)
    assert score.j.tolist() == [1] * 5, "what is nowhere, and nowhere predicted, is right"
    assert score_frames(zip(predicted, truth, strict=True), void=255).ids == (1, 2, 3, 5)
    truth[3, 25:28, :9] = 9  # comes later: nobody's
    assert score_frames(zip(predicted, truth, strict=True), void=255, official=True).j.tolist() == [1] * 5
    predicted[3, 25:28, :9] = 9
    with pytest.raises(BadInput, match=r"frame 3: expected objects 1 to 5, .*found 9"):
        score_frames(zip(predicted, truth, strict=True), void=255, official=True)


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(BadInput, match="frame 1: expected a mask of 60x80 px, found 60x79"):
        score_frames([(m[:, : 80 - t], m) for t, m in enumerate(clip_of())])
    with pytest.raises(BadInput, match="at least 3 frames"):
        score_frames(zip(clip_of(2), clip_of(2), strict=True))


def test_the_foreground_is_all_objects_together() -> None:
    mask = clip_of()[0]
    assert (foreground(mask) == ((mask == 1) | (mask == 2) | (mask == 3))).all()
    assert foreground(mask, void=None).sum() == (mask > 0).sum()


# --- Clips on disk ------------------------------------------------------------------------------------------------


def put_clip(root: Path, name: str, masks: np.ndarray, colours: bool = True) -> None:
    for t, mask in enumerate(masks):
        picture, truth = root / f"JPEGImages/480p/{name}/{t:05d}.jpg", root / f"Annotations/480p/{name}/{t:05d}.png"
        for path in (picture, truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*mask.shape, 3), 40 + t, np.uint8)).save(picture)
        image = Image.fromarray(mask)
        if colours:
            image.putpalette(colour_map().tobytes())
        image.save(truth)


def put_list(root: Path, text: str, place: str = "2017/val.txt") -> None:
    path = root / "ImageSets" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root = tmp_path / "DAVIS"
    put_clip(root, "two", clip_of(4))
    put_clip(root, "one", clip_of(3))
    put_list(root, "two\none\n\n")
    return root


def opened(root: Path) -> DavisClip:
    return open_davis(root)[0]


def test_clips_come_back_as_they_were_written(tiny: Path) -> None:
    clips = open_davis(tiny.parent)
    assert [(clip.name, len(clip), clip.objects, clip.size) for clip in clips] == [
        ("two", 4, 3, (60, 80)),
        ("one", 3, 3, (60, 80)),
    ]
    assert (np.stack(list(clips[0].masks())) == clip_of(4)).all()
    assert [round(float(image.mean())) for image in clips[0].images()] == [40, 41, 42, 43]
    assert (clips[0].first == clip_of(4)[0]).all()


def test_masks_are_written_with_their_palette(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    (tmp_path / "mask.png").write_bytes(mask_png(mask))
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert (np.array(image) == mask).all()
        palette = image.getpalette()
    assert palette is not None
    assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert (np.array(palette).reshape(256, 3) == colour_map()).all()


def test_2016_has_the_foreground_alone(tiny: Path) -> None:
    put_list(tiny, "/JPEGImages/480p/one/00000.jpg /Annotations/480p/one/00000.png\n" * 3, "480p/val.txt")
    (clip,) = open_davis(tiny, year=2016)
    assert (clip.name, clip.objects) == ("one", 1)
    assert (clip.mask(1) == foreground(clip_of(3)[1])).all()
    assert (open_davis(tiny, foreground=True)[0].mask(0) == foreground(clip_of(4)[0])).all()
    put_clip(tiny, "one", np.where(clip_of(3) % 255 > 0, 255, 0).astype(np.uint8), colours=False)
    assert (open_davis(tiny, year=2016)[0].mask(1) == foreground(clip_of(3)[1])).all(), "0 and 255, as it has them"
    with pytest.raises(BadInput, match="found none; is it of DAVIS 2016"):
        _ = open_davis(tiny)[1].first


def test_test_splits_have_a_first_mask(tiny: Path) -> None:
    put_list(tiny, "two\n", "2017/test-dev.txt")
    for path in sorted((tiny / "Annotations/480p/two").iterdir())[1:]:
        path.unlink()
    (clip,) = open_davis(tiny, "test-dev")
    assert (len(clip), clip.objects) == (4, 3)
    with pytest.raises(BadInput, match="two: expected a mask of frame 1, found 1 masks"):
        clip.mask(1)


def test_missing_things_are_named(tiny: Path) -> None:
    with pytest.raises(BadInput, match=r"ImageSets/2017/train.txt, which does not exist; download DAVIS"):
        open_davis(tiny, "train")
    with pytest.raises(BadInput, match="nowhere does not exist; download DAVIS"):
        open_davis(tiny / "nowhere")
    put_list(tiny, "two\nthree\n")
    with pytest.raises(BadInput, match=r"expected frames .*480p/three/\*.jpg, found none"):
        open_davis(tiny)
    put_list(tiny, "../../two\n")
    with pytest.raises(BadInput, match="expected a sequence name"):
        open_davis(tiny)
    put_list(tiny, "two\n")
    (tiny / "Annotations/480p/two/00002.png").unlink()
    with pytest.raises(BadInput, match=r"expected a mask .*two/00002\.png, found 1 of 4 missing"):
        open_davis(tiny)
    shutil.rmtree(tiny / "Annotations")
    with pytest.raises(BadInput, match=r"expected a mask .*two/00000\.png, found 4 of 4 missing"):
        open_davis(tiny)


def test_bad_files_are_named(tiny: Path) -> None:
    picture, truth = tiny / "JPEGImages/480p/two/00001.jpg", tiny / "Annotations/480p/two/00001.png"
    Image.new("RGB", (70, 60)).save(picture)
    with pytest.raises(
        BadInput, match=r"00001.jpg: expected 80 x 60 pixels as 00000.jpg, the first frame, found 70 x 60"
    ):
        opened(tiny).image(1)
    Image.fromarray(np.zeros((30, 80), np.uint8)).save(truth)
    with pytest.raises(BadInput, match=r"00001.png: expected 80 x 60 pixels .* found 80 x 30"):
        opened(tiny).mask(1)
    Image.fromarray(np.full((60, 80), 300, np.uint16)).save(truth)
    with pytest.raises(BadInput, match=r"00001.png: expected at most 254 objects and 255 for void, found label 300"):
        opened(tiny).mask(1)
    Image.new("RGB", (80, 60)).save(truth)
    with pytest.raises(UnreadableImage, match="expected one number for each pixel"):
        opened(tiny).mask(1)
    picture.write_bytes(picture.read_bytes()[:-300])
    with pytest.raises(UnreadableImage):
        opened(tiny).image(1)
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tiny / "Annotations/480p/two/00000.png")
    with pytest.raises(BadInput, match=r"expected an object in the first mask, found none$"):
        _ = opened(tiny).first


def test_rendered_scenes_are_davis_clips(tmp_path: Path) -> None:
    write(tmp_path / "scenes", "davis", count=26, width=64, height=48, seed=3, workers=1)
    lists = [path for path in (tmp_path / "scenes/ImageSets/2017").glob("*.txt") if path.read_text()]
    clips = [clip for path in lists for clip in open_davis(tmp_path / "scenes", path.stem)]
    assert sum(len(clip) for clip in clips) == 26
    for clip in clips:
        assert clip.size == (48, 64)
        assert clip.objects >= 1
        masks = list(clip.masks())
        assert all(image.shape == (48, 64, 3) for image in clip.images())
        assert all(mask.max() <= clip.objects for mask in masks)


def test_the_shared_clips_are_read() -> None:
    clips = open_davis(needs_data())
    assert [clip.objects for clip in clips] == [1] * len(clips)
    assert {clip.size for clip in clips} == {(480, 854)}
    assert clips[0].image(3).shape == (480, 854, 3)
