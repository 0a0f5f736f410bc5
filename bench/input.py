"""How many pairs of views a second does one core make from JPEG files of about 500 x 375?

Against the peers' pipeline: Pillow's decoder, then torchvision's MoCo v2 transforms twice. Two contests: everything on
the CPU (uint8 views with colours changed, plus the matched points that the peers do not make), and only decoding and
cropping left to the CPU (colours are the GPU's).

    python bench/input.py [--images FOLDER --count 64 --repeats 7]

Without --images it writes JPEGs of photographs that ship with scikit-image and scikit-learn, resized to 500 x 375.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from timing import alternate
from torchvision import transforms

from vader.images.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, Colour, paint
from vader.images.sources import list_images
from vader.pretraining.config import FeedConfig
from vader.pretraining.feed import Pairs
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


def write_photos(folder: Path, count: int) -> None:
    from skimage import data
    from sklearn.datasets import load_sample_images

    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]
    for number in range(count):
        source = sources[number % len(sources)]
        shift = (number // len(sources)) * 3
        part = source[shift : source.shape[0] - shift, shift : source.shape[1] - shift]
        Image.fromarray(part).resize((500, 375), Image.Resampling.LANCZOS).save(
            folder / f"{number:03d}.jpg", quality=90
        )


def pixel_differences(image: np.ndarray) -> None:
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
    for name, (a, b) in results.items():
        difference = np.abs(a.astype(int) - b.astype(int))
        print(
            f"    {name:18s} mean {difference.mean():5.2f}   99 % {np.quantile(difference, 0.99):4.0f}   "
            f"largest {difference.max()}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    for name, value in (("count", 64), ("repeats", 7), ("size", 224)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if a.images is None:
            write_photos(Path(folder), a.count)
        images = list_images(a.images or Path(folder))
        contest(a, images)


def contest(a: argparse.Namespace, images) -> None:
    count = min(a.count, len(images))
    paths = [images.path(i) for i in range(count)]
    transform = peers_transform(a.size)

    def peers() -> None:
        for path in paths:
            with Image.open(path) as file:
                image = file.convert("RGB")
            transform(image), transform(image)

    def pairs(finish: str) -> Pairs:
        views = ViewConfig(size=a.size)
        config = FeedConfig(views=views, batch=1, points=32, stride=4, seed=0, workers=0, finish=finish)
        return Pairs(images, np.arange(count), config)

    everything, geometry = pairs("worker"), pairs("device")
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
    for name, taken in times.items():
        ratios = sorted(p / t for p, t in zip(times["peers (Pillow, torchvision)"], taken, strict=True))
        median = sorted(taken)[len(taken) // 2]
        print(f"    {name:36s} {count / median:8.1f} pairs/s   x {ratios[len(ratios) // 2]:.2f} of the peers'")
    print("differences to torchvision's pixels (of 255):")
    from vader.images.decode import decode

    pixel_differences(cv2.resize(decode(paths[0]), (500, 375)))


if __name__ == "__main__":
    main()
