"""Measure steps per second of our MoCo and VADeR, and of MoCo and DenseCL built from lightly as in its examples.

All use the same encoder (ResNet-18), size, batch, images, worker processes and threads, and float32; a step goes from
files to updated weights. This needs `pip install lightly`. The peers' momentum branch uses the momentum networks
(lightly's DenseCL example uses the online networks, at the same cost).

    python bench/peer.py IMAGES [--size 96 --batch 32 --workers 1 --steps 12 --repeats 3]
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models import utils
from lightly.models.modules import DenseCLProjectionHead, MoCoProjectionHead
from lightly.transforms import DenseCLTransform, MoCoV2Transform
from PIL import Image
from timing import alternate, report
from torch import nn

from vader.images.sources import ImageList, list_images
from vader.models.cost import fitting_decoder
from vader.models.network import NetworkConfig
from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import Feed, Pairs, split
from vader.pretraining.learner import Learner
from vader.pretraining.objectives import OBJECTIVES
from vader.pretraining.pretrain import step
from vader.pretraining.run import _feed_config
from vader.pretraining.views import ViewConfig
from vader.runtime.processes import start_fabric

QUEUE = 4096  # the peers' examples'


class Files(torch.utils.data.Dataset):
    """Two views of each file, by the peers' transform."""

    def __init__(self, images: ImageList, transform: Callable) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        with Image.open(self.images.path(index)) as file:
            return self.transform(file.convert("RGB"))


def endless(images: ImageList, transform: Callable, a: argparse.Namespace) -> Iterator[list[torch.Tensor]]:
    loader = torch.utils.data.DataLoader(
        Files(images, transform), a.batch, shuffle=True, drop_last=True, num_workers=a.workers,
        persistent_workers=a.workers > 0,
    )  # fmt: skip
    while True:
        yield from loader


class Peer(nn.Module):
    """An encoder with heads, and the momentum copies of all of them."""

    def __init__(self, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.online = nn.ModuleDict({"encoder": timm.create_model("resnet18", num_classes=0, global_pool=""), **heads})
        self.momentum = copy.deepcopy(self.online).requires_grad_(False)
        self.optimizer = torch.optim.SGD(self.online.parameters(), lr=0.06)

    def update(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def peers_moco(images: ImageList, a: argparse.Namespace) -> Callable[[], None]:
    peer, loss = Peer({"head": MoCoProjectionHead(512, 512, 128)}), NTXentLoss(memory_bank_size=(QUEUE, 128))
    batches = endless(images, MoCoV2Transform(input_size=a.size), a)

    def one() -> None:
        first, second = next(batches)
        utils.update_momentum(peer.online, peer.momentum, m=0.99)
        query = peer.online["head"](peer.online["encoder"](first).mean((2, 3)))
        with torch.no_grad():
            shuffled, order = utils.batch_shuffle(second)
            key = peer.momentum["head"](peer.momentum["encoder"](shuffled).mean((2, 3)))
            key = utils.batch_unshuffle(key, order)
        peer.update(loss(query, key))

    return one


def peers_densecl(images: ImageList, a: argparse.Namespace) -> Callable[[], None]:
    peer = Peer({"whole": DenseCLProjectionHead(512, 512, 128), "local": DenseCLProjectionHead(512, 512, 128)})
    whole, local = (NTXentLoss(memory_bank_size=(QUEUE, 128)) for _ in range(2))
    batches = endless(images, DenseCLTransform(input_size=a.size), a)

    def run(networks: nn.ModuleDict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = networks["encoder"](x)
        cells = maps.flatten(2).transpose(1, 2)
        return cells, networks["whole"](maps.mean((2, 3))), networks["local"](cells)

    def one() -> None:
        first, second = next(batches)
        utils.update_momentum(peer.online, peer.momentum, m=0.99)
        cells, query, queries = run(peer.online, first)
        with torch.no_grad():
            key_cells, key, keys = run(peer.momentum, second)
            keys = utils.select_most_similar(cells, key_cells, keys)
        peer.update(0.5 * whole(query, key) + 0.5 * local(queries.flatten(0, 1), keys.flatten(0, 1)))

    return one


def ours(images: ImageList, a: argparse.Namespace, objective: str, precision: str = "fp32") -> Callable[[], None]:
    dense = objective == "vader"
    network = NetworkConfig(
        encoder="resnet18", kind="dense" if dense else "image", **(fitting_decoder("resnet18") if dense else {})
    )
    config = PretrainConfig(
        images=images.root, out=Path(tempfile.gettempdir()), steps=1, objective=objective, network=network,
        views=ViewConfig(size=a.size), batch=a.batch, queue=QUEUE, workers=a.workers, precision=precision,
        lr_encoder=0.003, lr_decoder=0.003,
    )  # fmt: skip
    fabric = start_fabric("cpu", precision, 1)
    learner = Learner(config, fabric, OBJECTIVES[config.objective])
    feed = Feed(Pairs(images, split(len(images), 1, 0)[1], _feed_config(config)), fabric.device)
    batches, count = iter(feed), iter(range(10**9))
    return lambda: step(learner, config, next(batches), next(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    for name, value in (("size", 96), ("batch", 32), ("workers", 1), ("steps", 12), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    images = list_images(a.images)
    contestants = {
        "lightly MoCo": peers_moco(images, a),
        "vader MoCo": ours(images, a, "moco"),
        "lightly DenseCL": peers_densecl(images, a),
        "vader VADeR (dense at stride 4)": ours(images, a, "vader"),
        "vader VADeR, bf16": ours(images, a, "vader", "bf16"),
    }

    def steps(one: Callable[[], None]) -> Callable[[], None]:
        def several() -> None:
            for _ in range(a.steps):
                one()

        return several

    times = alternate({name: steps(one) for name, one in contestants.items()}, a.repeats)
    print(f"ResNet-18, {a.size} px, batch {a.batch}, {a.workers} worker, {torch.get_num_threads()} threads")
    report(times, "lightly MoCo")
    for name, taken in times.items():
        print(f"{name:44s} {a.steps / sorted(taken)[len(taken) // 2]:8.2f} steps/s")


if __name__ == "__main__":
    main()
