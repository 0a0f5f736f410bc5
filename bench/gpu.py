"""Test and time the package on one GPU in eight minutes; one JSON file holds all the numbers.

    bench/gpu.sh [--minutes 8 --out results/gpu.json]
    bench/gpu.sh --tiny --device cpu --minutes 4 --out FILE     # a check without a GPU; its numbers mean nothing

Each part is a process of its own with a deadline, the most important first. The file is written again after every part,
so a stop loses only the running part. A part that failed holds "error", the last line of its error; a part that did not
run holds "skipped" and the reason. What a failed part measured before is kept. The script needs the checkout, the
package's dependencies, and for test and photographs pytest, beartype, scikit-image and scikit-learn. It imports only
Python's own library, so that the file also tells what is missing.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCH = Path(__file__).parent
ENDING = 5.0  # seconds of the whole that no part gets: for writing, and for the shell's own limit
GIVEN_UP = re.compile(r"^(?:E\s+)?((?:[\w.]*(?:Error|Exception)|vader\.errors\.\w+)\b.*)")


@dataclass(frozen=True)
class Part:
    """One process: its command without the file for its numbers; what it `needs` to be worth a start, and the `most`
    that it gets, in seconds."""

    name: str
    command: Sequence[str]
    needs: float
    most: float
    gpu_only: bool = False


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def script(name: str, *words: str) -> list[str]:
    return [str(BENCH / f"{name}.py"), *words]


def gpu_parts(device: str) -> list[Part]:
    """Full sizes. `needs` and `most` are guesses for a recent data-centre GPU."""
    workers = str(min(16, cores()))  # as many as a run takes
    on = ("--device", device)

    def step(batch: int, *words: str) -> list[str]:
        return script("step", *on, "--batch", str(batch), "--ready", "--workers", workers, "--repeats", "5", *words)

    return [
        Part("loss", script("loss", *on), 15, 45),
        Part("step, batch 128", step(128), 25, 70),
        Part("step, batch 128, compiled", step(128, "--compile"), 60, 140),
        Part("step, batch 256", step(256), 25, 70),
        Part("step, batch 256, compiled", step(256, "--compile"), 60, 140),
        Part("input", script("input", *on, "--workers", workers, "--batch", "128", "--repeats", "5"), 25, 60),
        Part("propagation", script("propagate", *on), 15, 40),
        Part("propagation, stride 4", script("propagate", *on, "--stride", "4", "--alone"), 15, 40),
    ]


def tiny_parts(device: str) -> list[Part]:
    """The same parts at the smallest sizes."""
    on = ("--device", device, "--repeats", "1")

    def step(batch: int, *words: str) -> list[str]:
        sizes = ("--encoder", "test_resnet", "--size", "32", "--queue", "256", "--batch", str(batch))
        return script("step", *on, *sizes, "--ready", "--workers", "1", *words)

    return [
        Part("loss", script("loss", *on, "--queries", "64", "--keys", "512", "--dim", "16"), 5, 60),
        Part("step, batch 4", step(4), 5, 60),
        Part("step, batch 4, compiled", step(4, "--compile"), 5, 60, gpu_only=True),
        Part("step, batch 8", step(8), 5, 60),
        Part("step, batch 8, compiled", step(8, "--compile"), 5, 60, gpu_only=True),
        Part("input", script("input", *on, "--count", "4", "--size", "32", "--batch", "4", "--workers", "1"), 5, 60),
        Part("propagation", script("propagate", *on, "--stride", "32", "--dim", "8"), 5, 60),
        Part("propagation, stride 16", script("propagate", *on, "--stride", "16", "--dim", "8", "--alone"), 5, 60),
    ]


def all_parts(device: str, tiny: bool) -> list[Part]:
    test = ["-m", "pytest", "tests/pretraining/test_gpu.py", "-p", "no:cacheprovider"]
    return [
        Part("machine", script("machine"), 0, 60),
        Part("test", test, 5 if tiny else 20, 100),
        *(tiny_parts(device) if tiny else gpu_parts(device)),
    ]


def surroundings(folder: Path, tiny: bool) -> dict[str, str]:
    """The environment of all parts: this checkout's package first, and all temporary files within the folder."""
    (folder / "tmp").mkdir()
    path = filter(None, [str(ROOT / "src"), os.getenv("PYTHONPATH")])
    changes = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder / "tmp")}
    return os.environ | changes | ({"OMP_NUM_THREADS": "1"} if tiny else {})


