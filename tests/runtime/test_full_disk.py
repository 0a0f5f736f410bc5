"""A disk that is full at any moment: one line that says where, and nothing half-written."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import Rendered
from safetensors.torch import load_file
from samples import environment, forked, pretrain, settings

from vader.models.checkpoint import load_model, save_model
from vader.runtime.files import new_folder
from vader.runtime.states import states


def limited(code: str, place: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run code with files limited to so many bytes: writing beyond fails as it does on a full disk."""
    before = f"""
        import resource
        import sys
        from pathlib import Path
        place = Path({str(place)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    """
    full = textwrap.dedent(before) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", full], capture_output=True, text=True, env=environment(PYTHONDONTWRITEBYTECODE="1"),
        check=False,
    )  # fmt: skip


@pytest.mark.whole
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
        import torch
        from vader.models.checkpoint import save_model
        from vader.runtime.states import save_state, states
        from vader.errors import BadInput
        from vader.models.network import NetworkConfig
        save_state(place, 1, {"a": torch.zeros(1000)}, {}, keep=1)
        save_model(place / "model.safetensors", {"a": torch.zeros(1000)}, NetworkConfig(), {})
        try:
            save_state(place, 2, {"a": torch.zeros(1000_000)}, {}, keep=1)
        except BadInput as error:
            print(error)
        try:
            save_model(place / "model.safetensors", {"a": torch.zeros(1000_000)}, NetworkConfig(), {})
        except OSError as error:
            print(error)
    """
    done = limited(code, tmp_path, 100_000)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"cannot write to {tmp_path / 'checkpoints'}: ")
    assert "File too large" in told[0]
    assert f"File too large: '{tmp_path / 'model.safetensors'}'" in told[1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "model.json", "model.safetensors"]
    assert load_file(tmp_path / "model.safetensors")["a"].shape == (1000,)


@pytest.mark.whole
def test_a_run_on_a_full_disk_ends_in_one_line(photos: Path, tmp_path: Path) -> None:
    """The model (about 20 MB) is written, the state (about 60 MB) is not; the line says so and what to do."""
    out = tmp_path / "run"
    code = f"""
        sys.argv = ["vader", "pretrain", {str(photos)!r}, "--out", str(place), "--recipe", "quick", "--steps", "4",
            "--quiet", "--device", "cpu", "--precision", "fp32", *{settings(exam_every=2, save_every=4)!r}]
        from vader.cli import main
        main()
    """
    done = limited(code, out, 40_000_000)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"vader: cannot write to {out / 'checkpoints'}: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert not states(out)
    assert not list(out.rglob(".*"))
    assert load_model(out).config.encoder == "resnet10t"


# --- Reports ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voc(rendered: Rendered) -> Path:
    """Five small pictures in VOC's layout."""
    return rendered("voc", 5)


def evaluation(voc: Path, out: Path, *words: object) -> list[str]:
    """The words of an evaluation without training."""
    shown = ["evaluate", "rgb", "--task", "segmentation", "--protocol", "voc-kmeans/vader", "--data", voc, "--out", out,
             "--trials", 1, "--device", "cpu", "--quiet", *words]  # fmt: skip
    return [str(word) for word in shown]


@pytest.mark.parametrize("where", ["report", "scratch"])
@pytest.mark.whole
def test_an_evaluation_without_room_names_the_place(where: str, voc: Path, tmp_path: Path) -> None:
    """Predictions go to the report; features beyond --memory to a file of no name, in the folder for such."""
    out, scratch = tmp_path / "r", tmp_path / "scratch"
    scratch.mkdir()
    code = f"""
        import os, tempfile
        tempfile.tempdir = {str(scratch)!r}
        sys.argv = ["vader", *{evaluation(voc, out, "--memory", "1GB" if where == "report" else "2KB")!r}]
        from vader.cli import main
        main()
    """
    done = limited(code, tmp_path, 100 if where == "report" else 3000)
    assert done.returncode == 1, done.stderr
    place = out if where == "report" else scratch
    assert done.stderr == f"vader: {place}: File too large; make room or choose another place\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"], "nothing is left"


def test_other_errors_of_an_evaluation_keep_their_place(tmp_path: Path) -> None:
    def fail(error: OSError) -> None:
        with new_folder(tmp_path / "r"):
            raise error

    for number, name, told in [
        (errno.ENOSPC, None, str(tmp_path / "r")),
        (errno.ENOSPC, str(tmp_path / f".r.{os.getpid()}" / "a.png"), str(tmp_path / "r")),
        (errno.ENOSPC, "/elsewhere", "/elsewhere"),
        (errno.EIO, None, None),
        (errno.ENOENT, "mine", "mine"),
    ]:
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            fail(OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number)))
        assert caught.value.filename == told


# --- A file system without room -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser may mount")
@pytest.mark.whole
def test_a_report_on_a_disk_that_is_really_full(voc: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = forked(*evaluation(voc, place / "r"))
        assert done.returncode == 1, done.stderr
        assert done.stderr == f"vader: {place / 'r'}: No space left on device; make room or choose another place\n"
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser may mount")
@pytest.mark.whole
def test_a_disk_that_is_really_full(photos: Path, tmp_path: Path) -> None:
    """A file system of 30 MB: there is room for the model and not for the state."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = pretrain(photos, place / "run", 4, exam_every=4, save_every=4)
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"vader: cannot write to {place / 'run' / 'checkpoints'}: ")
        assert "No space left" in last
        assert "Traceback" not in done.stderr
        assert not states(place / "run")
        # Maps go the same way: the first ones are whole, then there is no room.
        small = tmp_path / "small"
        model = load_model(place / "run")
        small.mkdir()
        save_model(small / "model.safetensors", model.state_dict(), model.config, {})
        used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        (place / "filler").write_bytes(bytes(30 * 2**20 - used - 60_000))
        done = forked("embed", small, photos, "--out", place / "maps", "--device", "cpu", "--quiet")
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(f"vader: {place / 'maps'}")
        assert "No space left" in done.stderr
        assert done.stderr.count("\n") == 1
        assert all(np.load(path).ndim == 3 for path in (place / "maps").rglob("*.npy"))
    finally:
        subprocess.run(["umount", place], check=True)
