"""The results of the verbs that use a model: small frozen classes that print as text for the user.

This file has no slow imports.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RUNS_SHOWN = 5  # sequences of skipped frames that are printed
DASH = "–"


@dataclass(frozen=True)
class Embedded:
    """The result of `embed`: maps in `folder`/maps, listed in manifest.jsonl, and the unreadable files."""

    folder: Path
    images: int
    written: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.folder)

    def sentence(self) -> str:
        """Describe the number of maps for the console."""
        left_out = f", {len(self.skipped)} unreadable ones skipped (skipped.json)" if self.skipped else ""
        new = "" if self.written == self.images - len(self.skipped) else f"; {self.written} of them are new"
        return f"maps of {self.images - len(self.skipped)} images{left_out}{new}"

    def as_json(self) -> dict[str, Any]:
        """Return all numbers."""
        return {**asdict(self), "folder": str(self.folder), "out": str(self.folder)}


@dataclass(frozen=True)
class Drawn:
    """The result of `show`: the file of the picture."""

    picture: Path

    def __str__(self) -> str:
        return str(self.picture)

    def as_json(self) -> dict[str, Any]:
        """Return the file of the picture."""
        return {"picture": str(self.picture)}


@dataclass(frozen=True)
class Propagated:
    """The result of `propagate`: masks in `folder`/masks; `record` is the content of propagate.json."""

    folder: Path
    frames: int
    masks: int
    objects: tuple[int, ...]
    seconds: float
    skipped: tuple[dict[str, Any], ...]
    record: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        objects = "1 object" if len(self.objects) == 1 else f"{len(self.objects)} objects"
        lines = [
            f"{self.folder}: {self.masks} masks of {self.frames} frames, {objects}, "
            f"{self.masks / max(self.seconds, 1e-9):.1f} frames/s ({self.seconds:.1f} s)"
        ]
        for run in self.skipped[:RUNS_SHOWN]:
            more = f" and the {run['count'] - 1} after it" if run["count"] > 1 else ""
            lines.append(f"skipped frame {run['frame']}{more}: {run['reason']}")
        if others := self.skipped[RUNS_SHOWN:]:
            lines.append(f"skipped {sum(run['count'] for run in others)} more frames; see propagate.json")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the content of propagate.json."""
        return {"out": str(self.folder)} | self.record


@dataclass(frozen=True)
class Indexed:
    """The result of `index`: `manifest` is the content of manifest.json."""

    folder: Path
    pictures: int
    cells: int
    dim: int
    recall: float
    manifest: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        made, quality, flat = self.manifest, self.manifest["quality"], self.manifest["kind"] == "flat"
        left_out = f" ({made['skipped']} unreadable ones skipped)" if made["skipped"] else ""
        vectors = made["vectors_megabytes_per_million"]
        exact = "best 512 re-ranked with exact vectors" if vectors else "no exact vectors stored"
        how = "all float16 vectors are compared" if flat else f"IVF-PQ, {quality['probes']} lists searched, {exact}"
        return "\n".join([
            f"{self.folder}: {self.pictures} images{left_out}, {self.cells} cells of {self.dim} dimensions",
            f"memory    {made['megabytes_per_million']:.0f} MB per million cells, read from the disk when needed; "
            f"also {vectors} MB of exact vectors",
            f"recall@10 {self.recall:.3f} against exact search, {quality['ms']:.1f} ms per query "
            f"({quality['queries']} queries; {how})",
        ])  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return the numbers of the manifest."""
        keys = (
            "pictures", "skipped", "cells", "dim", "stride", "kind", "megabytes_per_million",
            "vectors_megabytes_per_million", "quality", "settings", "files",
        )  # fmt: skip
        return {"out": str(self.folder)} | {key: self.manifest[key] for key in keys}


@dataclass(frozen=True)
class Found:
    """The result of `retrieve`: images with the queried content, best first: image, similarity, x, y (pixels)."""

    hits: tuple[dict[str, Any], ...]
    search_ms: float
    quality: dict[str, Any]
    picture: Path | None = None

    def __str__(self) -> str:
        lines = ["rank  similarity       x       y  image"]
        for rank, hit in enumerate(self.hits, 1):
            lines.append(f"{rank:4d}  {hit['similarity']:10.3f}  {hit['x']:6.0f}  {hit['y']:6.0f}  {hit['image']}")
        if not self.hits:
            lines.append(f"   {DASH}  no other image in the index")
        lines.append(f"searched in {self.search_ms:.1f} ms; recall@10 of the index {self.quality['recall']:.3f}")
        return "\n".join([*lines, *([str(self.picture)] if self.picture else [])])

    def as_json(self) -> dict[str, Any]:
        """Return hits, time, the quality of the index, and the file of the picture."""
        told = {"hits": list(self.hits), "search_ms": round(self.search_ms, 2), "index": self.quality}
        return told | {"picture": str(self.picture) if self.picture else None}


@dataclass(frozen=True)
class Page:
    """The result of `browse`: an HTML page. `energy` is the share of the squared vectors that it keeps, `error` the
    average error of its similarities."""

    page: Path
    images: int
    cells: int
    dim: int
    energy: float
    error: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.page}: {self.images} images, {self.cells} cells in {self.dim} dimensions ({self.energy:.1%} of the "
            f"energy), {self.bytes / 1e6:.1f} MB; the average error of similarities is {self.error:.4f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all numbers."""
        return {"out": str(self.page)} | {k: v for k, v in asdict(self).items() if k != "page"}
