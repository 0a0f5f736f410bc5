"""Results -> JSON, Markdown tables, and one HTML page that needs no other file.

A `Report` holds numbers with their spreads, pictures, verdicts and the facts that a number is worthless without:
protocol, data, seeds, commit, machine. Texts are plain: whatever they contain is shown as it is, never as markup.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from pydantic import Field, JsonValue, ValidationError, model_validator

from vader.errors import BadInput
from vader.reports.tables import DASH, Part, Table, cell_text, literal, to_markdown
from vader.runtime.files import make_folder, write_atomic, write_json

FORMAT = 1  # of report.json; a reader of another format refuses it
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


class Figure(Part):
    """A PNG, JPEG, GIF or WebP picture, given as bytes or a path. report.json keeps its sha256 alone."""

    image: bytes | None = Field(default=None, exclude=True, repr=False)
    caption: str = ""
    alt: str = ""
    wide: bool = False  # spans its group's whole width
    chart: bool = False  # dark on white: the page inverts its lightness where the reader's screen is dark
    media: str = ""
    sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("image") is None:
            return given
        image = given["image"]
        if isinstance(image, str | Path):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise BadInput(f"{image}: expected a picture, cannot read it ({error.strerror})") from None
        return given | {"image": image, "media": media_type(image), "sha256": hashlib.sha256(image).hexdigest()}


class Group(Part):
    """Figures that are looked at together, each at least `width` CSS pixels wide where the window allows."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""
    width: int = Field(default=260, ge=40)


class Verdict(Part):
    """A statement, whether it held (None: it was not tried), and the numbers that say so."""

    statement: str
    holds: bool | None
    evidence: str = ""


class Report(Part):
    """All of an evaluation. `facts` keep their order; `provenance.describe` gives those of a run."""

    title: str
    lead: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    tables: tuple[Table, ...] = ()
    groups: tuple[Group, ...] = ()
    facts: dict[str, JsonValue] = Field(default_factory=dict)


def media_type(image: bytes) -> str:
    """'image/png' and so on, by the first bytes. Raises BadInput for what browsers do not show as a picture."""
    for signature, name in SIGNATURES.items():
        if image.startswith(signature):
            return f"image/{name}"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise BadInput(f"expected a PNG, JPEG, GIF or WebP picture, got {len(image)} bytes that begin with {image[:8]!r}")


# --- JSON ----------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON's values; pictures by their sha256."""
    return {"format": FORMAT, **report.model_dump(mode="json")}


def from_json(data: Mapping[str, Any]) -> Report:
    """The report of `to_json`, its pictures without their bytes. Raises BadInput for anything else."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise BadInput(f"expected a report of format {FORMAT}; write it anew with this version of vader")
    try:
        return Report.model_validate({name: value for name, value in data.items() if name != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"report: {place}: {first['msg']}; write the report anew") from None


def read(path: Path) -> Report:
    """The report of a folder that `write` filled, or of its report.json. Raises BadInput if there is none."""
    path = path / "report.json" if path.is_dir() else path
    try:
        return from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise BadInput(f"{path}: expected a report.json, cannot read it ({error.strerror})") from None
    except ValueError:
        raise BadInput(f"{path}: expected JSON, found something else; write the report anew") from None


# --- Markdown ------------------------------------------------------------------------------------------------------


def to_text(report: Report) -> str:
    """table.md: the title, every table, the verdicts."""
    parts = [f"# {literal(report.title)}\n"]
    parts += [f"## {literal(table.title)}\n\n{to_markdown(table)}" for table in report.tables]
    words = {True: "holds", False: "**does not hold**", None: "not tried"}
    verdicts = [
        f"* {literal(one.statement)}: {words[one.holds]}{'. ' if one.evidence else ''}{literal(one.evidence)}\n"
        for one in report.verdicts
    ]
    return "\n".join([*parts, "".join(verdicts)] if verdicts else parts)


# --- HTML ----------------------------------------------------------------------------------------------------------


def to_html(report: Report) -> str:
    """One page with everything in it: no request leaves it (its content policy forbids them), no script runs."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(words=words, base64=lambda image: base64.b64encode(image).decode())
    template = environment.from_string((files("vader.reports") / "templates" / "report.html.j2").read_text("utf-8"))
    held = sum(one.holds is True for one in report.verdicts)
    return template.render(report=report, held=held, grids=[grid(table) for table in report.tables])


def grid(table: Table) -> list[list[dict[str, Any]]]:
    """What the page shows of each cell: its text, whether it is the best, its bar and the bar's ± in per cent."""
    rows: list[list[dict[str, Any]]] = [[] for _ in table.rows]
    for column in range(len(table.columns)):
        best = table.best(column)
        cells = [row.cells[column] for row in table.rows]
        known = [(cell.mean, cell.sd or 0.0) for cell in cells if cell.mean is not None]
        top = max((mean + sd for mean, sd in known), default=0.0)
        # A bar starts at zero or it lies; numbers on both sides of zero get none.
        scale = 100 / top if top > 0 and min(mean for mean, _ in known) >= 0 else None
        texts = [cell_text(table, column, cell).partition(" ") for cell in cells]
        room = max((len(spread) for _, _, spread in texts), default=0)  # so that the points of numbers align
        for index, (cell, (number, _, spread)) in enumerate(zip(cells, texts, strict=True)):
            shown: dict[str, Any] = {
                "number": number,
                "spread": spread,
                "room": room,
                "best": index in best,
                "bar": None,
            }
            if scale and cell.mean is not None:
                low = max(0.0, cell.mean - (cell.sd or 0.0)) * scale
                shown |= {"bar": cell.mean * scale, "low": low, "width": (cell.mean + (cell.sd or 0.0)) * scale - low}
            rows[index].append(shown)
    return rows


def words(value: Any) -> str:
    """A fact's value for reading: 'a, b', 'python 3.11 · torch 2.11', 'yes', 0.25, a dash for None."""
    if value is None or value == [] or value == {}:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " · ".join(f"{name} {words(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(words, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- Files ---------------------------------------------------------------------------------------------------------


def write(report: Report, folder: Path, text: str = "table.md") -> Path:
    """Write report.html, report.json and the tables' Markdown under the name of `text`; gives the page's path.

    All is rendered before a file is touched.
    """
    page, markdown = to_html(report), to_text(report)
    make_folder(folder)
    write_atomic(folder / "report.html", page)
    write_atomic(folder / text, markdown)
    # The last one says that the others are whole and of the same report.
    write_json(folder / "report.json", to_json(report))
    return folder / "report.html"
