"""Each example runs as a user starts it, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samples import environment

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment(), check=False)


@pytest.mark.slow
def test_the_demo_ends_in_a_table_and_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = run(EXAMPLES / "demo.py", folder, "--small", "--images", 40, "--minutes", 0.02)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    table = report["tables"][0]
    names = [row["name"] for row in table["rows"]]
    assert names[0] == "no features"
    assert {"raw colour", "random, hypercolumn", "MoCo, hypercolumn", "VADeR"} <= set(names)
    assert all(cell["mean"] is not None for row in table["rows"] for cell in row["cells"])
    assert len((folder / "report.html").read_text()) > 100_000, "its pictures are inside"
    assert "VADeR" in done.stdout
    assert report["facts"]["data"]["exams"]


@pytest.mark.slow
def test_the_ablation_of_views_ends_in_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    words = ("--small", "--images", 30, "--steps", 2, "--seeds", 2)
    done = run(EXAMPLES / "view_ablation.py", folder, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    rows = {row["name"]: row for row in report["tables"][0]["rows"]}
    assert set(rows) == {"no features", "not trained", "different", "same", "unmatched"}
    assert len(report["facts"]["scores"]["same"]) == 2
    assert len(report["verdicts"]) == 4


@pytest.mark.parametrize("name", ["demo.py", "photos.py", "view_ablation.py"])
def test_a_folder_of_somebody_elses_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run(EXAMPLES / name, tmp_path)
    assert done.returncode == 1
    assert "holds other things" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
