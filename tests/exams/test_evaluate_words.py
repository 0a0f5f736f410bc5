"""What an encoder is called in tables, folders and reports, and the spec that stays in its facts."""

import json
from pathlib import Path

from conftest import Rendered
from samples import forked

from vader.exams.evaluate import evaluate_encoders as evaluate


def test_names_are_shown_and_specs_are_kept(rendered: Rendered, tmp_path: Path) -> None:
    voc = rendered("voc", 5)
    done = forked(
        "evaluate", "colour=rgb", "rgb", "small=random:test_resnet@stage:2:4", "--task", "segmentation", "--trials", 1,
        "--protocol", "voc-kmeans/vader", "--data", voc, "--out", tmp_path / "r", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "small, val: 1/1 images" in done.stderr
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    names = ["colour", "rgb", "small"]
    assert [row["name"] for row in report["tables"][0]["rows"]] == names
    assert sorted(path.name for path in (tmp_path / "r" / "predictions").iterdir()) == names
    assert {name: one["spec"] for name, one in report["facts"]["encoders"].items()} == {
        "colour": "rgb", "rgb": "rgb", "small": "random:test_resnet@stage:2:4",
    }  # fmt: skip
    for text in (done.stdout, *((tmp_path / "r" / f"report.{kind}").read_text() for kind in ("md", "html"))):
        assert "small" in text
        assert "colour" in text
    library = evaluate(
        ["colour=rgb"], "segmentation", "voc-kmeans/vader", voc, tmp_path / "s", trials=1, pictures=False
    )
    assert [one.name for one in library.results] == ["colour"]
