"""The match exam of a run: match points between two known warps of each held-out image.

Axes: B images, M held-out images, N points, D embedding, h w cells, S a view's side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vader.images.colour import paint
from vader.images.finding import nearest_cells
from vader.images.geometry import cell_centres, read_cells
from vader.pretraining.views import ViewConfig, choose_matches, draw_pair, generator, render

Embed = Callable[[Tensor], Tensor]  # images in [0, 1] (B, 3, S, S) -> L2-normalised maps (B, D, h, w)
EXAM_QUERIES = 100
EXAM_SEED = 20_201_213  # one set of warps for every run, so that runs can be compared


@dataclass(frozen=True)
class MatchExam:
    """Held-out images under known warps: views uint8 (M, 2, 3, S, S), queries' cells (M, N), true points (M, N, 2)."""

    views: Tensor
    cells: Tensor
    points: Tensor
    stride: int

    def __len__(self) -> int:
        return len(self.views)

    @property
    def chance(self) -> float:
        """The expected score of a random cell: the share of points within one cell of it."""
        size = self.views.shape[-1]
        centres = torch.tensor(cell_centres(size // self.stride, size // self.stride, self.stride), dtype=torch.float32)
        return float((torch.cdist(self.points.flatten(0, 1), centres) <= self.stride).float().mean())


def make_exam(images: Iterator[np.ndarray], config: ViewConfig, stride: int, colour: bool = True) -> MatchExam:
    """Make the `warp-pck` exam of a run: two MoCo v2 views of each image, up to 100 cells of their overlap.

    The warps depend on the image's place only. `colour=False` keeps the colours unchanged (geometry only).
    """
    exam_views = ViewConfig(size=config.size)
    views, cells, points = [], [], []
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        pair = draw_pair(exam_views, width, height, stride, EXAM_SEED, 0, number)
        pixels = [render(image, view, config.size) for view in pair.views]
        if colour:
            pixels = [paint(half, view.colour) for half, view in zip(pixels, pair.views, strict=True)]
        chosen = choose_matches(pair, exam_views, stride, EXAM_QUERIES, generator(EXAM_SEED, 0, number, 2))
        views.append(np.stack(pixels))
        cells.append(chosen[0])
        points.append(chosen[1])
    return MatchExam(
        views=torch.from_numpy(np.stack(views)).permute(0, 1, 4, 2, 3).contiguous(),
        cells=torch.from_numpy(np.stack(cells)),
        points=torch.from_numpy(np.stack(points)).float(),
        stride=stride,
    )


@torch.no_grad()
def embed_exam(embed: Embed, exam: MatchExam, device: torch.device, batch: int = 32) -> tuple[Tensor, Tensor]:
    """Embed both views: two maps, (M, D, h, w) each, on the CPU."""
    halves = []
    for k in (0, 1):
        chunks = exam.views[:, k].split(batch)
        halves.append(torch.cat([embed(chunk.to(device).float() / 255).float().cpu() for chunk in chunks]))
    return halves[0], halves[1]


def match_errors(first: Tensor, second: Tensor, exam: MatchExam) -> Float[Tensor, "M N"]:
    """Compute distances, in pixels of view 2, from the centre of the most similar cell to the true point."""
    size = exam.views.shape[-1]
    centres = torch.tensor(cell_centres(size // exam.stride, size // exam.stride, exam.stride), dtype=torch.float32)
    errors = []
    for a, b, cells, points in zip(first, second, exam.cells, exam.points, strict=True):
        queries = read_cells(a[None], cells[None])[0]  # (N, D)
        _, best = nearest_cells(queries, b)  # (N,)
        errors.append((centres[best] - points).norm(dim=1))
    return torch.stack(errors)


def match_scores(first: Tensor, second: Tensor, exam: MatchExam) -> np.ndarray:
    """Compute each image's share of points found within one cell, (M,)."""
    return (match_errors(first, second, exam) <= exam.stride).float().mean(1).numpy()
