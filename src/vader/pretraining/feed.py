"""From a list of images to batches of view pairs on the device.

The batch of step t depends on (seed, t) only: it contains image numbers t * batch + j of an endless sequence of
shuffled epochs. So a run resumes at any step with any number of workers, and no image is dropped.

Axes: B images, P matched points, S a view's side.
"""

import atexit
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_bool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vader.errors import BadInput, UnreadableImage, VaderError
from vader.images.colour import paint, paint_batch
from vader.images.pictures import read_image
from vader.images.sources import Faults, ImageList
from vader.images.warp import BILINEAR_LIMIT, warp_batch
from vader.pretraining.config import FeedConfig
from vader.pretraining.views import Pair, ViewConfig, choose_matches, draw_pair, generator, render

REPLACEMENTS = 50  # images tried in place of an unreadable one before the run stops


@dataclass(frozen=True)
class Batch:
    """Pairs of views: images in [0, 1] (B, 3, S, S), cells of queries (B, P), points of keys (B, P, 2) in pixels of
    view 2, image numbers (B,), (name, reason) of unreadable files, and the views' matrices (B, 2, 3, 3) from view
    pixels, after an elastic flow, to image pixels."""

    first: Tensor
    second: Tensor
    cells: Tensor
    points: Tensor
    images: Tensor
    faults: list[tuple[str, str]] = field(default_factory=list)
    matrices: Tensor | None = None


def shortest_side(config: ViewConfig) -> int:
    """Return the shortest side, in pixels, to which an image may be reduced without loss of detail in its views.

    A view's crop is at least sqrt(scale * ratio) of the short side (RandomResizedCrop's narrowest box). At the returned
    side such a crop has one source pixel per view pixel.
    """
    return int(np.ceil(config.size / np.sqrt(config.scale[0] * config.ratio[0])))


