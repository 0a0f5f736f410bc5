"""Record where numbers come from: protocol, data, seeds, commit, machine, command, time and memory."""

import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vader.runtime.processes import describe_machine

PACKAGE = Path(__file__).parents[1]


def describe(
    *,
    protocol: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (),
    started: float | None = None,
) -> dict[str, Any]:
    """Return the facts of a report, in display order.

    `protocol` holds the constants of the exam, `data` a fingerprint for each set, `started` is the `time.monotonic()`
    of the start. Nothing here identifies the machine or its user.
    """
    machine = describe_machine()
    commit, changed = find_commit(PACKAGE)
    facts: dict[str, Any] = {
        "protocol": dict(protocol or {}),
        "data": dict(data or {}),
        "seeds": list(seeds),
        "commit": commit,
        "uncommitted changes": changed,
        "hardware": {
            "processor": _line(Path("/proc/cpuinfo"), "model name"),
            "cores": machine["cpus"],
            "threads": machine["threads"],
            "GPU": machine["gpu"],
        },
        "system": machine["platform"],
        "versions": machine["versions"],
        "command": command(sys.argv),
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if started is not None:
        facts["time, s"] = round(time.monotonic() - started, 1)
    return facts | peak_memory()


def find_commit(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit of the checkout that contains a package's folder, and whether its files differ from it.

    (None, None) outside a checkout, and for a package installed inside another project's checkout, which does not track
    it.
    """
    git = ["git", "-C", str(folder)]
    if _output([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return None, None
    commit = _output([*git, "rev-parse", "--verify", "HEAD"])
    if commit is None:
        return None, None
    changes = _output([*git, "status", "--porcelain", "--", "."])
    return commit.strip(), None if changes is None else bool(changes)


def _output(words: list[str]) -> str | None:
    """Return a command's output; None if it is not installed, failed, or hung."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # reading must not lock the index of the checkout
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, env=environment, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def command(words: Sequence[str]) -> str:
    """Return a command line for a shell, with the program's name without its folder."""
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else ""


def peak_memory() -> dict[str, int]:
    """Return the peak memory so far in MiB: of this process (not its workers), and on the GPU."""
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    # Linux's rusage includes the memory of the parent before exec; VmHWM is of this program only.
    own = _line(Path("/proc/self/status"), "VmHWM")
    most = int(own.split()[0]) * 2**10 if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    facts = {"peak memory, MiB": most // 2**20}
    if torch.cuda.is_initialized():  # reading must not start the driver
        facts["peak memory on the GPU, MiB"] = torch.cuda.max_memory_allocated() // 2**20
    return facts


def _line(path: Path, name: str) -> str | None:
    """Return the text after 'name:' in a file of /proc; None if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
