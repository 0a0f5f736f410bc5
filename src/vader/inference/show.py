"""Draw what encoders compute: PCA colours, matches under known warps, and the pixels most similar to one.

Axes: N points, D embedding, H W pixels, h w cells.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.encoders.dense import DenseEncoder
from vader.encoders.features import map_of
from vader.errors import BadInput
from vader.images.colour import paint
from vader.images.finding import nearest_cells
from vader.images.geometry import cell_centres, read_at, read_cells
from vader.images.pictures import Picture, read_some
from vader.images.sources import ImageList
from vader.models.backbones import STRIDE
from vader.pretraining.views import ViewConfig, choose_matches, draw_pair, generator, render
from vader.reports import draw

SEARCHED = 25  # `similar` searches this many times the number of images shown
HEADING = 24  # characters that fit above an image; a longer name has its variant on a second line
COLUMNS = 6  # of a picture of PCA colours; more if one image and its maps need more

Basis = Literal["panel", "image"]
BASES = {
    "panel": "one basis for all images of an encoder",
    "image": "a basis for each image, so that colours of two images do not compare",
}


def labels(read: Sequence[Picture]) -> list[str]:
    """Return the images' file names, with their folders if two names are equal, as in clips."""
    names = [Path(one.name).name for one in read]
    return names if len(set(names)) == len(names) else ["/".join(Path(one.name).parts[-2:]) for one in read]


