"""The verbs around exams: scenes, evaluate, compare."""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vader.cli.app import Device, Json, Quiet, app


@app.command
def scenes(
    out: Path,
    *,
    layout: Literal["images", "voc", "cityscapes", "nyu", "davis", "coco"],
    count: int = 100,
    size: str = "224x224",
    seed: int = 0,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    workers: int | None = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Render scenes whose every label is known, as a folder that looks like a real data set to what reads it.

    Parameters
    ----------
    out
        Folder to make.
    layout
        images (plain), voc (2012), cityscapes (landscapes), nyu (Depth v2, rooms), davis (2017, clips), coco (2017).
    count
        Pictures; each fifth is for validation. For davis frames, in clips of 24 (the last is shorter, of at least 2).
    size
        Height x width in pixels, such as 480x640.
    seed
        Of everything random: the same seed gives the same bytes.
    set_
        KEY=VALUE for any setting of the scenes: --set setting=room --set haze=0.5
    workers
        Processes that render (default: as many as there are cores; one if there is little to do).
    json_
        Print what was written as JSON.
    quiet
        No progress on standard error.
    """
    from vader import commands

    summary = commands.scenes(out, layout, count, size, seed, set_ or [], workers, quiet)
    print(json.dumps({"out": str(out)} | summary) if json_ else out)


@app.command
def evaluate(
    models: list[str],
    *,
    task: str,
    protocol: str,
    data: Path | None = None,
    out: Path,
    trials: int = 5,
    seed: int = 0,
    weights: Path | None = None,
    memory: str | None = None,
    batch: int = 16,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Frozen features sit a named exam; one table for all models, and a report with every number's circumstances.

    Parameters
    ----------
    models
        Run folders, model.safetensors, timm:NAME, random:NAME, moco:FILE, rgb ...; a variant follows an @, such as
        @hypercolumn:128. A NAME= before one (a plain word) is what tables and folders call it.
    task
        segmentation, depth, neighbours, propagation or match.
    protocol
        Its name fixes all that a score depends on: voc-linear/vader, nyu-linear/vader ...; of linear probes with few
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
    device
        Where to compute.
    json_
        Print the report as JSON.
    quiet
        No progress on standard error.
    """
    from vader import commands_exams

    print(commands_exams.evaluate(
        models, task, protocol, data, out, trials, seed, memory, batch, device, weights, json_, quiet
    ))  # fmt: skip


@app.command
def compare(
    reports: list[Path],
    *,
    out: Path | None = None,
    json_: Json = False,
) -> None:
    """Join reports of one protocol on the same data into one table; different ones are refused.

    Parameters
    ----------
    reports
        Folders that `vader evaluate` made.
    out
        File for the table: .md, .json or .html; Markdown without an ending.
    json_
        Print the table as JSON.
    """
    from vader import commands_exams

    print(commands_exams.compare(reports, out, json_))
