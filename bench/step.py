"""What does a full training step cost beside its two networks alone?

Full step: ready uint8 images -> views -> both networks -> loss -> update of student, teacher and queue. Bare: the same
networks on ready tensors, student forward and backward (of the output's sum), teacher forward.

    python bench/step.py [--encoder resnet50 --size 224 --batch 8 --precision auto --repeats 7]
    python bench/step.py --device cuda --batch 128 --compile        # views' pixels and colours on the GPU
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from timing import alternate, report

from vader.images.sources import ImageList
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--objective", default="vader")
    for name, value in (("size", 224), ("batch", 8), ("repeats", 7), ("queue", 65536)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    a = parser.parse_args()

    device = choose_device(a.device)
    precision = choose_precision(a.precision, device)
    widths = {} if a.encoder == "resnet50" else fitting_decoder(a.encoder)
    kind = "dense" if a.objective == "vader" else "image"
    config = PretrainConfig(
        images=Path("."), out=Path(tempfile.gettempdir()), steps=1, objective=a.objective, batch=a.batch,
        bn_groups=4 if a.batch >= 32 else 2, network=NetworkConfig(encoder=a.encoder, kind=kind, **widths),
        views=ViewConfig(size=a.size), queue=a.queue, device=device, precision=precision, compile=a.compile, workers=0,
        hold="device" if device == "cuda" else "memory",
    )  # fmt: skip
    fabric = start_fabric(device, precision, 1)
    learner = Learner(config, fabric, OBJECTIVES[config.objective])
    learner.queue.enqueue(
        torch.nn.functional.normalize(torch.randn(a.queue, 128, device=fabric.device), dim=1),
        torch.arange(a.queue, device=fabric.device) + 10_000,
    )
    rng = np.random.default_rng(0)
    pairs = Pairs(ImageList(Path("."), tuple(map(str, range(256)))), np.arange(256), _feed_config(config))
    pairs.held = {i: rng.integers(0, 256, (375, 500, 3), dtype=np.uint8) for i in range(256)}
    feed = Feed(pairs, fabric.device)
    batches = iter(feed)
    ready = next(batches)
    count = iter(range(10**9))

    def full() -> None:
        step(learner, config, next(batches), next(count))
        _wait(fabric.device)

    def bare() -> None:
        fabric.backward(learner.student(ready.first).float().sum())
        with torch.no_grad(), fabric.autocast():
            learner.teacher(ready.second)
        learner.optimizer.zero_grad(set_to_none=True)
        _wait(fabric.device)

    def views_alone() -> None:
        next(batches)
        _wait(fabric.device)

    print(
        f"{a.objective}, {a.encoder} {a.size} px, batch {a.batch}, queue {a.queue}, {device} {precision}"
        f"{' compiled' if a.compile else ''}, {torch.get_num_threads()} threads, bn_groups {config.bn_groups}"
    )
    times = alternate({"bare networks": bare, "full step": full, "views alone": views_alone}, a.repeats, warm=3)
    report(times, "bare networks")
    print(f"{a.batch / sorted(times['full step'])[len(times['full step']) // 2]:.1f} pairs/s")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
