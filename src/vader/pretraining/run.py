"""The files of a pretraining run: open, log, examine, save, finish.

The loop in `pretrain.py` decides when; this file decides what is written where.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vader.errors import BadInput, DivergedRun, UnreadableImage
from vader.images import colour
from vader.images.pictures import read_image
from vader.images.sources import Faults, ImageList, list_images
from vader.models.backbones import STRIDE
from vader.models.checkpoint import save_model
from vader.models.cost import cost
from vader.models.network import Network, hypercolumn
from vader.pretraining import health, match_exam
from vader.pretraining.config import FeedConfig, PretrainConfig
from vader.pretraining.feed import Batch, Feed, Pairs, refuse_unusable, shortest_side, split
from vader.pretraining.learner import Learner
from vader.pretraining.objectives import OBJECTIVES
from vader.runtime.files import atomic_folder, prepare_output, remove_leftovers, write_json
from vader.runtime.journal import Journal, read_metrics
from vader.runtime.processes import average, describe_machine, gather, gather_lists, is_first_process, start_fabric
from vader.runtime.states import SCHEMA, load_state, save_state, states, write_tensors


@dataclass
class Run:
    """The parts of a run and its results so far."""

    config: PretrainConfig
    learner: Learner
    journal: Journal
    feed: Feed
    exams: dict[str, match_exam.MatchExam]  # 'match' (geometry and colour) and 'geometry'
    faults: Faults
    steps: int
    first_step: int = 0
    record: dict[str, Any] = field(default_factory=dict)  # record.json
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # a row per held-out image; 'start', 'best', baselines
    best_step: int = 0
    failed_steps: int = 0
    warned: set[str] = field(default_factory=set)

    # --- Opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, config: PretrainConfig, *, resume: bool, extend: int, quiet: bool) -> "Run":
        """Check the inputs, build the parts, and load a saved state if the run is resumed."""
        state = load_state(config.out) if resume else None
        images = list_images(config.images)
        if is_first_process():  # before other processes start: they wait for this one and hang if it fails
            if resume:
                for folder in (config.out, config.out / "checkpoints", config.out / "failures"):
                    remove_leftovers(folder)
            else:
                prepare_output(config.out)
        fabric = start_fabric(config.device, config.precision, config.devices, config.nodes)
        fabric.barrier()
        faults = Faults(total=len(images), max_share=config.max_bad_share)
        held_out, members = split(len(images), config.held_out, config.seed)
        exams, kept = _exams(images, held_out, config, faults)
        pairs = Pairs(images, members, _feed_config(config))
        # A saved state contains all weights, so the file given as `init` need not exist any more.
        started = config.model_copy(update={"init": None}) if state else config
        learner = Learner(started, fabric, OBJECTIVES[config.objective])
        steps = (state[1]["steps"] if state else config.steps) + extend
        first = state[1]["step"] if state else 0
        journal = Journal(
            config.out, steps, config.batch,
            active=fabric.is_global_zero, quiet=quiet, tensorboard=config.tensorboard,
        )  # fmt: skip
        if config.hold != "nothing":
            journal.say(f"decoding {len(members)} images into memory")
            pairs.hold()
            for index, reason in pairs.broken.items():
                faults.add(images.names[index], reason)
        refuse_unusable(pairs, held_out, faults)
        feed = Feed(pairs, fabric.device, first, fabric.global_rank, fabric.world_size)
        run = cls(config, learner, journal, feed, exams, faults, steps, first)
        if state:
            run._take_up(images, *state)
        else:
            run._begin(images, members, kept if len(members) < len(images) else [])
        return run

    def _begin(self, images: ImageList, members: np.ndarray, held_out: list[int]) -> None:
        config = self.config
        spent = cost(self.learner.network, config.views.size)
        self.record = {
            **describe_machine(),
            "data": {
                "source": str(config.images),
                "images": len(images),
                "trained_on": len(members),
                "held_out": [images.names[i] for i in held_out],  # if empty, the exam uses training images
                "fingerprint": images.fingerprint(),
            },
            "cost": {"size": config.views.size, **vars(spent)},
            "init": str(self.learner.report) if self.learner.report else None,
        }
        if self.learner.fabric.is_global_zero:
            write_json(config.out / "config.json", config.model_dump(mode="json"))
        self._write_record()
        spared = f"{len(held_out)} of them are held out for the exam"
        too_few = "too few to hold any out: the exam uses the training images"
        self.journal.say(f"{len(images)} images, {spared if held_out else too_few}; {spent}")
        if self.learner.report:
            self.journal.say(f"starting weights: {self.learner.report}")
        keys = len(members) * (self._keys_per_image())
        self.journal.say(
            f"queue of {config.queue} keys: {config.queue / keys:.2f} epochs of keys. The loss rises at first, while "
            f"the queue fills (until step {self._fill_step()}): more negatives make the task harder, chance rises too"
        )

    def _keys_per_image(self) -> int:
        return self.learner.objective.keys_per_image(self.config.enqueue, self.config.points)

    def _fill_step(self) -> int:
        return -(-self.config.queue // (self._keys_per_image() * self.config.batch))

    def _take_up(self, images: ImageList, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.record = json.loads((self.config.out / "record.json").read_text())
        if self.record["data"]["fingerprint"] != images.fingerprint():
            raise BadInput(
                f"--resume: expected the {self.record['data']['images']} images of the run's start, found others "
                f"in {self.config.images} ({len(images)} images); restore them, or start a new run with --init"
            )
        self.learner.restore(tensors, state)
        self.journal.resume(state["window"], state["step"])
        warnings = [known for known in self.record.get("warnings", []) if known["step"] <= state["step"]]
        self.warned = {known["text"].split(":")[0] for known in warnings}
        if "warnings" in self.record:
            self.record["warnings"] = warnings
        self.scores = {name: np.array(values, dtype=np.float32) for name, values in state["scores"].items()}
        self.best_step, self.failed_steps = state["best_step"], state["failed_steps"]
        for fault in state["faults"]:
            self.faults.add(fault["name"], fault["reason"])
        self.journal.say(f"resumed after step {state['step']} of {self.steps}")
        if self.steps > state["steps"]:
            if self.learner.fabric.is_global_zero:  # now: a kill before the next save must not lose the extension
                write_json(states(self.config.out)[-1] / "state.json", state | {"steps": self.steps})
            if self.config.schedule == "cosine":
                self.journal.say(
                    f"the cosine now ends at step {self.steps} instead of {state['steps']}: the learning rates, near 0 "
                    "at the old end, rise again"
                )

    # --- While it runs ---------------------------------------------------------------------------------------------

    def settle(self, faults: list[tuple[str, str]], interrupted: bool) -> bool:
        """Report the unreadable files of all processes and tell whether to stop; one exchange per step.

        Raises BadInput in every process if too many files are unreadable.
        """
        fabric = self.learner.fabric
        if fabric.world_size > 1:
            met = torch.tensor([[interrupted, bool(faults)]], dtype=torch.uint8, device=fabric.device)
            interrupted, anyones = gather(fabric, met).amax(0).bool().tolist()
            if anyones:
                faults = gather_lists(fabric, faults)
        for name, reason in faults:
            self.faults.add(name, reason)
            if name not in self.warned:
                self.warned.add(name)
                self.journal.warn(f"skipped {name}: {reason}")
        if faults:
            self.faults.check(len(self.feed.pairs.images))
        return interrupted

    def note_failure(self, done: int, batch: Batch, numbers: dict[str, Tensor]) -> None:
        """Count a step that gave NaN or inf, and save its batch for inspection."""
        self.failed_steps += 1
        values = {name: float(value) for name, value in numbers.items()}
        self.journal.warn(f"step {done} skipped: loss {values['loss']}, gradient norm {values['grad_norm']}")
        self.journal.write({"step": done, "skipped": True, **{k: str(v) for k, v in values.items()}})
        with atomic_folder(
            self.config.out / "failures" / f"step-{done:08d}-rank{self.learner.fabric.global_rank}"
        ) as folder:
            tensors = {name: getattr(batch, name) for name in ("first", "second", "cells", "points", "images")}
            write_tensors(folder / "batch.safetensors", tensors)

    def log(self, done: int) -> None:
        """Write a line of numbers, and warn if they show a problem."""
        queue = self.learner.queue
        rates = [group["lr"] for group in self.learner.optimizer.param_groups]
        deviation = float(queue.content()[0][-4096:].std(0).mean() * queue.keys.shape[1] ** 0.5) if len(queue) else 1.0
        extra = {
            "lr": rates[-1], "lr_encoder": rates[0], "queue_fill": len(queue) / queue.length,
            "key_deviation": deviation, "failed_steps": self.failed_steps,
        }  # fmt: skip
        self._share_window()
        line = self.journal.close_window(done, extra)
        losses: dict[str, float] = {name: line[name] for name in ("loss", "chance_loss") if name in line}
        self._guard({"step": done, "deviation": deviation, **losses})

    def _share_window(self) -> None:
        """Replace the sums of every process's open window by the mean over all processes."""
        self.journal.sums = average(self.learner.fabric, self.journal.window()["sums"])

    def examine(self, done: int, watch: Callable[[int, Network], None] | None = None) -> None:
        """Run the match exam and the statistics of the student; save the model if it is the best so far."""
        since = self.journal.pause()
        exam, device = self.exams["match"], self.learner.fabric.device
        maps = match_exam.embed_exam(self.learner.embed, exam, device)
        if not all(bool(one.isfinite().all()) for one in maps):
            self.journal.warn(f"exam after step {done} skipped: the embeddings are NaN or inf")
            return
        scores = match_exam.match_scores(*maps, exam)
        if done == 0:
            self._baselines(scores)
        told = {"match": float(scores.mean()), **health.statistics(*maps, exam)}
        beside = {name: float(self.scores[name].mean()) for name in ("start", "hypercolumn", "raw_colour")}
        seconds = self.journal.pause() - since
        self.journal.write({"step": done, **told, "chance_match": exam.chance, **beside, "exam_s": seconds})
        others = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in beside.items())
        whose = "held-out" if self.record["data"]["held_out"] else "training images'"
        self.journal.say(
            f"exam after step {done}: {told['match']:.3f} of {whose} points matched within one cell "
            f"({others}, chance {exam.chance:.3f}); rank {told['rank']:.1f}, deviation {told['deviation']:.2f}"
        )
        if done and ("best" not in self.scores or scores.mean() > self.scores["best"].mean()):
            self.scores["best"], self.best_step = scores, done
            self._write_model("model", done)
        self._guard({"step": done, "chance_match": exam.chance, **told} if done else {})
        if watch is not None:
            watch(done, self.learner.network)
        self.journal.skip(since)

    def _baselines(self, start: np.ndarray) -> None:
        """Score the baselines of the model: its starting weights, their encoder's hypercolumn, raw colour."""
        exam, device, learner = self.exams["match"], self.learner.fabric.device, self.learner

        @torch.no_grad()
        def columns(images: Tensor) -> Tensor:
            learner.network.eval()
            maps = torch.nn.functional.normalize(hypercolumn(learner.network.encoder, images), dim=1)
            learner.train()
            return maps

        self.scores["start"] = start
        for name, embed in (("hypercolumn", columns), ("raw_colour", colour.raw_colour)):
            self.scores[name] = match_exam.match_scores(*match_exam.embed_exam(embed, exam, device), exam)

    def _guard(self, metrics: dict[str, float]) -> None:
        trouble = health.diagnose(metrics, self.config.network.dim)
        if trouble is None:
            return
        kind = trouble.split(":")[0]
        if kind not in self.warned:
            self.warned.add(kind)
            self.journal.warn(trouble)
            self.record.setdefault("warnings", []).append({"step": metrics["step"], "text": trouble})
            self._write_record()
        if self.config.on_collapse == "stop":
            raise BadInput(f"stopped after step {metrics['step']}: {trouble}")

    def save(self, done: int) -> None:
        """Save everything that a resumed run needs."""
        since = self.journal.pause()
        fabric = self.learner.fabric
        self._share_window()
        if fabric.is_global_zero:
            tensors, record = self.learner.capture()
            record |= {
                "steps": self.steps, "window": self.journal.window(), "best_step": self.best_step,
                "failed_steps": self.failed_steps, "faults": self.faults.as_json(),
                "sampler": {"next_image": done * self.config.batch},
                "package": self.record["versions"]["vader-dense"], "config": self.config.model_dump(mode="json"),
                "scores": {name: [float(v) for v in values] for name, values in self.scores.items()},
            }  # fmt: skip
            save_state(self.config.out, done, tensors, record, self.config.keep)
        fabric.barrier()
        self.journal.skip(since)

    # --- At the end ------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the last model, the verdict, and the list of skipped files.

        The verdict is slightly optimistic: `best` is the best of several exams on the same images.
        """
        if "best" not in self.scores:
            raise DivergedRun(
                "expected one exam with finite embeddings, found NaN or inf in all; lower the learning rates"
            )
        self._write_model("last", self.steps)
        verdict = health.judge(self.scores["best"], self.scores["start"])
        exam = self.exams["geometry"]
        maps = match_exam.embed_exam(self.learner.embed, exam, self.learner.fabric.device)
        self.record["verdict"] = {
            **vars(verdict), "text": str(verdict), "best_step": self.best_step,
            "best_chosen_on": "the images it is judged on",
        }  # fmt: skip
        self.record["scores"] = {name: float(values.mean()) for name, values in self.scores.items()}
        self.record["scores"]["geometry_only_last"] = float(match_exam.match_scores(*maps, exam).mean())
        self.record["scores"]["chance"] = self.exams["match"].chance
        self.record["skipped"] = self.faults.as_json()
        self._write_record()
        if self.learner.fabric.is_global_zero:
            from vader.reports import (
                draw,  # here, because importing matplotlib takes half a second
            )

            draw.curves(
                read_metrics(self.config.out), self.config.out / "pictures" / "curves.png", str(self.config.out)
            )
        for name, word in (("hypercolumn", "the starting encoder's hypercolumn"), ("raw_colour", "raw colour")):
            beside = health.judge(self.scores["best"], self.scores[name])
            gap = "too few images to say" if beside.word == health.UNDECIDED else beside.interval
            self.journal.say(f"beside {word} ({beside.before:.3f}): {gap}")
        self.journal.say(
            f"verdict: {verdict}. Best model of step {self.best_step}: {self.config.out / 'model.safetensors'}"
        )

    def _write_model(self, name: str, done: int) -> None:
        config = self.config
        if not self.learner.fabric.is_global_zero:
            return
        # A model file may be shared: it contains its lineage, but no paths of this machine.
        data = {k: v for k, v in self.record["data"].items() if k != "held_out"}
        settings = config.model_dump(mode="json", exclude={"images", "out"})
        told = self.record["init"]
        if isinstance(config.init, Path):
            settings["init"] = config.init.name
            told = told and told.replace(str(config.init), config.init.name)
        card = {
            "normalisation": {
                "mean": self.learner.network.encoder.mean.flatten().tolist(),
                "std": self.learner.network.encoder.std.flatten().tolist(),
            },
            "lineage": {
                "objective": config.objective,
                "steps": done,
                "images_seen": done * config.batch,
                "data": data | {"source": config.images.name},
                "init": told,
                "settings": settings,
                "package": self.record["versions"]["vader-dense"],
            },
            "licence": "weights: as the images' and the starting weights' owners allow; code: Apache-2.0",
        }
        save_model(config.out / f"{name}.safetensors", self.learner.network.state_dict(), config.network, card)

    def _write_record(self) -> None:
        if self.learner.fabric.is_global_zero:
            write_json(self.config.out / "record.json", {"schema": SCHEMA, **self.record})


def _exams(
    images: ImageList, held_out: np.ndarray, config: PretrainConfig, faults: Faults
) -> tuple[dict[str, match_exam.MatchExam], list[int]]:
    pixels, kept = [], []
    for index in held_out[: config.held_out]:
        try:
            pixels.append(read_image(images, int(index), shortest_side(config.views)))
            kept.append(int(index))
        except UnreadableImage as error:
            faults.add(images.names[index], str(error))
    if not pixels:
        first = faults.as_json()[0]
        raise BadInput(
            f"expected readable images, found none in {len(held_out)}; the first: {first['name']}: {first['reason']}"
        )
    exams = {
        name: match_exam.make_exam(iter(pixels), config.views, STRIDE, colour=name == "match")
        for name in ("match", "geometry")
    }
    return exams, kept


def _feed_config(config: PretrainConfig) -> FeedConfig:
    return FeedConfig(
        views=config.views, batch=config.batch, points=config.points, stride=STRIDE, seed=config.seed,
        workers=config.workers, finish=config.finish, hold=config.hold,
    )  # fmt: skip
