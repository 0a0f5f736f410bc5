"""Nearest neighbours among normalised vectors: the only importer of FAISS.

Two kinds. `flat` keeps every vector as float16 and looks at all. `pq` files them under the nearest of about sqrt(n)
centroids and keeps, for each, a few bytes of the residual (Jegou et al. 2011, IVFADC); a query looks through the
`probes` nearest lists, and the best few hundred are ranked again by their exact vectors.

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
FLAT_UNTIL = 200_000  # cells: up to here a look at all takes some 20 ms
PQ_FROM = 1024  # cells that the 256 centroids of a sub-vector are found on, at least
LEAST_SUBS, MOST_SUBS = 8, 64  # bytes of a vector
SUB = 4  # dimensions a byte, within these bounds
TRAINED_ON = 64  # vectors a centroid
ROUNDS = 10  # of k-means
RANKED_AGAIN = 512  # of the approximate order, by their exact vectors
BLOCK = 1 << 15  # vectors at a time


def choose_kind(n: int) -> Kind:
    """What to build for n vectors when nobody says."""
    return "flat" if n <= FLAT_UNTIL else "pq"


def lists_for(n: int) -> int:
    """The power of two nearest to sqrt(n), 16 to 65536: a query compares with the centroids, then scans lists."""
    return int(2 ** np.clip(np.round(np.log2(max(n, 1)) / 2), 4, 16))


def bytes_for(dim: int) -> tuple[int, int]:
    """(bytes a vector, dimensions a byte): 4 dimensions a byte, but 8 to 64 bytes where that can be."""
    target = min(dim, max(LEAST_SUBS, min(MOST_SUBS, dim // SUB)))
    each = -(-dim // target)
    return -(-dim // each), each


def megabytes_per_million(index: Any) -> float:
    """What an index takes, in MB a million vectors: codes, and 8 bytes of name in lists."""
    if is_flat(index):
        return float(index.code_size)
    return float(index.code_size + 8)


def is_flat(index: Any) -> bool:
    """Whether it looks at all vectors."""
    return not isinstance(index, faiss.IndexIVF)


def train(vectors: Float16[np.ndarray, "n D"], kind: Kind, seed: int) -> Any:
    """An empty index that knows how the vectors are spread; of `n` it sees at most 64 a centroid, drawn evenly."""
    n, dim = vectors.shape
    if kind == "flat":
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    if n < PQ_FROM:
        raise BadInput(f"--kind pq: expected at least {PQ_FROM} cells to learn codes from, got {n}; use --kind flat")
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
    """`count` different numbers below n, ascending: one at random of each of `count` equal parts."""
    assert 0 < count <= n
    edges = np.linspace(0, n, count + 1).astype(np.int64)
    return edges[:-1] + (np.random.default_rng(seed).random(count) * np.diff(edges)).astype(np.int64)


def add(
    index: Any, vectors: Float16[np.ndarray, "n D"], every: int | None = None, keep: Callable[[int], None] | None = None
) -> None:
    """Add those vectors that the index does not have yet, in order; after each `every` call `keep(how many it has)`."""
    while index.ntotal < len(vectors):
        start = index.ntotal
        stop = min(len(vectors), start + BLOCK)
        index.add(_padded(vectors[start:stop], index.d))
        if every and keep and index.ntotal // every > start // every:
            keep(index.ntotal)


def search(
    index: Any, queries: Float32[np.ndarray, "m D"], k: int, probes: int
) -> tuple[Float32[np.ndarray, "m k"], Int64[np.ndarray, "m k"]]:
    """Similarities (of `pq`: approximate) and numbers of the k most similar, the best first; -1 fills up."""
    options = None
    if not is_flat(index):
        options = faiss.SearchParametersIVF()
        options.nprobe = min(probes, index.nlist)
    return index.search(_padded(queries, index.d), min(k, index.ntotal), params=options)


def nearest(
    index: Any, exact: Float16[np.ndarray, "n D"] | None, query: Float32[np.ndarray, "D"], k: int, probes: int
) -> tuple[Float32[np.ndarray, "_"], Int64[np.ndarray, "_"]]:
    """The k most similar vectors, the best first; of `pq` the best 512 (or k), ranked again by `exact` if given."""
    if is_flat(index) or exact is None:
        scores, found = search(index, query[None], k, probes)
        return scores[0][found[0] >= 0], found[0][found[0] >= 0]
    found = np.sort(search(index, query[None], max(RANKED_AGAIN, k), probes)[1][0])  # ascending, as on the disk
    found = found[found >= 0]
    scores = exact[found].astype(np.float32) @ query
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], found[order]


def vectors_of(index: Any, start: int, count: int, dim: int) -> Float32[np.ndarray, "count D"]:
    """The vectors that a flat index keeps."""
    return index.reconstruct_n(start, count)[:, :dim]


def exact_scores(
    vectors: Float16[np.ndarray, "n D"], queries: Float32[np.ndarray, "m D"], k: int
) -> Float32[np.ndarray, "m k"]:
    """The k highest similarities of each query among all vectors, descending: what recall is held against."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        found = queries @ vectors[start : start + BLOCK].astype(np.float32).T
        found = np.concatenate([best, found], 1)
        best = np.partition(found, found.shape[1] - k, 1)[:, -k:]
    return -np.sort(-best, 1)


def representatives(vectors: Float32[np.ndarray, "n D"], count: int, seed: int) -> Int64[np.ndarray, "_"]:
    """Of each of `count` spherical k-means clusters the vector nearest to its centre, as ascending numbers."""
    if len(vectors) <= count:
        return np.arange(len(vectors))
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=ROUNDS, seed=seed, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )  # fmt: skip
    means.train(vectors)
    return np.unique((means.centroids @ vectors.T).argmax(1))


def save(index: Any, path: Path) -> None:
    """Write an index so that its name shows the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        faiss.write_index(index, str(temporary))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except RuntimeError as error:  # FAISS's word for a full disk
        raise BadInput(f"{path}: expected to write it, but {' '.join(str(error).split())[-160:]}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read(path: Path, mapped: Kind | None = None) -> Any:
    """An index file; `mapped`, if it is of that kind, leaves codes and lists on the disk until they are looked at.

    Raises BadInput for what is no whole index.
    """
    flags = 0
    if mapped:  # FAISS maps the two by different means, each of which knows one kind alone
        flags = faiss.IO_FLAG_MMAP_IFC if mapped == "flat" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-160:]
        raise BadInput(f"{path}: expected a whole FAISS index, but reading failed ({reason}); build it anew") from None


def _padded(vectors: np.ndarray, dim: int) -> np.ndarray:
    """As float32, with zeros behind, which change no product."""
    found = np.zeros((len(vectors), dim), np.float32)
    found[:, : vectors.shape[1]] = vectors
    return found
