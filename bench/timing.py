"""Time functions side by side: in turn, A B A B ..., with medians and the median of paired ratios; write numbers as
JSON for `gpu.py`."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vader.runtime.files import write_json


def alternate(contestants: dict[str, Callable[[], object]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each call of each contestant, taken in turn so that a machine that slows down slows all."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warm + repeats):
        for name, run in contestants.items():
            since = time.perf_counter()
            run()
            if turn >= warm:
                times[name].append(time.perf_counter() - since)
    return times


def summarise(times: Mapping[str, list[float]], against: str) -> dict[str, dict[str, float]]:
    """Of each: median and least milliseconds, and the median of its ratios to `against`, turn by turn."""
    found = {}
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, times[against], strict=True)]
        found[name] = {
            "ms": statistics.median(taken) * 1e3, "least_ms": min(taken) * 1e3, "ratio": statistics.median(ratios),
        }  # fmt: skip
    return found


def report(times: Mapping[str, list[float]], against: str) -> dict[str, Any]:
    """Print the median and the least of each, and its ratio to `against`; return them as JSON holds them."""
    found = summarise(times, against)
    for name, one in found.items():
        print(
            f"{name:44s} {one['ms']:10.2f} ms (min {one['least_ms']:.2f})   x {one['ratio']:.3f} of {against}",
            flush=True,
        )
    return {"against": against, "times": found}


def wait(device: torch.device | str) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option of the scripts that `gpu.py` runs."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON to this file")


def save(path: Path | None, numbers: Mapping[str, Any]) -> None:
    """Write the numbers, whole or not at all, if a file is named."""
    if path is not None:
        write_json(path, _rounded(dict(numbers)))


def _rounded(value: Any) -> Any:
    """Five digits of every float within, which is more than timing has."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
