"""Measure how many pairs of views per second one core makes from JPEG files of about 500 x 375.

The comparison is the peers' pipeline: Pillow's decoder, then torchvision's MoCo v2 transforms twice. There are two
tests: everything on the CPU (uint8 views with changed colours, plus the matched points that the peers do not make),
and only decoding and cropping on the CPU (the GPU changes colours).

    python bench/input.py [--images FOLDER --count 64 --repeats 7 --json FILE]
    python bench/input.py --device cuda --workers 16 --batch 128    # also what the GPU and worker processes do

With --device it also measures the time of a device to finish a batch for which workers made the views, the views
without colours, or only the choice of crops and colours. With --workers it also measures the pairs per second that a
feed with that number of worker processes delivers to the device.

Without --images it writes JPEGs of photographs from scikit-image and scikit-learn, resized to 500 x 375.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from photos import write_photos
from PIL import Image, ImageFilter
from timing import add_json, alternate, save, summarise, wait
from torchvision import transforms

from vader.images.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, Colour, paint
from vader.images.decode import decode
from vader.images.sources import ImageList, list_images
from vader.pretraining.config import FeedConfig
from vader.pretraining.feed import Feed, Pairs, collate
from vader.pretraining.views import ViewConfig


class PeersBlur:
    """MoCo's GaussianBlur: Pillow's, radius U(0.1, 2)."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=float(np.random.uniform(0.1, 2.0))))


