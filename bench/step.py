"""Measure the cost of a full training step, compared with its two networks alone.

Full step: ready uint8 images -> views -> both networks -> loss -> update of student, teacher and queue. Networks
alone: the same networks on ready tensors, student forward and backward (of the output's sum), teacher forward.

    python bench/step.py [--encoder resnet50 --size 224 --batch 8 --precision auto --repeats 7]
    python bench/step.py --device cuda --batch 128 --compile        # views' pixels and colours on the GPU
    python bench/step.py --device cuda --batch 128 --ready --workers 16 --json FILE

With --ready it also measures the step on views that are already on the device. With --workers it also measures
consecutive steps while that number of processes makes the views from JPEG files of 500 x 375 px, as in a run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photos import write_photos
from timing import add_json, alternate, report, save, wait

from vader.images.sources import ImageList, list_images
from vader.models.cost import fitting_decoder
from vader.models.network import NetworkConfig
from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import Feed, Pairs
from vader.pretraining.learner import Learner
from vader.pretraining.objectives import OBJECTIVES
from vader.pretraining.pretrain import step
from vader.pretraining.run import _feed_config
from vader.pretraining.views import ViewConfig
from vader.runtime.processes import choose_device, choose_precision, start_fabric

PHOTOS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--objective", default="vader")
    for name, value in (("size", 224), ("batch", 8), ("repeats", 7), ("queue", 65536), ("workers", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--ready", action="store_true")
    add_json(parser)
    a = parser.parse_args()

    config = make_config(a)
    fabric = start_fabric(config.device, config.precision, 1)
    learner = Learner(config, fabric, OBJECTIVES[config.objective])
    learner.queue.enqueue(
        torch.nn.functional.normalize(torch.randn(a.queue, 128, device=fabric.device), dim=1),
        torch.arange(a.queue, device=fabric.device) + 10_000,
    )
    rng = np.random.default_rng(0)
    pairs = Pairs(ImageList(Path("."), tuple(map(str, range(256)))), np.arange(256), _feed_config(config))
    pairs.held = {i: rng.integers(0, 256, (375, 500, 3), dtype=np.uint8) for i in range(256)}
    batches = iter(Feed(pairs, fabric.device))
    ready = next(batches)
    count = iter(range(10**9))

    def full() -> None:
        step(learner, config, next(batches), next(count))
        wait(fabric.device)

    def on_ready_views() -> None:
        step(learner, config, ready, next(count))
        wait(fabric.device)

    def bare() -> None:
        fabric.backward(learner.student(ready.first).float().sum())
        with torch.no_grad(), fabric.autocast():
            learner.teacher(ready.second)
        learner.optimizer.zero_grad(set_to_none=True)
        wait(fabric.device)

    def views_alone() -> None:
        next(batches)
        wait(fabric.device)

    print(
        f"{a.objective}, {a.encoder} {a.size} px, batch {a.batch}, queue {a.queue}, {config.device} {config.precision}"
        f"{' compiled' if a.compile else ''}, {torch.get_num_threads()} threads, bn_groups {config.bn_groups}",
        flush=True,
    )
    numbers: dict[str, Any] = {
        "objective": a.objective, "encoder": a.encoder, "size": a.size, "batch": a.batch, "queue": a.queue,
        "device": config.device, "precision": config.precision, "compile": a.compile, "bn_groups": config.bn_groups,
        "views made": "on the device" if config.hold == "device" else "on the CPU, in turn",
    }  # fmt: skip
    contestants = {"bare networks": bare, "full step": full, "views alone": views_alone}
    if a.ready:
        contestants["step on ready views"] = on_ready_views
    since = time.perf_counter()
    alternate(contestants, 0, warm=3)
    numbers["warming_seconds"] = time.perf_counter() - since
    numbers |= report(alternate(contestants, a.repeats, warm=0), "bare networks")
    for name, one in numbers["times"].items():
        if "step" in name:
            one["pairs_per_second"] = a.batch / one["ms"] * 1e3
    print(f"{numbers['times']['full step']['pairs_per_second']:.1f} pairs/s", flush=True)
    if config.device == "cuda":
        numbers["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    save(a.json, numbers)
    if a.workers:
        numbers["with workers"] = with_workers(learner, config, a.workers)
        numbers["with workers"]["ratio"] = numbers["with workers"]["ms"] / numbers["times"]["bare networks"]["ms"]
        save(a.json, numbers)


def make_config(a: argparse.Namespace) -> PretrainConfig:
    device = choose_device(a.device)
    widths = {} if a.encoder == "resnet50" else fitting_decoder(a.encoder)
    kind = "dense" if a.objective == "vader" else "image"
    return PretrainConfig(
        images=Path("."), out=Path(tempfile.gettempdir()), steps=1, objective=a.objective, batch=a.batch,
        bn_groups=4 if a.batch >= 32 else 2, network=NetworkConfig(encoder=a.encoder, kind=kind, **widths),
        views=ViewConfig(size=a.size), queue=a.queue, device=device, precision=choose_precision(a.precision, device),
        compile=a.compile, workers=0, hold="device" if device == "cuda" else "memory",
    )  # fmt: skip


def with_workers(learner: Learner, config: PretrainConfig, workers: int) -> dict[str, Any]:
    """Steps in a row. The first ones, as many as there are workers, do not count: none has a head start then, so that
    a feed which is slower than the steps shows at once."""
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), PHOTOS)
        images = list_images(Path(folder))
        config = config.model_copy(update={"workers": workers, "hold": "nothing"})
        feed = Feed(Pairs(images, np.arange(len(images)), _feed_config(config)), learner.fabric.device)
        batches, waiting, whole = iter(feed), [], []
        for number in range(workers + max(3 * workers, 12)):
            since = time.perf_counter()
            batch = next(batches)
            waiting.append(time.perf_counter() - since)
            step(learner, config, batch, number)
            wait(learner.fabric.device)
            whole.append(time.perf_counter() - since)
        batches.close()
    waiting, whole = waiting[workers:], whole[workers:]
    found = {
        "workers": workers, "finish": config.finish, "steps": len(whole), "ms": statistics.mean(whole) * 1e3,
        "waiting_ms": statistics.mean(waiting) * 1e3, "pairs_per_second": config.batch / statistics.mean(whole),
    }  # fmt: skip
    print(
        f"with {workers} worker processes, {len(whole)} steps: {found['ms']:.2f} ms a step, of which "
        f"{found['waiting_ms']:.2f} ms wait for views; {found['pairs_per_second']:.1f} pairs/s"
    )
    return found


if __name__ == "__main__":
    main()
