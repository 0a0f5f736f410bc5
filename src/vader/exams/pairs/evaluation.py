"""Evaluate one encoder by matching points of pairs; each picture is encoded once, and few pairs' maps are in memory.

Axes: M matches of all pairs together, B pairs, N points of a pair, K thresholds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vader.encoders import DenseEncoder
from vader.encoders.features import extract
from vader.encoders.store import Maps, Store
from vader.errors import BadInput, UnreadableImage
from vader.exams.pairs import Matches, MatchProtocol, by_pair, chance
from vader.exams.pairs.sets import PairSet, Truth
from vader.exams.plan import Keep, Plan
from vader.exams.results import Measure, Result
from vader.images.finding import find
from vader.runtime.progress import Progress

CHANCE, STILL = "a cell at random", "the same place"
CHANCE_STRIDE = 4  # px, stride of the cells of the random baseline
NOWHERE = np.zeros((0, 2))
NO_MATCHES = Matches(
    np.zeros(0, np.int64), NOWHERE, NOWHERE, NOWHERE, NOWHERE, np.zeros(0, bool), np.zeros(0)
)  # fmt: skip


@dataclass(frozen=True)
class PairResult(Result):
    """The numbers of one encoder on pairs.

    `shares` holds every pair's share of right matches (B, K) by threshold; `matches` is None for chance; `stride` is 0
    without an encoder. `unread` names the files that could not be read; their pairs are not scored.
    """

    shares: Float[np.ndarray, "B K"] | None = None
    matches: Matches | None = None
    stride: int = 0
    unread: tuple[str, ...] = ()


def match_pairs(
    encoder: DenseEncoder, protocol: MatchProtocol, material: PairSet, plan: Plan, keep: Keep | None = None
) -> PairResult:
    """Compute the encoder's shares of right matches. `keep` is not called: the pages write the matches.

    Pairs whose pictures cannot be read are left out, counted and named. Raises BadInput for features that are not
    finite, and if no pair is left.
    """
    found: list[Matches] = []
    unread: dict[int, str] = {}
    pictures = len({n for link in material.links for n in link})
    progress = Progress(f"{encoder.name}, pairs: ", pictures, plan.say)
    for block in blocks(material.links, plan.batch):
        with Store(plan.budget, plan.scratch) as store:
            maps = Maps(store)
            numbers = sorted({n for i in block for n in material.links[i]})
            places = _fill(maps, encoder, material, numbers, plan, unread, progress)
            for i in block:
                first, second = (places.get(n) for n in material.links[i])
                if first is None or second is None:
                    continue
                if (truth := _truth(material, i, unread)) is None:
                    continue
                with plan.timed("matching"):
                    one = find(maps[first], maps[second], truth.points, encoder.stride, protocol.temperature,
                               protocol.window)  # fmt: skip
                found.append(_matches(i, truth, one.points, one.soft, one.mutual))
    for name in unread.values():
        if plan.say:
            plan.say(f"{encoder.name}: left out {name}")
    return _result(encoder.name, protocol, material, _joined(found), encoder, plan, tuple(unread.values()))


def blocks(links: Sequence[tuple[int, int]], batch: int) -> Iterator[list[int]]:
    """Group consecutive pairs so that no picture belongs to two groups. A group has at least `batch` pictures, if there
    are as many, so that encoders get full batches."""
    last = {n: i for i, link in enumerate(links) for n in link}
    some: list[int] = []
    seen: set[int] = set()
    until = 0
    for i, link in enumerate(links):
        some.append(i)
        seen |= set(link)
        until = max(until, *(last[n] for n in link))
        if i == until and (len(seen) >= batch or i == len(links) - 1):
            yield some
            some, seen = [], set()


def _fill(
    maps: Maps, encoder: DenseEncoder, material: PairSet, numbers: list[int], plan: Plan, unread: dict[int, str],
    progress: Progress,
) -> dict[int, int]:  # fmt: skip
    """Append the maps of pictures and return the index of each."""
    places: dict[int, int] = {}
    for start in range(0, len(numbers), plan.batch):
        some = numbers[start : start + plan.batch]
        read = {n: picture for n in some if (picture := _read(material, n, unread)) is not None}
        with plan.timed("features"):
            for n, one in zip(read, extract(encoder, list(read.values()), embed=True, batch=plan.batch), strict=True):
                places[n] = len(maps)
                maps.append(one)
        progress(len(some))
    return places


def _read(material: PairSet, n: int, unread: dict[int, str]) -> np.ndarray | None:
    try:
        return material.picture(n)
    except UnreadableImage as fault:
        if str(fault) not in unread.values():
            unread[n] = str(fault)
        return None


def _truth(material: PairSet, i: int, unread: dict[int, str]) -> Truth | None:
    try:
        return material.truth(i)
    except UnreadableImage as fault:  # a depth file; the pictures were readable
        if str(fault) not in unread.values():
            unread[-1 - i] = str(fault)
        return None


# --- Scores --------------------------------------------------------------------------------------------------------


def _matches(i: int, truth: Truth, found: np.ndarray, soft: np.ndarray, mutual: np.ndarray) -> Matches:
    count = len(truth.points)
    return Matches(np.full(count, i), truth.points, truth.truths, found, soft, mutual, np.full(count, truth.scale))


def _joined(parts: Sequence[Matches]) -> Matches:
    if not parts:
        return NO_MATCHES
    names = Matches.__dataclass_fields__
    return Matches(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in names})


def measures(protocol: MatchProtocol, material: PairSet) -> list[Measure]:
    """List the headline, the other thresholds, the headline of the further pairs, soft-argmax, mutual matches."""
    head = protocol.measure(protocol.headline)
    others = [protocol.measure(t) for t in protocol.thresholds if t != protocol.headline]
    further = [f"{head}, {material.groups[-1]}"] if material.counted < len(material) else []
    names = [head, *others, *further, f"{head}, soft-argmax", "mutual matches", f"{head}, mutual"]
    return [Measure(name, "%", "higher", 1, 100) for name in names]


def _result(
    name: str, protocol: MatchProtocol, material: PairSet, matches: Matches, encoder: DenseEncoder | None, plan: Plan,
    unread: tuple[str, ...],
) -> PairResult:  # fmt: skip
    B, counted = len(material), material.counted
    errors = matches.errors()
    shares = np.stack([by_pair(errors <= t, matches.pair, B) for t in protocol.thresholds], 1)
    if not np.isfinite(shares[:counted]).any():
        told = f": {unread[0]}" if unread else ""
        raise BadInput(f"{material.name}: expected pairs with points that both pictures show, found none{told}")
    head = protocol.thresholds.index(protocol.headline)
    mine = matches.pair < counted
    if encoder is None:  # baselines have no maps, so no soft-argmax or mutual matches
        soft = kept = agreed = float("nan")
    else:
        right = matches.errors(soft=True) <= protocol.headline
        soft = _mean(by_pair(right[mine], matches.pair[mine], counted))
        kept = _mean(by_pair(matches.mutual[mine], matches.pair[mine], counted))
        mutual = mine & matches.mutual
        # Over all mutual matches together, because many pairs have only a few.
        agreed = float((errors[mutual] <= protocol.headline).mean()) if mutual.any() else float("nan")
    return PairResult(
        name, _values(protocol, material, shares, (soft, kept, agreed)), shares[None, :counted, head],
        encoder.facts if encoder else {}, dict(plan.seconds) if encoder else {},
        int(np.isnan(shares[:counted, head]).sum()), shares=shares, matches=matches,
        stride=encoder.stride if encoder else 0, unread=unread,
    )  # fmt: skip


def _values(
    protocol: MatchProtocol, material: PairSet, shares: Float[np.ndarray, "B K"], beside: Sequence[float]
) -> dict[Measure, list[float]]:
    head, counted = protocol.thresholds.index(protocol.headline), material.counted
    order = [head, *(k for k in range(len(protocol.thresholds)) if k != head)]
    numbers = [_mean(shares[:counted, k]) for k in order]
    if counted < len(material):
        numbers.append(_mean(shares[counted:, head]))
    return {measure: [value] for measure, value in zip(measures(protocol, material), [*numbers, *beside], strict=True)}


def _mean(values: Float[np.ndarray, "B"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


# --- Without an encoder --------------------------------------------------------------------------------------------


def pair_baselines(
    protocol: MatchProtocol, material: PairSet, plan: Plan, keeper: Callable[[str], Keep] | None = None
) -> list[Result]:
    """Score two baselines: a random cell (expected value), and the same relative position in the second picture."""
    rows, parts = np.full((len(material), len(protocol.thresholds)), np.nan), []
    unread: dict[int, str] = {}
    for i in range(len(material)):
        if (truth := _truth(material, i, unread)) is None:
            continue
        before, after = np.array(truth.sizes)
        rows[i] = chance(truth.truths, truth.scale, *truth.sizes[1], protocol.thresholds, CHANCE_STRIDE)
        same = truth.points * (after / before)[::-1]
        parts.append(_matches(i, truth, same, same, np.zeros(len(same), bool)))
    still = _result(STILL, protocol, material, _joined(parts), None, plan, tuple(unread.values()))
    head = protocol.thresholds.index(protocol.headline)
    values = _values(protocol, material, rows, (float("nan"),) * 3)
    drawn = rows[None, : material.counted, head]
    return [PairResult(CHANCE, values, drawn, {}, {}, still.skipped, shares=rows), still]
