"""What the command line's verb that propagates masks does: words -> the library -> what to print."""

import json
import sys
from pathlib import Path
from typing import Any

from vader.inference.propagate import propagate as run_propagate

SHOWN = 5  # runs of skipped frames that are named


def propagate(
    model: str, video: Path, masks: Path, out: Path, protocol: str, size: int | None, weights: Path | None,
    film: bool, device: str, as_json: bool, quiet: bool,
) -> str:  # fmt: skip
    """What to print; see `vader propagate --help`."""
    done = run_propagate(
        model, video, masks, out, protocol=protocol, size=size, weights=weights, device=device, film=film,
        say=None if quiet else lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    if as_json:
        return json.dumps({"out": str(out)} | done, indent=2, ensure_ascii=False)
    return describe(out, done)


def describe(out: Path, done: dict[str, Any]) -> str:
    """A propagated clip in words: how much there is, how fast it went, and what could not be read."""
    seconds, written = done["seconds"]["propagation"], done["masks_written"]
    objects = "1 object" if len(done["objects"]) == 1 else f"{len(done['objects'])} objects"
    lines = [
        f"{out}: {written} masks of {done['frames']} frames, {objects}, "
        f"{written / max(seconds, 1e-9):.1f} frames/s ({seconds:.1f} s)"
    ]
    for run in done["skipped"][:SHOWN]:
        more = f" and {run['count'] - 1} after it" if run["count"] > 1 else ""
        lines.append(f"skipped frame {run['frame']}{more}: {run['reason']}")
    if more := done["skipped"][SHOWN:]:
        lines.append(f"skipped {sum(run['count'] for run in more)} more frames; propagate.json names them")
    return "\n".join(lines)
