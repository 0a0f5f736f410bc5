"""What processes that run commands in tests begin with: everything imported, once for all of them.

The module itself is light: a server of `multiprocessing` imports it, forks a process for each command, and has run
nothing itself, neither threads nor a backward pass.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

import vader.cli
import vader.exams.evaluate
import vader.inference.maps
import vader.inference.show
import vader.pretraining.pretrain
import vader.pretraining.recipes


def run(words: list[str], environment: Mapping[str, str], folder: Path, where: Path | None = None) -> None:
    """`vader WORDS...` in this process, in a group of its own; what it says goes to files in `folder`."""
    os.setsid()
    if where is not None:
        os.chdir(where)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["vader", *words]
    vader.cli.main()
