"""Compute one frame's labels from those of its context: affinity -> top-k -> labels, tile by tile.

Axes: F context frames, D embedding, h w cells, N queries of a tile, M keys of a window, K neighbours, O objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vader.inference.propagation.affinity import View, similarities, tile_shape, tiles, top_k, views
from vader.inference.propagation.labels import carry
from vader.inference.propagation.protocols import PropagationProtocol

CHUNK = 144  # queries of a tile; with a radius of 12 cells, larger tiles compute many similarities out of reach
CHUNK_FREE = 256  # queries of a tile without a radius; products with fewer rows are slower
CHUNK_GPU = 1024  # on a GPU each step costs a kernel launch, and no cache limits the tile
SAFE = 60.0  # exponents up to here, and sums of thousands of their exp, fit in float32


@dataclass(frozen=True)
class Neighbours:
    """The selected cells of the context, numbered frame by frame, and their weights. For rows in which more cells are
    as similar as the k-th (`tied`): the smallest similarity that counts, and the logarithm of the weights' divisor."""

    weights: Float[Tensor, "N K"]
    which: Int64[Tensor, "N K"]
    tied: Bool[Tensor, "N"]
    least: Float[Tensor, "N F"]
    log_sum: Float[Tensor, "N F"]


@torch.no_grad()
def carry_frame(
    queries: Float[Tensor, "h w D"],
    keys: Sequence[Float[Tensor, "h w D"]],
    labels: Float[Tensor, "F hw O"],
    free: Sequence[bool],
    protocol: PropagationProtocol,
    stride: int,
    chunk: int | None = None,
    counts: Sequence[int] | None = None,
) -> Float[Tensor, "hw O"]:
    """Compute the labels of a frame's cells from its context's maps and labels; `free` context frames have no radius.

    At most `chunk` queries are compared at a time; it changes memory use but not the result. `counts`, for protocols
    that normalise per frame: how often each context frame occurs (default: once); each is compared only once.
    """
    h, w, _ = queries.shape
    radius = None if protocol.radius is None else protocol.radius / stride
    found = labels.new_empty(h * w, labels.shape[2])
    if chunk is None:
        chunk = CHUNK_GPU if queries.device.type != "cpu" else CHUNK_FREE if radius is None else CHUNK
    share = labels.new_tensor(counts or [1] * len(keys))
    share /= share.sum()
    for tile in tiles(h, w, *tile_shape(w, chunk, radius is not None)):
        rows = tile.of(queries) / protocol.temperature  # so that products are the input of softmax
        seen = views(tile, h, w, free, radius, protocol, queries.device)
        near = neighbours(rows, keys, seen, w, share, protocol)
        values = carry(labels.flatten(0, 1), near.weights, near.which)
        if protocol.ties and near.tied.any():
            values[near.tied] = _carry_ties(rows, keys, seen, labels, near, share, protocol)
        found[tile.cells(w, queries.device)] = values
    return found


def neighbours(
    queries: Float[Tensor, "N D"], keys: Sequence[Float[Tensor, "h w D"]], seen: list[View], width: int,
    share: Float[Tensor, "F"], protocol: PropagationProtocol,
) -> Neighbours:  # fmt: skip
    """Select the cells that give a tile its labels; `share` is each frame's weight in the mean over frames."""
    if protocol.normalised == "jointly":
        return _jointly(queries, keys, seen, width, protocol)
    return _per_frame(queries, keys, seen, width, share, protocol)


def _jointly(
    queries: Tensor, keys: Sequence[Tensor], seen: list[View], width: int, protocol: PropagationProtocol
) -> Neighbours:
    """Select the k most similar cells of all frames, weighted by softmax over them."""
    k, N, area = protocol.top_k, len(queries), keys[0].shape[0] * width
    values, which = [], []
    for view in seen:
        cells = view.window.cells(width, queries.device)
        for frames, similar in similarities(queries, keys, view):
            some, place = top_k(similar.view(N, -1), k + 1)
            values.append(some)
            frame = queries.new_tensor(frames, dtype=torch.int64)[place.div(similar.shape[2], rounding_mode="floor")]
            which.append(frame * area + cells[(place % similar.shape[2]).clamp_max(len(cells) - 1)])
    best, order = torch.cat(values, 1).topk(min(k + 1, sum(v.shape[1] for v in values)), dim=1)
    chosen = best[:, :k]
    total = chosen.logsumexp(1, keepdim=True)
    return Neighbours(
        (chosen - total).exp(),
        torch.cat(which, 1).gather(1, order[:, :k]),
        _ties(best, k),
        best[:, min(k, best.shape[1]) - 1, None].expand(-1, len(keys)),
        total.expand(-1, len(keys)),
    )


