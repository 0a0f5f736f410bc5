"""The contrast: equation 2 against plain loops, its gradient against autograd, the queue against a deque."""

import collections
import itertools
import math
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vader.pretraining import contrast
from vader.pretraining.contrast import (
    Contrast,
    Queue,
    choose_enqueued,
    farther_than,
    info_nce,
    queue_logsumexp,
    update_teacher,
)

B, P, D = 3, 4, 6
N = B * P


def unit(*shape: int, seed: int) -> Tensor:
    numbers = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(numbers, dim=-1)


def problem(length: int, own: bool, within: bool) -> dict[str, Any]:
    """Queries, positives, negatives and options; images 5, 6 and 7, of which the queue holds a few keys."""
    generator = torch.Generator().manual_seed(3)
    return {
        "queries": unit(N, D, seed=0).requires_grad_(),
        "positives": unit(N, D, seed=1).requires_grad_(),
        "negatives": unit(length, D, seed=2) if length else torch.zeros(0, D, dtype=torch.float64),
        "query_image": torch.tensor([5, 6, 7]).repeat_interleave(P) if own else None,
        "negative_image": torch.randint(4, 12, (length,), generator=generator) if own else None,
        "within": (torch.rand(B, P, P, generator=generator) > 0.4) & ~torch.eye(P, dtype=torch.bool)
        if within
        else None,
    }


def naive(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    query_image: Tensor | None,
    negative_image: Tensor | None,
    within: Tensor | None,
    temperature: float,
    factor: float,
) -> Tensor:
    """All logits at once and torch's own cross-entropy: the positive is class 0."""
    logits = [(queries * positives).sum(1, keepdim=True)]
    against = queries @ negatives.T
    if query_image is not None:
        against = against.masked_fill(query_image[:, None] == negative_image[None], -math.inf)
    logits.append(against)
    if within is not None:
        local = (queries @ positives.T).view(B, P, B, P)
        local = torch.stack([local[b, :, b] for b in range(B)])
        logits.append(local.masked_fill(~within, -math.inf).flatten(0, 1))
    rows = torch.cat(logits, 1) / temperature
    return factor * F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.long))


OPTIONS = list(itertools.product([0, 1, 53], [False, True], [False, True]))


@pytest.mark.parametrize(("length", "own", "within"), OPTIONS)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_loss_is_equation_2(length: int, own: bool, within: bool, temperature: float) -> None:
    given = problem(length, own, within)
    told = info_nce(**given, temperature=temperature, factor=10.0)
    arrays = {k: None if v is None else v.detach().numpy() for k, v in given.items()}
    expected = oracles.equation_2(**arrays, temperature=temperature, factor=10.0)
    for name, value in expected.items():
        tolerance = 1e-10 if name in ("loss", "alignment") else 1e-6
        assert float(getattr(told, name).detach()) == pytest.approx(value, abs=tolerance, rel=tolerance), name