def split(count: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split places into held-out and training images. At most a fifth is held out; with fewer than 5 images none is."""
    order = np.random.default_rng((seed, 0x5EED)).permutation(count)
    share = min(held_out, count // 5)
    if share == 0:
        return np.sort(order), np.sort(order)  # too few to hold any out: the exam uses the training images
    return np.sort(order[:share]), np.sort(order[share:])


class Pairs(Dataset):
    """Map (epoch, place) to a pair's tensors; `members` are the image numbers by place, without held-out images."""

    def __init__(self, images: ImageList, members: np.ndarray, config: FeedConfig) -> None:
        self.images, self.members, self.config = images, members, config
        self.shortest = shortest_side(config.views)
        self.held: dict[int, np.ndarray] = {}
        self.broken: dict[int, str] = {}

    def hold(self) -> None:
        """Decode all images and keep them in memory."""

        def read(index: int) -> tuple[int, np.ndarray | str]:
            try:
                return index, read_image(self.images, index, self.shortest)
            except UnreadableImage as error:
                return index, str(error)

        with ThreadPoolExecutor(max(2, self.config.workers)) as pool:
            for index, image in pool.map(read, self.members.tolist()):
                if isinstance(image, str):
                    self.broken[index] = image
                else:
                    self.held[index] = image

    def _read(self, place: int) -> tuple[int, np.ndarray, list[tuple[str, str]]]:
        """Read the image at a place, or the next readable one (the same in every process and every resumed run)."""
        faults: list[tuple[str, str]] = []
        for offset in range(REPLACEMENTS):
            index = int(self.members[(place + offset) % len(self.members)])
            if index in self.held:
                return index, self.held[index], faults
            try:
                if index in self.broken:
                    raise UnreadableImage(self.broken[index])
                return index, read_image(self.images, index, self.shortest), faults
            except UnreadableImage as error:
                faults.append((self.images.names[index], str(error)))
        raise BadInput(f"{REPLACEMENTS} images in a row could not be read; the first: {faults[0][0]}: {faults[0][1]}")

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        config, (epoch, place) = self.config, item
        index, image, faults = self._read(place)
        height, width = image.shape[:2]
        pair = draw_pair(config.views, width, height, config.stride, config.seed, epoch, index)
        rng = generator(config.seed, epoch, index, 2)
        cells, points = choose_matches(pair, config.views, config.stride, config.points, rng)
        sample = {"cells": cells, "points": points.astype(np.float32), "image": index, "faults": faults}
        sample["matrices"] = np.stack([view.matrix for view in pair.views])
        return sample | self._pixels(image, index, pair)

    def _pixels(self, image: np.ndarray, index: int, pair: Pair) -> dict[str, Any]:
        config = self.config
        colours = np.stack([view.colour.pack() for view in pair.views])
        if config.hold == "device":
            return {"colours": colours}
        views = [render(image, view, config.views.size) for view in pair.views]
        if config.finish == "device":
            return {"views": np.stack(views), "colours": colours}
        return {"views": np.stack([paint(v, view.colour) for v, view in zip(views, pair.views, strict=True)])}


def refuse_unusable(pairs: Pairs, held_out: np.ndarray, faults: Faults, sample: int = 32) -> None:
    """Read a sample of files before the first step, so that broken or tiny images are found now and not later.

    The images `held_out` were already read for the exam. Raises BadInput for too many unreadable files, and for
    settings that give no two views of an image.
    """
    chosen = pairs.members
    if not pairs.held and not pairs.broken:
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(sample, len(chosen))).astype(int)]
        for index in chosen.tolist():
            try:
                height, width = read_image(pairs.images, index, pairs.shortest).shape[:2]
                draw_pair(pairs.config.views, width, height, pairs.config.stride, pairs.config.seed, 0, index)
            except UnreadableImage as error:
                faults.add(pairs.images.names[index], str(error))
    faults.check(len(np.union1d(held_out, chosen)))


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack the tensors of samples and join their faults."""
    joined: dict[str, Any] = {"faults": [fault for sample in samples for fault in sample["faults"]]}
    for key in samples[0]:
        if key != "faults":
            joined[key] = torch.from_numpy(np.stack([np.asarray(sample[key]) for sample in samples]))
    return joined


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yield batches from step `start` on without end: lists of (epoch, place), this process's share of each batch."""

    def __init__(self, count: int, batch: int, seed: int, start: int, rank: int = 0, world: int = 1) -> None:
        assert batch % world == 0
        self.count, self.batch, self.seed, self.start = count, batch, seed, start
        self.share = slice(rank * (batch // world), (rank + 1) * (batch // world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, step = -1, np.empty(0, dtype=np.int64), self.start
        while True:
            numbers = range(step * self.batch, (step + 1) * self.batch)[self.share]
            items = []
            for number in numbers:
                if number // self.count != epoch:
                    epoch = number // self.count
                    # The last entry keeps these numbers apart from those of the views (`views.generator`).
                    order = np.random.default_rng((self.seed, epoch, 0, 3, 1)).permutation(self.count)
                items.append((epoch, int(order[number % self.count])))
            yield items
            step += 1


class Feed:
    """Batches of pairs on a device, from step `start` on; `canvas` holds all images if hold='device'."""

    def __init__(self, pairs: Pairs, device: torch.device, start: int = 0, rank: int = 0, world: int = 1) -> None:
        self.pairs, self.config, self.device = pairs, pairs.config, device
        config = pairs.config
        self.canvas: Tensor | None = None
        if config.hold == "device":
            self._put_on_device()
        sampler = StepSampler(len(pairs.members), config.batch, config.seed, start, rank, world)
        ending = RawValue(c_bool, False)
        atexit.register(setattr, ending, "value", True)
        self.loader = DataLoader(
            pairs,
            batch_sampler=sampler,
            num_workers=config.workers,
            collate_fn=collate,
            worker_init_fn=partial(_start_worker, ending),
            generator=torch.Generator().manual_seed(config.seed),  # else a resumed run uses torch's global generator
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if config.workers else None,
            persistent_workers=config.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        try:
            for joined in self.loader:
                yield self.finish(joined)
        except VaderError as error:  # a worker's error contains its traceback: the last line is the message
            raise type(error)(str(error).strip().splitlines()[-1].removeprefix(f"{_name(error)}: ")) from None

    def finish(self, joined: dict[str, Any]) -> Batch:
        """Move the workers' tensors to the device as a batch; change colours if that is the device's task."""
        to = {key: value.to(self.device, non_blocking=True) for key, value in joined.items() if key != "faults"}
        colours = to.get("colours")
        if self.config.hold == "device":
            halves = [self._warp(to["image"], to["matrices"][:, k]) for k in (0, 1)]
        else:
            # (B, 2, S, S, 3) bytes to channels-last floats: the permuted view already has that layout
            halves = [to["views"][:, k].permute(0, 3, 1, 2).float().div_(255) for k in (0, 1)]
        if colours is not None:
            halves = [paint_batch(half, colours[:, k]) for k, half in enumerate(halves)]
        first, second = (half.contiguous(memory_format=torch.channels_last) for half in halves)
        return Batch(first, second, to["cells"], to["points"], to["image"], joined["faults"], to["matrices"])

    def _put_on_device(self) -> None:
        """Copy all images to one canvas, padded by their edges: a batch is then one gather and one grid_sample."""
        held = self.pairs.held
        height, width = (max(image.shape[axis] for image in held.values()) for axis in (0, 1))
        self.canvas = torch.empty(len(held), 3, height, width, dtype=torch.uint8, device=self.device)
        self.row_of = torch.full((len(self.pairs.images),), -1, device=self.device)
        for row, (index, image) in enumerate(held.items()):
            below, beside = height - image.shape[0], width - image.shape[1]
            full = cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
            self.canvas[row] = torch.from_numpy(full).to(self.device).permute(2, 0, 1)
            self.row_of[index] = row

    def _warp(self, images: Tensor, matrices: Tensor) -> Tensor:
        assert self.canvas is not None
        size = self.config.views.size
        views = torch.empty(len(images), 3, size, size, device=self.device)
        # Decide for each image alone: the result must not depend on the other images of the batch.
        coarse = matrices[:, :2, :2].norm(dim=1).amax(1) > BILINEAR_LIMIT
        for chosen, supersample in ((~coarse, 1), (coarse, 2)):
            rows = chosen.nonzero().squeeze(1)
            if len(rows):
                pixels = self.canvas[self.row_of[images[rows]]].float().div_(255)
                views[rows] = warp_batch(pixels, matrices[rows], size, supersample)
        return views


def _name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _start_worker(ending: Any, _worker: int) -> None:
    # Ctrl-C, and the SIGTERM of `timeout` or a job scheduler, reach all processes. The main process decides: workers
    # must live until it has saved. When it ends (`ending`), multiprocessing sends them a SIGTERM that they obey.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if ending.value else None)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
