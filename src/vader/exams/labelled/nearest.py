"""Find the k most similar of very many keys, exactly, within a memory limit, on the CPU or a GPU.

Keys are processed in chunks. After each chunk, a query's best k so far are merged with those of the chunk. To reduce
sorting, a chunk is divided into blocks of neighbouring keys: the k best keys of a chunk are in the k blocks with the
best maxima. Equal similarities keep the order of the keys, because similarity and index are packed into one integer.
Axes: M keys, N queries, C channels, K neighbours.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vader.errors import BadInput

BUDGET = 256 * 2**20  # bytes
BLOCK = 16  # keys
ROWS = 1024  # queries at a time; more do not make the products faster
LAST = 2**32 - 1


@torch.no_grad()
def nearest(
    keys: Float[Tensor, "M C"], queries: Float[Tensor, "N C"], k: int, budget: int = BUDGET, device: str = "cpu"
) -> tuple[Float[Tensor, "N K"], Int64[Tensor, "N K"]]:
    """Return each query's largest inner products and the indices of the keys, best first; K is min(k, M).

    Products are float32, on the keys' device if it is not the CPU, else on `device`, to which chunks of keys are
    copied. The search needs at most `budget` bytes beside keys, queries and results. Raises BadInput for a budget too
    small for one query and one block.
    """
    assert 0 < len(keys) <= LAST, "a memory is neither empty nor beyond 32 bits"
    where = keys.device if keys.device.type != "cpu" else torch.device(device)
    k = min(k, len(keys))
    rows, columns = tile(len(queries), queries.shape[1], k, budget)
    parts = [_of_some(keys, some.to(where, torch.float32), k, columns) for some in queries.split(rows)]
    best = torch.cat(parts)
    return _similarity(best), LAST - (best & LAST)


def tile(N: int, C: int, k: int, budget: int) -> tuple[int, int]:
    """Return the number of queries and of keys (a multiple of the block size) to compare at a time."""
    query, pair = _bytes(C, k)  # a key needs 4 C more, for its copy in float32
    for rows in (max(1, min(N, ROWS, int(budget / 2 / query))), 1):
        columns = int((budget - rows * query) / (rows * pair + 4 * C)) // BLOCK * BLOCK
        if columns >= BLOCK:
            return rows, columns
    raise BadInput(
        f"--memory: expected at least {least_budget(C, k)} bytes for a search of {C} channels, found {budget}"
    )


def least_budget(C: int, k: int) -> int:
    """Return the bytes needed for one query and one block."""
    query, pair = _bytes(C, k)
    return int(query + BLOCK * (pair + 4 * C)) + 1


def _bytes(C: int, k: int) -> tuple[float, float]:
    """Return the bytes for a query (its copy; places, products and packed numbers of its candidates, and their
    intermediates) and for a pair (the product, and the packed best of its block)."""
    return 4 * C + 56 * k * (BLOCK + 2), 4 + 40 / BLOCK


def _of_some(keys: Float[Tensor, "M C"], queries: Float[Tensor, "n C"], k: int, columns: int) -> Int64[Tensor, "n k"]:
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    most = min(columns, -(-len(keys) // BLOCK) * BLOCK)
    # Allocate once for all chunks: otherwise a new buffer would exist before the old one is freed.
    copies = torch.empty(most, queries.shape[1], device=queries.device)
    products = torch.empty(most, len(queries), device=queries.device)
    for start in range(0, len(keys), columns):
        part = keys[start : start + columns]
        # Keys along rows, so that the best of a block is found for many queries at once.
        torch.mm(copies[: len(part)].copy_(part), queries.T, out=products[: len(part)])
        similar = products[: -(-len(part) // BLOCK) * BLOCK]
        similar[len(part) :] = -torch.inf
        best = _merge(best, similar, start, k)
    return best


def _merge(best: Int64[Tensor, "n k0"], similar: Float[Tensor, "m n"], start: int, k: int) -> Int64[Tensor, "n k1"]:
    """Merge the best so far, all of which are earlier keys, with those of a chunk."""
    m, n = similar.shape
    tops = similar.view(m // BLOCK, BLOCK, n).amax(1)
    take = min(k, len(tops))
    if best.shape[1] == k:  # skip blocks with nothing better than the worst so far
        take = min(take, int((tops > _similarity(best[:, -1])).sum(0).max()))
        if not take:
            return best
    blocks = torch.arange(len(tops), device=tops.device)[:, None]
    chosen = LAST - (_packed(tops, blocks).topk(take, dim=0, sorted=False).values & LAST)  # (take, n)
    inside = torch.arange(BLOCK, device=tops.device)[:, None]
    places = (chosen[:, None] * BLOCK + inside).flatten(0, 1)
    found = _packed(similar.gather(0, places), places.add_(start)).T
    together = torch.cat([best, found], 1)
    return together.topk(min(k, together.shape[1]), dim=1).values


def _packed(similar: Float[Tensor, "a n"], number: Int64[Tensor, "a _"]) -> Int64[Tensor, "a n"]:
    """Return integers that sort by similarity, then by smaller index; `number` may have one column for all queries."""
    bits = (similar + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # bits of negative floats sort in reverse
    return bits.long().bitwise_left_shift_(32).bitwise_or_(LAST - number)


def _similarity(packed: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    bits = (packed >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
