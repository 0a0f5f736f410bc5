"""The output of a run: lines on the console, `metrics.jsonl`, and TensorBoard if requested."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vader.errors import MissingExtra
from vader.runtime.files import write_atomic
from vader.runtime.progress import clock


class Journal:
    """Average the numbers of the steps over a window; write one line per window to `metrics.jsonl` and the console.

    The open window is part of a run's saved state, so a resumed run writes the same lines as a run without a stop. Only
    the first process (`active`) writes.
    """

    def __init__(self, run: Path, steps: int, batch: int, *, active: bool, quiet: bool, tensorboard: bool) -> None:
        self.path, self.steps, self.batch = run / "metrics.jsonl", steps, batch
        self.active, self.quiet = active, quiet
        self.sums: dict[str, float] = {}
        self.count = 0
        self.timed = 0  # steps of the window since the start or the resume: the speed counts only these
        self.pending: list[Mapping[str, Tensor]] = []
        self.since = time.monotonic()
        self.board = _tensorboard(run) if tensorboard and active else None

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Add one step's numbers (as tensors, so that nothing waits for the device before the window is read)."""
        self.pending.append(numbers)

    def window(self) -> dict[str, Any]:
        """Return the open window as JSON values, for the run's saved state."""
        for numbers in self.pending:
            for name, value in numbers.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.count += 1
            self.timed += 1
        self.pending = []
        return {"sums": dict(self.sums), "count": self.count}

    def resume(self, window: Mapping[str, Any], step: int) -> None:
        """Load a saved window, and delete the lines written after it."""
        self.sums, self.count = dict(window["sums"]), int(window["count"])
        if self.active and self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(self.path, "".join(line + "\n" for line in lines))

    def close_window(self, step: int, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Write the window's means, start a new window, and return the line; no means if all steps were skipped."""
        self.window()
        seconds = max(time.monotonic() - self.since, 1e-9)
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        line = {"step": step, **means, "images_per_s": self.timed * self.batch / seconds, **extra}
        self.sums, self.count, self.timed, self.since = {}, 0, 0, time.monotonic()
        self.write(line)
        left = (self.steps - step) * self.batch / line["images_per_s"] if line["images_per_s"] else 0
        if means:
            self.say(
                f"step {step}/{self.steps}  loss {line['loss']:.3f} (chance {line['chance_loss']:.3f})  "
                f"accuracy {line['accuracy']:.3f}  queue {line['queue_fill']:.0%}  {line['images_per_s']:.0f} images/s"
                f"  ETA {clock(left)}"
            )
        return line

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, line["step"])

    def say(self, text: str) -> None:
        """Print a line of progress on standard error."""
        if self.active and not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning on standard error, also with --quiet."""
        if self.active:
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def pause(self) -> float:
        """Return the present time for `skip`: exams and saving do not count as training time."""
        return time.monotonic()

    def skip(self, since: float) -> None:
        """Exclude the time from `since` to now from the window's speed."""
        self.since += time.monotonic() - since


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read all lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # an incomplete line of a killed run


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("tensorboard is not installed; pip install 'vader-dense[tensorboard]'") from None
    return SummaryWriter(run / "tensorboard")
