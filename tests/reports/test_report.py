"""What reports promise: true Markdown and HTML of the numbers, nothing run or fetched, nothing half-written."""

import base64
import json
import math
import re
import statistics
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from vader.errors import BadInput
from vader.reports import draw
from vader.reports.report import Claim, Figure, Group, Report, from_json, read, to_html, to_json, write
from vader.reports.tables import DASH, Cell, Column, Row, Table, to_markdown

HOSTILE = "<script>alert('1')</script> \"><img src=x onerror=alert(1)> {{ 7 * 7 }} a|b &amp; *c* `d`"


def picture(kind: str = "PNG", side: int = 8) -> bytes:
    file = BytesIO()
    Image.fromarray(np.arange(side * side * 3, dtype=np.uint8).reshape(side, side, 3)).save(file, kind)
    return file.getvalue()


def table() -> Table:
    columns = (
        Column(name="mIoU", unit="%", better="higher"),
        Column(name="RMSE", unit="m", better="lower", digits=2),
        Column(name="size", unit="MB"),
    )
    rows = (
        Row(name="ours", ours=True, cells=(Cell.of([48.0, 49.0, 50.0]), Cell.of([0.9, 1.0, 1.1]), Cell(mean=3))),
        Row(name="theirs", cells=(Cell.of([40.0, 40.5, 41.0]), Cell.of([0.71, 0.72, 0.73]), Cell(mean=9))),
        Row(name="failed", cells=(Cell.of([48.0, math.nan, 99.0]), Cell(mean=None), Cell(mean=float("inf")))),
        Row(name="bound", reference=True, cells=(Cell(mean=100), Cell(mean=0), Cell())),
    )
    return Table(title="Exams", subject="encoder", columns=columns, rows=rows, note="Small.")


def report() -> Report:
    figures = tuple(Figure(image=picture(kind), caption=kind) for kind in ("PNG", "JPEG", "GIF", "WEBP"))
    return Report(
        title="A report",
        lead=("First.", "Second."),
        verdicts=(
            Claim(statement="yes", holds=True, evidence="1 > 0"),
            Claim(statement="no", holds=False),
            Claim(statement="perhaps", holds=None),
        ),
        tables=(table(),),
        groups=(Group(title="Pictures", figures=figures),),
        facts={
            "seeds": (0, 1),
            "rate": np.float32(0.5),
            "steps": np.int64(7),
            "lost": math.nan,
            "x": {"y": Path("a/b")},
        },
    )


class Page(HTMLParser):
    """The page as a browser's parser sees it: tags with attributes, and the texts of each tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, dict[str, str]], str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and data.strip():
            self.texts.append((self.tags[-1], data.strip()))


# --- Numbers ------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_mean_and_the_sample_deviation() -> None:
    values = [3.0, 5.0, 10.0]
    cell = Cell.of(values)
    assert cell.mean == sum(values) / 3
    assert cell.sd == pytest.approx(math.sqrt(sum((value - 6) ** 2 for value in values) / 2), abs=1e-12)
    assert (cell.seeds, cell.values) == (3, (3.0, 5.0, 10.0))
    assert Cell.of(np.array(values, dtype=np.float32)).sd == pytest.approx(statistics.stdev(values), rel=1e-6)


def test_one_value_has_no_spread_and_a_failed_run_is_not_left_out() -> None:
    assert Cell.of(2.5) == Cell(mean=2.5, sd=None, seeds=1, values=(2.5,))
    assert Cell.of([1.0, math.nan]) == Cell(mean=None, sd=None, seeds=2, values=(1.0, None))
    assert Cell.of([]).mean is None
    assert Cell(mean=math.nan, sd=math.inf) == Cell()


def test_the_best_follows_the_direction_and_leaves_references_out() -> None:
    assert [table().best(column) for column in range(3)] == [{0}, {1}, set()]


def test_numbers_that_look_equal_share_the_prize() -> None:
    def one(*means: float) -> Table:
        rows = tuple(Row(name=str(mean), cells=(Cell(mean=mean),)) for mean in means)
        return Table(title="t", columns=(Column(name="c", better="higher"),), rows=rows)

    assert one(1.04, 0.96, 0.5).best(0) == {0, 1}
    assert one(1.04).best(0) == set(), "alone is no contest"
    assert one(-3.0, -2.0).best(0) == {1}


def test_a_row_with_the_wrong_number_of_cells_is_refused() -> None:
    with pytest.raises(ValidationError, match="row 'r': expected 1 cells, found 2"):
        Table(title="t", columns=(Column(name="c"),), rows=(Row(name="r", cells=(Cell(), Cell())),))


def test_unknown_names_are_refused_and_parts_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Column(name="c", direction="up")
    with pytest.raises(ValidationError):
        table().title = "other"


# --- Markdown -----------------------------------------------------------------------------------------------------


def parse(markdown: str) -> list[list[str]]:
    """The cells of the table's lines, split at pipes that no backslash precedes."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_is_a_table_with_the_right_cells_in_bold() -> None:
    lines = parse(to_markdown(table()))
    assert lines == [
        ["encoder", "mIoU, % ↑", "RMSE, m ↓", "size, MB"],
        [":---", "---:", "---:", "---:"],
        ["ours", "**49.0 ± 1.0**", "1.00 ± 0.10", "3.0"],
        ["theirs", "40.5 ± 0.5", "**0.72 ± 0.01**", "9.0"],
        ["failed", DASH, DASH, DASH],
        ["bound", "100.0", "0.00", DASH],
    ]


