"""Encoders sit a named protocol on labelled data, and a report says what they got and what that depends on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vader import report as reports
from vader.datasets.opening import open_labelled
from vader.encoders import DenseEncoder, open_encoder
from vader.errors import BadInput
from vader.evaluation.exams import sit
from vader.evaluation.files import (
    folder_names,
    new_folder,
    prediction_file,
    write_depth,
    write_labels,
    write_pictures,
)
from vader.evaluation.pages import make_report
from vader.evaluation.results import Result
from vader.evaluation.sitting import Plan, Sets
from vader.exams.protocols import constants, find_protocol
from vader.exams.store import Budget, parse_memory
from vader.provenance import describe, peak_memory
from vader.report import Report
from vader.runtime import choose_device


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives back: the report, its folder, and each encoder's result."""

    report: Report
    folder: Path
    results: tuple[Result, ...]


def evaluate(
    encoders: Sequence[str | DenseEncoder],
    task: str,
    protocol: str,
    data: str | Path,
    out: str | Path,
    *,
    trials: int = 5,
    seed: int = 0,
    memory: str | int | None = None,
    batch: int = 16,
    device: str = "auto",
    weights: Path | None = None,
    scratch: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Let each encoder sit the protocol and write `out`: report.json, .md and .html, predictions/, pictures.npz.

    `encoders` are words of `open_encoder` or encoders; trial t has seed `seed` + t. Features stay within `memory`
    (bytes, or words such as "2GB"; None: half of what is free), beyond it in a file in `scratch`, and never more
    than `batch` pictures above it. `say` gets lines of progress. Nothing but seeds, trials, encoders and data changes
    a score.

    Raises BadInput for words that name nothing, data that is not as its layout says, features that are not finite and
    an `out` that is not empty, all but the features' before the first picture is encoded. Nothing is left then, nor by
    Ctrl-C.
    """
    started = time.monotonic()
    chosen = find_protocol(task, protocol)
    _check(encoders, trials, batch)
    limit = memory if isinstance(memory, int) else parse_memory(memory)
    device = choose_device(device)
    sets = Sets(*(open_labelled(chosen.data, Path(data), split) for split in ("train", "val")))
    opened = [one if isinstance(one, DenseEncoder) else open_encoder(one, device, weights) for one in encoders]
    folders = folder_names([one.name for one in opened])
    if len(folders) < len(opened):
        raise BadInput(
            f"expected each encoder once, got {', '.join(one.name for one in opened)}; give them other names"
        )
    seeds = [seed + trial for trial in range(trials)]
    budget = Budget(limit)
    with new_folder(Path(out)) as folder:
        results = []
        for encoder in opened:
            plan = Plan(seeds, budget, batch, device, scratch, say)

            def keep(name: str, found: np.ndarray, place: str = folders[encoder.name]) -> None:
                path = prediction_file(folder, place, name)
                (write_depth if found.dtype.kind == "f" else write_labels)(path, found)

            results.append(sit(encoder, chosen, sets, plan, keep))
        facts = _facts(results, chosen, sets, seeds, budget, started)
        page = make_report(results, chosen, sets, folder, folders, facts)
        write_pictures(folder, results)
        reports.write(page, folder, text="report.md")
    return Evaluation(page, Path(out), tuple(results))


def _check(encoders: Sequence[str | DenseEncoder], trials: int, batch: int) -> None:
    if not encoders:
        raise BadInput("expected at least one encoder, got none")
    for name, value in (("trials", trials), ("batch", batch)):
        if value < 1:
            raise BadInput(f"--{name}: expected at least 1, got {value}")


def _facts(
    results: Sequence[Result], protocol: Any, sets: Sets, seeds: Sequence[int], budget: Budget, started: float
) -> dict[str, Any]:
    """What `vader compare` asks for is under "protocol" and "data"."""
    data = {"set": sets.train.name}
    for split in (sets.train, sets.val):
        data |= {split.split: f"{split.fingerprint()} ({len(split)} pictures)"}
        data |= {f"{split.split}, note": split.note} if split.note else {}
    facts = describe(protocol=constants(protocol), data=data, seeds=seeds, started=started)
    facts["paired"] = results[0].paired
    facts["scored classes"] = [sets.val.classes[i] for i in sets.val.scored]
    facts["scored ids"] = list(sets.val.scored)
    facts["encoders"] = {one.name: one.facts for one in results}
    facts["seconds"] = {one.name: {phase: round(s, 2) for phase, s in one.seconds.items()} for one in results}
    facts["skipped pictures"] = {one.name: one.skipped for one in results}
    facts["features, MB"] = {
        "limit": round(budget.limit / 1e6), "most in memory": round(budget.most / 1e6, 3),
        "written to a file": round(budget.spilled / 1e6, 3),
    }  # fmt: skip
    return facts | peak_memory()
