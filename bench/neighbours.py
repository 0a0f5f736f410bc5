"""Measure nearest neighbours: label transfer compared with gathering keys per image, and exact search.

Transfer starts from the neighbours of an image's patches. Ours weights the similarities from the search and sums the
labels. The other way gathers the neighbours' keys and labels, (N, K, C) and (N, K, L), from a memory in float32 and
computes the similarities again. Our search works in chunks within a memory budget. It is compared with the matrix
products of the same chunks alone (a lower limit of its time), and with all products at once and one topk. Memory is
the peak in torch's CPU allocator beyond keys, labels and queries.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import alternate, report

from vader.exams.labelled.nearest import nearest, tile
from vader.exams.labelled.neighbours import vote


def gathered(
    queries: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor, which: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Soft labels (N, L) by gathering: the neighbours' keys, normalised and compared anew, and their labels."""
    near, theirs = keys[which], labels[which]  # (N, K, C), (N, K, L)
    cosines = torch.einsum("nc,nkc->nk", F.normalize(queries, dim=-1), F.normalize(near, dim=-1))
    return torch.einsum("nk,nkl->nl", (cosines / temperature).softmax(-1), theirs)


def most_allocated(run: Callable[[], object]) -> float:
    """Megabytes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--patches", type=int, default=1024)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--neighbours", type=int, default=30)
    parser.add_argument("--budget", type=int, default=128 * 2**20)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    M, N, L, K = given.keys, given.patches, given.classes, given.neighbours
    for C in given.dims:
        generator = torch.Generator().manual_seed(0)
        keys = F.normalize(torch.randn(M, C, generator=generator), dim=1).half()
        queries = F.normalize(torch.randn(N, C, generator=generator), dim=1)
        labels = F.one_hot(torch.randint(L, (M,), generator=generator), L).half()
        whole, wide = keys.float(), labels.float()
        print(f"{M} keys of {C} dimensions in float16, {N} patches, {K} neighbours, {L} classes, one core")

        similar, which = nearest(keys, queries, K, given.budget)
        transfers: dict[str, Callable[[], object]] = {
            "transfer: ours": lambda: vote(similar, which, labels, 0.02),  # noqa: B023
            "transfer: keys gathered": lambda: gathered(queries, whole, wide, which, 0.02),  # noqa: B023
        }
        off = (vote(similar, which, labels, 0.02) - gathered(queries, whole, wide, which, 0.02)).abs().max()
        times = alternate(transfers, 4 * given.repeats, warm=2)
        report(times, "transfer: ours")
        ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
        sizes = [most_allocated(run) for run in transfers.values()]
        print(
            f"the transfer is {ratio:.1f} times as fast as gathering keys, in {sizes[0]:.2f} MB against "
            f"{sizes[1]:.1f} MB; soft labels differ by up to {off:.1e}"
        )

        rows, columns = tile(N, C, K, given.budget)

        def products(keys=keys, queries=queries, rows=rows, columns=columns) -> None:
            for some in queries.split(rows):
                for part in keys.split(columns):
                    part.float() @ some.T

        searches: dict[str, Callable[[], object]] = {
            "search: products alone": products,
            "search: ours": lambda: nearest(keys, queries, K, given.budget),  # noqa: B023
            "search: all at once, topk": lambda: (queries @ keys.float().T).topk(K, dim=1),  # noqa: B023
        }
        report(alternate(searches, given.repeats), "search: products alone")
        ours, naive = (most_allocated(searches[name]) for name in ("search: ours", "search: all at once, topk"))
        print(f"memory of the search: {ours:.0f} MB of {given.budget / 1e6:.0f} MB allowed, all at once {naive:.0f} MB")


if __name__ == "__main__":
    main()
