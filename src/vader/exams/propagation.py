"""The labels of a clip's first frame, carried through the clip by likeness of features alone.

affinity -> top-k -> labels: three pure functions, always on a chunk of the queries, so that never more than chunk x
context similarities exist. Axes: T frames, D embedding, H W pixels, h w cells, N queries, M cells of the context, O
objects (0, the background, included while labels are carried).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from vader.errors import BadInput
from vader.exams.features import full_size
from vader.metrics import boundary_f, jaccard


@dataclass(frozen=True, kw_only=True)
class PropagationProtocol:
    """What a score depends on. The defaults are DINO's constants: the first frame and 7 before, the 5 most similar
    cells of all of them together, softmax at temperature 0.1 (TimeCycle: 0.07), 12 cells at stride 8 around a cell.

    Labels go in as the share of each cell that an object has, are carried on as they are, and come out bilinear, by
    the largest. DINO takes the nearest pixel's label instead and stretches each object's map to [0, 1].
    """

    context: int = 7  # frames before, beside the first
    top_k: int = 5
    temperature: float = 0.1
    radius: float | None = 96.0  # pixels, from cell to cell, at 480p; None: anywhere
    shape: Literal["square", "disk"] = "square"  # of the neighbourhood; its rim is in it
    restrict_first: bool = True  # whether it holds in the first frame too


# --- The three steps ----------------------------------------------------------------------------------------------


def affinity(queries: Float[Tensor, "N D"], keys: Float[Tensor, "M D"], allowed: Tensor | None = None) -> Tensor:
    """(N, M) similarities; -inf where not `allowed` (N, M)."""
    products = queries @ keys.T
    return products if allowed is None else products.masked_fill_(~allowed, -torch.inf)


def top_k(
    similar: Float[Tensor, "N M"], k: int, temperature: float
) -> tuple[Float[Tensor, "N k"], Int64[Tensor, "N k"]]:
    """Softmax weights of each query's k most similar keys (fewer, if there are not as many), and which these are."""
    values, which = similar.topk(min(k, similar.shape[1]), dim=1)
    return (values / temperature).softmax(1), which


def carry(labels: Float[Tensor, "M O"], weights: Float[Tensor, "N k"], which: Int64[Tensor, "N k"]) -> Tensor:
    """(N, O) the weighted mean of the chosen keys' labels."""
    return torch.einsum("nk,nko->no", weights, labels[which])


def near(
    queries: Int64[Tensor, "N"], width: int, cells: int, radius: float, shape: Literal["square", "disk"]
) -> Tensor:
    """(N, cells) whether each cell of a map lies within `radius` cells of the query cells (row-major)."""
    key = torch.arange(cells)
    dx = (queries % width)[:, None] - key % width
    dy = queries.div(width, rounding_mode="floor")[:, None] - key.div(width, rounding_mode="floor")
    if shape == "disk":
        return dx.square() + dy.square() <= radius**2
    return torch.maximum(dx.abs(), dy.abs()) <= radius


# --- A clip -------------------------------------------------------------------------------------------------------


