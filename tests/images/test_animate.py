"""Moving pictures: the frames come back, at their times."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vader.errors import BadInput
from vader.images.animate import animate
from vader.reports.report import Figure


def clip(count: int = 5) -> list[np.ndarray]:
    frames = []
    for t in range(count):
        frame = np.zeros((24, 40, 3), np.uint8)
        frame[4:16, 4 * t : 4 * t + 10] = (200, 60, 20)
        frames.append(frame)
    return frames


def frames_of(data: bytes) -> tuple[np.ndarray, list[int], int]:
    with Image.open(BytesIO(data)) as image:
        frames, times = [], []
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(int(image.info["duration"]))
        return np.stack(frames), times, image.info["loop"]


@pytest.mark.parametrize(("kind", "quality"), [("webp", None), ("gif", 80)])
def test_animations_without_loss_give_the_frames_back(kind: str, quality: int | None) -> None:
    frames, times, loop = frames_of(animate(clip(), fps=10, kind=kind, quality=quality))
    assert np.array_equal(frames, np.stack(clip()))
    assert (times, loop) == ([100] * 5, 0)


def test_animated_photographs_stay_close(photo: np.ndarray) -> None:
    moving = [photo[:, k : k + 180] for k in range(0, 24, 6)]
    data = animate(moving, fps=8)
    frames, times, _ = frames_of(data)
    assert times == [125] * 4
    assert np.abs(frames.astype(int) - np.stack(moving)).mean() < 6
    assert len(data) < len(animate(moving, fps=8, kind="gif")) / 2
    assert Figure(image=data).media == "image/webp"


def test_animations_of_nothing_or_of_mixed_sizes_are_refused() -> None:
    for frames, fps, words in (
        ([], 8, "at least one"),
        ([clip()[0], clip()[0][1:]], 8, "one size"),
        (clip(), 0, "rate"),
    ):
        with pytest.raises(BadInput, match=words):
            animate(frames, fps=fps)
