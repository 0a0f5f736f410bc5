"""The length of a run: convert epochs, or minutes at the speed measured here, to steps."""

import math
import tempfile
from contextlib import suppress
from pathlib import Path

from vader.errors import BadInput
from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import split
from vader.pretraining.pretrain import run_pretraining
from vader.runtime.files import prepare_output
from vader.runtime.interrupts import catch_interrupts
from vader.runtime.journal import read_metrics
from vader.runtime.progress import Say


def trained_on(config: PretrainConfig, count: int) -> int:
    """Return how many of `count` images a run trains on; the others are held out."""
    return len(split(count, config.held_out, config.seed)[1])


def with_length(
    config: PretrainConfig, count: int, epochs: float | None, minutes: float | None, say: Say
) -> PretrainConfig:
    """Set the steps of a config from epochs of `count` images or from minutes. Raises BadInput for no valid length."""
    for flag, value in (("epochs", epochs), ("minutes", minutes)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"--{flag}: expected a number above 0, found {value:g}")
    if epochs is not None:
        steps = max(1, round(epochs * trained_on(config, count) / config.batch))
        return config.model_copy(update={"steps": steps})
    if minutes is not None:
        return config.model_copy(update={"steps": steps_in(config, minutes, say)})
    return config


def steps_in(config: PretrainConfig, minutes: float, say: Say) -> int:
    """Measure how many steps, with their exams, fit into the minutes: run a few in a temporary folder."""
    if config.devices * config.nodes > 1:
        raise BadInput("--minutes: expected one process, found several; give --steps or --epochs instead")
    prepare_output(config.out)  # refuse now, not after the measurement
    with tempfile.TemporaryDirectory() as folder, catch_interrupts() as interrupts:
        trial = config.model_copy(
            update={"out": Path(folder) / "trial", "steps": 20, "log_every": 10, "exam_every": 1000, "save_every": 1000}
        )
        with suppress(KeyboardInterrupt):  # its advice to resume does not apply to a temporary folder
            run_pretraining(trial, quiet=True)
        if interrupts.received is not None:
            raise KeyboardInterrupt("stopped during the measurement of the speed; the run itself has not started")
        lines = read_metrics(trial.out)
    per_step = config.batch / [line["images_per_s"] for line in lines if "images_per_s" in line][-1]  # after warm-up
    exams = [line["exam_s"] for line in lines if "exam_s" in line] or [0.0]  # the first also scores the baselines
    left = 60 * minutes - exams[0] - exams[-1]
    steps = max(1, int(left / (per_step + exams[-1] / config.exam_every)))
    say(f"about {1 / per_step:.2f} steps/s and {exams[-1]:.1f} s per exam here: {steps} steps in {minutes:g} minutes")
    return steps
