"""Pretraining: the config, one step, the loop. VADeR contrasts matched pixels; MoCo, the baseline, whole images.

Axes: B images of this process, P matched points an image, D embedding, h w cells.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from vader.errors import DivergedRun
from vader.images.geometry import read_at, read_cells
from vader.models.network import STRIDE, Network, NetworkConfig
from vader.pretraining.contrast import Contrast, choose_enqueued, farther_than, info_nce, update_teacher
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.pretraining.run import Run
from vader.pretraining.views import ViewConfig
from vader.runtime.processes import catch_interrupts, everyone_agrees, gather, removed_if_empty


class PretrainConfig(BaseModel):
    """Everything that determines a run. `vader.recipes` returns whole ones; the paper's constants are the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Path
    out: Path
    objective: Literal["vader", "moco"] = "vader"
    steps: int = Field(ge=1)
    seed: int = Field(0, ge=0)

    network: NetworkConfig = NetworkConfig()
    init: Path | None = None  # weights to start from
    allow_missing: tuple[str, ...] = ()  # patterns of names that `init` need not have
    freeze_encoder: bool = False

    views: ViewConfig = ViewConfig()
    batch: int = Field(128, ge=1)  # pairs a step, over all processes
    points: int = Field(32, ge=1)  # matched pixels an image
    read: Literal["bilinear", "nearest"] = "bilinear"  # of keys at their points

    temperature: float = Field(0.07, gt=0)
    factor: float = Field(10.0, gt=0)  # multiplies the loss
    queue: int = Field(65_536, ge=1)
    enqueue: Literal["all", "pooled"] | int = "all"  # or so many keys an image
    skip_own: bool = False  # keys of the same image in the queue are no negatives
    within_image: float | None = Field(None, gt=0)  # the image's own keys beyond so many pixels are negatives
    momentum: float = Field(0.999, ge=0, le=1)  # of the teacher
    bn_groups: int = Field(4, ge=1)  # virtual groups of batch norm; 1 switches shuffling off on one device

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr_encoder: float = Field(3e-7, ge=0)
    lr_decoder: float = Field(3e-3, ge=0)  # of all that stands on the encoder
    sgd_momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    clip_grad: float | None = Field(None, gt=0)  # of the whole gradient's norm
    max_failures: int = Field(10, ge=1)  # steps with NaN or inf in a row that stop the run

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    devices: int = Field(1, ge=1)  # processes a node
    nodes: int = Field(1, ge=1)
    compile: bool = False
    workers: int = Field(2, ge=0)
    finish: Literal["worker", "device"] = "worker"  # where colours are changed
    hold: Literal["nothing", "memory", "device"] = "nothing"  # decoded images
    max_bad_share: float = Field(0.1, ge=0, le=1)  # of unreadable files; above it the run stops

    held_out: int = Field(128, ge=1)  # images for the exam
    log_every: int = Field(20, ge=1)
    exam_every: int = Field(500, ge=1)
    save_every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)  # saved states
    on_collapse: Literal["warn", "stop"] = "warn"
    tensorboard: bool = False

    @field_validator("images", "init")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A run may be resumed from another folder than it was started in."""
        return path and path.absolute()

    @model_validator(mode="after")
    def _fits_together(self) -> "PretrainConfig":
        """Refuse settings that contradict each other."""
        kind = {"vader": "dense", "moco": "image"}[self.objective]
        processes = self.devices * self.nodes
        conflicts = {
            f"objective {self.objective!r} needs network.kind {kind!r}": self.network.kind != kind,
            f"batch {self.batch} must be a multiple of {processes} processes x {self.bn_groups} bn_groups":
                self.batch % (processes * self.bn_groups) != 0,
            "hold='device' draws no elastic views; use hold='memory'": self.hold == "device" and self.views.elastic > 0,
            "enqueue takes 1 key an image or more": isinstance(self.enqueue, int) and self.enqueue < 1,
            "objective 'moco' has one key an image: within_image does not apply":
                self.objective == "moco" and self.within_image is not None,
        }  # fmt: skip
        for conflict, holds in conflicts.items():
            if holds:
                raise ValueError(conflict)
        return self


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