def pca_colours(maps: list[Tensor]) -> list[np.ndarray]:
    """Compute (h, w, 3) colours of maps (D, h, w): the first three principal components, one basis and scale for all.

    Components are scaled from the 1st to the 99th percentile, so that outliers do not reduce the contrast. Maps of two
    dimensions leave the blue channel empty.
    """
    flat = torch.cat([one.flatten(1).T for one in maps])
    sample = flat[torch.linspace(0, len(flat) - 1, min(len(flat), 20_000)).long()]
    mean = sample.mean(0)
    _, _, basis = torch.linalg.svd(sample - mean, full_matrices=False)
    projected = (flat - mean) @ basis[:3].T
    projected = F.pad(projected, (0, 3 - projected.shape[1]))
    low, high = (torch.from_numpy(np.percentile(projected.numpy(), p, axis=0)).float() for p in (1, 99))
    colours = ((projected - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)
    parts = colours.split([one[0].numel() for one in maps])
    return [part.view(*one.shape[1:], 3).numpy() for part, one in zip(parts, maps, strict=True)]


def show_pca(
    encoders: Sequence[DenseEncoder], images: ImageList, out: Path, count: int, size: int | None, basis: Basis = "panel"
) -> Path:
    """Draw images beside the PCA colours of their embeddings, one column per encoder."""
    read = read_some(images, count, size)
    columns = []
    for encoder in encoders:
        maps = [map_of(encoder, one.pixels) for one in read]
        columns.append(pca_colours(maps) if basis == "panel" else [pca_colours([one])[0] for one in maps])
    beside = max(1, COLUMNS // (1 + len(encoders)))
    names = called(encoders) or [""]
    groups = [  # the encoders' names are above the first row only
        [
            (one.pixels, label),
            *((colours[i], name if i < beside else "") for colours, name in zip(columns, names, strict=True)),
        ]
        for i, (one, label) in enumerate(zip(read, labels(read), strict=True))
    ]
    rows = [[cell for group in groups[i : i + beside] for cell in group] for i in range(0, len(groups), beside)]
    title = f"embeddings' first three principal components as RGB, {BASES[basis]}"
    return draw.panel(rows, out / "pca.png", title)


def show_matches(
    encoders: Sequence[DenseEncoder], images: ImageList, out: Path, count: int, size: int | None, seed: int,
    lines: int = 24,
) -> Path:  # fmt: skip
    """Draw two views of each image under a known warp, and each query's best match: green if within one cell.

    Cells have stride 4 for every encoder; maps of another stride are interpolated between their cells' centres.
    """
    if size is not None and (size < 32 or size % 32):
        raise BadInput(f"--size: expected a multiple of 32 px for views, found {size}")
    config = ViewConfig(size=size or trained_size(encoders))
    pairs, hits = [], []
    for number, shown in enumerate(read_some(images, count, None)):
        image = shown.pixels
        pair = draw_pair(config, image.shape[1], image.shape[0], STRIDE, seed, 0, number)
        cells, points = choose_matches(pair, config, STRIDE, lines, generator(seed, 0, number, 2))
        views = [paint(render(image, view, config.size), view.colour) for view in pair.views]
        for encoder in encoders:
            first, second = (_fine(map_of(encoder, view), encoder.stride, view.shape[:2]) for view in views)
            queries = read_cells(first[None], torch.from_numpy(cells)[None])[0]
            centres = cell_centres(second.shape[1], second.shape[2], STRIDE)
            found = centres[nearest_cells(queries, second)[1].numpy()]
            good = np.linalg.norm(found - points, axis=1) <= STRIDE
            pairs.append((views[0], views[1], centres[cells], found, good))
            hits.append(good.mean())
    shares = [np.mean(hits[i :: len(encoders)]) for i in range(len(encoders))]
    told = f"within one cell ({STRIDE} px) of the truth"
    names = called(encoders)
    each = ", ".join(f"{share:.0%} {name}".strip() for name, share in zip(names or [""], shares, strict=True))
    title = f"most similar cell in the other view: {each} {told}".replace("\n", "")
    return draw.matches(pairs, out / "matches.png", title, names)


def _fine(found: Float[Tensor, "D h w"], stride: int, size: tuple[int, ...]) -> Float[Tensor, "D _ _"]:
    """Interpolate a map of an image of `size` (H, W) px to stride 4, if its stride is another."""
    if stride == STRIDE:
        return found
    h, w = (-(-side // STRIDE) for side in size)
    centres = torch.from_numpy(cell_centres(h, w, STRIDE).astype(np.float32))
    return F.normalize(read_at(found[None], centres[None], stride)[0], dim=1).T.reshape(-1, h, w)


class Likeness(NamedTuple):
    """The similarity of an image to a pixel: the highest cosine, the image's pixels, cosines (h, w) and their stride,
    the position of the highest, a name."""

    score: float
    pixels: np.ndarray
    heat: np.ndarray
    stride: int
    best: tuple[float, float]
    label: str


def place_in(shown: Picture, at: tuple[float, float] | None) -> tuple[float, float]:
    """Map a point (x, y) of an image's file to the image as it is shown; None is the centre.

    Raises BadInput for a point outside the image.
    """
    width, height = shown.original
    x, y = at or (width / 2, height / 2)
    if not (0 <= x <= width and 0 <= y <= height):
        raise BadInput(f"--at: expected a point in {width}x{height} px, found {x:g},{y:g}")
    return shown.to_seen(x, y)


def find_similar(encoder: DenseEncoder, read: list[Picture], place: tuple[float, float]) -> list[Likeness]:
    """Compute the similarity of a pixel of the first image to that image, and then to the other images.

    `place` is the pixel's position in the image as it is shown. The other images are sorted, the most similar first.
    """
    first = map_of(encoder, read[0].pixels)
    at = torch.tensor([[place]], dtype=torch.float32)
    vector = F.normalize(read_at(first[None], at, encoder.stride)[0, 0], dim=0)
    own = torch.einsum("d,dhw->hw", vector, first)
    found = []
    for shown, label in zip(read[1:], labels(read)[1:], strict=True):
        image = shown.pixels
        heat = torch.einsum("d,dhw->hw", vector, map_of(encoder, image))
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        height, width = image.shape[:2]
        best = (min((column + 0.5) * encoder.stride, width), min((row + 0.5) * encoder.stride, height))
        found.append(Likeness(float(heat.max()), image, heat.numpy(), encoder.stride, best, label))
    found.sort(key=lambda one: -one.score)
    return [Likeness(float(own.max()), read[0].pixels, own.numpy(), encoder.stride, place, "itself"), *found]


def show_similar(
    encoders: Sequence[DenseEncoder], images: ImageList, out: Path, count: int, at: tuple[float, float] | None,
    size: int | None,
) -> Path:  # fmt: skip
    """Draw a pixel of the first image, the images with the most similar pixels, and the similarity maps (Figure 2)."""
    read = read_some(images, max(2, count * SEARCHED), size)
    place = place_in(read[0], at)
    answers = []
    for encoder, heading in zip(encoders, called(encoders) or ["query"], strict=True):
        itself, *others = find_similar(encoder, read, place)
        shown = [itself, *(one._replace(label=f"{one.label} {one.score:.2f}") for one in others[:count])]
        answers.append((heading, [one[1:] for one in shown]))
    query, (width, height) = read[0].pixels, read[0].original
    x, y = at or (width / 2, height / 2)
    title = f"most similar pixels to {labels(read)[0]} at ({x:.0f}, {y:.0f}) among {len(read) - 1} images"
    return draw.similar_beside(query, place, answers, out / "similar.png", title)


def called(encoders: Sequence[DenseEncoder]) -> list[str]:
    """Make headings for several encoders: names without files and folders, unless two are equal; none for one alone."""
    if len(encoders) == 1:
        return []
    whole = [encoder.name for encoder in encoders]
    short = [re.sub(r"=[^@]*", "", re.sub(r"[^:=@]*/", "", name)) for name in whole]
    names = short if len(set(short)) == len(short) else whole
    return [name.replace("@", "\n@", 1) if len(name) > HEADING else name for name in names]


def trained_size(encoders: Sequence[DenseEncoder]) -> int:
    """Return the view side in the card of the first encoder that has one, or 224."""
    for encoder in encoders:
        card: Any = encoder.facts.get("lineage")
        lineage = card.get("lineage", {}) if isinstance(card, dict) else {}
        if (size := lineage.get("settings", {}).get("views", {}).get("size")) is not None:
            return int(size)
    return 224
