"""Measure recall, time and index size of queries over a million pixels, compared with exhaustive search.

    OMP_NUM_THREADS=2 python bench/retrieve.py [--cells 1000000 --dim 128] [--images FOLDER --model random-dense:NAME]

Without images the data are unit vectors around 2000 centres of many sizes, in walks of 50 steps, like neighbouring
pixels. With images they are the maps of a folder's images, read every --stride px up to the number of cells. Queries
are between two neighbouring cells. It runs in turn: IVF-PQ whose best few hundred results are re-ranked with the
float16 vectors, the same without re-ranking, and the exhaustive flat index. All indexes are opened as by users, mapped
from the disk.
"""

import argparse
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from timing import alternate, report

from vader.images.pictures import read_picture
from vader.images.sources import list_images
from vader.inference.retrieval import faiss_index as search
from vader.inference.retrieval.building import at_stride
from vader.inference.retrieval.measuring import QUERIES, between_cells, measure
from vader.inference.retrieval.models import open_model
from vader.inference.retrieval.table import map_values

CENTRES, WALK, STEP, SPREAD = 2000, 50, 0.35, 0.6


def synthetic(n: int, dim: int) -> np.ndarray:
    """(n, dim) float16: each walk of neighbours stays near one of the centres, of which some are far more frequent."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CENTRES, dim)).astype(np.float32)
    share = 1 / np.arange(1, CENTRES + 1)
    found = np.empty((n, dim), np.float16)
    for start in range(0, n, 1 << 16):
        count = min(1 << 16, n - start)
        walks = -(-count // WALK)
        which = random.choice(CENTRES, walks, p=share / share.sum())
        noise = random.normal(size=(walks, 1, dim), scale=SPREAD) + random.normal(size=(walks, WALK, dim), scale=STEP)
        vectors = (centres[which][:, None] + noise).reshape(-1, dim)[:count]
        found[start : start + count] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def real(folder: Path, spec: str, n: int, stride: int, size: int | None) -> np.ndarray:
    """(n, D) float16 cells of the folder's pictures, in order; fewer if there are not so many."""
    images, parts, count = list_images(folder), [], 0
    model = open_model(spec, "cpu", images, size)
    for i in range(len(images)):
        pixels = read_picture(images.path(i), size).pixels
        cells = at_stride(model.map_of(pixels), model.identity["stride"], stride, pixels.shape[:2])
        parts.append(cells.reshape(-1, cells.shape[2]).astype(np.float16))
        count += len(parts[-1])
        if count >= n:
            break
    print(f"{spec}: {i + 1} pictures at {stride} px")
    return np.concatenate(parts)[:n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--model", default="random-dense:resnet18")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--size", type=int)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    if given.images:
        vectors = real(given.images, given.model, given.cells, given.stride, given.size)
    else:
        vectors = synthetic(given.cells, given.dim)
    n, dim = vectors.shape
    print(f"{n} cells of {dim} dimensions, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        vectors.tofile(Path(folder) / "vectors")
        exact = map_values(Path(folder) / "vectors", np.float16, vectors.shape)
        opened = {}
        for kind in ("pq", "flat"):
            since = time.perf_counter()
            index = search.train(exact, kind, 0)
            trained = time.perf_counter() - since
            search.add(index, exact)
            print(f"{kind}: trained in {trained:.1f} s, added in {time.perf_counter() - since - trained:.1f} s, "
                  f"{search.megabytes_per_million(index):.0f} MB a million cells")  # fmt: skip
            search.save(index, Path(folder) / kind)
            opened[kind] = search.read(Path(folder) / kind, kind)
        queries = between_cells(exact, QUERIES, 1)
        again, alone = (measure(opened["pq"], exact, ranked, queries) for ranked in (True, False))
        print(f"recall@10 {again.recall:.3f} opening {again.probes} lists, {again.ms:.2f} ms a query; "
              f"not ranked again {alone.recall:.3f} opening {alone.probes} lists, {alone.ms:.2f} ms")  # fmt: skip
        ask = cycle(queries)
        times = alternate(
            {
                "pq": lambda: search.nearest(opened["pq"], exact, next(ask), 10, again.probes),
                "pq, not ranked again": lambda: search.nearest(opened["pq"], None, next(ask), 10, again.probes),
                "pq, 1024 cells for images": lambda: search.nearest(opened["pq"], exact, next(ask), 1024, again.probes),
                "flat": lambda: search.nearest(opened["flat"], None, next(ask), 10, 1),
            },
            given.repeats,
            warm=3,
        )
        report(times, "flat")


if __name__ == "__main__":
    main()
