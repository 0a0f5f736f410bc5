"""Pretraining: the rate, one step, the loop. The losses are in `objectives.py`, the files of a run in `run.py`."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vader.errors import DivergedRun
from vader.models.network import Network
from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import choose_enqueued
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.run import Run
from vader.runtime.files import removed_if_empty
from vader.runtime.interrupts import catch_interrupts
from vader.runtime.processes import everyone_agrees, gather


def rate(config: PretrainConfig, step: int, steps: int) -> float:
    """Return the factor of the learning rates at a step: linear warm-up, then constant or half a cosine to 0."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant":
        return warm
    done = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * done))


def step(learner: Learner, config: PretrainConfig, batch: Batch, number: int) -> tuple[dict[str, Tensor], bool]:
    """Do one step in MoCo's order: queries, teacher, keys, loss, student, queue. Return its numbers and if it is valid.

    A step whose loss or gradient is not finite changes neither student nor queue.
    """
    fabric = learner.fabric
    learner.keep_statistics()
    told, every_key = learner.objective.loss(learner, config, batch, number)  # this moves the teacher

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


def run_pretraining(
    config: PretrainConfig,
    *,
    resume: bool = False,
    extend: int = 0,
    quiet: bool = False,
    watch: Callable[[int, Network], None] | None = None,
) -> Path:
    """Run or resume a pretraining and return the run's folder. `watch(step, network)` is called after every exam.

    Raises BadInput before the first step if an input or a setting cannot be used, DivergedRun after `max_failures` bad
    steps in a row, KeyboardInterrupt for SIGINT and SIGTERM (after saving; the message says how to resume).
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
    learner.fabric.barrier()  # what the first process wrote is there for all
    return config.out
