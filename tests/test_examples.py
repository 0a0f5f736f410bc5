"""Each example runs as a user starts it, small."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from samples import environment

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment(), check=False)


@pytest.mark.whole
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
    by_angle = report["tables"][1:5]
    assert [one["title"] for one in by_angle] == [
        f"Matches within {t} px by angle between the cameras" for t in (1, 2, 4, 8)
    ]
    shares = report["facts"]["scores"]["VADeR"][0]
    for i, table in enumerate(by_angle):
        row = next(row for row in table["rows"] if row["name"] == "VADeR")
        assert [cell["mean"] for cell in row["cells"]] == [one[i] for one in shares["match_within_by_angle"]]
    assert [one[2] for one in shares["match_within_by_angle"]] == shares["match_by_angle"]


@pytest.mark.whole
def test_the_ablation_of_views_ends_in_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "views"
    words = ("--small", "--images", 30, "--steps", 2, "--seeds", 1)
    done = run(EXAMPLES / "view_ablation.py", folder, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    rows = {row["name"]: row for row in report["tables"][0]["rows"]}
    assert set(rows) == {"no features", "not trained", "different", "same", "unmatched"}
    assert len(report["facts"]["scores"]["same"]) == 1
    assert len(report["verdicts"]) == 4
    assert "--set within_image=none" in report["facts"]["protocol"]["training"], "what was run"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["demo", "photos", "view_ablation"])
def test_a_folder_of_somebody_elses_is_left_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    main = example(name, monkeypatch).main
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^demo: expected a new or empty folder, .* holds other things"):
        main()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["demo", "view_ablation"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["FILE"], "demo: FOLDER: cannot write to .*FILE .Not a directory.; choose another place"),
        (["FILE/below"], "demo: FOLDER: cannot write to .*below .Not a directory.; choose another place"),
        (["new", "--seeds", "0"], "demo: --seeds: expected a number above 0, found 0"),
        (["new", "--images", "-3"], "demo: --images: expected a number above 0, found -3"),
    ],
)
def test_bad_input_is_one_line(
    name: str, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "FILE").write_text("years of work")
    main = example(name, monkeypatch).main
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / words[0]), *words[1:]])
    with pytest.raises(SystemExit, match=f"^{told}$"):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none(minutes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = example("demo", monkeypatch).main
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path / "new"), f"--minutes={minutes}"])
    with pytest.raises(SystemExit, match=f"^demo: --minutes: expected a number above 0, found {minutes}$"):
        main()
    assert not list(tmp_path.iterdir())


@pytest.mark.whole
def test_a_command_that_fails_ends_the_demo_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    vader = example("demo", monkeypatch).vader
    with pytest.raises(SystemExit, match=r"^demo: `vader scenes` failed \(exit code 1\); see above$"):
        vader("scenes", tmp_path / "out", "--layout", "images", "--count", 0)
    assert "vader: --count: expected at least 1" in capfd.readouterr().err


@pytest.mark.whole
def test_commands_run_at_once_on_their_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each line begins with its command's name; where one fails the demo ends and the others are stopped."""
    told = example("demo", monkeypatch).vader_at_once
    told({"one": ("--version",), "two": ("--version",)})
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line[:7] for line in lines if "|" in line) == ["one   |", "two   |"]
    started = time.monotonic()
    scenes = ("scenes", tmp_path / "out", "--layout", "images", "--count", 100_000, "--size", "64x64")
    bad = ("scenes", tmp_path / "other", "--layout", "images", "--count", 0)
    with pytest.raises(SystemExit, match=r"^demo: `vader scenes` of bad failed \(exit code 1\); see above$"):
        told({"good": scenes, "bad": bad})
    assert time.monotonic() - started < 200, "not the hour that the other would take"
    assert "bad   | vader: --count: expected at least 1" in capfd.readouterr().out


@pytest.mark.whole
def test_the_notebook_runs_from_images_to_a_probe(tmp_path: Path) -> None:
    """Its cells as one script, in an empty folder, with its own small sizes."""
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code), "outputs are not committed"
    body = "\n".join("".join(cell["source"]) for cell in code).replace("\n", "\n    ")
    # Scenes are rendered by processes that import the script.
    (tmp_path / "notebook.py").write_text(f'if __name__ == "__main__":\n    {body}\n')
    words = [sys.executable, "notebook.py"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=400, cwd=tmp_path, env=environment(VADER_SMALL="1"), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mIoU" in done.stdout
    (folder,) = tmp_path.glob("vader-notebook-*")
    assert (folder / "look" / "pca.png").is_file()
    assert (folder / "look" / "matches.png").is_file()
    assert (folder / "report" / "report.html").is_file()
