"""What the command line's verbs that judge encoders do: words -> the library -> what to print."""

import json
import sys
from pathlib import Path

from vader.errors import BadInput
from vader.exams.compare import compare as join
from vader.exams.compare import write_comparison
from vader.exams.evaluate import evaluate as run_evaluate
from vader.reports import report as reports


def evaluate(
    encoders: list[str], task: str, protocol: str, data: Path | None, out: Path, trials: int, seed: int,
    memory: str | None, batch: int, device: str, weights: Path | None, as_json: bool, quiet: bool,
) -> str:  # fmt: skip
    """What to print; see `vader evaluate --help`."""
    if not encoders:
        raise BadInput("expected at least one MODEL, got none; vader evaluate --help says what can be one")
    done = run_evaluate(
        encoders, task, protocol, data, out, trials=trials, seed=seed, memory=memory, batch=batch, device=device,
        weights=weights, say=None if quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    return _print(done.report, as_json)


def compare(folders: list[Path], out: Path | None, as_json: bool) -> str:
    """What to print; see `vader compare --help`."""
    comparison = join(folders)
    if out is not None:
        write_comparison(comparison, out)
    return _print(comparison, as_json)


def _print(report: reports.Report, as_json: bool) -> str:
    if as_json:
        return json.dumps(reports.to_json(report), indent=2, ensure_ascii=False)
    return reports.to_text(report).rstrip("\n")
