"""How long a run is: steps for so many epochs, or for so many minutes at the speed that is measured here."""

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
    """How many of `count` images a run trains on: the others are held out."""
    return len(split(count, config.held_out, config.seed)[1])


def with_length(
    config: PretrainConfig, count: int, epochs: float | None, minutes: float | None, say: Say
) -> PretrainConfig:
    """The config with the steps of so many epochs of `count` images, or minutes. Raises BadInput for no length."""
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
    """How many steps and exams fit into so many minutes here: a few are run in a folder that is thrown away."""
    if config.devices * config.nodes > 1:
        raise BadInput("--minutes measures the speed of one process; with several give --steps or --epochs")
    prepare_output(config.out)  # refused now rather than after the measurement
    with tempfile.TemporaryDirectory() as folder, catch_interrupts() as interrupts:
        trial = config.model_copy(
            update={"out": Path(folder) / "trial", "steps": 20, "log_every": 10, "exam_every": 1000, "save_every": 1000}
        )
        with suppress(KeyboardInterrupt):  # its advice to resume is not for a folder that is about to go
            run_pretraining(trial, quiet=True)
        if interrupts.received is not None:
            raise KeyboardInterrupt("stopped while the speed was measured; the run itself has not begun")
        lines = read_metrics(trial.out)
    per_step = config.batch / [line["images_per_s"] for line in lines if "images_per_s" in line][-1]  # now warm
    exams = [line["exam_s"] for line in lines if "exam_s" in line] or [0.0]  # the first has the baselines to do
    left = 60 * minutes - exams[0] - exams[-1]
    steps = max(1, int(left / (per_step + exams[-1] / config.exam_every)))
    say(f"about {1 / per_step:.2f} steps/s and {exams[-1]:.1f} s an exam here: {steps} steps in {minutes:g} minutes")
    return steps
