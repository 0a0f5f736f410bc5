"""Clips read frame by frame: their order, their sizes, damaged and cut files, phones' rotation; and MP4s written."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from samples import environment

from vader.errors import BadInput
from vader.images.encode import png
from vader.images.video import Broken, FolderClip, VideoFile, open_clip, write_mp4

H, W = 48, 64
IDENTITY = b"".join(n.to_bytes(4, "big") for n in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
QUARTER = b"".join(n.to_bytes(4, "big") for n in (0, 0x10000, 0, 0xFFFF0000, 0, 0, H << 16, 0, 0x40000000))


def frame(number: int, height: int = H, width: int = W) -> np.ndarray:
    """A picture that tells its number: a bright square that moves over a ramp."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 2, y * 3, np.full_like(x, 60)], 2).astype(np.uint8)
    left = 2 * number % (width - 16)
    picture[8:24, left : left + 16] = 230
    return picture


def shift(picture: np.ndarray) -> float:
    """Where the square begins."""
    return float(np.flatnonzero((picture[8:24, :, 2] > 145).mean(0) > 0.5)[0])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames, 64 x 48, 12 a second."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    assert write_mp4(path, (frame(i) for i in range(24)), 12) == 24
    return path


def read(path: Path) -> list[np.ndarray | Broken]:
    found = list(open_clip(path).frames())
    assert [number for number, _ in found] == list(range(len(found)))
    return [picture for _, picture in found]


