"""Measure the time of the loss, and its memory beyond its inputs.

It runs forward and backward at 4,096 queries x 65,536 keys x 128 for three versions: ours, the naive way (one matrix
of logits), and `F.cross_entropy` on concatenated logits. Peak memory is that of a new process for each version, from
the operating system (CPU) or torch (CUDA).

    python bench/loss.py [--queries 4096 --keys 65536 --dim 128 --repeats 5 --device cpu --json FILE]
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import add_json, alternate, report, save

from vader.pretraining.contrast import info_nce

TEMPERATURE, FACTOR = 0.07, 10.0


def inputs(a: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    make = lambda n: F.normalize(torch.randn(n, a.dim, device=a.device), dim=1)  # noqa: E731
    return make(a.queries).requires_grad_(), make(a.queries), make(a.keys)


def ours(q: torch.Tensor, k: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return info_nce(q, k, n, temperature=TEMPERATURE, factor=FACTOR).loss


def naive(q: torch.Tensor, k: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    positive = (q * k).sum(1) / TEMPERATURE
    negative = q @ n.T / TEMPERATURE
    return FACTOR * (torch.logaddexp(positive, negative.logsumexp(1)) - positive).mean()


def concatenated(q: torch.Tensor, k: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ n.T], 1) / TEMPERATURE
    return FACTOR * F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


CONTESTANTS = {"ours": ours, "naive": naive, "cross_entropy": concatenated}


def run(name: str, tensors: tuple[torch.Tensor, ...]) -> float:
    tensors[0].grad = None
    loss = CONTESTANTS[name](*tensors)
    loss.backward()
    return float(loss.detach())  # waits for the device


def peak_above_inputs(name: str, a: argparse.Namespace) -> float:
    """MiB, measured in this process: call it in a fresh one."""
    tensors = inputs(a)
    small = argparse.Namespace(**{**vars(a), "queries": 64, "keys": 256})
    run(name, inputs(small))  # libraries' own buffers
    if a.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(name, tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    run(name, tensors)
    return (status("VmHWM") - before) / 2**10


def status(key: str) -> int:
    """KiB of this process, from Linux's own accounting."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("queries", 4096), ("keys", 65536), ("dim", 128), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    add_json(parser)
    parser.add_argument("--peak", choices=CONTESTANTS, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peak:
        print(peak_above_inputs(a.peak, a))
        return
    print(f"{a.queries} queries x {a.keys} keys x {a.dim}, float32, {a.device}, {torch.get_num_threads()} threads")
    tensors = inputs(a)
    contestants = {name: (lambda name=name: run(name, tensors)) for name in CONTESTANTS}
    numbers = {"queries": a.queries, "keys": a.keys, "dim": a.dim, "device": a.device}
    numbers |= report(alternate(contestants, a.repeats), "naive")
    peaks = {}
    for name in CONTESTANTS:
        command = [sys.executable, __file__, "--peak", name, *sys.argv[1:]]
        peaks[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, peak in peaks.items():
        print(f"{name:44s} peak {peak:9.1f} MiB above inputs   x {peak / peaks['naive']:.3f} of naive")
    grads = []
    for name in ("ours", "naive"):
        q, k, n = (t.detach().double()[:256] for t in tensors)
        q.requires_grad_()
        CONTESTANTS[name](q, k, n).backward()
        grads.append(q.grad)
    difference = float((grads[0] - grads[1]).abs().max())
    print(f"largest gradient difference, float64, 256 x 256: {difference:.1e}")
    ratios = {name: peak / peaks["naive"] for name, peak in peaks.items()}
    save(a.json, numbers | {"peak_mib": peaks, "peak_ratio": ratios, "gradient_difference": difference})


if __name__ == "__main__":
    main()
