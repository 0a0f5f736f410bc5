"""`vader propagate` against stepping by hand: what comes out, killed runs, late objects."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from samples import environment, start
from shots import SIZED, H, T, W, by_hand, masks_of, same, shot, write_clip, write_first

from vader.datasets.davis import mask_png
from vader.encoders import open_encoder
from vader.errors import BadInput
from vader.images.decode import decode
from vader.images.encode import colour_map, png
from vader.images.video import open_clip, write_mp4
from vader.inference.propagate import propagate_clip as propagate
from vader.inference.propagation import find_protocol, propagate_frames
from vader.inference.propagation.pictures import tint

SHARED = Path(os.environ.get("VADER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "DAVIS"
KILLED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from vader.inference.propagate import propagate_clip as propagate
propagate(sys.argv[1], *map(Path, sys.argv[2:5]), size=40, keep_every=0)
"""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_first(tmp_path / "first.png")


# --- What comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["rgb", "random:test_resnet@hypercolumn:16"])
def test_a_folder_gets_the_masks_that_stepping_by_hand_gives(
    clip: Path, first: Path, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "out"
    told: list[str] = []
    done = propagate(model, clip, first, out, size=H, say=told.append)
    frames = [shot(number)[0] for number in range(T)]
    expected = by_hand(frames, {0: shot(0)[1]}, model, **SIZED)
    assert same(out, {f"shot{number + 8}": mask for number, mask in enumerate(expected)})
    if model == "rgb":  # and these are about right
        last = masks_of(out)["shot16"]
        for label in (1, 2):
            truth = shot(T - 1)[1] == label
            assert ((last == label) & truth).sum() / ((last == label) | truth).sum() > 0.6
    assert done == json.loads((out / "propagate.json").read_text())
    assert (done["frames"], done["masks_written"], done["skipped"], done["objects"]) == (T, T, [], [1, 2])
    assert (done["size"], done["seen"], done["protocol"]) == ([W, H], [W, H], "davis/dino")
    assert told[-1].startswith("pictures: 9/9 frames")
    assert sorted(path.name for path in out.iterdir()) == ["masks", "overlay.mp4", "propagate.json", "strip.png"]


def test_the_pictures_show_the_clip_and_its_masks(clip: Path, first: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    propagate("rgb", clip, first, out, size=H)
    film = dict(open_clip(out / "overlay.mp4").frames())
    assert len(film) == T
    for number, (name, mask) in enumerate(sorted(masks_of(out).items(), key=lambda pair: int(pair[0][4:]))):
        assert name == f"shot{number + 8}"
        painted = shot(number)[0].astype(int)
        for y, x in np.argwhere(mask > 0):
            around = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            inside = (around == mask[y, x]).all()
            painted[y, x] = painted[y, x] // 2 + colour_map()[mask[y, x]].astype(int) // 2 if inside else 255
        assert np.array_equal(tint(shot(number)[0], mask), painted)
        picture = film[number]
        assert isinstance(picture, np.ndarray)
        assert np.abs(picture - painted).mean() < 12, "colours of H.264 are at half the resolution"
    strip = decode(out / "strip.png")
    assert strip.shape == (240 + 22, 6 * (384 + 4), 3), "six times"
    grown = cv2.resize(tint(*shot(0)), (384, 240), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(strip[22:, :384], grown), "the first frame comes first"


def test_a_film_goes_the_same_way_at_any_protocol(clip: Path, first: Path, tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", (shot(number)[0] for number in range(T)), 25)
    frames = [frame for _, frame in open_clip(tmp_path / "clip.mp4").frames() if isinstance(frame, np.ndarray)]
    done = propagate("rgb", tmp_path / "clip.mp4", first, tmp_path / "out", protocol="davis/crw", film=False)
    expected = list(propagate_frames(open_encoder("rgb"), frames, {0: shot(0)[1]}, find_protocol("davis/crw")))
    assert same(tmp_path / "out", {f"{number:05d}": mask for number, mask in enumerate(expected)})
    assert done["settings"] == find_protocol("davis/crw").facts()
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    # The film can still be had, without doing the rest again.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").iterdir()}
    propagate("rgb", tmp_path / "clip.mp4", first, tmp_path / "out", protocol="davis/crw")
    assert (tmp_path / "out" / "overlay.mp4").exists()
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").iterdir()}


def test_objects_may_come_later(clip: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "shot10.png").write_bytes(mask_png(np.where(shot(2)[1] == 1, 1, 0).astype(np.uint8)))
    (given / "13.png").write_bytes(mask_png(np.where(shot(5)[1] == 2, 2, 0).astype(np.uint8)))
    done = propagate("rgb", clip, given, tmp_path / "out", size=H, film=False)
    found = masks_of(tmp_path / "out")
    assert not found["shot8"].any()
    assert not found["shot9"].any()
    assert set(np.unique(found["shot12"])) == {0, 1}
    assert set(np.unique(found["shot16"])) == {0, 1, 2}
    assert (done["given"], done["objects"]) == (2, [1, 2])
    masks = {2: np.where(shot(2)[1] == 1, 1, 0).astype(np.uint8), 5: np.where(shot(5)[1] == 2, 2, 0).astype(np.uint8)}
    expected = by_hand([shot(number)[0] for number in range(T)], masks, **SIZED)
    assert same(tmp_path / "out", {f"shot{number + 8}": mask for number, mask in enumerate(expected)})


def test_white_is_the_object_of_a_mask_that_is_black_and_white(clip: Path, first: Path, tmp_path: Path) -> None:
    one = (shot(0)[1] == 1).astype(np.uint8)
    (tmp_path / "white.png").write_bytes(png(one * 255))
    (tmp_path / "one.png").write_bytes(mask_png(one))
    for name in ("white", "one"):
        propagate("rgb", clip, tmp_path / f"{name}.png", tmp_path / name, size=H, film=False)
    assert same(tmp_path / "white", masks_of(tmp_path / "one"))


# --- Runs that stop -------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_a_killed_run_goes_on_and_ends_the_same(clip: Path, first: Path, tmp_path: Path) -> None:
    model, out = "random:test_resnet@hypercolumn:16", tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, model, str(clip), str(first), str(out)], env=environment()
    )
    deadline = time.monotonic() + 600
    while len(list(out.glob("checkpoints/step-*"))) == 0 or len(list(out.glob("masks/*.png"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(list(out.glob("masks/*.png"))) < T
    assert (out / "begun.json").exists()
    assert not (out / "propagate.json").exists()
    with pytest.raises(BadInput, match="masks of another settings"):
        propagate(model, clip, first, out, size=64)
    told: list[str] = []
    done = propagate(model, clip, first, out, size=H, say=told.append)
    assert any(line.startswith("resumed after ") for line in told)
    propagate(model, clip, first, tmp_path / "fresh", size=H)
    assert same(out, masks_of(tmp_path / "fresh"))
    assert (out / "strip.png").read_bytes() == (tmp_path / "fresh" / "strip.png").read_bytes()
    assert done["masks_written"] == T
    assert {path.name for path in out.iterdir()} == {"masks", "overlay.mp4", "propagate.json", "strip.png"}


def test_a_state_is_taken_up_and_not_made_again(clip: Path, first: Path, tmp_path: Path) -> None:
    """The rest of a clip from its state alone: frames before it cannot be read any more, which a run anew would say."""

    class StopError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("5/"):
            raise StopError

    out = tmp_path / "out"
    propagate("rgb", clip, first, tmp_path / "whole", size=H, film=False)
    import vader.runtime.progress as progress

    every, progress.EVERY = progress.EVERY, 0
    try:
        with pytest.raises(StopError):
            propagate("rgb", clip, first, out, size=H, film=False, keep_every=0, say=stop)
    finally:
        progress.EVERY = every
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000004"]
    for number in (9, 10, 11):
        (clip / f"shot{number}.png").write_bytes(b"x" * (clip / f"shot{number}.png").stat().st_size)
    propagate("rgb", clip, first, out, size=H, film=False)
    assert same(out, masks_of(tmp_path / "whole"))


def test_a_whole_one_is_left_alone_and_another_refused(clip: Path, first: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = propagate("rgb", clip, first, out, size=H)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    told: list[str] = []
    assert propagate("rgb", clip, first, out, size=H, say=told.append) == done
    assert told == [f"{out} is already complete; nothing to do"]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(BadInput, match="masks of another model; choose"):
        propagate("sift", clip, first, out, size=H)
    with pytest.raises(BadInput, match="masks of another protocol, settings"):
        propagate("rgb", clip, first, out, size=H, protocol="davis/crw")
    (tmp_path / "second.png").write_bytes(mask_png(shot(1)[1]))
    with pytest.raises(BadInput, match="masks of another masks"):
        propagate("rgb", clip, tmp_path / "second.png", out, size=H)
    (clip / "shot16.png").unlink()
    with pytest.raises(BadInput, match="masks of another video"):
        propagate("rgb", clip, first, out, size=H)
    with pytest.raises(BadInput, match="expected a new or empty folder"):
        propagate("rgb", clip, first, out / "masks", size=H)


@pytest.mark.whole
def test_ctrl_c_keeps_what_is_done(clip: Path, first: Path, tmp_path: Path) -> None:
    for number in range(T, 400):
        shutil.copy(clip / f"shot{number % T + 8}.png", clip / f"shot{number + 8}.png")
    out = tmp_path / "out"
    process = start("propagate", "rgb", clip, "--masks", first, "--out", out, "--size", H)
    deadline = time.monotonic() + 600
    while len(list(out.glob("masks/*.png"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 130, errors
    assert "continue with the same command" in errors.splitlines()[-1]
    assert len(list(out.glob("checkpoints/step-*"))) == 1


def test_a_real_clip(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"there is no {SHARED}; VADER_DATA names the folder of the shared sets")
    place = tmp_path / "dog"
    place.mkdir()
    for number in range(3):
        shutil.copy(SHARED / "JPEGImages/480p/dog" / f"{number:05d}.jpg", place)
    done = propagate("rgb", place, SHARED / "Annotations/480p/dog/00000.png", tmp_path / "out", size=96, film=False)
    assert (done["size"], done["seen"], done["objects"]) == ([854, 480], [172, 96], [1])
    with Image.open(SHARED / "Annotations/480p/dog/00002.png") as image:
        truth = np.asarray(image) == 1
    found = masks_of(tmp_path / "out")["00002"] == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.5


@pytest.mark.whole
def test_without_pyav_a_folder_gets_a_gif(clip: Path, first: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['av'] = None\n{KILLED}"
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, "rgb", str(clip), str(first), str(out)],
                          capture_output=True, text=True, env=environment(), check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(out / "overlay.gif") as image:
        assert (image.size, image.n_frames, image.info["duration"]) == ((W, H), T, 100)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - tint(*shot(0))).mean() < 8
    assert not (out / "overlay.mp4").exists()
