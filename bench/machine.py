"""Describe the machine on which `gpu.py` measures: device, versions, commit, cores.

    python bench/machine.py --json FILE

It imports torch but not the package, so that it can also report missing dependencies (null).
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
BESIDE = ("triton", "pytest", "beartype", "scikit-image", "scikit-learn")  # what the bench and the test need, too


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def find_commit() -> str | None:
    """The checkout's commit, `-dirty` after it if files differ; None for a copy without git."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [re.split(r"[^\w.-]", need)[0] for need in project["dependencies"]]
    found: dict[str, Any] = {
        "device": None,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "commit": find_commit(),
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            **{name: installed(name) for name in (*needs, *BESIDE)},
        },
    }
    if Path("/dev/shm").is_dir():  # where worker processes put their batches
        found["shared_memory_gib"] = round(shutil.disk_usage("/dev/shm").free / 2**30, 1)
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "device": card.name, "memory_gib": round(card.total_memory / 2**30, 1), "devices": torch.cuda.device_count()
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    a = parser.parse_args()
    text = json.dumps(describe(), indent=2)
    print(text)
    if a.json is not None:
        a.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
