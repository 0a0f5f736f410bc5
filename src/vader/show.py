"""What a model sees, as pictures: PCA colours, matches under known warps, where else a pixel's like is found.

Axes: N points, D embedding, H W pixels, h w cells.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vader import draw
from vader.errors import BadInput, UnreadableImage
from vader.geometry import cell_centres, read_at, read_cells
from vader.images.colour import paint
from vader.images.decode import decode
from vader.images.folder import ImageList
from vader.network import STRIDE, Network
from vader.predict import embed, resize_short_side
from vader.views import ViewConfig, choose_matches, draw_pair, generator, render

LARGEST = 512  # pixels of the short side, unless a size is asked for: pictures are for eyes
SEARCHED = 25  # times the pictures shown: how many images `similar` looks through


class Shown(NamedTuple):
    """An image to show: its name, its pixels (H, W, 3) as the model sees them, and its own width and height."""

    name: str
    pixels: np.ndarray
    original: tuple[int, int]


def read_some(images: ImageList, count: int, size: int | None) -> list[Shown]:
    """Up to `count` readable images, evenly from the list."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    read = []
    for index in dict.fromkeys(chosen.tolist()):
        try:
            image = decode(images.path(index))
        except UnreadableImage:
            continue
        short = min(image.shape[:2])
        pixels = resize_short_side(image, size or (LARGEST if short > LARGEST else None))
        read.append(Shown(images.names[index], pixels, (image.shape[1], image.shape[0])))
    if not read:
        raise BadInput(f"none of the {len(chosen)} images tried could be read")
    return read


def _map(network: Network, image: np.ndarray, device: str) -> Tensor:
    """(D, h, w) on the CPU."""
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
    return embed(network, pixels)[0].cpu()


def pca_colours(maps: list[Tensor]) -> list[np.ndarray]:
    """(h, w, 3) colours of maps (D, h, w): their first three principal components, one basis and scale for all.

    Components are scaled from the 1st to the 99th percentile, so one odd pixel does not dull the picture.
    """
    flat = torch.cat([one.flatten(1).T for one in maps])
    sample = flat[torch.linspace(0, len(flat) - 1, min(len(flat), 20_000)).long()]
    mean = sample.mean(0)
    _, _, basis = torch.linalg.svd(sample - mean, full_matrices=False)
    projected = (flat - mean) @ basis[:3].T
    low, high = (torch.from_numpy(np.percentile(projected.numpy(), p, axis=0)).float() for p in (1, 99))
    colours = ((projected - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    parts = colours.split([one[0].numel() for one in maps])
    return [part.view(*one.shape[1:], 3).numpy() for part, one in zip(parts, maps, strict=True)]


def show_pca(network: Network, images: ImageList, out: Path, count: int, size: int | None, device: str) -> Path:
    """Images beside their embeddings' PCA colours."""
    read = read_some(images, count, size)
    colours = pca_colours([_map(network, one.pixels, device) for one in read])
    tiles = [[(one.pixels, Path(one.name).name), (colour, "")] for one, colour in zip(read, colours, strict=True)]
    rows = [[cell for tile in tiles[i : i + 3] for cell in tile] for i in range(0, len(tiles), 3)]
    return draw.panel(rows, out / "pca.png", "embeddings' first three principal components as RGB, one basis for all")


def show_matches(
    network: Network,
    images: ImageList,
    out: Path,
    count: int,
    size: int | None,
    seed: int,
    device: str,
    lines: int = 24,
) -> Path:
    """Two views of each image under a known warp: each query's most similar cell, green if within one cell."""
    if size is not None and (size < 32 or size % 32):
        raise BadInput(f"--size: expected a multiple of 32 px for views, got {size}")
    config = ViewConfig(size=size or trained_size(network))
    pairs, hits = [], []
    for number, (_, image, _) in enumerate(read_some(images, count, None)):
        pair = draw_pair(config, image.shape[1], image.shape[0], STRIDE, seed, 0, number)
        cells, points = choose_matches(pair, config, STRIDE, lines, generator(seed, 0, number, 2))
        views = [paint(render(image, view, config.size), view.colour) for view in pair.views]
        first, second = (_map(network, view, device) for view in views)
        queries = read_cells(first[None], torch.from_numpy(cells)[None])[0]
        centres = cell_centres(second.shape[1], second.shape[2], STRIDE)
        found = centres[(queries @ second.flatten(1)).argmax(1).numpy()]
        good = np.linalg.norm(found - points, axis=1) <= STRIDE
        pairs.append((views[0], views[1], centres[cells], found, good))
        hits.append(good.mean())
    title = f"most similar cell in the other view: {np.mean(hits):.0%} within one cell ({STRIDE} px) of the truth"
    return draw.matches(pairs, out / "matches.png", title)


def find_similar(
    network: Network, read: list[Shown], at: tuple[float, float] | None, device: str
) -> tuple[tuple[float, float], list[tuple[float, np.ndarray, np.ndarray, tuple[float, float], str]]]:
    """Where a pixel of the first image lies as it is shown, and its likeness to all others.

    `at` is (x, y) in pixels of the first image's file, whatever size it is shown at; None is its centre. For the first
    image, then for the others, the most similar first: the highest cosine, pixels, map of cosines (h, w), the place of
    the highest and a name. Raises BadInput for a point outside the image.
    """
    _, query, (width, height) = read[0]
    x, y = at or (width / 2, height / 2)
    if not (0 <= x <= width and 0 <= y <= height):
        raise BadInput(f"--at: expected a point in {width}x{height} px, got {x:g},{y:g}")
    place = (x * query.shape[1] / width, y * query.shape[0] / height)
    first = _map(network, query, device)
    vector = F.normalize(read_at(first[None], torch.tensor([[place]], dtype=torch.float32), STRIDE)[0, 0], dim=0)
    found = []
    for other, image, _ in read[1:]:
        heat = torch.einsum("d,dhw->hw", vector, _map(network, image, device))
        best = int(heat.argmax())
        at_best = ((best % heat.shape[1] + 0.5) * STRIDE, (best // heat.shape[1] + 0.5) * STRIDE)
        found.append((float(heat.max()), image, heat.numpy(), at_best, Path(other).name))
    found.sort(key=lambda one: -one[0])
    own = torch.einsum("d,dhw->hw", vector, first)
    return place, [(float(own.max()), query, own.numpy(), place, "itself"), *found]


def show_similar(
    network: Network, images: ImageList, out: Path, count: int, at: tuple[float, float] | None, size: int | None,
    device: str,
) -> Path:  # fmt: skip
    """A pixel of the first image, the images with the most similar pixels, and their similarity maps (Figure 2)."""
    read = read_some(images, max(2, count * SEARCHED), size)
    place, found = find_similar(network, read, at, device)
    shown: list[Any] = [(*found[0][1:4], "itself")]
    shown += [(image, heat, best, f"{label} {score:.2f}") for score, image, heat, best, label in found[1 : count + 1]]
    name, query, (width, height) = read[0]
    x, y = at or (width / 2, height / 2)
    title = f"most similar pixels to {Path(name).name} at ({x:.0f}, {y:.0f}) among {len(read) - 1} images"
    return draw.similar(query, place, shown, out / "similar.png", title)


def trained_size(network: Network) -> int:
    """The side of the views that a model was trained on, or 224."""
    card: dict[str, Any] = getattr(network, "card", {})
    return int(card.get("lineage", {}).get("settings", {}).get("views", {}).get("size", 224))
