"""Find nearest neighbours among normalised vectors. No other module imports FAISS.

There are two kinds. `flat` stores every vector as float16 and compares with all. `pq` assigns vectors to lists by the
nearest of about sqrt(n) centroids and stores a few bytes of each residual (Jegou et al. 2011, IVFADC). A query searches
the `probes` nearest lists, and the best few hundred are ranked again by their exact vectors.

Axes: n vectors, D embedding, P = D padded with zeros to a multiple of the sub-vectors, k neighbours.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float16, Float32, Int64

from vader.errors import BadInput, MissingExtra
from vader.runtime.files import sync_folder

try:
    import faiss
except ImportError:
    raise MissingExtra("expected FAISS for an index, found none; pip install 'vader-dense[index]'") from None

Kind = Literal["flat", "pq"]
FLAT_UNTIL = 200_000  # cells: comparing with that many takes about 20 ms
PQ_FROM = 1024  # minimum number of cells to train the 256 centroids of a sub-vector
LEAST_SUBS, MOST_SUBS = 8, 64  # minimum and maximum bytes of a vector
SUB = 4  # dimensions in a byte, within these bounds
TRAINED_ON = 64  # vectors for each centroid
ROUNDS = 10  # of k-means
RANKED_AGAIN = 512  # best approximate results that are ranked again by their exact vectors
BLOCK = 1 << 15  # vectors at a time


def choose_kind(n: int) -> Kind:
    """Choose the default kind for n vectors."""
    return "flat" if n <= FLAT_UNTIL else "pq"


def lists_for(n: int) -> int:
    """Return the power of two nearest to sqrt(n), 16 to 65536: a query compares with centroids, then scans lists."""
    return int(2 ** np.clip(np.round(np.log2(max(n, 1)) / 2), 4, 16))


def bytes_for(dim: int) -> tuple[int, int]:
    """Return (bytes of a vector, dimensions in a byte): 4 dimensions in a byte, within 8 to 64 bytes if possible."""
    target = min(dim, max(LEAST_SUBS, min(MOST_SUBS, dim // SUB)))
    each = -(-dim // target)
    return -(-dim // each), each


def megabytes_per_million(index: Any) -> float:
    """Return the size of an index in MB for a million vectors: codes, and 8 bytes of id in lists."""
    if is_flat(index):
        return float(index.code_size)
    return float(index.code_size + 8)


def is_flat(index: Any) -> bool:
    """Return whether the index compares with all vectors."""
    return not isinstance(index, faiss.IndexIVF)


def train(vectors: Float16[np.ndarray, "n D"], kind: Kind, seed: int) -> Any:
    """Train an empty index on at most 64 vectors for each centroid, drawn evenly."""
    n, dim = vectors.shape
    if kind == "flat":
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    if n < PQ_FROM:
        raise BadInput(f"--kind pq: expected at least {PQ_FROM} cells to train on, found {n}; use --kind flat")
    subs, each = bytes_for(dim)
    lists = lists_for(n)
    coarse = faiss.IndexFlatIP(subs * each)
    index = faiss.IndexIVFPQ(coarse, subs * each, lists, subs, 8, faiss.METRIC_INNER_PRODUCT)
    for settings in (index.cp, index.pq.cp):
        settings.seed, settings.niter, settings.min_points_per_centroid = seed, ROUNDS, 1
        settings.max_points_per_centroid = TRAINED_ON
    count = min(n, max(TRAINED_ON * lists, TRAINED_ON * 1024))
    index.train(_padded(vectors[spread(n, count, seed)], index.d))
    return index


def spread(n: int, count: int, seed: int) -> Int64[np.ndarray, "count"]:
    """Draw `count` different numbers below n, ascending: a random one from each of `count` equal parts."""
    assert 0 < count <= n
    edges = np.linspace(0, n, count + 1).astype(np.int64)
    return edges[:-1] + (np.random.default_rng(seed).random(count) * np.diff(edges)).astype(np.int64)


def add(
    index: Any, vectors: Float16[np.ndarray, "n D"], every: int | None = None, keep: Callable[[int], None] | None = None
) -> None:
    """Add the vectors that the index does not have yet, in order; call `keep(size of the index)` after each `every`."""
    while index.ntotal < len(vectors):
        start = index.ntotal
        stop = min(len(vectors), start + BLOCK)
        index.add(_padded(vectors[start:stop], index.d))
        if every and keep and index.ntotal // every > start // every:
            keep(index.ntotal)


def search(
    index: Any, queries: Float32[np.ndarray, "m D"], k: int, probes: int
) -> tuple[Float32[np.ndarray, "m k"], Int64[np.ndarray, "m k"]]:
    """Return similarities (`pq`: approximate) and indices of the k most similar vectors, best first; -1 pads."""
    options = None
    if not is_flat(index):
        options = faiss.SearchParametersIVF()
        options.nprobe = min(probes, index.nlist)
    return index.search(_padded(queries, index.d), min(k, index.ntotal), params=options)


def nearest(
    index: Any, exact: Float16[np.ndarray, "n D"] | None, query: Float32[np.ndarray, "D"], k: int, probes: int
) -> tuple[Float32[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """Return the k most similar vectors, best first; `pq` ranks its best 512 (or k) again by `exact`, if given."""
    if is_flat(index) or exact is None:
        scores, found = search(index, query[None], k, probes)
        return scores[0][found[0] >= 0], found[0][found[0] >= 0]
    found = np.sort(search(index, query[None], max(RANKED_AGAIN, k), probes)[1][0])  # ascending, to read in disk order
    found = found[found >= 0]
    scores = exact[found].astype(np.float32) @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], found[order]


def vectors_of(index: Any, start: int, count: int, dim: int) -> Float32[np.ndarray, "count D"]:
    """Return vectors that a flat index stores."""
    return index.reconstruct_n(start, count)[:, :dim]


def exact_scores(
    vectors: Float16[np.ndarray, "n D"], queries: Float32[np.ndarray, "m D"], k: int
) -> Float32[np.ndarray, "m k"]:
    """Return the k highest similarities of each query among all vectors, descending: the reference for recall."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        found = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        found = np.concatenate([best, found], 1)
        best = np.partition(found, found.shape[1] - k, 1)[:, -k:]
    return -np.sort(-best, 1)


def representatives(vectors: Float32[np.ndarray, "n D"], count: int, seed: int) -> Int64[np.ndarray, "_"]:
    """Return the vector nearest to the centre of each of `count` spherical k-means clusters, as ascending indices."""
    if len(vectors) <= count:
        return np.arange(len(vectors))
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=ROUNDS, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )  # fmt: skip
    means.train(vectors)
    return np.unique((means.centroids @ vectors.T).argmax(1))


def save(index: Any, path: Path) -> None:
    """Write an index atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        faiss.write_index(index, str(temporary))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except RuntimeError as error:  # FAISS raises this for a full disk
        raise BadInput(f"{path}: expected to write an index, found {' '.join(str(error).split())[-160:]}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read(path: Path, mapped: Kind | None = None) -> Any:
    """Read an index file; with `mapped` and an index of that kind, codes and lists stay on the disk until used.

    Raises BadInput for a file that is not a complete index.
    """
    flags = 0
    if mapped:  # FAISS has a separate method for each of the two kinds
        flags = faiss.IO_FLAG_MMAP_IFC if mapped == "flat" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise BadInput(f"{path}: expected a FAISS index, found a damaged one ({reason}); build it again") from None


def _padded(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Convert to float32 and pad with zeros, which change no product."""
    found = np.zeros((len(vectors), dim), np.float32)
    found[:, : vectors.shape[1]] = vectors
    return found