@pytest.mark.parametrize(("length", "own", "within"), OPTIONS)
def test_the_gradient_is_that_of_torchs_cross_entropy(length: int, own: bool, within: bool) -> None:
    given = problem(length, own, within)
    inputs = (given["queries"], given["positives"])
    ours = torch.autograd.grad(info_nce(**given, temperature=0.07, factor=10.0).loss, inputs)
    theirs = torch.autograd.grad(naive(**given, temperature=0.07, factor=10.0), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    if length == 53:
        assert min(float(g.abs().max()) for g in theirs) > 1e-3


@pytest.mark.parametrize(("own", "within"), [(False, False), (True, True)])
def test_gradcheck(own: bool, within: bool) -> None:
    given = problem(20, own, within)
    rest = {k: v for k, v in given.items() if k not in ("queries", "positives")}
    assert torch.autograd.gradcheck(
        lambda q, k: info_nce(q, k, **rest, temperature=0.2).loss, (given["queries"], given["positives"])
    )


def test_only_the_loss_carries_a_gradient_and_the_queue_gets_none() -> None:
    given = problem(20, False, True)
    given["negatives"].requires_grad_()
    told = info_nce(**given)
    told.loss.backward()
    assert given["negatives"].grad is None
    assert not any(x.requires_grad for x in (told.chance, told.accuracy, told.alignment))


def test_an_empty_queue_means_no_loss_and_no_gradient() -> None:
    given = problem(0, False, False)
    told = info_nce(**given)
    assert (float(told.loss.detach()), float(told.chance), float(told.accuracy)) == (0, 0, 1)
    gradients = torch.autograd.grad(told.loss, (given["queries"], given["positives"]))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@pytest.mark.parametrize("within", [False, True])
def test_rows_without_negatives_count_as_zero(within: bool) -> None:
    """Image 5's queries find only their own image in the queue: loss 0 and gradient 0 there, not NaN."""
    given = problem(8, True, within)
    given["negative_image"] = torch.full((8,), 5)
    if within:
        given["within"][0] = False
    told = info_nce(**given, factor=1.0)
    gradients = torch.autograd.grad(told.loss, (given["queries"], given["positives"]))
    for gradient in gradients:
        assert torch.equal(gradient[:P], torch.zeros(P, D, dtype=torch.float64))
        assert torch.isfinite(gradient).all()
        assert (gradient[P:].abs().amax(1) > 0).all()
    rest = {k: v[P:] for k, v in given.items() if k in ("queries", "positives", "query_image")}
    other = info_nce(
        **rest,
        negatives=given["negatives"],
        negative_image=given["negative_image"],
        within=given["within"][1:] if within else None,
        factor=1.0,
    )
    assert float(told.loss.detach()) == pytest.approx(float(other.loss.detach()) * 2 / 3, abs=1e-12)
    lse, highest = queue_logsumexp(
        given["queries"], given["negatives"], 0.07, given["query_image"], given["negative_image"]
    )
    assert (lse[:P] == -math.inf).all()
    assert (highest[:P] == -math.inf).all()
    assert torch.isfinite(lse[P:]).all()


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("block", [1, 40, 1 << 13])
def test_the_size_of_the_blocks_does_not_matter(block: int, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 5000  # more than two blocks of keys
    given = problem(length, own, False)
    whole = naive(**given, temperature=0.07, factor=10.0)
    expected = torch.autograd.grad(whole, given["queries"])[0]
    monkeypatch.setitem(contrast.BLOCK_LOGITS, "cpu", block)
    told = info_nce(**given)
    assert float(told.loss.detach()) == pytest.approx(float(whole.detach()), abs=1e-10)
    torch.testing.assert_close(torch.autograd.grad(told.loss, given["queries"])[0], expected, atol=1e-10, rtol=1e-10)


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that any operation made, backward passes included."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, Tensor):
                self.most = max(self.most, one.numel())
        return made


@pytest.mark.parametrize("own", [False, True])
def test_the_logits_are_never_held_whole(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound that the docstring states: a block of logits, (N, D) and the queue itself, but never (N, Q)."""
    rows, length, block = 64, 20_000, 1 << 14
    monkeypatch.setitem(contrast.BLOCK_LOGITS, "cpu", block)
    queries, keys = unit(rows, D, seed=0).requires_grad_(), unit(length, D, seed=1)
    images = (torch.arange(rows) // 8, torch.arange(length) % 40) if own else (None, None)
    with Largest() as blocks:
        told = info_nce(queries, queries.detach(), keys, query_image=images[0], negative_image=images[1])
        told.loss.backward()
    assert queries.grad is not None
    assert queries.grad.any()
    assert blocks.most <= max(block, rows * D, length * D) < rows * length / 10
    with Largest() as whole:
        (queries @ keys.T / 0.07).logsumexp(1).sum().backward()
    assert whole.most >= rows * length, "the counting counts"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cold_temperatures_do_not_overflow(dtype: torch.dtype) -> None:
    """At 0.01 logits reach +-100, whose exponential float32 cannot hold; both the best and the worst keys are met."""
    queries = unit(N, D, seed=0).to(dtype).requires_grad_()
    negatives = torch.cat([unit(40, D, seed=2), queries.detach().double(), -queries.detach().double()]).to(dtype)
    positives = -queries.detach()
    told = info_nce(queries, positives, negatives, temperature=0.01, factor=1.0)
    expected = oracles.equation_2(queries.detach().numpy(), positives.numpy(), negatives.numpy(), 0.01)
    assert float(told.loss.detach()) == pytest.approx(expected["loss"], rel=1e-5)
    assert float(told.loss.detach()) > 199
    assert torch.isfinite(torch.autograd.grad(told.loss, queries)[0]).all()


def test_accuracy_and_chance_at_their_ends() -> None:
    queries, negatives = unit(N, D, seed=0), unit(30, D, seed=1)
    right = info_nce(queries, queries, negatives)
    assert float(right.accuracy) == 1
    assert float(right.alignment) == 0
    wrong = info_nce(queries, -queries, negatives)
    assert float(wrong.accuracy) == 0
    assert float(wrong.alignment) == pytest.approx(4)
    alike = info_nce(queries, queries, queries[:1].expand(30, D) * 0 + queries[:1])
    assert float(alike.chance) == pytest.approx(10 * math.log(31))
    same = queries[:1].expand(N, D)
    chance = info_nce(same, same, same[:1].expand(30, D))  # all alike: the loss is the chance loss
    assert float(chance.loss) == pytest.approx(float(chance.chance))


def test_permuting_keys_or_queries_changes_nothing() -> None:
    given = problem(53, True, False)
    order, rows = torch.randperm(53), torch.randperm(N)
    shuffled = given | {
        "negatives": given["negatives"][order],
        "negative_image": given["negative_image"][order],
        **{k: given[k][rows] for k in ("queries", "positives", "query_image")},
    }
    for name, value in vars(info_nce(**given)).items():
        torch.testing.assert_close(getattr(info_nce(**shuffled), name), value, atol=1e-12, rtol=1e-12)
    assert isinstance(info_nce(**shuffled), Contrast)


def test_farther_than_measures_in_pixels() -> None:
    points = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [100.0, 0.0]]])
    assert farther_than(points, 5.0)[0].tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    assert farther_than(points, 4.9)[0, 0].tolist() == [False, True, True]


# --- The queue -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 64])
def test_the_queue_is_a_deque_with_a_length(length: int) -> None:
    rng = np.random.default_rng(length)
    queue, deque = Queue(length, 2), collections.deque[tuple[float, int]](maxlen=length)
    number = 0
    for _ in range(200):
        n = int(rng.integers(0, 2 * length + 3))
        keys = torch.arange(number, number + n, dtype=torch.float32).unsqueeze(1).expand(n, 2)
        images = torch.arange(number, number + n) + 1000
        number += n
        queue.enqueue(keys, images)
        deque.extend(zip(keys[:, 0].tolist(), images.tolist(), strict=True))
        held, sources = queue.content()
        assert len(queue) == len(held) == len(sources) == len(deque)
        assert sorted(zip(held[:, 1].tolist(), sources.tolist(), strict=True)) == sorted(deque)
        assert queue.length == length


def test_an_empty_queue_has_no_keys() -> None:
    keys, images = Queue(5, 3).content()
    assert keys.shape == (0, 3)
    assert images.shape == (0,)


def test_what_is_enqueued() -> None:
    keys = F.normalize(torch.randn(B, P, D), dim=2)
    every, rows = choose_enqueued(keys, "all")
    assert torch.equal(every, keys.flatten(0, 1))
    assert rows.tolist() == [0] * P + [1] * P + [2] * P
    two, rows = choose_enqueued(keys, 2)
    assert torch.equal(two.view(B, 2, D), keys[:, :2])
    assert rows.tolist() == [0, 0, 1, 1, 2, 2]
    pooled, rows = choose_enqueued(keys, "pooled")
    assert rows.tolist() == [0, 1, 2]
    for b in range(B):
        mean = sum(keys[b, p] for p in range(P)) / P
        torch.testing.assert_close(pooled[b], mean / mean.norm())


# --- The teacher ---------------------------------------------------------------------------------------------------


def pair_of_networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    student(torch.randn(8, 3, 2, 2) + 1)
    return student, teacher


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_the_teacher_averages_parameters_and_not_buffers(momentum: float) -> None:
    student, teacher = pair_of_networks()
    theirs = {k: v.clone() for k, v in teacher.state_dict().items()}
    ours = {k: v.clone() for k, v in student.state_dict().items()}
    update_teacher(student, teacher, momentum)
    names = {name for name, _ in teacher.named_parameters()}
    for name, value in teacher.state_dict().items():
        if name in names:
            expected = momentum * theirs[name] + (1 - momentum) * ours[name]
            torch.testing.assert_close(value, expected, atol=1e-7, rtol=1e-6)
        else:
            assert torch.equal(value, theirs[name]), name
    if momentum == 1:
        assert all(torch.equal(value, theirs[name]) for name, value in teacher.state_dict().items())
    for name, value in student.state_dict().items():
        assert torch.equal(value, ours[name])
    assert not torch.equal(ours["1.running_mean"], theirs["1.running_mean"])


def test_the_teacher_of_another_shape_is_our_own_mistake() -> None:
    student, _ = pair_of_networks()
    with pytest.raises(AssertionError, match="same parameters"):
        update_teacher(student, nn.Conv2d(3, 4, 1), 0.9)
