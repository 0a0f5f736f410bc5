"""Tables of measured numbers, each a mean with its spread, and their Markdown.

Values are JSON values: NaN and infinity become None, shown as a dash. Texts are plain, never markup.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

DASH = "–"
ARROWS = {"higher": "↑", "lower": "↓", None: ""}


def plain(value: Any) -> Any:
    """Convert a value to JSON values: numpy's scalars and arrays, paths as text, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | Path):  # replace lone surrogates, which stand for bytes of names that are not UTF-8
        return str(value).encode("utf-8", "backslashreplace").decode()
    return value


class Part(BaseModel):
    """A frozen model that rejects unknown names; its numbers and texts are JSON values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return plain(given)


class Cell(Part):
    """A number: the mean over `seeds` runs and their sample standard deviation. A mean of None shows as a dash."""

    mean: float | None = None
    sd: float | None = Field(default=None, ge=0)
    seeds: int = Field(default=1, ge=0)
    values: tuple[float | None, ...] = ()  # of each run, if known

    @classmethod
    def of(cls, values: float | Sequence[float] | np.ndarray) -> "Cell":
        """Make a cell from the values of one or several runs. A NaN makes the mean a dash: failures are not hidden."""
        numbers = [float(value) for value in np.ravel(np.asarray(values, dtype=np.float64))]
        if not numbers or not all(map(math.isfinite, numbers)):
            return cls(seeds=len(numbers), values=tuple(numbers))
        sd = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(mean=statistics.fmean(numbers), sd=sd, seeds=len(numbers), values=tuple(numbers))


class Column(Part):
    """A measure: its unit, which direction is better (None: neither), and the number of decimals."""

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    digits: int = Field(default=1, ge=0, le=12)

    @property
    def legend(self) -> str:
        """Return the unit and the arrow of the better direction: 'm ↓'."""
        return f"{self.unit} {ARROWS[self.better]}".strip()

    def show(self, number: float) -> str:
        """Return the number with the column's decimals; never '-0.0'."""
        return f"{round(number, self.digits) + 0.0:.{self.digits}f}"


class Row(Part):
    """Measured values in the order of the columns. A reference (chance, a bound) is never marked as the best."""

    name: str
    cells: tuple[Cell, ...]
    note: str = ""
    ours: bool = False
    reference: bool = False


class Table(Part):
    """Rows of cells; `subject` is the header of the row names."""

    title: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...]
    subject: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self) -> "Table":
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.name!r}: expected {len(self.columns)} cells, found {len(row.cells)}")
        return self

    def best(self, column: int) -> frozenset[int]:
        """Return the rows with the best number of a column, as shown; none if rows or direction do not allow it."""
        rule = self.columns[column]
        shown = {
            index: float(rule.show(mean))
            for index, row in enumerate(self.rows)
            if not row.reference and (mean := row.cells[column].mean) is not None
        }
        if rule.better is None or len(shown) < 2:
            return frozenset()
        target = (max if rule.better == "higher" else min)(shown.values())
        return frozenset(index for index, number in shown.items() if number == target)

    @property
    def counts(self) -> frozenset[int]:
        """Return the numbers of seeds of the table's deviations."""
        return frozenset(cell.seeds for row in self.rows for cell in row.cells if cell.sd is not None)

    @property
    def footnote(self) -> str:
        """Return the table's note and an explanation of ±."""
        counts = self.counts
        over = "the number of seeds in brackets" if len(counts) > 1 else f"{max(counts, default=0)} seeds"
        spread = f"Mean ± sample standard deviation over {over}; a number without ± is of one run." if counts else ""
        return " ".join(filter(None, [self.note, spread]))


# --- Markdown --------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Format a table in GitHub's Markdown, with the best of each column in bold and the footnote below."""
    best = [table.best(column) for column in range(len(table.columns))]
    lines = [
        [literal(table.subject), *(literal(f"{column.name}, {column.legend}".rstrip(", ")) for column in table.columns)]
    ]
    lines.append([":---", *("---:" for _ in table.columns)])
    for index, row in enumerate(table.rows):
        texts = [cell_text(table, column, cell) for column, cell in enumerate(row.cells)]
        bold = [f"**{text}**" if index in best[column] else text for column, text in enumerate(texts)]
        lines.append([literal(f"{row.name} ({row.note})" if row.note else row.name), *bold])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{text}\n{literal(table.footnote)}\n" if table.footnote else text


def cell_text(table: Table, column: int, cell: Cell) -> str:
    """Return '53.1 ± 0.4', '53.1' or a dash; with the number of seeds in brackets if it differs within the table."""
    if cell.mean is None:
        return DASH
    rule = table.columns[column]
    spread = "" if cell.sd is None else f" ± {rule.show(cell.sd)}"
    return rule.show(cell.mean) + spread + (f" ({cell.seeds})" if spread and len(table.counts) > 1 else "")


def literal(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~&" else letter for letter in " ".join(text.split()))
