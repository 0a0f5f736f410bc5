"""Evaluate encoders with a named protocol on labelled data and write a report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vader.encoders import DenseEncoder, open_encoders
from vader.encoders.store import Budget, parse_memory
from vader.errors import BadInput
from vader.exams.files import folder_names, prediction_file, write_depth, write_labels, write_pictures
from vader.exams.kinds import EXAMS, check_few, evaluate_one, try_out
from vader.exams.pages import make_report
from vader.exams.plan import Keep, Material, Plan
from vader.exams.protocols import constants, find_protocol
from vader.exams.results import Result
from vader.reports import report as reports
from vader.reports.provenance import describe, peak_memory
from vader.reports.report import Report
from vader.runtime.files import new_folder
from vader.runtime.processes import choose_device


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: the report, its folder, and each encoder's numbers."""

    report: Report
    folder: Path
    results: tuple[Result, ...]

    def __str__(self) -> str:
        return reports.to_text(self.report).rstrip("\n")

    def as_json(self) -> dict[str, Any]:
        """The report."""
        return reports.to_json(self.report)


def evaluate_encoders(
    encoders: Sequence[str | DenseEncoder],
    task: str,
    protocol: str,
    data: str | Path | None,
    out: str | Path,
    *,
    trials: int = 5,
    seed: int = 0,
    memory: str | int | None = None,
    batch: int = 16,
    device: str = "auto",
    precision: str = "fp32",
    weights: Path | None = None,
    scratch: Path | None = None,
    pictures: bool = True,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate encoders with a named protocol and write a report to `out`.

    The folder receives report.json, .md and .html, predictions/ and pictures.npz. `encoders` are encoders or names for
    `open_encoder`; trial t has seed `seed` + t. Features stay within `memory` (bytes, or a size such as "2GB"; None:
    half of the free memory); the rest is stored in a file in `scratch`. The features of one batch of at most `batch`
    images are held in addition. `pictures=False` leaves out charts and example pictures, which take most of the time of
    a small evaluation; tables, numbers and predictions are the same. `say` receives progress lines. Only seeds, trials,
    encoders and data change a score.

    Raises BadInput for unknown names, data that does not match its layout, features that are not finite and an `out`
    that is not empty. All are found before the first encoder is evaluated, except features that are not finite for
    some pictures only. After an error or Ctrl-C, `out` does not exist.
    """
    started = time.monotonic()
    chosen = find_protocol(task, protocol)
    _check(encoders, trials, batch)
    limit = memory if isinstance(memory, int) else parse_memory(memory)
    device = choose_device(device)
    exam = EXAMS[type(chosen)]
    if data is None and exam.needs_data:
        raise BadInput(f"--data: expected the root folder of the data for {chosen.name}, found none")
    material = exam.open(chosen, Path(data or "."))
    check_few(chosen, material)
    opened = open_encoders(encoders, device, weights, precision)
    folders = folder_names([one.name for one in opened])
    if len(folders) < len(opened):
        raise BadInput(
            f"expected each encoder once, found {', '.join(one.name for one in opened)}; give them different names"
        )
    settled = exam.settled(chosen, material)
    seeds = [seed + trial for trial in range(trials if exam.seeded and not settled else 1)]
    budget = Budget(limit)
    plan = Plan(seeds, budget, batch, device, scratch, say)
    with new_folder(Path(out)) as folder:

        def keeper(name: str) -> Keep:
            place = folders.setdefault(name, folder_names([*folders, name])[name])

            def keep(picture: str, found: np.ndarray) -> None:
                path = prediction_file(folder, place, picture)
                (write_depth if found.dtype.kind == "f" else write_labels)(path, found)

            return keep

        try_out(opened, chosen, material)
        results = exam.baselines(chosen, material, plan, keeper)
        results += [evaluate_one(encoder, chosen, material, plan, keeper(encoder.name)) for encoder in opened]
        facts = _facts(results, chosen, material, seeds, budget, started)
        tables, groups = exam.pages(results, chosen, material, folder, folders, pictures)
        page = make_report(results, chosen, material, tables, groups, facts)
        if settled:
            page = _noted(page, settled)
        write_pictures(folder, results)
        reports.write(page, folder, text="report.md")
    return Evaluation(page, Path(out), tuple(results))


def _noted(page: Report, note: str) -> Report:
    """Add a sentence to the note of the first table."""
    first, *others = page.tables
    first = first.model_copy(update={"note": f"{first.note} {note}".strip()})
    return page.model_copy(update={"tables": (first, *others)})


def _check(encoders: Sequence[str | DenseEncoder], trials: int, batch: int) -> None:
    if not encoders:
        raise BadInput("expected at least one encoder, found none")
    for name, value in (("trials", trials), ("batch", batch)):
        if value < 1:
            raise BadInput(f"--{name}: expected at least 1, found {value}")


def _facts(
    results: Sequence[Result], protocol: Any, material: Material, seeds: Sequence[int], budget: Budget, started: float
) -> dict[str, Any]:
    """Collect the facts of the report. `vader compare` reads those under "protocol" and "data"."""
    facts = describe(protocol=constants(protocol), data=material.facts(), seeds=seeds, started=started)
    facts["paired"] = results[0].paired
    if scored := getattr(material, "scored", ()):
        facts["scored classes"] = [material.val.classes[i] for i in scored]  # type: ignore[attr-defined]
    facts["scored ids"] = list(scored)
    facts["encoders"] = {one.name: one.facts for one in results}
    facts["seconds"] = {one.name: {phase: round(s, 2) for phase, s in one.seconds.items()} for one in results}
    facts["skipped pictures"] = {one.name: one.skipped for one in results}
    if results[0].pixels:
        facts["depth pixels of val"] = results[0].pixels
    facts["features, MB"] = {
        "limit": round(budget.limit / 1e6), "most in memory": round(budget.most / 1e6, 3),
        "written to a file": round(budget.spilled / 1e6, 3),
    }  # fmt: skip
    return facts | peak_memory()
