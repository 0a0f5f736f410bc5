"""Measure the recall and speed of an index on its own vectors when it is built.

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
WANTED = 0.95  # recall at which the number of lists stops growing; 0.9 is promised
FEWEST = 8  # lists to start with
GAIN = 0.002  # minimum gain in recall from twice as many lists
TIE = 1e-5  # of similarity; vectors as similar as the tenth count as found


@dataclass(frozen=True)
class Quality:
    """Recall@10 of `queries` single queries against exact search, their median time, and the lists searched."""

    recall: float
    ms: float
    probes: int
    queries: int

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for the manifest."""
        return asdict(self)


def between_cells(vectors: Float16[np.ndarray, "n D"], count: int, seed: int) -> Float32[np.ndarray, "m D"]:
    """Make realistic queries: not a vector of the index, but the mean of one and the next, mostly its neighbour."""
    first = spread(len(vectors), min(count, len(vectors)), seed)
    second = np.minimum(first + 1, len(vectors) - 1)
    mixed = vectors[first].astype(np.float32) + vectors[second]
    return mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)


def measure(
    index: Any, vectors: Float16[np.ndarray, "n D"], exact: bool, queries: Float32[np.ndarray, "m D"]
) -> Quality:
    """Find the smallest number of lists, doubling from 8, at which recall is .95 or stops growing, and time a query.

    `exact` says whether the best few hundred are ranked again by their vectors.
    """
    k = min(FOUND, len(vectors))
    least = exact_scores(vectors, queries, k)[:, -1] - TIE
    lists = 1 if is_flat(index) else int(index.nlist)
    best, probes = None, min(FEWEST, lists)
    while True:
        recall, ms = _try(index, vectors, exact, queries, least, k, probes)
        if best is not None and recall < best.recall + GAIN:
            return best  # the rest is lost to the codes
        best = Quality(round(recall, 4), round(ms, 3), probes, len(queries))
        if recall >= WANTED or probes == lists:
            return best
        probes = min(2 * probes, lists)


def _try(
    index: Any, vectors: np.ndarray, exact: bool, queries: np.ndarray, least: np.ndarray, k: int, probes: int
) -> tuple[float, float]:
    """Return Recall@k and the median milliseconds of a query, one query at a time."""
    hits, times = 0, []
    for query, enough in zip(queries, least, strict=True):
        since = time.perf_counter()
        _, found = nearest(index, vectors if exact else None, query, k, probes)
        times.append(time.perf_counter() - since)
        hits += int((vectors[found].astype(np.float32) @ query >= enough).sum())
    return hits / (k * len(queries)), 1e3 * statistics.median(times)
