"""The public verbs that judge encoders: evaluate, compare.

Signatures and docstrings are those of the command line, too. What computes is imported when a verb runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vader.errors import BadInput
from vader.runtime.verb import verb

if TYPE_CHECKING:
    from vader.encoders.dense import DenseEncoder
    from vader.exams.evaluate import Evaluation
    from vader.reports.report import Report


@dataclass(frozen=True)
class Comparison:
    """Reports joined into one, and the file that it was written to, if it was."""

    report: "Report"
    file: Path | None

    def __str__(self) -> str:
        from vader.reports.report import to_text

        return to_text(self.report).rstrip("\n")

    def as_json(self) -> dict[str, Any]:
        """The joined report."""
        from vader.reports.report import to_json

        return to_json(self.report)


@verb
def evaluate(
    models: "str | Path | DenseEncoder | Sequence[str | Path | DenseEncoder]",
    *,
    task: str,
    protocol: str,
    data: str | Path | None = None,
    out: str | Path,
    trials: int = 5,
    seed: int = 0,
    weights: str | Path | None = None,
    memory: str | int | None = None,
    batch: int = 16,
    pictures: bool = True,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    quiet: bool = False,
) -> "Evaluation":
    """Evaluate encoders with a named protocol and write a report: one table, and what every number depends on.

    Parameters
    ----------
    models
        Run folders, model.safetensors, timm:NAME, random:NAME, moco:FILE, rgb ...; a variant follows an @, such as
        @hypercolumn:128. A NAME= before one (a plain word) is its name in tables and folders.
    task
        segmentation, depth, neighbours, propagation or match.
    protocol
        Its name fixes all that a score depends on: voc-linear/vader, nyu-linear/vader ...; for linear probes with few
        labels, voc-linear/vader:5% or voc-linear/vader:20 (pictures).
    data
        Root of the data set that the protocol is about; match of scenes needs none.
    out
        Folder to make: report.json, report.md, report.html, predictions.
    trials
        How often the probes are trained, each time with another seed.
    seed
        Of the first trial.
    weights
        Weights for the timm:NAME (or torchvision:NAME) without a file; the other models do without.
    memory
        What features may take, such as 2GB (default: half of what is free); beyond it they are in a temporary file.
    batch
        Pictures at a time.
    pictures
        Draw charts and examples into the report.
    device
        Where to compute.
    precision
        bf16 or fp32 (auto: bf16 where the hardware has units for it); scores of reports are in fp32 unless they say so.
    quiet
        No progress on standard error.
    """
    from vader.encoders.dense import DenseEncoder
    from vader.encoders.opening import as_encoder
    from vader.exams.evaluate import evaluate_encoders
    from vader.models.network import Network
    from vader.runtime.processes import choose_device
    from vader.runtime.progress import to_stderr

    alone = isinstance(models, str | Path | DenseEncoder | Network)
    listed: list[Any] = [models] if alone else list(models)  # type: ignore[arg-type]
    if not listed:
        raise BadInput("expected at least one MODEL, found none; vader evaluate --help says what can be one")
    return evaluate_encoders(
        [as_encoder(one, choose_device(device)) for one in listed], task, protocol,
        None if data is None else Path(data), Path(out), trials=trials, seed=seed, memory=memory, batch=batch,
        device=device, precision=precision, weights=None if weights is None else Path(weights), pictures=pictures,
        say=None if quiet else to_stderr,
    )  # fmt: skip


@verb
def compare(reports: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Comparison:
    """Join reports of one protocol on the same data into one table; different ones are refused.

    Parameters
    ----------
    reports
        Folders that `vader evaluate` made.
    out
        File for the table: .md, .json or .html; Markdown without an ending.
    """
    from vader.exams.compare import join_reports, write_comparison

    folders = [reports] if isinstance(reports, str | Path) else reports
    report = join_reports([Path(folder) for folder in folders])
    if out is not None:
        write_comparison(report, Path(out))
    return Comparison(report, None if out is None else Path(out))
