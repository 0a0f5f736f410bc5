"""Measure the cost of propagation beyond the encoder, compared with one `topk` over the full similarity matrix.

    OMP_NUM_THREADS=1 python bench/propagate.py [--protocol davis/dino --stride 8 --dim 128 --objects 3 --repeats 4]
    python bench/propagate.py --device cuda --json FILE

The input is a frame of DAVIS (480 x 854) as the protocol resizes it, with random features and all context frames. It
runs in turn: our step (similarities, top-k, labels, mask at full size); `torch.topk` alone over the similarities of
all pairs of cells; the complete naive way (full matrix, masked neighbourhood, topk, softmax, labels). Memory is the
peak of each beyond features and labels, in a process of its own (`--device cuda`: on the GPU).
"""

import argparse
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import add_json, alternate, report, save

from vader.inference.propagation.affinity import Box, bounds
from vader.inference.propagation.labels import pixel_labels
from vader.inference.propagation.protocols import PROTOCOLS, PropagationProtocol
from vader.inference.propagation.step import carry_frame

PICTURE = (480, 854)


class Setting:
    """Random features and labels of a frame and its context."""

    def __init__(self, given: argparse.Namespace) -> None:
        generator = torch.Generator().manual_seed(0)
        self.protocol: PropagationProtocol = PROTOCOLS[given.protocol]
        self.stride, self.chunk = given.stride, given.chunk
        self.size = self.protocol.size(*PICTURE, self.stride)
        self.h, self.w = (-(-side // self.stride) for side in self.size)
        context = 1 + self.protocol.context
        self.free = [not self.protocol.restrict_first] + [False] * self.protocol.context
        self.maps = [
            F.normalize(torch.randn(self.h, self.w, given.dim, generator=generator), dim=2).to(given.device)
            for _ in range(context + 1)
        ]
        self.labels = torch.rand(context, self.h * self.w, given.objects + 1, generator=generator).to(given.device)

    def ours(self) -> None:
        """One frame, masks included."""
        found = carry_frame(self.maps[0], self.maps[1:], self.labels, self.free, self.protocol, self.stride, self.chunk)
        pixel_labels(found, self.size, PICTURE, self.stride, self.protocol)

    def full_matrix(self) -> torch.Tensor:
        """(hw, F hw)."""
        return self.maps[0].flatten(0, 1) @ torch.cat([one.flatten(0, 1) for one in self.maps[1:]]).T

    def naive(self) -> None:
        """The same, by the definition of the protocols that choose jointly."""
        similar = self.full_matrix()
        if self.protocol.radius is not None:
            whole = Box(0, self.h, 0, self.w)
            bias = bounds(whole, whole, self.protocol.radius / self.stride, self.protocol, similar.device)
            per_frame = similar.view(self.h * self.w, len(self.free), -1)
            for frame, free in enumerate(self.free):
                if not free:
                    per_frame[:, frame] += bias
        similar /= self.protocol.temperature
        if self.protocol.normalised == "per frame":
            shares = similar.view(self.h * self.w, len(self.free), -1).softmax(2)
            values, which = shares.topk(self.protocol.top_k, dim=2)
            which += self.h * self.w * torch.arange(len(self.free), device=which.device)[:, None]
            values, which = values.flatten(1) / len(self.free), which.flatten(1)
        else:
            values, which = similar.topk(self.protocol.top_k, dim=1)
            values = values.softmax(1)
        found = torch.einsum("nk,nko->no", values, self.labels.flatten(0, 1)[which])
        pixel_labels(found, self.size, PICTURE, self.stride, self.protocol)


def _peak(given: argparse.Namespace, name: str, found: "multiprocessing.Queue[float]") -> None:
    torch.set_num_threads(1)
    setting = Setting(given)
    if given.device == "cuda":
        before = torch.cuda.memory_allocated()
        getattr(setting, name)()
        found.put((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    before = _resident()
    peak, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            peak[0] = max(peak[0], _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    getattr(setting, name)()
    stop.set()
    watcher.join()
    found.put((peak[0] - before) / 1e6)


def _awaited(run: Callable[[], object]) -> Callable[[], None]:
    """It, until the GPU has done it."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    return whole


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_megabytes(given: argparse.Namespace, name: str) -> float:
    """How much a contestant adds to the memory of a fresh process, at most."""
    start = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[float] = start.Queue()
    process = start.Process(target=_peak, args=(given, name, found))
    process.start()
    process.join()
    assert process.exitcode == 0, f"measuring the memory of {name!r} failed"
    return found.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="davis/dino")
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="no full matrix: for what would not fit into memory")
    add_json(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)

    setting = Setting(given)
    cells, frames = setting.h * setting.w, len(setting.free)
    print(
        f"{given.protocol}: {setting.size[0]}x{setting.size[1]} px, {setting.h}x{setting.w} cells of {given.dim} "
        f"dimensions, {frames} context frames, {cells * cells * frames / 1e6:.0f} million similarities, "
        f"{'one core' if given.device == 'cpu' else torch.cuda.get_device_name()}"
    )
    contestants: dict[str, Callable[[], object]] = {"ours": setting.ours}
    if not given.alone:
        matrix = setting.full_matrix()
        contestants |= {
            "topk alone": lambda: matrix.topk(setting.protocol.top_k, dim=1),
            "naive": setting.naive,
        }
    if given.device == "cuda":
        contestants = {name: _awaited(run) for name, run in contestants.items()}
    times = alternate(contestants, given.repeats)
    numbers = {
        "protocol": given.protocol, "stride": given.stride, "dim": given.dim, "cells": [setting.h, setting.w],
        "frames": frames, "device": given.device,
    }  # fmt: skip
    numbers |= report(times, "ours" if given.alone else "topk alone")
    numbers["frames_per_second"] = 1 / statistics.median(times["ours"])
    print(f"{numbers['frames_per_second']:.2f} frames a second")
    ours = peak_megabytes(given, "ours")
    numbers["peak_mb"] = {"ours": ours}
    if given.alone:
        print(f"peak memory beyond features and labels: {ours:.0f} MB")
    else:
        naive = peak_megabytes(given, "naive")
        print(f"peak memory beyond features and labels: {ours:.0f} MB, naive {naive:.0f} MB: x {ours / naive:.3f}")
        numbers["peak_mb"]["naive"] = naive
        numbers["peak_ratio"] = ours / naive
    save(given.json, numbers)


if __name__ == "__main__":
    main()
