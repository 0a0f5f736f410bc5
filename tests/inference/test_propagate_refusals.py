"""Clips and masks that `vader propagate` cannot use, and frames that it has to do without."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shots import SIZED, H, T, W, by_hand, masks_of, same, shot, write_clip, write_first

from vader.datasets.davis import mask_png
from vader.errors import BadInput
from vader.images.encode import png
from vader.images.video import open_clip, write_mp4
from vader.inference.propagate import propagate_clip as propagate


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip")


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_first(tmp_path / "first.png")


# --- Frames that cannot be read -------------------------------------------------------------------------------------


def test_broken_frames_get_no_mask_and_are_named(
    clip: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (11, 15, 16):
        (clip / f"shot{number}.png").write_bytes((clip / f"shot{number}.png").read_bytes()[:150])
    lines = run(f"propagate rgb {clip} --masks {first} --out {tmp_path / 'out'} --size {H}", capsys).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'out'}: 6 masks of 9 frames, 2 objects, ")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "skipped frame shot11",
        "skipped frame shot15",
        "skipped frame shot16",
    ]
    expected = by_hand([shot(number)[0] for number in (0, 1, 2, 4, 5, 6)], {0: shot(0)[1]}, **SIZED)
    names = [f"shot{number + 8}" for number in (0, 1, 2, 4, 5, 6)]
    assert same(tmp_path / "out", dict(zip(names, expected, strict=True)))
    assert len(list(open_clip(tmp_path / "out" / "overlay.mp4").frames())) == 6


def test_a_film_that_was_cut_off_is_propagated_as_far_as_it_goes(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mp4(tmp_path / "clip.mp4", (shot(number)[0] for number in range(T)), 25)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data[:-40])
    out = tmp_path / "out"
    told = json.loads(
        run(f"propagate rgb {tmp_path / 'clip.mp4'} --masks {first} --out {out} --size {H} --json --no-video", capsys)
    )
    skipped = {number for one in told["skipped"] for number in range(one["first"], one["first"] + one["count"])}
    assert (told["out"], told["frames"], told["masks_written"]) == (str(out), T, T - len(skipped))
    assert 1 <= len(skipped) < 5
    assert sorted(masks_of(out)) == [f"{number:05d}" for number in range(T) if number not in skipped]


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints; progress goes elsewhere."""
    from vader.cli import app

    app(words.split(), exit_on_error=False, result_action="return_value")
    printed = capsys.readouterr()
    assert "frames/s" in printed.err
    return printed.out


def test_a_mask_of_a_broken_frame(clip: Path, first: Path, tmp_path: Path) -> None:
    (clip / "shot8.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="frame shot8: expected a readable frame"):
        propagate("rgb", clip, first, tmp_path / "out", size=H)
    assert not (tmp_path / "out").exists()
    given = tmp_path / "given"
    given.mkdir()
    for number in (1, 4):
        (given / f"shot{number + 8}.png").write_bytes(mask_png(shot(number)[1]))
    (clip / "shot12.png").write_bytes(b"nothing")
    done = propagate("rgb", clip, given, tmp_path / "other", size=H, film=False)
    assert [run["reason"].endswith("its mask was not used") for run in done["skipped"]] == [False, True]


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((H, W), np.uint8), "expected an object in the mask, found none; paint it with 1"),
        (np.ones((H, W + 1), np.uint8), "expected 64 x 40 pixels as the frames, found 65 x 40; resize it"),
        (np.arange(H * W, dtype=np.uint16).reshape(H, W) % 300, "expected at most 254 objects .* found 299 up to 299"),
    ],
)
def test_masks_that_do_not_fit_are_refused(clip: Path, tmp_path: Path, mask: np.ndarray, message: str) -> None:
    (tmp_path / "mask.png").write_bytes(png(mask))
    with pytest.raises(BadInput, match=message):
        propagate("rgb", clip, tmp_path / "mask.png", tmp_path / "out", size=H)
    assert not (tmp_path / "out").exists()


def test_254_objects_are_taken(clip: Path, tmp_path: Path) -> None:
    mask = (np.arange(H * W) % 255).reshape(H, W).astype(np.uint8)
    (tmp_path / "mask.png").write_bytes(png(mask))
    done = propagate("rgb", clip, tmp_path / "mask.png", tmp_path / "out", size=H, film=False)
    assert done["objects"] == list(range(1, 255))
    assert np.array_equal(masks_of(tmp_path / "out")["shot8"], mask)


def test_objects_too_small_for_the_protocol_are_named(clip: Path, tmp_path: Path) -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[4, 4:8] = 3
    (tmp_path / "mask.png").write_bytes(png(mask))
    with pytest.raises(BadInput, match=r"objects of less than 11 px at 64 x 40 px are too small: \[3\]; give a larger"):
        propagate("rgb", clip, tmp_path / "mask.png", tmp_path / "out", size=H, protocol="davis/timecycle-480")
    mask[10:20, 10:20] = 7
    (tmp_path / "mask.png").write_bytes(png(mask))
    told: list[str] = []
    done = propagate("rgb", clip, tmp_path / "mask.png", tmp_path / "out", size=H, protocol="davis/timecycle-480",
                     film=False, say=told.append)  # fmt: skip
    assert told[0].startswith("warning: objects of less than 11 px")
    assert done["objects"] == [7]


def test_folders_and_words_that_do_not_fit_are_refused(clip: Path, first: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = tmp_path / "given"
    given.mkdir()

    def refused(message: str, masks: Path = first, place: Path = out, **words: Any) -> None:
        with pytest.raises(BadInput, match=message):
            propagate("rgb", clip, masks, place, **({"size": H} | words))
        assert not out.exists()

    refused("--size: expected at least 32 px, found 8", size=8)
    refused("--protocol: expected one of davis/", protocol="davis/nothing")
    refused("--masks: expected a PNG .*nothing.png", masks=tmp_path / "nothing.png")
    refused("expected PNGs in .*given, found none", masks=given)
    (given / "shot99.png").write_bytes(first.read_bytes())
    refused(r"such as shot8\.png, found .*shot99\.png, .* 9 frames", masks=given)
    (given / "shot99.png").unlink()
    for name in ("shot9", "9"):
        (given / f"{name}.png").write_bytes(first.read_bytes())
    refused("expected one mask per frame, found .* and .*shot9.png", masks=given)
    refused("--masks: .*found .* among the frames", masks=clip / "shot8.png")
    refused("--out: .*found .*; choose another place", place=clip / "out")
    (clip / "shot10.png").write_bytes(png(shot(2, H + 4)[0]))
    refused(r"shot10\.png: expected 64 x 40 pixels as shot8\.png, found 64 x 44")