def peers_transform(size: int) -> transforms.Compose:
    return transforms.Compose([
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([PeersBlur()], p=0.5),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip


def pixel_differences(image: np.ndarray) -> dict[str, Any]:
    """Each operation of ours beside torchvision's on Pillow images: mean and largest difference, of 255."""
    from torchvision.transforms import functional as T

    pil = Image.fromarray(image)
    cases = {
        "brightness 1.3": (BRIGHTNESS, 1.3, lambda: T.adjust_brightness(pil, 1.3)),
        "contrast 0.7": (CONTRAST, 0.7, lambda: T.adjust_contrast(pil, 0.7)),
        "saturation 1.4": (SATURATION, 1.4, lambda: T.adjust_saturation(pil, 1.4)),
        "hue 0.08": (HUE, 0.08, lambda: T.adjust_hue(pil, 0.08)),
    }
    results = {}
    for name, (operation, factor, theirs) in cases.items():
        factors = [1.0, 1.0, 1.0, 0.0]
        factors[operation] = factor
        results[name] = paint(image, Colour(factors=tuple(factors))), np.asarray(theirs())
    results["grey"] = paint(image, Colour(grey=True)), np.asarray(T.to_grayscale(pil, 3))
    for sigma in (0.5, 1.0, 2.0):
        theirs = np.asarray(pil.filter(ImageFilter.GaussianBlur(sigma)))
        results[f"blur {sigma}"] = paint(image, Colour(sigma=sigma)), theirs
    from vader.images.geometry import scaling, translation
    from vader.images.warp import warp

    for side in (320, 160):
        box = (40, 30, 40 + side, 30 + side)
        matrix = translation(*box[:2]) @ scaling(side / 224, side / 224)
        theirs = np.asarray(pil.resize((224, 224), Image.Resampling.BILINEAR, box=box))
        results[f"crop {side} -> 224"] = warp(image, matrix, 224), theirs
    found = {}
    for name, (a, b) in results.items():
        difference = np.abs(a.astype(int) - b.astype(int))
        one = {"mean": difference.mean(), "quantile_99": np.quantile(difference, 0.99), "largest": difference.max()}
        print(f"    {name:18s} mean {one['mean']:5.2f}   99 % {one['quantile_99']:4.0f}   largest {one['largest']}")
        found[name] = {key: float(value) for key, value in one.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    for name, value in (("count", 64), ("repeats", 7), ("size", 224), ("batch", 64), ("workers", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", help="cpu or cuda: also measure what is left to the device")
    add_json(parser)
    a = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if a.images is None:
            write_photos(Path(folder), a.count)
        images = list_images(a.images or Path(folder))
        count = min(a.count, len(images))
        images = ImageList(images.root, images.names[:count])
        numbers: dict[str, Any] = {"count": count, "size": a.size, "one core": contest(a, images)}
        print("differences to torchvision's pixels (of 255):")
        numbers["differences"] = pixel_differences(cv2.resize(decode(images.path(0)), (500, 375)))
        save(a.json, numbers)
        if a.device:
            numbers["device"] = on_device(a, images)
            save(a.json, numbers)
        if a.workers:
            numbers["workers"] = with_workers(a, images)
            save(a.json, numbers)


def make_pairs(a: argparse.Namespace, images: ImageList, **changes: Any) -> Pairs:
    settings: dict[str, Any] = {"batch": 1, "workers": 0} | changes
    config = FeedConfig(views=ViewConfig(size=a.size), points=32, stride=4, seed=0, **settings)
    return Pairs(images, np.arange(len(images)), config)


def contest(a: argparse.Namespace, images: ImageList) -> dict[str, Any]:
    """One core, from files to pairs of views."""
    count = len(images)
    transform = peers_transform(a.size)

    def peers() -> None:
        for i in range(count):
            with Image.open(images.path(i)) as file:
                image = file.convert("RGB")
            transform(image), transform(image)

    everything, geometry = (make_pairs(a, images, finish=finish) for finish in ("worker", "device"))
    epoch = iter(range(10**9))

    def ours(which: Pairs) -> None:
        e = next(epoch)
        for i in range(count):
            which[(e, i)]

    contestants = {
        "peers (Pillow, torchvision)": peers,
        "ours, all on the CPU": lambda: ours(everything),
        "ours, colours left to the device": lambda: ours(geometry),
    }
    times = alternate(contestants, a.repeats, warm=2)
    print(f"{count} JPEGs, views of {a.size} px, one core; pairs a second:")
    found = {}
    for name, taken in times.items():
        ratios = [p / t for p, t in zip(times["peers (Pillow, torchvision)"], taken, strict=True)]
        rate, ratio = count / statistics.median(taken), statistics.median(ratios)
        print(f"    {name:36s} {rate:8.1f} pairs/s   x {ratio:.2f} of the peers'")
        found[name] = {"pairs_per_second": rate, "ratio": ratio}
    return found


def on_device(a: argparse.Namespace, images: ImageList) -> dict[str, Any]:
    """What is left to do on the device with a batch, whose tensors lie ready in the CPU's memory."""
    device, contestants = torch.device(a.device), {}
    for name, changes in {
        "bytes to floats": {"finish": "worker"},
        "and colours": {"finish": "device"},
        "and crops": {"hold": "device"},
    }.items():
        pairs = make_pairs(a, images, batch=a.batch, **changes)
        if "hold" in changes:
            pairs.hold()
        feed = Feed(pairs, device)
        joined = collate([pairs[divmod(i, len(images))] for i in range(a.batch)])
        if device.type == "cuda":  # as a feed's loader does
            joined = {key: value.pin_memory() if key != "faults" else value for key, value in joined.items()}

        def finish(feed: Feed = feed, joined: dict[str, Any] = joined) -> None:
            feed.finish(joined)
            wait(device)

        contestants[name] = finish
    found = summarise(alternate(contestants, a.repeats, warm=2), "bytes to floats")
    print(f"finishing a batch of {a.batch} on {a.device}:")
    for name, one in found.items():
        one["pairs_per_second"] = a.batch / one["ms"] * 1e3
        print(f"    {name:36s} {one['pairs_per_second']:8.1f} pairs/s   {one['ms']:.2f} ms")
    return {"device": a.device, "batch": a.batch, "times": found}


def with_workers(a: argparse.Namespace, images: ImageList) -> dict[str, Any]:
    """Pairs a second on the device, all worker processes busy and nothing else to do."""
    device, found = torch.device(a.device or "cpu"), {}
    print(f"{a.workers} worker processes, batch {a.batch}, pairs on {device}:")
    for name, finish in (("all by the workers", "worker"), ("colours left to the device", "device")):
        batches = iter(Feed(make_pairs(a, images, batch=a.batch, workers=a.workers, finish=finish), device))
        for _ in range(a.workers):  # each has started, and is at its second batch
            next(batches)
        wait(device)
        since, count = time.perf_counter(), 3 * a.workers
        for _ in range(count):
            next(batches)
        wait(device)
        found[name] = {"pairs_per_second": count * a.batch / (time.perf_counter() - since)}
        batches.close()
        print(f"    {name:36s} {found[name]['pairs_per_second']:8.1f} pairs/s")
    return {"workers": a.workers, "batch": a.batch, "device": str(device), **found}


if __name__ == "__main__":
    main()
