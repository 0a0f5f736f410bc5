"""Shapes are checked while tests run: every annotated function of the package is wrapped before it is imported."""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from lightning_fabric import Fabric

# An int is good where a float is asked for (PEP 484's numeric tower), which beartype by itself does not grant.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

# Where numbers come from. What reads and writes files is left as users run it: wrapping it costs a tenth of the time.
CHECKED = [
    "vader.models",
    "vader.pretraining",
    "vader.images.geometry",
    "vader.images.finding",
    "vader.reports.metrics",
    "vader.exams",
]
assert "vader" not in sys.modules, "the import hook must come before the package"
install_import_hook(CHECKED, "conftest.checked")

# A shell starts what runs in its background deaf to Ctrl-C, and what that starts is deaf, too; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # the networks here are too small to share out

# Width x height: landscape and portrait, odd and even, down to the smallest side that is taken.
SIZES = [(96, 96), (97, 131), (160, 120), (64, 63), (33, 200), (150, 101), (128, 96), (75, 75), (200, 96), (90, 140)]


def _pictures() -> list[np.ndarray]:
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *load_sample_images().images]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 small JPEG photographs of different sizes, `00.jpg` to `11.jpg`."""
    folder, pictures = tmp_path_factory.mktemp("photos"), _pictures()
    for i in range(12):
        picture, (width, height) = pictures[i % len(pictures)], SIZES[i % len(SIZES)]
        top, left = (i * 37) % (picture.shape[0] // 4), (i * 53) % (picture.shape[1] // 4)
        part = picture[top : top + 3 * picture.shape[0] // 4, left : left + 3 * picture.shape[1] // 4]
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        assert cv2.imwrite(str(folder / f"{i:02d}.jpg"), small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return folder


@pytest.fixture(scope="session")
def for_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all workers see."""
    mine = tmp_path_factory.getbasetemp()
    place = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "for-all"
    place.mkdir(exist_ok=True)
    return place


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock that one worker at a time has."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


Rendered = Callable[..., Path]


@pytest.fixture(scope="session")
def rendered(for_all: Path) -> Rendered:
    """`rendered(layout, count, ...)`: a rendered data set, written once a session for all workers, and never changed.

    A test that changes its data copies it: `shutil.copytree(..., copy_function=shutil.copyfile)`.
    """

    def of(
        layout: str, count: int, width: int = 64, height: int = 48, seed: int = 0, clip: int | None = None
    ) -> Path:  # fmt: skip
        from vader.scenes.layouts import davis, write

        name = f"{count}-{width}x{height}-{seed}{f'-{clip}' if clip else ''}"
        out = for_all / name / layout
        with held(for_all / f"{name}-{layout}.lock"), pytest.MonkeyPatch.context() as patch:
            if not out.exists():
                if clip:
                    patch.setattr(davis, "CLIP", clip)
                write(out, layout, count=count, width=width, height=height, seed=seed, workers=1)
                for path in out.rglob("*"):
                    if path.is_file():
                        path.chmod(0o444)
        return out

    return of


def copied(data: Path, place: Path) -> Path:
    """A copy of rendered data that may be changed."""
    return shutil.copytree(data, place, copy_function=shutil.copyfile)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A colourful photograph, (150, 203, 3) uint8."""
    from skimage import data

    return cv2.resize(data.astronaut(), (203, 150), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def fabric() -> Fabric:
    """One process on the CPU in float32."""
    from vader.runtime.processes import start_fabric

    return start_fabric("cpu", "fp32", 1)