def test_markdown_says_what_the_spread_is() -> None:
    assert "sample standard deviation over 3 seeds" in to_markdown(table())
    uneven = table().rows[1].model_copy(update={"cells": (Cell.of([1, 2]), *table().rows[1].cells[1:])})
    text = to_markdown(table().model_copy(update={"rows": (table().rows[0], uneven)}))
    assert "49.0 ± 1.0 (3)" in text
    assert "1.5 ± 0.7 (2)" in text
    assert "number of seeds in brackets" in text


def test_hostile_names_keep_the_markdown_table_whole() -> None:
    rows = (Row(name=HOSTILE + "\nnext | line\\", cells=(Cell(mean=1),)),)
    lines = parse(to_markdown(Table(title="t", columns=(Column(name="a|b"),), rows=rows)))
    assert [len(line) for line in lines] == [2, 2, 2]
    assert not re.search(r"(?<!\\)[<>`*&]", lines[2][0])


def test_zero_has_no_sign() -> None:
    assert Column(name="c", digits=1).show(-0.01) == "0.0"
    assert Column(name="c", digits=0).show(2.4) == "2"


# --- JSON ---------------------------------------------------------------------------------------------------------


def test_json_makes_the_round_trip() -> None:
    first = report()
    text = json.dumps(to_json(first), allow_nan=False)
    second = from_json(json.loads(text))
    assert to_json(second) == to_json(first)
    assert second.tables == first.tables
    assert second.verdicts == first.verdicts
    assert list(second.facts) == ["seeds", "rate", "steps", "lost", "x"], "facts keep their order"
    assert second.facts == {"seeds": [0, 1], "rate": 0.5, "steps": 7, "lost": None, "x": {"y": "a/b"}}
    assert [figure.sha256 for figure in second.groups[0].figures] == [
        figure.sha256 for figure in first.groups[0].figures
    ]
    assert len(text) < 6000, "pictures stay out of it"
    assert "is not part of report.json" in to_html(second)


@pytest.mark.parametrize(
    "broken", [{}, {"format": 99, "title": "t"}, {"format": 1}, {"format": 1, "title": "t", "x": 1}]
)
def test_other_json_is_refused_on_one_line(broken: dict[str, object]) -> None:
    with pytest.raises(BadInput) as caught:
        from_json(broken)
    assert "\n" not in str(caught.value)


