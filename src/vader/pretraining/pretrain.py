"""Pretraining: the config, one step, the loop. VADeR contrasts matched pixels; MoCo, the baseline, whole images.

Axes: B images of this process, P matched points an image, D embedding, h w cells.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vader.errors import DivergedRun
from vader.images.geometry import read_at, read_cells
from vader.models.backbones import STRIDE
from vader.models.network import Network
from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import Contrast, choose_enqueued, farther_than, info_nce, update_teacher
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.run import Run
from vader.runtime.files import removed_if_empty
from vader.runtime.interrupts import catch_interrupts
from vader.runtime.processes import everyone_agrees, gather


def rate(config: PretrainConfig, step: int, steps: int) -> float:
    """What the learning rates are multiplied by at a step: linear warm-up, then constant or half a cosine to 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warm
    done = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * done))


def student_queries(learner: Learner, config: PretrainConfig, batch: Batch) -> Tensor:
    """(B, P, D) normalised queries: the student's embeddings at the chosen cells of view 1 (P = 1 for MoCo)."""
    output = learner.student(batch.first)
    chosen = read_cells(output, batch.cells) if config.objective == "vader" else output.unsqueeze(1)
    return F.normalize(chosen, dim=2)


@torch.no_grad()
def teacher_keys(learner: Learner, config: PretrainConfig, batch: Batch, step: int) -> Tensor:
    """(B of all processes, P, D) normalised keys: the teacher's embeddings at the matched points of view 2.

    Images are shuffled over processes and virtual groups first, so a key shares batch statistics with other images
    than its query did (MoCo, section 3.3). Keys are read between cell centres and normalised after reading.
    """
    fabric = learner.fabric
    images, points = gather(fabric, batch.second), gather(fabric, batch.points)
    shuffle = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    order = torch.randperm(len(images), generator=shuffle).to(images.device)
    share = order.chunk(fabric.world_size)[fabric.global_rank]
    with fabric.autocast():
        output = learner.teacher(images[share].contiguous(memory_format=torch.channels_last))
    if config.objective == "vader":
        chosen = read_at(output, points[share], STRIDE, nearest=config.read == "nearest")
    else:
        chosen = output.unsqueeze(1)
    keys = gather(fabric, F.normalize(chosen, dim=2))
    return keys[order.argsort()]


def contrast(learner: Learner, config: PretrainConfig, batch: Batch, queries: Tensor, keys: Tensor) -> Contrast:
    """Equation 2 for this process's queries (B, P, D) against their own keys and the queue."""
    negatives, sources = learner.queue.content()
    within = farther_than(batch.points, config.within_image) if config.within_image else None
    return info_nce(
        queries.flatten(0, 1),
        keys.flatten(0, 1),
        negatives,
        temperature=config.temperature,
        factor=config.factor,
        query_image=batch.images.repeat_interleave(queries.shape[1]) if config.skip_own else None,
        negative_image=sources if config.skip_own else None,
        within=within,
    )


def step(learner: Learner, config: PretrainConfig, batch: Batch, number: int) -> tuple[dict[str, Tensor], bool]:
    """One step, in MoCo's order: queries, teacher, keys, loss, student, queue. Returns its numbers and whether it held.

    A step whose loss or gradient is not finite changes neither student nor queue.
    """
    fabric = learner.fabric
    learner.keep_statistics()
    queries = student_queries(learner, config, batch)
    update_teacher(learner.network, learner.teacher, config.momentum)
    every_key = teacher_keys(learner, config, batch, number)
    mine = slice(fabric.global_rank * len(batch.images), (fabric.global_rank + 1) * len(batch.images))
    told = contrast(learner, config, batch, queries, every_key[mine])

    fabric.backward(told.loss)
    norm = torch.nn.utils.clip_grad_norm_(learner.network.parameters(), config.clip_grad or math.inf)
    held = everyone_agrees(fabric, bool(torch.isfinite(told.loss) & torch.isfinite(norm)))
    if held:
        learner.optimizer.step()
        entering, rows = choose_enqueued(every_key, config.enqueue)
        learner.queue.enqueue(entering, gather(fabric, batch.images)[rows])
    else:
        learner.put_back_statistics()
    learner.optimizer.zero_grad(set_to_none=True)
    numbers = {
        "loss": told.loss.detach(),
        "chance_loss": told.chance,
        "accuracy": told.accuracy,
        "alignment_train": told.alignment,
        "grad_norm": norm.detach(),
    }
    return numbers, held


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    extend: int = 0,
    quiet: bool = False,
    watch: Callable[[int, Network], None] | None = None,
) -> Path:
    """Run, or continue, a pretraining; returns the run's folder. `watch(step, network)` is called after every exam.

    Raises BadInput before the first step for what cannot work, DivergedRun after `max_failures` bad steps in a row,
    KeyboardInterrupt (after saving; it says how to go on) for SIGINT and SIGTERM.
    """
    with removed_if_empty(config.out):
        run = Run.open(config, resume=resume, extend=extend, quiet=quiet)
    learner, journal, steps = run.learner, run.journal, run.steps
    failures = 0
    with catch_interrupts() as interrupts:
        if run.first_step == 0:
            run.examine(0, watch)
        batches = iter(run.feed)
        for number in range(run.first_step, steps):
            learner.set_rate(rate(config, number, steps))
            batch = next(batches)
            numbers, held = step(learner, config, batch, number)
            done = number + 1
            if held:
                failures = 0
                journal.add(numbers)
            else:
                failures += 1
                run.note_failure(done, batch, numbers)
                if failures >= config.max_failures:
                    run.save(done)
                    raise DivergedRun(
                        f"{failures} steps in a row gave NaN or inf (last: step {done}); expected finite losses. The "
                        f"batches are in {config.out / 'failures'}; lower the learning rates or set clip_grad"
                    )
            if done % config.log_every == 0 or done == steps:
                run.log(done)
            if done % config.exam_every == 0 or done == steps:
                run.examine(done, watch)
            interrupted = run.settle(batch.faults, interrupts.received is not None)
            if done % config.save_every == 0 or done == steps or interrupted:
                run.save(done)
            if interrupted and done < steps:
                raise KeyboardInterrupt(
                    f"stopped after step {done}; continue with: vader pretrain --resume {config.out}"
                )
    run.finish()
    return config.out
