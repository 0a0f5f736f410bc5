"""Write reports as JSON, Markdown tables, and one self-contained HTML page.

A `Report` holds numbers with their spreads, figures, verdicts, and the facts needed to interpret a number: protocol,
data, seeds, commit, machine. Texts are plain: they are always escaped and never read as markup.
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

FORMAT = 1  # of report.json; readers reject other formats
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


class Figure(Part):
    """A PNG, JPEG, GIF or WebP picture, given as bytes or a path. report.json stores only its sha256."""

    image: bytes | None = Field(default=None, exclude=True, repr=False)
    caption: str = ""
    alt: str = ""
    wide: bool = False  # spans the full width of its group
    chart: bool = False  # dark on white; in dark mode the page inverts its lightness
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
                raise BadInput(f"{image}: expected a picture, found an unreadable file ({error.strerror})") from None
        return given | {"image": image, "media": media_type(image), "sha256": hashlib.sha256(image).hexdigest()}


class Group(Part):
    """Figures that belong together, each at least `width` CSS pixels wide if the window is large enough."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""
    width: int = Field(default=260, ge=40)


class Claim(Part):
    """A statement, whether it holds (None: not tested), and the numbers that show it."""

    statement: str
    holds: bool | None
    evidence: str = ""


class Report(Part):
    """The results of an evaluation. `facts` keep their order; `provenance.describe` makes those of a run."""

    title: str
    lead: tuple[str, ...] = ()
    verdicts: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    groups: tuple[Group, ...] = ()
    facts: dict[str, JsonValue] = Field(default_factory=dict)


def media_type(image: bytes) -> str:
    """Return 'image/png' or similar, from the first bytes. Raises BadInput for types that browsers do not show."""
    for signature, name in SIGNATURES.items():
        if image.startswith(signature):
            return f"image/{name}"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise BadInput(f"expected a PNG, JPEG, GIF or WebP picture, found {len(image)} bytes starting with {image[:8]!r}")


# --- JSON ----------------------------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; pictures are replaced by their sha256."""
    return {"format": FORMAT, **report.model_dump(mode="json")}


def from_json(data: Mapping[str, Any]) -> Report:
    """Restore the report of `to_json`, without the bytes of its pictures. Raises BadInput for other values."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise BadInput(
            f"expected a report of format {FORMAT}, found another; write it again with this version of vader"
        )
    try:
        return Report.model_validate({name: value for name, value in data.items() if name != "format"})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BadInput(f"report: {place}: {first['msg']}; write the report again") from None


def read(path: Path) -> Report:
    """Read a report from a folder that `write` filled, or from its report.json. Raises BadInput without a report."""
    path = path / "report.json" if path.is_dir() else path
    try:
        return from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise BadInput(f"{path}: expected a report.json, found no readable file ({error.strerror})") from None
    except ValueError:
        raise BadInput(f"{path}: expected JSON, found something else; write the report again") from None


# --- Markdown ------------------------------------------------------------------------------------------------------


def to_text(report: Report) -> str:
    """Return the Markdown: the title, every table, the verdicts."""
    parts = [f"# {literal(report.title)}\n"]
    parts += [f"## {literal(table.title)}\n\n{to_markdown(table)}" for table in report.tables]
    words = {True: "holds", False: "**does not hold**", None: "not tested"}
    verdicts = [
        f"* {literal(one.statement)}: {words[one.holds]}{'. ' if one.evidence else ''}{literal(one.evidence)}\n"
        for one in report.verdicts
    ]
    return "\n".join([*parts, "".join(verdicts)] if verdicts else parts)


# --- HTML ----------------------------------------------------------------------------------------------------------


def to_html(report: Report) -> str:
    """Render one self-contained page: it sends no requests (its content policy forbids them) and runs no scripts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(words=words, base64=lambda image: base64.b64encode(image).decode())
    template = environment.from_string((files("vader.reports") / "templates" / "report.html.j2").read_text("utf-8"))
    held = sum(one.holds is True for one in report.verdicts)
    return template.render(report=report, held=held, grids=[grid(table) for table in report.tables])


def grid(table: Table) -> list[list[dict[str, Any]]]:
    """Return what the page shows for each cell: its text, whether it is the best, its bar, the bar's ± in per cent."""
    rows: list[list[dict[str, Any]]] = [[] for _ in table.rows]
    for column in range(len(table.columns)):
        best = table.best(column)
        cells = [row.cells[column] for row in table.rows]
        known = [(cell.mean, cell.sd or 0.0) for cell in cells if cell.mean is not None]
        top = max((mean + sd for mean, sd in known), default=0.0)
        # A bar that does not start at zero misleads; numbers on both sides of zero get no bars.
        scale = 100 / top if top > 0 and min(mean for mean, _ in known) >= 0 else None
        texts = [cell_text(table, column, cell).partition(" ") for cell in cells]
        room = max((len(spread) for _, _, spread in texts), default=0)  # to align the decimal points
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
    """Format a fact's value: 'a, b', 'python 3.11 · torch 2.11', 'yes', 0.25, a dash for None."""
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
    """Write report.html, report.json and the tables' Markdown in a file named `text`; return the page's path.

    Everything is rendered before a file is written.
    """
    page, markdown = to_html(report), to_text(report)
    make_folder(folder)
    write_atomic(folder / "report.html", page)
    write_atomic(folder / text, markdown)
    # Written last: its presence shows that the others are complete and of the same report.
    write_json(folder / "report.json", to_json(report))
    return folder / "report.html"