def propagate(
    maps: Float[Tensor, "T D h w"],
    first_labels: Integer[np.ndarray, "H W"],
    protocol: PropagationProtocol | None = None,
    *,
    stride: int = 4,
    chunk: int = 256,
) -> Shaped[np.ndarray, "T H W"]:
    """The object of every pixel of every frame; the first frame's labels are returned as they came.

    `maps` are L2-normalised embeddings. Every value of `first_labels` is an object; turn void to background before.
    `chunk` queries are compared at once; it changes the memory, not the result. Raises BadInput for labels whose size
    does not fit the maps.
    """
    T, _, h, w = maps.shape
    H, W = first_labels.shape
    if (-(-H // stride), -(-W // stride)) != (h, w):
        raise BadInput(
            f"first labels: expected a picture of {h}x{w} cells at stride {stride}, got {H}x{W} px; give them the "
            "frames' size"
        )
    ids = np.unique(first_labels)
    shares = carry_through(maps, _shares(first_labels, ids, stride), protocol or PropagationProtocol(), stride, chunk)
    predicted = np.empty((T, H, W), dtype=first_labels.dtype)
    predicted[0] = first_labels
    for t in range(1, T):
        predicted[t] = ids[_to_pixels(shares[t].T.reshape(1, -1, h, w), stride, (H, W))]
    return predicted


@torch.no_grad()
def carry_through(
    maps: Float[Tensor, "T D h w"],
    first: Float[Tensor, "hw O"],
    protocol: PropagationProtocol,
    stride: int,
    chunk: int = 256,
) -> Float[Tensor, "T hw O"]:
    """The objects' shares of the first frame's cells -> those of every frame's, each from the frames before it."""
    T, D, h, w = maps.shape
    keys = maps.float().flatten(2).transpose(1, 2)  # (T, hw, D)
    labels = torch.zeros(T, *first.shape)
    labels[0] = first
    for t in range(1, T):
        frames = [0, *range(max(1, t - protocol.context), t)]
        context, known = keys[frames].reshape(-1, D), labels[frames].flatten(0, 1)
        for rows in torch.arange(h * w).split(chunk):
            allowed = _allowed(rows, w, h * w, len(frames), protocol, stride)
            weights, which = top_k(affinity(keys[t, rows], context, allowed), protocol.top_k, protocol.temperature)
            labels[t, rows] = carry(known, weights, which)
    return labels


def copy_first(first_labels: Integer[np.ndarray, "H W"], frames: int) -> Shaped[np.ndarray, "T H W"]:
    """What costs nothing: the first frame's labels in every frame."""
    return np.repeat(first_labels[None], frames, 0)


def _shares(labels: Integer[np.ndarray, "H W"], ids: np.ndarray, stride: int) -> Float[Tensor, "hw O"]:
    """The share of each cell's pixels that each object has; a cell that the edge cuts counts the pixels it has."""
    masks = torch.from_numpy(np.stack([labels == number for number in ids])).float()
    return F.avg_pool2d(masks[None], stride, ceil_mode=True, count_include_pad=False)[0].flatten(1).T


def _allowed(
    rows: Int64[Tensor, "N"], width: int, cells: int, frames: int, protocol: PropagationProtocol, stride: int
) -> Tensor | None:
    if protocol.radius is None:
        return None
    one = near(rows, width, cells, protocol.radius / stride, protocol.shape)
    first = one if protocol.restrict_first else torch.ones_like(one)
    return torch.cat([first, *[one] * (frames - 1)], 1)


def _to_pixels(shares: Float[Tensor, "1 O h w"], stride: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) the object with the largest share; one object's map is upsampled at a time, since there can be dozens."""
    best, winner = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.int64)
    for number, part in enumerate(shares.split(1, dim=1)):
        value = full_size(part, stride, size)[0, 0]
        better = value > best
        best, winner = torch.where(better, value, best), torch.where(better, number, winner)
    return winner.numpy()


# --- Scores (DAVIS 2017, semi-supervised) -------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipScore:
    """Mean J and F of each object of a clip; `ids` are their labels. Empty if the first frame shows no object."""

    ids: tuple[int, ...]
    j: Float[np.ndarray, "O"]
    f: Float[np.ndarray, "O"]


def score_clip(predicted: Integer[np.ndarray, "T H W"], truth: Integer[np.ndarray, "T H W"]) -> ClipScore:
    """J and F of the objects of the truth's first frame (labels above 0), means over frames 2 ... T - 1.

    The first frame is given and the last is left out, as DAVIS has it. Raises BadInput for fewer than three frames.
    """
    if len(truth) < 3:
        raise BadInput(
            f"clip: expected at least 3 frames, of which the first and last are not scored, got {len(truth)}"
        )
    ids = tuple(int(number) for number in np.unique(truth[0]) if number > 0)
    scores = np.array([_object_scores(predicted[1:-1] == i, truth[1:-1] == i) for i in ids]).reshape(-1, 2)
    return ClipScore(ids, scores[:, 0], scores[:, 1])


def _object_scores(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    pairs: Iterator[tuple[np.ndarray, np.ndarray]] = zip(ours, theirs, strict=True)
    both = [(jaccard(a, b), boundary_f(a, b)) for a, b in pairs]
    j, f = np.mean(both, 0).tolist()
    return j, f


def mean_scores(scores: list[ClipScore]) -> dict[str, float]:
    """`j`, `f` and their mean `j_and_f` over all objects of all clips (each object counts the same), and `objects`."""
    j, f = (np.concatenate([np.zeros(0), *parts]) for parts in ([s.j for s in scores], [s.f for s in scores]))
    if not len(j):
        return {"j": float("nan"), "f": float("nan"), "j_and_f": float("nan"), "objects": 0.0}
    return {"j": float(j.mean()), "f": float(f.mean()), "j_and_f": float(j.mean() + f.mean()) / 2, "objects": len(j)}
