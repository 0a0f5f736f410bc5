"""What a number needs beside it: commit, machine, time, memory."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vader.reports.provenance import command, describe, find_commit, peak_memory
from vader.reports.report import Report


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src"
    package.mkdir()
    (package / "__init__.py").touch()
    assert find_commit(package) == (None, None), "no checkout"
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "another's", "--allow-empty")
    assert find_commit(package) == (None, None), "installed inside a checkout, but no part of it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "m")
    assert find_commit(package) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (package / "__init__.py").write_text("x = 1\n")
    assert find_commit(package) == (git(tmp_path, "rev-parse", "HEAD"), True)


def test_describe_says_what_a_number_needs() -> None:
    facts = describe(protocol={"top_k": 5}, data={"val": "ab12"}, seeds=range(3), started=time.monotonic() - 60)
    assert list(facts)[:4] == ["protocol", "data", "seeds", "commit"]
    assert facts["seeds"] == [0, 1, 2]
    assert facts["data"] == {"val": "ab12"}
    assert 60 <= facts["time, s"] < 120
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert Report(title="t", facts=facts).facts.keys() == facts.keys()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the oracle is Linux's")
def test_peak_memory_is_the_most_ever_held() -> None:
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20

    before = peak_memory()["peak memory, MiB"]
    assert before >= held()
    block = np.ones((before - held() + 200) * 2**20, np.uint8)  # 200 MiB above all before
    assert abs(peak_memory()["peak memory, MiB"] - before - 200) < 20
    del block
    assert abs(peak_memory()["peak memory, MiB"] - before - 200) < 20, "what is given back was held"


def test_the_command_can_be_typed_again() -> None:
    assert command(["/somewhere/bin/vader", "evaluate", "a b", "$x"]) == "vader evaluate 'a b' '$x'"
    assert command([]) == ""