def run(part: Part, seconds: float, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The part's numbers, and "error" if it failed or had to be stopped."""
    of_test = "pytest" in part.command
    since = time.monotonic()
    numbers, said = folder / f"{part.name}.numbers", folder / f"{part.name}.said"
    words = [f"--junitxml={numbers}"] if of_test else ["--json", str(numbers)]
    with said.open("wb") as output:
        code = call([sys.executable, *part.command, *words], output, seconds, environment)
    text = said.read_text(errors="replace")
    print(text, end="")
    found: dict[str, Any] = {}
    if numbers.exists():
        found = read_test(numbers) if of_test else json.loads(numbers.read_text())
    if code is None:  # what is in the file was measured before
        found["error"] = f"stopped after {seconds:.0f} s"
    elif code != 0:
        found["error"] = last_line(text) or f"ended with code {code} and no word"
    return found | {"seconds": round(time.monotonic() - since, 1)}


def call(words: list[str], output: Any, seconds: float, environment: dict[str, str]) -> int | None:
    """The exit code, None after a stop. Nothing that it started outlives it."""
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # all have ended; macOS says the second
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(text: str) -> str:
    """The last line that names an error, or the last of all: libraries may still warn after an error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [found[1] for line in lines if (found := GIVEN_UP.match(line))]
    return (errors or lines or [""])[-1]


def read_test(file: Path) -> dict[str, Any]:
    """pytest's counts, and of each failure the first line."""
    counts, failures = {"passed": 0, "failed": 0, "skipped": 0}, {}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        failure = next((one for tag in ("failure", "error") if (one := case.find(tag)) is not None), None)
        if failure is not None:
            counts["failed"] += 1
            failures[case.get("name")] = (failure.get("message") or "").partition("\n")[0]
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return {"counts": counts, "failures": failures}


def write(file: Path, value: dict[str, Any]) -> None:
    """The old content or the whole new one, whenever the machine stops."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="the whole takes no longer (default: 8)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu.json", help="default: results/gpu.json")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take a CPU seconds")
    parser.add_argument("--commit", help="the package's commit, for a copy without git")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # as an exception: the part's processes end, too
    with tempfile.TemporaryDirectory() as folder:
        measure(a, Path(folder))


def measure(a: argparse.Namespace, folder: Path) -> None:
    """Run the parts and write the file after each."""
    since = time.monotonic()
    out = a.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = surroundings(folder, a.tiny)
    parts: dict[str, Any] = {}
    whole: dict[str, Any] = {"minutes": a.minutes, "tiny": a.tiny, "on": a.device}
    for part in all_parts(a.device, a.tiny):
        left = 60 * a.minutes - ENDING - (time.monotonic() - since)
        if part.gpu_only and a.device != "cuda":
            found = {"skipped": "needs a GPU"}
        elif left <= part.needs:
            found = {"skipped": "no time left"}
        else:
            print(f"== {part.name} ({left:.0f} s left)", flush=True)
            found = run(part, min(left, part.most), folder, environment)
        if part.name == "machine":
            whole["machine"] = found | ({"commit": a.commit} if a.commit else {})
            if a.device == "cuda" and found.get("device", "") is None:
                sys.exit("expected a CUDA device, found none; check the driver, or rehearse with --tiny --device cpu")
        else:
            parts[part.name] = found
        write(out, whole | {"seconds": round(time.monotonic() - since, 1), "parts": parts})
        if "error" in found or "skipped" in found:
            print(f"-- {part.name}: {found.get('error') or found['skipped']}", flush=True)
    print(f"{time.monotonic() - since:.0f} s; the numbers are in {a.out}")


if __name__ == "__main__":
    main()
