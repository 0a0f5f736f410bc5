"""Make a report from results: the table, the differences between encoders, and the pages of the kind of exam."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vader.exams.plan import Material
from vader.exams.results import Result, difference_table, differences, resampled, result_table
from vader.reports.report import Figure, Group, Report
from vader.reports.tables import Table


def make_report(
    results: Sequence[Result],
    protocol: Any,
    material: Material,
    tables: Sequence[Table],
    groups: Sequence[Group],
    facts: dict[str, Any],
) -> Report:
    """Make the whole report; `tables` and `groups` come from the kind of exam."""
    headline = next(iter(results[0].values))
    found = [result_table("Results", results, _note(results, material))]
    compared = [one for one in results if one.facts]  # rows without an encoder need no interval
    if len(compared) > 1 and compared[0].paired:
        means = [float(np.mean(one.values[headline])) for one in compared]
        draws = [resampled(one.pictures, getattr(material, "scored", ())) for one in compared]
        pairs = differences([one.name for one in compared], means, draws, headline.scale)
        found.append(difference_table(headline.column, pairs, results[0].pictures.shape[1], material.name))
    trials = len(results[0].values[headline])
    lead = f"{material.lead()} {trials} trial{'s' if trials > 1 else ''}. The encoders are frozen."
    return Report(
        title=f"{protocol.name} on {material.name}", lead=(lead,), tables=(*found, *tables), groups=tuple(groups),
        facts=facts,
    )  # fmt: skip


def _note(results: Sequence[Result], material: Any) -> str:
    parts = []
    if scored := getattr(material, "scored", ()):
        names = ", ".join(material.val.classes[i] for i in scored)
        parts.append(f"mIoU-{len(scored)} is over {names}.")
    if skipped := results[0].skipped:
        parts.append(f"{skipped} of {results[0].pictures.shape[1]} pictures have nothing to score and were skipped.")
    return " ".join(parts)


def figure(paint: Any, folder: Path, caption: str, wide: bool = False, chart: bool = True) -> Figure:
    """Return the figure that `paint(path)` draws; its temporary file in `folder` is removed."""
    path = folder / ".figure.png"
    try:
        return Figure(image=paint(path).read_bytes(), caption=caption, alt=caption, wide=wide, chart=chart)
    finally:
        path.unlink(missing_ok=True)
