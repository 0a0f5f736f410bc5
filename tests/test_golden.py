"""What the command line computes is what a recorded commit computed, and files of that commit still open.

`golden/record.py` says how the values are found; `golden/old.tar.xz` has a run, an index and a report of that time.
"""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import held
from golden import record
from samples import forked, here

import vader
from vader.runtime.states import states

GOLDEN = json.loads(record.GOLDEN.read_text())
DIGEST = re.compile("[0-9a-f]{16}")
# "images" is the layout of that name alone: the others are needed by the exams only.
NEEDS: dict[str, tuple[str, ...]] = {
    "images": (), "scenes": ("images",), "vader": ("images",), "moco": ("images",), "exams": ("scenes", "vader"),
    "report": ("exams",), "maps": ("vader",), "index": ("vader",), "propagated": ("scenes", "vader"),
}  # fmt: skip
CORE = ("images", "vader", "moco", "index")
Golden = Callable[[str], Any]


def run(folder: Path) -> record.Run:
    """`vader WORDS...` at one thread in a folder, as `record.command`, without importing torch anew."""

    def command(*words: object) -> str:
        if words[0] == "evaluate":  # pictures are most of the time, and are not compared
            words = (*words, "--no-pictures")
        done = forked(*words, where=folder, timeout=300)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    return command


@pytest.fixture(scope="session")
def golden(for_all: Path) -> Golden:
    """`golden(part)`: a part as the present code computes it, and what it needs; once a session for all workers."""
    folder, found = for_all / "golden", for_all / "golden-found"
    for place in (folder, found):
        place.mkdir(exist_ok=True)

    def compute(part: str) -> Any:
        path = found / f"{part}.json"
        if not path.exists():
            for one in NEEDS[part]:
                compute(one)
            if part in ("images", "scenes"):
                layouts = [one for one in record.LAYOUTS if (one == "images") == (part == "images")]
                values = record.scenes(run(folder), folder, layouts)
            else:
                values = record.PARTS[part](run(folder), folder)
            path.write_text(json.dumps(values))
        return json.loads(path.read_text())

    def of(part: str) -> Any:
        with held(for_all / "golden.lock"):
            if not (folder / "start.safetensors").exists():
                record.start_weights(folder / "start.safetensors")
            return compute(part)

    return of


def expected(part: str) -> Any:
    """The recorded part."""
    if part not in ("images", "scenes"):
        return GOLDEN[part]
    return {name: value for name, value in GOLDEN["scenes"].items() if (name == "images") == (part == "images")}


# --- Comparing ----------------------------------------------------------------------------------------------------


def differing(found: Any, truth: Any, exact: bool, path: str = "") -> Iterator[str]:
    """Where two values differ: at all, or, on another machine, beyond what rounding does.

    There digests say nothing, and numbers agree to 2e-3 of their size; of a tensor of weights the mean and the
    deviation do to 1e-2 of the deviation.
    """
    if isinstance(truth, dict) and isinstance(found, dict):
        if found.keys() != truth.keys():
            yield f"{path}: {sorted(found.keys() ^ truth.keys())} are not in both"
        for key in found.keys() & truth.keys():
            yield from differing(found[key], truth[key], exact, f"{path}/{key}")
    elif isinstance(truth, list) and isinstance(found, list):
        if len(found) != len(truth):
            yield f"{path}: {len(found)} values, not {len(truth)}"
            return
        spread = truth[1] if "/moments/" in path else None
        for i, (one, two) in enumerate(zip(found, truth, strict=True)):
            if spread is None or exact:
                yield from differing(one, two, exact, f"{path}/{i}")
            elif one != pytest.approx(two, abs=max(1e-2 * spread, 1e-6)):
                yield f"{path}/{i}: {one}, not {two}"
    elif found != truth and (exact or not _near(found, truth)):
        yield f"{path}: {found}, not {truth}"


def _near(found: Any, truth: Any) -> bool:
    if isinstance(truth, str):
        return bool(DIGEST.fullmatch(truth) and DIGEST.fullmatch(str(found)))
    return isinstance(found, float | int) and isinstance(truth, float | int) and found == pytest.approx(truth, rel=2e-3)


def test_differences_are_found() -> None:
    truth = {"a": [1.0, 2.0], "moments": {"w": [0.001, 0.1]}, "sha": "0123456789abcdef"}
    assert not [*differing(truth, truth, exact=True)]
    rounded = {"a": [1.001, 2.0], "moments": {"w": [0.0015, 0.1005]}, "sha": "fedcba9876543210"}
    assert len([*differing(rounded, truth, exact=True)]) == 4
    assert not [*differing(rounded, truth, exact=False)]
    for name, other in (("a", [1.01, 2.0]), ("a", [1.0]), ("moments", {"w": [0.003, 0.1]}), ("sha", "0123"), ("b", 1)):
        assert len([*differing(truth | {name: other}, truth, exact=False)]) == 1


# --- What is computed ---------------------------------------------------------------------------------------------


def test_every_part_is_compared() -> None:
    assert NEEDS.keys() - {"images"} == record.PARTS.keys() == GOLDEN.keys() - {"machine"}


@pytest.mark.parametrize("part", [one if one in CORE else pytest.param(one, marks=pytest.mark.whole) for one in NEEDS])
def test_values_are_the_recorded_ones(part: str, golden: Golden) -> None:
    """To the last bit on a machine as that of the record."""
    exact = record.machine() == GOLDEN["machine"]
    found = [*differing(golden(part), expected(part), exact)]
    assert not found, "\n".join(found[:20])


# --- Files of the recorded commit ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, as if they had been written where they lie now."""
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(record.OLD) as tar:
        tar.extractall(place, filter="data")
    for path in place.rglob("*.json"):
        path.write_text(path.read_text().replace("OLD", str(place)))
    return place


def test_an_old_model_embeds(old: Path) -> None:
    pixels = cv2.imread(str(old / "few" / "000003.jpg"))[..., ::-1].copy()
    with torch.inference_mode():
        maps = vader.load(old / "run").embed(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    assert maps.shape == (1, 8, 24, 32)
    assert torch.isfinite(maps).all()
    assert np.allclose(maps.norm(dim=1), 1, atol=1e-5)


def test_an_old_run_is_resumed_and_extended(old: Path, tmp_path: Path) -> None:
    shutil.copytree(old / "run", tmp_path / "run")
    done = forked("pretrain", "--resume", tmp_path / "run", "--extend", 2, "--quiet")
    assert done.returncode == 0, done.stderr
    assert states(tmp_path / "run")[-1].name == "step-00000006"
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line][-2:] == [5, 6]


def test_an_old_index_answers(old: Path) -> None:
    words = ("--at", "40,50", "--top", 3, "--device", "cpu", "--json")
    done = here("retrieve", old / "index", old / "few" / "000003.jpg", *words)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["hits"]) == 3


def test_an_old_report_is_compared(old: Path) -> None:
    done = here("compare", old / "report")
    assert done.returncode == 0, done.stderr
    assert "| run |" in done.stdout
    assert "| rgb |" in done.stdout
