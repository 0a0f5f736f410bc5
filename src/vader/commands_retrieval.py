"""What the command line's verbs that search a collection do: words -> the library -> what to print."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vader.errors import BadInput
from vader.images.sources import list_images
from vader.inference.retrieval.browse import write_page
from vader.inference.retrieval.building import IndexConfig, build_index
from vader.inference.retrieval.index import open_index
from vader.inference.retrieval.query import Answer, draw_answer
from vader.inference.retrieval.query import retrieve as run_retrieve
from vader.reports.tables import DASH
from vader.runtime.processes import choose_device


def index(
    model: str, images: Path, out: Path, stride: int | None, sample: int | None, size: int | None, kind: str,
    vectors: bool, seed: int, device: str, as_json: bool, quiet: bool,
) -> str:  # fmt: skip
    """What to print; see `vader index --help`."""
    try:
        config = IndexConfig.model_validate(
            {"stride": stride, "sample": sample, "size": size, "kind": kind, "vectors": vectors, "seed": seed}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadInput(f"--{problem['loc'][0]}: {problem['msg']}, got {problem['input']!r}") from None
    made = build_index(model, list_images(images), out, config, device=choose_device(device), say=_say(quiet))
    if as_json:
        return json.dumps({"out": str(out)} | {key: made[key] for key in SUMMARY}, indent=2, ensure_ascii=False)
    return describe(out, made)


SUMMARY = (
    "pictures", "skipped", "cells", "dim", "stride", "kind", "megabytes_per_million", "vectors_megabytes_per_million",
    "quality", "settings", "files",
)  # fmt: skip


def describe(out: Path, made: dict[str, Any]) -> str:
    """An index in words: what it holds, takes, finds and costs."""
    quality, flat = made["quality"], made["kind"] == "flat"
    left_out = f" ({made['skipped']} unreadable ones left out)" if made["skipped"] else ""
    vectors = made["vectors_megabytes_per_million"]
    how = "all float16 vectors are looked at" if flat else (
        f"IVF-PQ, {quality['probes']} lists opened, "
        + ("best 512 ranked again by exact vectors" if vectors else "no exact vectors kept")
    )  # fmt: skip
    return "\n".join([
        f"{out}: {made['pictures']} images{left_out}, {made['cells']} cells of {made['dim']} dimensions",
        f"memory    {made['megabytes_per_million']:.0f} MB a million cells, read from the disk when needed; "
        f"beside it {vectors} MB of exact vectors",
        f"recall@10 {quality['recall']:.3f} against exact search, {quality['ms']:.1f} ms a query "
        f"({quality['queries']} queries; {how})",
    ])  # fmt: skip


def retrieve(
    folder: Path, image: Path, at: list[str], box: list[str], top: int, out: Path | None, model: str | None,
    device: str, as_json: bool,
) -> str:  # fmt: skip
    """What to print; see `vader retrieve --help`."""
    if top < 1:
        raise BadInput(f"--top: expected at least 1, got {top}")
    points = [_numbers("--at", "X,Y", text) for text in at]
    boxes = [_numbers("--box", "X0,Y0,X1,Y1", text) for text in box]
    if out is not None and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise BadInput(f"--out: expected a picture's name such as hits.png, got {out}")
    opened = open_index(folder)
    found = run_retrieve(opened, opened.open_model(model, choose_device(device)), image, points, boxes, top)
    if out is not None:
        draw_answer(found, out)
    return _answer(found, opened.manifest["quality"], out, as_json)


def _answer(found: Answer, quality: dict[str, Any], out: Path | None, as_json: bool) -> str:
    if as_json:
        told = {"hits": [hit.as_json() for hit in found.hits], "search_ms": round(found.ms, 2), "index": quality}
        return json.dumps(told | {"picture": str(out) if out else None}, indent=2, ensure_ascii=False)
    lines = ["rank  similarity       x       y  image"]
    for rank, hit in enumerate(found.hits, 1):
        lines.append(f"{rank:4d}  {hit.score:10.3f}  {hit.at[0]:6.0f}  {hit.at[1]:6.0f}  {hit.name}")
    if not found.hits:
        lines.append(f"   {DASH}  no other image in the index")
    lines.append(f"searched in {found.ms:.1f} ms; recall@10 of the index {quality['recall']:.3f}")
    return "\n".join([*lines, *([str(out)] if out else [])])


def browse(folder: Path, out: Path, count: int | None, model: str | None, device: str, as_json: bool) -> str:
    """What to print; see `vader browse --help`."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"--out: expected a page's name such as page.html, got {out}")
    page = write_page(open_index(folder), out, count=count, model=model, device=choose_device(device))
    if as_json:
        return json.dumps({"out": str(out)} | page.as_json(), indent=2)
    return (
        f"{out}: {page.images} images, {page.cells} cells in {page.dim} dimensions ({page.energy:.1%} of the energy), "
        f"{page.bytes / 1e6:.1f} MB; similarities are off by {page.error:.4f} on average"
    )


def _numbers(flag: str, form: str, text: str) -> Any:
    """'1,2' -> (1.0, 2.0), as many as the form has."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != form.count(",") + 1:
        raise BadInput(f"{flag}: expected {form} in pixels, got {text!r}")
    return found


def _say(quiet: bool) -> Callable[[str], None] | None:
    return None if quiet else lambda line: print(line, file=sys.stderr, flush=True)