def test_reading_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a .*found"):
        read(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff{")
    with pytest.raises(BadInput, match="expected JSON"):
        read(tmp_path)


# --- HTML ---------------------------------------------------------------------------------------------------------


def hostile_report() -> Report:
    rows = tuple(Row(name=HOSTILE, note=HOSTILE, cells=(Cell(mean=one),)) for one in (1.0, 2.0))
    tables = (
        Table(title=HOSTILE, subject=HOSTILE, note=HOSTILE, columns=(Column(name=HOSTILE, unit=HOSTILE),), rows=rows),
    )
    return Report(
        title=HOSTILE,
        lead=(HOSTILE,),
        verdicts=(Claim(statement=HOSTILE, holds=True, evidence=HOSTILE),),
        tables=tables,
        groups=(Group(title=HOSTILE, note=HOSTILE, figures=(Figure(image=picture(), caption=HOSTILE, alt=HOSTILE),)),),
        facts={HOSTILE: {HOSTILE: [HOSTILE]}, "plain": HOSTILE},
    )


def test_hostile_texts_are_shown_and_never_run() -> None:
    page = Page(to_html(hostile_report()))
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert tags.count("img") == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert sum(HOSTILE in text for _, text in page.texts) >= 15, "and what was written is what is read"
    assert "49" not in [text for _, text in page.texts], "nothing is evaluated"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    html = to_html(report())
    for tag, attributes in Page(html).tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
    assert not re.search(r"@import|url\(|<link|<script|<iframe|<object|https?://", html)
    policy = next(attributes["content"] for tag, attributes in Page(html).tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


def test_embedded_pictures_are_the_given_bytes() -> None:
    found = [attributes["src"] for tag, attributes in Page(to_html(report())).tags if tag == "img"]
    assert [source.split(";")[0] for source in found] == [
        f"data:image/{kind}" for kind in ("png", "jpeg", "gif", "webp")
    ]
    decoded = [base64.b64decode(source.partition("base64,")[2], validate=True) for source in found]
    assert decoded == [picture(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")]


def test_the_best_cells_are_marked_and_missing_ones_are_dashes() -> None:
    page = Page(to_html(report()))
    cells = [text for (tag, attributes), text in page.texts if tag == "td" and attributes.get("class") == "best"]
    assert cells == ["49.0", "0.72"]
    plain = [text for (tag, _), text in page.texts if tag == "td"]
    assert plain.count(DASH) == 4
    assert not {"nan", "None", "inf"} & {text for _, text in page.texts}
    assert ("1 of 3 hold") in [text for _, text in page.texts]


def test_bars_start_at_zero_and_are_absent_where_numbers_are_negative() -> None:
    def widths(*means: float) -> list[float]:
        rows = tuple(Row(name="r", cells=(Cell(mean=mean),)) for mean in means)
        html = to_html(Report(title="t", tables=(Table(title="t", columns=(Column(name="c"),), rows=rows),)))
        return [float(width) for width in re.findall(r'<i style="width:([0-9.]+)%"', html)]

    assert widths(1.0, 4.0, 2.0) == [25.0, 100.0, 50.0]
    assert widths(-1.0, 4.0) == []
    assert widths(0.0, 0.0) == []
    assert widths() == []


def test_an_empty_report_is_a_page() -> None:
    assert "<h1>t</h1>" in to_html(Report(title="t"))


def test_a_picture_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    assert Figure(image=tmp_path / "a.png") == Figure(image=picture())
    with pytest.raises(BadInput, match=r"expected a .*found"):
        Figure(image=tmp_path / "b.png")
    for other in (b"", b"<svg onload='x'>", b"RIFF0000WAVE"):
        with pytest.raises(BadInput, match="expected a PNG, JPEG, GIF or WebP"):
            Figure(image=other)


# --- Files --------------------------------------------------------------------------------------------------------


def test_write_leaves_three_whole_files(tmp_path: Path) -> None:
    page = write(report(), tmp_path / "new" / "out")
    assert page == tmp_path / "new" / "out" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json", "table.md"]
    assert page.read_text("utf-8") == to_html(report())
    assert to_markdown(table()) in (page.parent / "table.md").read_text("utf-8")
    assert to_json(read(page.parent)) == to_json(report())


def test_names_that_are_no_utf8_can_be_written(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    page = write(Report(title=name, facts={"file": Path(name)}), tmp_path)
    assert "caf\\udce9.jpg" in page.read_text("utf-8")
    assert read(tmp_path).title == "caf\\udce9.jpg"


def test_what_cannot_be_written_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()  # a name that no file can take
    with pytest.raises(OSError, match=r"report\.html"):
        write(report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write"):
        write(report(), tmp_path / "file")


# --- Pictures -----------------------------------------------------------------------------------------------------


def test_bars_are_as_high_as_their_means(tmp_path: Path) -> None:
    """The bars' heights in pixels are in the ratio of the numbers."""
    series = {"a": ([10.0, 40.0, float("nan")], [1.0, 1.0, 0.0]), "b": ([20.0, 20.0, 5.0], None)}
    path = draw.bars_by_group(["0°", "20°", "40°"], series, tmp_path / "bars.png", axis="%", floors={"chance": 3.0})
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)

    def heights(colour: str) -> list[int]:
        rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        counts = (np.abs(pixels[: int(pixels.shape[0] * 0.85)] - rgb).max(2) < 3).sum(0)
        edges = np.flatnonzero(np.diff(np.r_[0, counts > 0, 0]))
        return [int(np.median(counts[i:j])) for i, j in edges.reshape(-1, 2) if j - i > 8]

    first, second = heights(draw.SERIES[0]), heights(draw.SERIES[1])
    assert len(first) == 2, "NaN draws nothing"
    assert len(second) == 3
    unit = first[1] / 40
    assert np.allclose(np.array([*first, *second]) / unit, [10, 40, 20, 20, 5], atol=0.8)
