"""What the verbs that use a model give back: small frozen results, which print as a user reads them.

Nothing here imports what computes.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RUNS_SHOWN = 5  # runs of skipped frames that are named
DASH = "–"


@dataclass(frozen=True)
class Embedded:
    """What `embed` wrote: maps in `folder`/maps, listed in manifest.jsonl, and the files that could not be read."""

    folder: Path
    images: int
    written: int
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.folder)

    def sentence(self) -> str:
        """How many maps there are, for the person who waits."""
        left_out = f", {len(self.skipped)} unreadable ones left out (skipped.json)" if self.skipped else ""
        new = "" if self.written == self.images - len(self.skipped) else f"; {self.written} of them made now"
        return f"maps of {self.images - len(self.skipped)} images{left_out}{new}"

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return {**asdict(self), "folder": str(self.folder), "out": str(self.folder)}


@dataclass(frozen=True)
class Drawn:
    """A picture that `show` drew."""

    picture: Path

    def __str__(self) -> str:
        return str(self.picture)

    def as_json(self) -> dict[str, Any]:
        """Where it is."""
        return {"picture": str(self.picture)}


@dataclass(frozen=True)
class Propagated:
    """Masks of a clip in `folder`/masks; `record` is what propagate.json says."""

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
            more = f" and {run['count'] - 1} after it" if run["count"] > 1 else ""
            lines.append(f"skipped frame {run['frame']}{more}: {run['reason']}")
        if others := self.skipped[RUNS_SHOWN:]:
            lines.append(f"skipped {sum(run['count'] for run in others)} more frames; propagate.json names them")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """What propagate.json says."""
        return {"out": str(self.folder)} | self.record


@dataclass(frozen=True)
class Indexed:
    """An index: `manifest` is what its manifest.json says."""

    folder: Path
    pictures: int
    cells: int
    dim: int
    recall: float
    manifest: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        made, quality, flat = self.manifest, self.manifest["quality"], self.manifest["kind"] == "flat"
        left_out = f" ({made['skipped']} unreadable ones left out)" if made["skipped"] else ""
        vectors = made["vectors_megabytes_per_million"]
        exact = "best 512 ranked again by exact vectors" if vectors else "no exact vectors kept"
        how = "all float16 vectors are compared" if flat else f"IVF-PQ, {quality['probes']} lists opened, {exact}"
        return "\n".join([
            f"{self.folder}: {self.pictures} images{left_out}, {self.cells} cells of {self.dim} dimensions",
            f"memory    {made['megabytes_per_million']:.0f} MB a million cells, read from the disk when needed; "
            f"beside it {vectors} MB of exact vectors",
            f"recall@10 {self.recall:.3f} against exact search, {quality['ms']:.1f} ms a query "
            f"({quality['queries']} queries; {how})",
        ])  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The numbers of its manifest."""
        keys = (
            "pictures", "skipped", "cells", "dim", "stride", "kind", "megabytes_per_million",
            "vectors_megabytes_per_million", "quality", "settings", "files",
        )  # fmt: skip
        return {"out": str(self.folder)} | {key: self.manifest[key] for key in keys}


@dataclass(frozen=True)
class Found:
    """Images that hold what was asked for, the best first: image, similarity, x, y (pixels of the image's file)."""

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
        """Hits, time, what the index is worth, and the picture's place."""
        told = {"hits": list(self.hits), "search_ms": round(self.search_ms, 2), "index": self.quality}
        return told | {"picture": str(self.picture) if self.picture else None}


@dataclass(frozen=True)
class Page:
    """A page to click through; `energy` is the share of the squared vectors that it keeps, `error` how far its
    similarities are off on average."""

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
            f"energy), {self.bytes / 1e6:.1f} MB; similarities are off by {self.error:.4f} on average"
        )

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return {"out": str(self.page)} | {k: v for k, v in asdict(self).items() if k != "page"}
