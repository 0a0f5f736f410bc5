"""One step: keys from the teacher alone, in the batch's order; what moves, by how much, and what stays."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from tiny import SIZE, B, D, P, make_batch, make_learner, moco, tiny
from torch import Tensor, nn

from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import farther_than
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.pretrain import step


def state(module: nn.Module) -> dict[str, Tensor]:
    """All tensors but batch norm's count of batches, which nothing reads."""
    return {k: v.clone() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def perturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


CONFIGS = pytest.mark.parametrize("config", [tiny, moco], ids=["vader", "moco"])
Make = Callable[..., PretrainConfig]


# --- Where keys come from ------------------------------------------------------------------------------------------


@CONFIGS
def test_keys_come_from_the_teacher_alone(fabric: Fabric, config: Make) -> None:
    learner, batch = make_learner(config(), fabric), make_batch()
    keys = learner.objective.keys(learner, config(), batch, 0)
    assert keys.shape == (B, P if config is tiny else 1, D)
    torch.testing.assert_close(keys.norm(dim=2), torch.ones(keys.shape[:2]))
    queries = learner.objective.queries(learner, batch).detach()
    perturb(learner.network)
    assert torch.equal(learner.objective.keys(learner, config(), batch, 0), keys)
    assert float((learner.objective.queries(learner, batch).detach() - queries).abs().max()) > 0.01
    queries = learner.objective.queries(learner, batch).detach()
    perturb(learner.teacher)
    assert float((learner.objective.keys(learner, config(), batch, 0) - keys).abs().max()) > 0.01
    assert torch.equal(learner.objective.queries(learner, batch).detach(), queries)


def queued_by(learner: Learner, config: PretrainConfig, batch: Batch) -> Tensor:
    """The keys that one step puts into the queue."""
    before = learner.queue.pointer
    step(learner, config, batch, 0)
    return learner.queue.keys[before : learner.queue.pointer].clone()


@CONFIGS
def test_keys_move_only_when_the_teacher_moves(fabric: Fabric, config: Make) -> None:
    """With momentum 1 the student learns, the teacher stays, and one batch gives the same keys in every step."""
    still, batch = config(momentum=1.0, queue=10 * B * P), make_batch()
    learner = make_learner(still, fabric)
    learner.teacher.eval()
    before, student = state(learner.teacher), state(learner.network)
    first, second, third = (queued_by(learner, still, batch) for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert same(before, state(learner.teacher))
    assert not same(student, state(learner.network))
    moved = queued_by(learner, config(momentum=0.5), batch)  # the same learner, its teacher let loose
    assert float((moved - first).abs().max()) > 1e-3


@CONFIGS
def test_the_teacher_follows_before_the_student_moves(fabric: Fabric, config: Make) -> None:
    """MoCo's order: with momentum 0 the teacher is the student as it entered the step."""
    following = config(momentum=0.0)
    learner = make_learner(following, fabric)
    step(learner, following, make_batch(), 0)
    entered = {name: value.clone() for name, value in learner.network.named_parameters()}
    step(learner, following, make_batch(1), 1)
    assert all(torch.equal(value, entered[name]) for name, value in learner.teacher.named_parameters())
    left = dict(learner.network.named_parameters())
    assert not all(torch.equal(value, entered[name]) for name, value in left.items())


def test_no_gradient_reaches_the_teacher(fabric: Fabric) -> None:
    config, batch = tiny(), make_batch()
    learner = make_learner(config, fabric)
    keys = learner.objective.keys(learner, config, batch, 0)
    assert not keys.requires_grad
    step(learner, config, batch, 0)
    queries = learner.objective.queries(learner, batch)
    learner.objective.contrast(
        learner, config, batch, queries, learner.objective.keys(learner, config, batch, 1)
    ).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.teacher.parameters())
    reached = {name for name, p in learner.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert "encoder.body.conv1.0.weight" in reached
    assert all(name in reached for name, _ in learner.network.named_parameters() if not name.startswith("encoder."))
    assert not learner.queue.keys.requires_grad


@CONFIGS
@pytest.mark.parametrize("number", [0, 1, 2])
def test_shuffled_keys_come_back_in_the_batchs_order(fabric: Fabric, config: Make, number: int) -> None:
    """In evaluation mode an image's key does not depend on its neighbours, so the order is all that can go wrong."""
    learner, batch = make_learner(config(), fabric), make_batch()
    learner.teacher.eval()
    keys = learner.objective.keys(learner, config(), batch, number)
    with torch.no_grad():
        output = learner.teacher(batch.second)
    for b in range(B):
        for p in range(keys.shape[1]):
            x, y = (batch.points[b, p] / 4).tolist()
            if config is tiny:
                expected = torch.from_numpy(oracles.bilinear(output[b].permute(1, 2, 0).numpy(), x, y)).float()
            else:
                expected = output[b]
            torch.testing.assert_close(keys[b, p], expected / expected.norm(), atol=1e-5, rtol=1e-4)


def test_images_are_shuffled_before_the_teacher_sees_them(fabric: Fabric) -> None:
    """Otherwise a virtual group would hold the same images for queries and keys; another step, another order."""
    config, batch = tiny(bn_groups=4), make_batch()
    learner, seen = make_learner(config, fabric), []
    learner.teacher.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    for number in (0, 0, 1):
        learner.objective.keys(learner, config, batch, number)
    orders = [[int((batch.second - image).abs().amax((1, 2, 3)).argmin()) for image in images] for images in seen]
    assert all(sorted(order) == list(range(B)) for order in orders)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(B))


def test_queries_are_the_students_cells_in_order(fabric: Fabric) -> None:
    config, batch = tiny(), make_batch()
    learner = make_learner(config, fabric)
    learner.network.eval()
    queries = learner.objective.queries(learner, batch).detach()
    with torch.no_grad():
        maps = learner.network(batch.first)
    for b in range(B):
        for p, cell in enumerate(batch.cells[b].tolist()):
            vector = maps[b, :, cell // (SIZE // 4), cell % (SIZE // 4)]
            torch.testing.assert_close(queries[b, p], vector / vector.norm(), atol=1e-6, rtol=1e-5)


def test_keys_are_read_between_cells_or_at_the_nearest(fabric: Fabric) -> None:
    config, batch = tiny(read="nearest"), make_batch()
    learner = make_learner(config, fabric)
    learner.teacher.eval()
    at_centres = learner.objective.keys(learner, config, batch, 0)
    torch.testing.assert_close(at_centres, learner.objective.keys(learner, tiny(), batch, 0), atol=1e-5, rtol=1e-4)
    off = Batch(batch.first, batch.second, batch.cells, batch.points + 1.5, batch.images)
    torch.testing.assert_close(learner.objective.keys(learner, config, off, 0), at_centres)
    assert float((learner.objective.keys(learner, tiny(), off, 0) - at_centres).abs().max()) > 0.01


# --- The loss of a step --------------------------------------------------------------------------------------------


@CONFIGS
@pytest.mark.parametrize("options", [{}, {"skip_own": True}, {"enqueue": "pooled"}, {"enqueue": 1}])
def test_a_steps_loss_is_equation_2(fabric: Fabric, config: Make, options: dict[str, Any]) -> None:
    """Of the student's queries, the teacher's keys (pooled vectors for MoCo) and the queue before the step."""
    made = config(**options, temperature=0.2, factor=1.0 if config is moco else 10.0)
    learner, batch = make_learner(made, fabric), make_batch()
    step(learner, made, make_batch(1), 0)
    step(learner, made, batch, 1)  # the same images: own keys are in the queue now
    negatives, sources = (x.clone().numpy() for x in learner.queue.content())
    per_image = P if config is tiny and options.get("enqueue", "all") == "all" else 1
    assert len(negatives) == 2 * B * per_image
    assert sources.tolist() == np.tile(np.repeat(np.arange(B) + 100, per_image), 2).tolist()
    learner.network.eval()
    learner.teacher.eval()
    with torch.no_grad():
        if config is moco:
            outputs = [
                net.head(torch.stack([image.flatten(1).mean(1) for image in net.encoder(images)[-1]]))[:, None]
                for net, images in ((learner.network, batch.first), (learner.teacher, batch.second))
            ]
        else:
            maps = learner.network(batch.first), learner.teacher(batch.second)
            outputs = [torch.stack([m[b].flatten(1)[:, batch.cells[b]].T for b in range(B)]) for m in maps]
    queries, keys = (F.normalize(x, dim=2) for x in outputs)
    own = batch.images.repeat_interleave(queries.shape[1]).numpy() if made.skip_own else None
    expected = oracles.equation_2(
        queries.flatten(0, 1).double().numpy(),
        keys.flatten(0, 1).double().numpy(),
        negatives.astype(np.float64),
        made.temperature,
        made.factor,
        own,
        sources if made.skip_own else None,
    )
    still = made.model_copy(update={"momentum": 1.0})
    numbers, held = step(learner, still, batch, 2)
    assert held
    assert float(numbers["loss"]) == pytest.approx(expected["loss"], rel=1e-4)
    assert float(numbers["chance_loss"]) == pytest.approx(expected["chance"], rel=1e-5)
    assert float(numbers["alignment_train"]) == pytest.approx(expected["alignment"], rel=1e-3)


def test_the_images_own_keys_can_be_negatives_too(fabric: Fabric) -> None:
    config, batch = tiny(within_image=10.0, temperature=0.2), make_batch()
    learner = make_learner(config, fabric)
    queries, keys = (F.normalize(torch.randn(B, P, D, dtype=torch.float64), dim=2) for _ in range(2))
    told = learner.objective.contrast(learner, config, batch, queries, keys)
    apart = np.zeros((B, P, P), dtype=bool)
    for b in range(B):
        for i in range(P):
            for j in range(P):
                apart[b, i, j] = math.dist(batch.points[b, i].tolist(), batch.points[b, j].tolist()) > 10
    assert np.array_equal(apart, farther_than(batch.points, 10.0).numpy())
    expected = oracles.equation_2(
        queries.flatten(0, 1).numpy(), keys.flatten(0, 1).numpy(), np.zeros((0, D)), 0.2, 10.0, within=apart
    )
    assert float(told.loss) == pytest.approx(expected["loss"], abs=1e-10)
    assert float(told.chance) == pytest.approx(expected["chance"], abs=1e-5)


def test_the_first_step_has_no_negatives_and_fills_the_queue(fabric: Fabric) -> None:
    config = tiny()
    learner = make_learner(config, fabric)
    numbers, held = step(learner, config, make_batch(), 0)
    assert held
    assert float(numbers["loss"]) == float(numbers["chance_loss"]) == float(numbers["grad_norm"]) == 0
    assert len(learner.queue) == B * P
    for number in (1, 2):
        step(learner, config, make_batch(number), number)
    assert len(learner.queue) == config.queue
    keys, _ = learner.queue.content()
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(len(keys)))


def test_a_fixed_batch_is_learnt(fabric: Fabric) -> None:
    config, batch = tiny(skip_own=True, momentum=0.9, lr_encoder=0.02, lr_decoder=0.02), make_batch()
    learner = make_learner(config, fabric)
    told = [step(learner, config, batch, number)[0] for number in range(25)]
    first, last = told[2], told[-1]
    assert float(first["loss"]) > 0.25 * float(first["chance_loss"])
    assert float(last["loss"]) < 0.2 * float(last["chance_loss"])
    assert float(last["accuracy"]) > 0.8 > float(first["accuracy"])


# --- What moves and what stays ---------------------------------------------------------------------------------------


@CONFIGS
@pytest.mark.parametrize("broken", ["first", "second"])
def test_a_batch_with_nan_changes_neither_student_nor_queue(fabric: Fabric, config: Make, broken: str) -> None:
    made, batch = config(), make_batch()
    learner = make_learner(made, fabric)
    for number in range(2):
        step(learner, made, batch, number)
    fields = vars(batch) | {broken: getattr(batch, broken).clone().index_fill_(0, torch.tensor([3]), math.nan)}
    student, queue, slots = state(learner.network), state(learner.queue), len(learner.queue)
    momenta = [s["momentum_buffer"].clone() for s in learner.optimizer.state.values()]
    numbers, held = step(learner, made, Batch(**fields), 2)
    assert not held
    assert not math.isfinite(float(numbers["loss"]))
    assert same(student, state(learner.network)), "weights or batch-norm statistics"
    assert same(queue, state(learner.queue))
    assert len(learner.queue) == slots
    after = [s["momentum_buffer"] for s in learner.optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(momenta, after, strict=True))
    assert all(torch.isfinite(value).all() for value in state(learner.teacher).values())
    numbers, held = step(learner, made, batch, 3)
    assert held
    assert math.isfinite(float(numbers["loss"]))
    assert torch.isfinite(learner.embed(batch.first)).all()


def test_a_frozen_encoder_stays_as_it_is(fabric: Fabric) -> None:
    config = tiny(freeze_encoder=True, weight_decay=0.1)
    learner = make_learner(config, fabric)
    student, teacher = state(learner.network.encoder), state(learner.teacher.encoder)
    decoder = state(learner.network.decoder)
    for number in range(3):
        step(learner, config, make_batch(number), number)
        learner.embed(make_batch().first)  # an exam in between leaves it frozen
    assert same(student, state(learner.network.encoder)), "weights or batch-norm statistics"
    assert same(teacher, state(learner.teacher.encoder))
    assert not same(decoder, state(learner.network.decoder))
    assert len(learner.optimizer.param_groups) == 1


def test_without_freezing_statistics_and_weights_move(fabric: Fabric) -> None:
    config = tiny()
    learner = make_learner(config, fabric)
    student, teacher = state(learner.network.encoder), state(learner.teacher.encoder)
    for number in range(2):
        step(learner, config, make_batch(number), number)
    for before, after in ((student, state(learner.network.encoder)), (teacher, state(learner.teacher.encoder))):
        means = [name for name in before if name.endswith("running_mean")]
        assert means
        assert not any(torch.equal(before[name], after[name]) for name in means)
    # The teacher's statistics are its own: of view 2, not averaged from the student's.
    assert not torch.equal(learner.teacher.encoder.body.bn1.running_mean, learner.network.encoder.body.bn1.running_mean)


def test_a_step_repeats_itself(fabric: Fabric) -> None:
    config = tiny(bn_groups=4)
    runs = []
    for _ in range(2):
        learner = make_learner(config, fabric)
        runs.append([float(step(learner, config, make_batch(n), n)[0]["loss"]) for n in range(3)])
    assert runs[0] == runs[1]