def packets(path: Path) -> list[av.Packet]:
    """A file's packets, in the order that they are stored and decoded in."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


# --- Video files ----------------------------------------------------------------------------------------------------


def test_what_was_written_is_read_in_its_order(film: Path) -> None:
    clip = open_clip(film)
    assert isinstance(clip, VideoFile)
    assert (clip.total, clip.rate, clip.size, clip.name(7)) == (24, 12.0, (H, W), "00007")
    found = read(film)
    for number, picture in enumerate(found):
        assert isinstance(picture, np.ndarray)
        assert np.abs(picture.astype(int) - frame(number)).mean() < 4, "H.264 at good quality"
        assert abs(shift(picture) - 2 * number) <= 1
    some = dict(clip.frames({3, 20}))
    assert list(some) == [3, 20]
    assert all(np.array_equal(some[number], found[number]) for number in some)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    times = [packet.pts for packet in packets(film)]
    assert times != sorted(times), "frames are stored in another order than they are shown in"


def test_odd_sides_become_even_by_repeating_the_edge(tmp_path: Path) -> None:
    write_mp4(tmp_path / "odd.mp4", (frame(i, 45, 63) for i in range(3)), 30000 / 1001)
    clip = open_clip(tmp_path / "odd.mp4")
    assert clip.size == (46, 64)
    assert clip.rate == pytest.approx(29.97, abs=1e-3)
    picture = read(tmp_path / "odd.mp4")[0]
    assert isinstance(picture, np.ndarray)
    assert np.abs(picture[:45, :63].astype(int) - frame(0, 45, 63)).mean() < 4


def test_a_film_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="because"):
        write_mp4(tmp_path / "a.mp4", stop_after(3), 10)
    assert not list(tmp_path.iterdir())


def stop_after(count: int) -> Iterator[np.ndarray]:
    yield from (frame(i) for i in range(count))
    raise BadInput("because")


def test_a_file_that_was_cut_off_names_every_frame_that_lacks(film: Path, tmp_path: Path) -> None:
    whole = read(film)
    middle = packets(film)[14]
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[: middle.pos + middle.size // 2])
    found = read(tmp_path / "cut.mp4")
    assert len(found) == 24, "as many as were announced"
    assert [one.reason for one in found if isinstance(one, Broken)] == ["its data are damaged"] + 9 * [
        "the file ends before it"
    ]
    assert all(isinstance(one, Broken) for one in found[-9:])
    for number in range(10):  # later ones may have lost what they were predicted from
        assert np.array_equal(found[number], whole[number])


def test_a_file_without_its_table_is_refused(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov") - 4] + data[data.index(b"mdat") - 4 :])
    with pytest.raises(BadInput, match=r"cut\.mp4: expected a video file.*"):
        open_clip(tmp_path / "cut.mp4")
    with pytest.raises(BadInput, match="does not exist"):
        open_clip(tmp_path / "nothing.mp4")


def test_damage_in_the_middle_costs_the_frames_it_hits(film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    all_of_them = packets(film)
    chosen = all_of_them[16]
    hit = sorted(packet.pts for packet in all_of_them).index(chosen.pts)
    data[chosen.pos : chosen.pos + chosen.size] = bytes(chosen.size)
    (tmp_path / "hurt.mp4").write_bytes(data)
    found = read(tmp_path / "hurt.mp4")
    assert len(found) == 24
    assert isinstance(found[hit], Broken)
    good = [number for number, one in enumerate(found) if not isinstance(one, Broken)]
    assert len(good) >= 20
    for number in good:  # the numbers of all others stay what they were
        picture = found[number]
        assert isinstance(picture, np.ndarray)
        assert abs(shift(picture) - 2 * number) <= 4


def test_a_phone_held_upright_gives_upright_frames(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes()
    at = data.index(IDENTITY, data.index(b"tkhd"))
    (tmp_path / "phone.mp4").write_bytes(data[:at] + QUARTER + data[at + len(IDENTITY) :])
    assert open_clip(tmp_path / "phone.mp4").size == (W, H)
    for one, turned in zip(read(film), read(tmp_path / "phone.mp4"), strict=True):
        # The matrix sends (x, y) to (H - y, x): a quarter turn clockwise.
        assert isinstance(one, np.ndarray)
        expected = np.zeros((W, H, 3), np.uint8)
        for y in range(H):
            expected[:, H - 1 - y] = one[y]
        assert np.array_equal(turned, expected)


def test_films_are_known_by_their_content(film: Path, tmp_path: Path) -> None:
    (tmp_path / "same.mp4").write_bytes(film.read_bytes())
    (tmp_path / "other.mp4").write_bytes(film.read_bytes()[:-1] + b"x")
    marks = [open_clip(path).fingerprint() for path in (film, tmp_path / "same.mp4", tmp_path / "other.mp4")]
    assert marks[0] == marks[1] != marks[2]


# --- Folders --------------------------------------------------------------------------------------------------------


def folder(place: Path, names: list[str], **size: int) -> Path:
    place.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        (place / name).write_bytes(png(frame(number, **size)))
    return place


def test_a_folders_frames_come_in_natural_order(tmp_path: Path) -> None:
    names = ["f10.png", "f2.png", "f1.png", "f02b.png", "g.png"]
    clip = open_clip(folder(tmp_path / "clip", names))
    assert isinstance(clip, FolderClip)
    assert [clip.name(number) for number in range(clip.total)] == ["f1", "f2", "f02b", "f10", "g"]
    for number, picture in clip.frames({0, 3}):
        assert isinstance(picture, np.ndarray)
        assert np.array_equal(picture, frame(names.index(f"{clip.name(number)}.png")))


def test_masks_find_their_frames(tmp_path: Path, film: Path) -> None:
    shots = open_clip(folder(tmp_path / "a", [f"shot{i}.png" for i in (3, 4, 5)]))
    assert [shots.find(stem) for stem in ("shot4", "4", "00005", "0", "shot")] == [1, 1, 2, None, None]
    words = open_clip(folder(tmp_path / "b", ["one.png", "two.png"]))
    assert [words.find(stem) for stem in ("two", "0", "1", "2")] == [1, 0, 1, None]
    exact = open_clip(folder(tmp_path / "c", ["2.png", "02x3.png", "1.png"]))
    assert exact.find("2") == 1, "a name that is equal comes first"
    video = open_clip(film)
    assert [video.find(stem) for stem in ("00003", "3", "23", "24", "film3")] == [3, 3, 23, None, None]


def test_an_unreadable_frame_is_told_in_its_place(tmp_path: Path) -> None:
    place = folder(tmp_path / "clip", ["0.png", "1.png", "2.png"])
    (place / "1.png").write_bytes((place / "1.png").read_bytes()[:100])
    (place / "0.png").write_bytes(b"nothing")
    clip = open_clip(place)
    assert clip.size == (H, W)
    found = read(place)
    assert [isinstance(one, Broken) for one in found] == [True, True, False]
    assert isinstance(found[1], Broken)
    assert "1.png" in found[1].reason
    for name in ("1.png", "2.png"):
        (place / name).write_bytes(b"nothing")
    with pytest.raises(BadInput, match="found none among 3"):
        _ = open_clip(place).size


def test_folders_that_are_no_clip_are_refused(tmp_path: Path) -> None:
    place = folder(tmp_path / "clip", ["0.png", "1.png"])
    cv2.imwrite(str(place / "1.jpg"), frame(1))
    with pytest.raises(BadInput, match="several named 1"):
        open_clip(place)
    (place / "1.jpg").unlink()
    folder(place / "inner", ["0.png"])
    with pytest.raises(BadInput, match=r"folders below it, such as inner/0\.png"):
        open_clip(place)
    other = folder(tmp_path / "sizes", ["0.png", "1.png"])
    (other / "1.png").write_bytes(png(frame(1, 50, 64)))
    with pytest.raises(BadInput, match=r"1\.png: expected 64 x 48 pixels as 0\.png, found 64 x 50; give frames"):
        _ = open_clip(other).size


def test_frames_that_change_their_size_within_a_file_are_refused(tmp_path: Path) -> None:
    """Two MPEG streams of other sizes, one behind the other: what a cut without care makes."""
    parts = []
    for name, (height, width) in {"a": (48, 64), "b": (64, 96)}.items():
        with av.open(str(tmp_path / name), "w", format="mpeg2video") as container:
            stream = container.add_stream("mpeg2video", rate=25, pix_fmt="yuv420p")
            stream.height, stream.width = height, width
            for number in range(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(number, height, width), format="rgb24")))
            container.mux(stream.encode(None))
        parts.append((tmp_path / name).read_bytes())
    (tmp_path / "both.m2v").write_bytes(b"".join(parts))
    with pytest.raises(BadInput, match=r"both\.m2v, frame \d: expected 64 x 48 pixels as frame 0, found 96 x 64"):
        list(open_clip(tmp_path / "both.m2v").frames())


def test_without_pyav_files_are_refused_and_folders_work(tmp_path: Path, film: Path) -> None:
    folder(tmp_path / "clip", ["0.png", "1.png"])
    code = """
import sys
sys.modules["av"] = None  # what an import finds that was never installed
from pathlib import Path
from vader.errors import MissingExtra
from vader.images.video import can_read_videos, open_clip
assert not can_read_videos()
print(len(list(open_clip(Path(sys.argv[1])).frames())))
try:
    open_clip(Path(sys.argv[2]))
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "clip"), str(film)],
                          capture_output=True, text=True, env=environment(), check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, refusal = done.stdout.splitlines()
    assert count == "2"
    assert refusal.startswith("reading and writing video files needs PyAV; install it with: pip install 'vader-dense[v")
