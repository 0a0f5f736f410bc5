"""Compare reports of one protocol on the same data in one table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vader.errors import BadInput
from vader.exams.files import PICTURES, read_pictures
from vader.exams.results import difference_table, differences, resampled
from vader.reports import report as reports
from vader.reports.report import Report
from vader.reports.tables import Row, Table
from vader.runtime.files import make_folder, write_atomic


def join_reports(folders: Sequence[str | Path]) -> Report:
    """Join the rows of all reports in one table and compute the paired differences between their encoders.

    A row whose name occurs before gets its report's folder added to the name; identical rows appear once. Rows without
    an encoder, such as chance, have no differences. Raises BadInput for a folder without a report of `vader evaluate`,
    and unless all reports have the same protocol, constant by constant, and the same data.
    """
    places = [Path(one) for one in folders]
    if not places:
        raise BadInput("expected at least one report to compare, found none")
    found = [reports.read(place) for place in places]
    for place, one in zip(places, found, strict=True):
        _check(place, one, places[0], found[0])
    rows: list[Row] = []
    pictures: list[np.ndarray] = []
    compared: list[bool] = []
    for place, one in zip(places, found, strict=True):
        known: Any = one.facts.get("encoders", {})
        for row, mine in zip(one.tables[0].rows, _pictures(place, one), strict=True):
            same = [i for i, other in enumerate(rows) if other.name == row.name]
            if any(rows[i].cells == row.cells and np.array_equal(pictures[i], mine, equal_nan=True) for i in same):
                continue  # the same row in several reports, such as chance or a copied first mask
            rows.append(row.model_copy(update={"name": f"{row.name} ({_short(place, places)})"} if same else {}))
            pictures.append(mine)
            compared.append(bool(known.get(row.name, True)))
    first = found[0].tables[0]
    tables = [Table(title=first.title, columns=first.columns, rows=tuple(rows), subject=first.subject, note=first.note)]
    if sum(compared) > 1 and found[0].facts.get("paired"):
        some = [i for i, one in enumerate(compared) if one]
        tables.append(_differences([rows[i] for i in some], [pictures[i] for i in some], first, found[0]))
    return Report(title=found[0].title, tables=tuple(tables), facts=_facts(places, found))


def _short(place: Path, places: Sequence[Path]) -> str:
    """Return the end of the report's path, as long as needed to distinguish it from the others."""
    parts = place.parts
    for length in range(1, len(parts)):
        if sum(other.parts[-length:] == parts[-length:] for other in places) == 1:
            return "/".join(parts[-length:])
    return str(place)


def _differences(rows: Sequence[Row], pictures: Sequence[Any], table: Table, one: Report) -> Table:
    scored: Any = one.facts.get("scored ids", [])
    draws = [resampled(each, scored) for each in pictures]
    column = table.columns[0]
    scale = 100.0 if column.unit == "%" else 1.0
    means = [(row.cells[0].mean or 0.0) / scale for row in rows]
    found = differences([row.name for row in rows], means, draws, scale)
    data: Any = one.facts["data"]
    return difference_table(column, found, pictures[0].shape[1], str(data.get("set", "")))


def _pictures(place: Path, one: Report) -> list[np.ndarray]:
    """Read each row's numbers by picture. Raises BadInput for a file that does not belong to the report."""
    folder = place if place.is_dir() else place.parent
    found = read_pictures(folder)
    rows = len(one.tables[0].rows)
    if len(found) != rows or min((each.ndim for each in found), default=0) < 2:
        raise BadInput(
            f"{folder / PICTURES}: expected an array for each of the {rows} rows of report.json, found {len(found)} of "
            f"shapes {', '.join(str(each.shape) for each in found) or 'none'}; evaluate again"
        )
    return found


def _check(place: Path, one: Report, first_place: Path, first: Report) -> None:
    if not one.tables or not {"protocol", "data"} <= one.facts.keys():
        raise BadInput(f"{place}: expected a report of `vader evaluate`, found another kind of report")
    for what in ("protocol", "data"):
        if one.facts[what] != first.facts[what]:
            raise BadInput(
                f"{place}: expected the {what} of {first_place}, {_unlike(first.facts[what], one.facts[what])}; "
                "only numbers of the same protocol and data can be compared"
            )
    if [c.name for c in one.tables[0].columns] != [c.name for c in first.tables[0].columns]:
        raise BadInput(
            f"{place}: expected the measures of {first_place}, found others; use one version for all reports"
        )


def _unlike(expected: Any, got: Any) -> str:
    """Describe the first constant that differs."""
    names = dict.fromkeys([*expected, *got])
    name = next(name for name in names if expected.get(name) != got.get(name))
    return f"whose {name} is {reports.words(expected.get(name))}, found {reports.words(got.get(name))}"


def _facts(places: Sequence[Path], found: Sequence[Report]) -> dict[str, Any]:
    """Return the facts that all reports share, and under each report's folder its own facts."""
    own = ("seeds", "commit", "uncommitted changes", "hardware", "command", "finished", "encoders")
    shared = {name: found[0].facts[name] for name in ("protocol", "data")}
    return shared | {
        str(place): {name: one.facts[name] for name in own if name in one.facts}
        for place, one in zip(places, found, strict=True)
    }


def write_comparison(comparison: Report, out: Path) -> Path:
    """Write the table in the format of the file's suffix: .md (also without a suffix), .json or .html.

    Raises BadInput for another suffix.
    """
    forms = {
        ".md": lambda: reports.to_text(comparison),
        ".json": lambda: json.dumps(reports.to_json(comparison), indent=2, ensure_ascii=False) + "\n",
        ".html": lambda: reports.to_html(comparison),
    }
    forms[""] = forms[".md"]
    if out.is_dir():
        raise BadInput(f"--out: expected a file for the table, found the folder {out}; name a file in it")
    if out.suffix not in forms:
        raise BadInput(f"--out: expected a file ending in {', '.join(filter(None, forms))}, found {out}")
    text = forms[out.suffix]()
    make_folder(out.parent)
    write_atomic(out, text)
    return out
