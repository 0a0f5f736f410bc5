"""Ctrl-C at any moment is exit code 130, also where the KeyboardInterrupt is lost on its way up."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from samples import environment, pretrain_words, start

from vader.runtime.states import states


@pytest.mark.whole
def test_an_interrupt_before_the_first_step_is_exit_code_130(photos: Path, tmp_path: Path) -> None:
    process = start(*pretrain_words(photos, tmp_path / "out", 50))
    assert process.stderr is not None
    process.stderr.readline()  # "recipe quick: ..."
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told


def interrupted_while_importing(module: str, words: list[object]) -> subprocess.CompletedProcess[str]:
    """`vader WORDS...` with one SIGINT, when the module is first looked for."""
    code = f"""
        import signal
        import sys

        class Now:
            def find_spec(self, name, path, target=None):
                if name == {module!r}:
                    sys.meta_path.remove(self)
                    print("now", flush=True)
                    signal.raise_signal(signal.SIGINT)

        sys.argv = {["vader", *map(str, words)]!r}
        from vader.cli import main
        sys.meta_path.insert(0, Now())
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment(), check=False,
        timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("now\n"), "there was an interrupt"
    return done


@pytest.mark.whole
def test_an_interrupt_that_torch_swallows_stops_the_run(photos: Path, tmp_path: Path) -> None:
    """Its C code imports numpy and forgets whatever goes wrong; at the second attempt all is well."""
    done = interrupted_while_importing("numpy", pretrain_words(photos, tmp_path / "out", 50))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in states(tmp_path / "out")] == ["step-00000001"], "it can be resumed"
    assert f"stopped after step 1; continue with: vader pretrain --resume {tmp_path / 'out'}" in done.stderr


@pytest.mark.whole
def test_a_library_that_an_interrupt_left_half_imported_is_no_error_of_ours(photos: Path, tmp_path: Path) -> None:
    """At the second attempt numpy may say that it cannot be loaded twice."""
    done = interrupted_while_importing("numpy._core.overrides", pretrain_words(photos, tmp_path / "out", 50))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.whole
def test_what_ends_before_it_could_ask_tells_of_the_interrupt_by_its_exit_code(photos: Path, tmp_path: Path) -> None:
    done = interrupted_while_importing("numpy", ["embed", tmp_path / "none", photos, "--out", tmp_path / "out"])
    assert "expected a run folder" in done.stderr, "the interrupt was lost"
    assert done.returncode == 130
