"""Side-by-side timing: the contestants in turn, A B A B ..., medians and the median of paired ratios."""

import statistics
import time
from collections.abc import Callable


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


def report(times: dict[str, list[float]], against: str) -> None:
    """Median seconds of each, and its median ratio to `against`, turn by turn."""
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, times[against], strict=True)]
        print(
            f"{name:44s} {statistics.median(taken) * 1e3:10.2f} ms (min {min(taken) * 1e3:.2f})   "
            f"x {statistics.median(ratios):.3f} of {against}"
        )
