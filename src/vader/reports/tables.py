"""Tables of measured numbers, each a mean with its spread, and their Markdown.

Values are as JSON has them: NaN and infinity become None, which shows as a dash. Texts are plain, never markup.
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
    """A value as JSON has it: numpy's scalars and arrays as Python's, paths as text, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | Path):  # bytes of file names that are no UTF-8 are lone surrogates here
        return str(value).encode("utf-8", "backslashreplace").decode()
    return value


class Part(BaseModel):
    """Frozen, strict about names; numbers and texts within are as JSON has them."""

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
    values: tuple[float | None, ...] = ()  # each run's, where they are known

    @classmethod
    def of(cls, values: float | Sequence[float] | np.ndarray) -> "Cell":
        """One run's value, or several runs'; a NaN among them makes the mean a dash: what failed is not left out."""
        numbers = [float(value) for value in np.ravel(np.asarray(values, dtype=np.float64))]
        if not numbers or not all(map(math.isfinite, numbers)):
            return cls(seeds=len(numbers), values=tuple(numbers))
        sd = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(mean=statistics.fmean(numbers), sd=sd, seeds=len(numbers), values=tuple(numbers))


class Column(Part):
    """A measure: its unit, which direction is better (None: neither), and the digits to show after the point."""

    name: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    digits: int = Field(default=1, ge=0, le=12)

    @property
    def legend(self) -> str:
        """The unit and the arrow that points to what is better: 'm ↓'."""
        return f"{self.unit} {ARROWS[self.better]}".strip()

    def show(self, number: float) -> str:
        """The number with the column's digits; never '-0.0'."""
        return f"{round(number, self.digits) + 0.0:.{self.digits}f}"


class Row(Part):
    """What was measured, in the order of the columns. A reference (chance, a bound) never competes to be the best."""

    name: str
    cells: tuple[Cell, ...]
    note: str = ""
    ours: bool = False
    reference: bool = False


class Table(Part):
    """Rows of cells; `subject` heads the column of the rows' names."""

    title: str
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[Row, ...]
    subject: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self) -> "Table":
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.name!r}: expected {len(self.columns)} cells, got {len(row.cells)}")
        return self

    def best(self, column: int) -> frozenset[int]:
        """The rows with a column's best number, equal as shown; none if nothing competes or no direction is better."""
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
        """Over how many seeds the table's deviations are."""
        return frozenset(cell.seeds for row in self.rows for cell in row.cells if cell.sd is not None)

    @property
    def footnote(self) -> str:
        """The table's note, and what its ± means."""
        counts = self.counts
        over = "the number of seeds in brackets" if len(counts) > 1 else f"{max(counts, default=0)} seeds"
        spread = f"Mean ± sample standard deviation over {over}; a number without ± is of one run." if counts else ""
        return " ".join(filter(None, [self.note, spread]))


# --- Markdown --------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, the best of each column in bold, its footnote beneath."""
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
    """'53.1 ± 0.4', '53.1', or a dash; the number of seeds in brackets where the table's cells differ in it."""
    if cell.mean is None:
        return DASH
    rule = table.columns[column]
    spread = "" if cell.sd is None else f" ± {rule.show(cell.sd)}"
    return rule.show(cell.mean) + spread + (f" ({cell.seeds})" if spread and len(table.counts) > 1 else "")


def literal(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~&" else letter for letter in " ".join(text.split()))
