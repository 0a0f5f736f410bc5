"""How good and how fast an index is, measured on its own vectors when it is built.

Axes: n vectors, D embedding, m queries.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32

from vader.inference.retrieval.faiss_index import exact_scores, is_flat, nearest, spread

QUERIES, FOUND = 100, 10
WANTED = 0.95  # recall at which no more lists are opened; 0.9 is promised
FEWEST = 8  # lists
GAIN = 0.002  # of recall: what twice as many lists have to bring
TIE = 1e-5  # of a similarity: vectors as near as the tenth count as found, whichever of them came


@dataclass(frozen=True)
class Quality:
    """Of `queries` single queries: recall@10 against looking at all, median time, and how many lists were opened."""

    recall: float
    ms: float
    probes: int
    queries: int

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def between_cells(vectors: Float16[np.ndarray, "n D"], count: int, seed: int) -> Float32[np.ndarray, "m D"]:
    """Queries as they come: not a vector of the index but the mean of one and the next, mostly its neighbour."""
    first = spread(len(vectors), min(count, len(vectors)), seed)
    second = np.minimum(first + 1, len(vectors) - 1)
    mixed = vectors[first].astype(np.float32) + vectors[second]
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)


def measure(
    index: Any, vectors: Float16[np.ndarray, "n D"], exact: bool, queries: Float32[np.ndarray, "m D"]
) -> Quality:
    """The fewest lists, doubling from 8, at which recall is .95 or no longer grows, and what a query then costs.

    `exact` says whether the best few hundred are ranked again by their vectors.
    """
    k = min(FOUND, len(vectors))
    least = exact_scores(vectors, queries, k)[:, -1] - TIE
    lists = 1 if is_flat(index) else int(index.nlist)
    best, probes = None, min(FEWEST, lists)
    while True:
        recall, ms = _try(index, vectors, exact, queries, least, k, probes)
        if best is not None and recall < best.recall + GAIN:
            return best  # it is the codes that miss the rest
        best = Quality(round(recall, 4), round(ms, 3), probes, len(queries))
        if recall >= WANTED or probes == lists:
            return best
        probes = min(2 * probes, lists)


def _try(
    index: Any, vectors: np.ndarray, exact: bool, queries: np.ndarray, least: np.ndarray, k: int, probes: int
) -> tuple[float, float]:
    """Recall@k and the median milliseconds of a query, one query at a time."""
    hits, times = 0, []
    for query, enough in zip(queries, least, strict=True):
        since = time.perf_counter()
        _, found = nearest(index, vectors if exact else None, query, k, probes)
        times.append(time.perf_counter() - since)
        hits += int((vectors[found].astype(np.float32) @ query >= enough).sum())
    return hits / (k * len(queries)), 1e3 * statistics.median(times)
