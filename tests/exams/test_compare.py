"""Reports of one exam on one set join; any others are refused by the constant that differs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Rendered
from samples import forked

from vader.errors import BadInput
from vader.exams.compare import join_reports as compare
from vader.exams.compare import write_comparison
from vader.exams.evaluate import evaluate_encoders as evaluate
from vader.reports.report import from_json
from vader.reports.tables import to_markdown


@pytest.fixture(scope="module")
def reports(rendered: Rendered, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two encoders apart and together, another protocol, other data."""
    root = tmp_path_factory.mktemp("reports")
    sets = {"voc": rendered("voc", 10), "other": rendered("voc", 10, seed=1)}
    made = {
        "both": (["rgb", "rgb@centred"], "voc/hummingbird", "voc"),
        "first": (["rgb"], "voc/hummingbird", "voc"),
        "second": (["rgb@centred"], "voc/hummingbird", "voc"),
        "namesake": (["rgb=rgb@centred"], "voc/hummingbird", "voc"),
        "upstream": (["rgb"], "voc/hummingbird-upstream", "voc"),
        "elsewhere": (["rgb"], "voc/hummingbird", "other"),
    }
    for name, (encoders, protocol, data) in made.items():
        evaluate(encoders, "neighbours", protocol, sets[data], root / name, trials=2, pictures=False)
    return {name: root / name for name in made}


def test_joined_reports_are_the_report_of_all(reports: dict[str, Path]) -> None:
    found = compare([reports["first"], reports["second"]])
    expected = compare([reports["both"]])
    assert to_markdown(found.tables[0]) == to_markdown(expected.tables[0])
    together = from_json(json.loads((reports["both"] / "report.json").read_text()))
    assert found.tables[0].rows == together.tables[0].rows
    assert found.tables[1] == together.tables[1], "the same pictures are drawn, so differences stay paired"


def test_a_name_that_comes_twice_is_told_apart(reports: dict[str, Path]) -> None:
    found = compare([reports["first"], reports["namesake"]])
    assert [row.name for row in found.tables[0].rows] == ["rgb", "rgb (namesake)"]
    assert found.tables[1].rows[0].name == "rgb − rgb (namesake)"
    apart = compare([reports["first"], reports["second"]])
    assert found.tables[1].rows[0].cells == apart.tables[1].rows[0].cells


def test_what_is_equal_to_the_last_number_comes_once(reports: dict[str, Path]) -> None:
    found = compare([reports["first"], reports["both"], reports["first"]])
    together = compare([reports["both"]])
    assert found.tables == together.tables


@pytest.mark.parametrize(
    ("other", "says"), [("upstream", "whose name is voc/hummingbird, found"), ("elsewhere", "data of")]
)
def test_different_exams_are_refused_on_one_line(reports: dict[str, Path], other: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        compare([reports["first"], reports[other]])
    assert "\n" not in str(caught.value)


def test_what_is_no_report_is_refused(reports: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one report"):
        compare([])
    with pytest.raises(BadInput, match=r"expected a report\.json"):
        compare([tmp_path])
    (tmp_path / "report.json").write_text('{"format": 1, "title": "demo"}')
    with pytest.raises(BadInput, match="expected a report of `vader evaluate`"):
        compare([tmp_path])
    (tmp_path / "report.json").write_text((reports["first"] / "report.json").read_text())
    with pytest.raises(BadInput, match=r"pictures\.npz: expected the file"):
        compare([tmp_path, reports["second"]])


@pytest.mark.parametrize("damage", ["cut", "empty", "no arrays", "one array", "flat", "object"])
def test_damaged_numbers_of_pictures_are_one_line(reports: dict[str, Path], tmp_path: Path, damage: str) -> None:
    place = tmp_path / "r"
    shutil.copytree(reports["both"], place)
    file = place / "pictures.npz"
    if damage in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: 200 if damage == "cut" else 0])
    else:
        arrays = {"no arrays": {}, "one array": {"0": np.ones((2, 2))}, "flat": {"0": np.ones(2), "1": np.ones(2)}}
        with file.open("wb") as out:
            np.savez(out, **arrays.get(damage, {"0": np.array([{}]), "1": np.array([{}])}))
    with pytest.raises(BadInput, match="expected") as caught:
        compare([reports["first"], place])
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_the_table_takes_the_form_of_its_ending(reports: dict[str, Path], tmp_path: Path) -> None:
    found = compare([reports["both"]])
    for ending in (".md", ".json", ".html"):
        path = write_comparison(found, tmp_path / "new" / f"table{ending}")
        assert "rgb@centred" in path.read_text()
    assert from_json(json.loads((tmp_path / "new" / "table.json").read_text())).tables == found.tables
    with pytest.raises(BadInput, match=r"ending in \.md, \.json, \.html"):
        write_comparison(found, tmp_path / "table.csv")
    plain = write_comparison(found, tmp_path / "TABLE")
    assert plain.read_text() == (tmp_path / "new" / "table.md").read_text(), "without an ending it is Markdown"
    with pytest.raises(BadInput, match=r"--out: .*found the folder .*new"):
        write_comparison(found, tmp_path / "new")


def test_the_command_prints_and_writes(reports: dict[str, Path], tmp_path: Path) -> None:
    done = forked("compare", reports["first"], reports["second"], "--out", tmp_path / "t.md")
    assert done.returncode == 0, done.stderr
    assert "| rgb@centred |" in done.stdout
    assert (tmp_path / "t.md").read_text().strip() == done.stdout.strip()