def _per_frame(
    queries: Tensor, keys: Sequence[Tensor], seen: list[View], width: int, share: Tensor,
    protocol: PropagationProtocol,
) -> Neighbours:  # fmt: skip
    """Select the k most similar cells of each context frame, weighted by softmax over all its cells.

    The weights include the mean over the frames, so they need not sum to 1.
    """
    k, N, area, F = protocol.top_k, len(queries), keys[0].shape[0] * width, len(keys)
    weights, which, tied = [], [], torch.zeros(N, dtype=torch.bool, device=queries.device)
    least, log_sum = queries.new_empty(N, F), queries.new_empty(N, F)
    for view in seen:
        cells = view.window.cells(width, queries.device)
        for frames, similar in similarities(queries, keys, view):
            flat = similar.view(N * len(frames), -1)
            values, place = top_k(flat, k + 1)
            total = _log_sum(flat, values[:, :1])
            tied |= _ties(values, k).view(N, -1).any(1)
            values, place = values[:, :k], place[:, :k].clamp_max(len(cells) - 1)
            number = queries.new_tensor(frames, dtype=torch.int64)
            least[:, number], log_sum[:, number] = values[:, -1].reshape(N, -1), total.view(N, -1)
            weights.append(((values - total).exp().view(N, len(frames), -1) * share[number, None]).view(N, -1))
            which.append((number[:, None] * area + cells[place].view(N, len(frames), -1)).view(N, -1))
    return Neighbours(torch.cat(weights, 1), torch.cat(which, 1), tied, least, log_sum)


def _log_sum(rows: Tensor, largest: Tensor) -> Tensor:
    """Return log sum exp of each row (N, M), (N, 1), given the maxima; the rows are overwritten."""
    if float(largest.abs().max()) < SAFE:
        return rows.exp_().sum(1, keepdim=True).log_()
    return rows.sub_(largest).exp_().sum(1, keepdim=True).log_() + largest


def _ties(values: Tensor, k: int) -> Tensor:
    """Return whether more values of each descending row equal the k-th."""
    if values.shape[1] <= k:
        return torch.zeros(len(values), dtype=torch.bool, device=values.device)
    return (values[:, k] == values[:, k - 1]) & (values[:, k] > -torch.inf)


def _carry_ties(
    queries: Tensor, keys: Sequence[Tensor], seen: list[View], labels: Tensor, near: Neighbours, share: Tensor,
    protocol: PropagationProtocol,
) -> Tensor:  # fmt: skip
    """Compute the labels of the tied rows, to which every cell as similar as the k-th contributes."""
    found = labels.new_zeros(int(near.tied.sum()), labels.shape[2])
    total = labels.new_zeros(len(found), 1)
    for view in seen:
        cells = view.window.cells(keys[0].shape[1], queries.device)
        # Recompute all rows: a product with fewer rows may differ in its last digit and break the ties.
        for frames, similar in similarities(queries, keys, view):
            number = queries.new_tensor(frames, dtype=torch.int64)
            values = similar[near.tied][..., : len(cells)]  # (n, f, M)
            weights = (values - near.log_sum[near.tied][:, number, None]).exp_()
            weights.masked_fill_(values < near.least[near.tied][:, number, None], 0)
            if protocol.normalised == "per frame":
                weights *= share[number, None]
            found += torch.einsum("nfm,fmo->no", weights, labels[number][:, cells])
            total += weights.sum((1, 2))[:, None]
    return found / total if protocol.normalised == "jointly" else found
