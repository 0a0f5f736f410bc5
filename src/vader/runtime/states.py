"""Saved states of a run: all that it needs to continue as if it had not stopped.

A state is a folder `checkpoints/step-00001000/` with `state.safetensors` and `state.json`. Nothing in it executes when
it is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vader.errors import BadCheckpoint, BadInput
from vader.runtime.files import atomic_folder, remove_folder

SCHEMA = 1  # of run states and model cards; raised when their meaning changes


def save_state(run: Path, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any], keep: int) -> Path:
    """Write the run's state after `step` steps and delete all but the last `keep` states."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    with atomic_folder(folder) as temporary:
        write_tensors(temporary / "state.safetensors", tensors)
        (temporary / "state.json").write_text(json.dumps({"schema": SCHEMA, "step": step, **record}, indent=1))
    for old in states(run)[:-keep]:
        remove_folder(old)
    return folder


def states(run: Path) -> list[Path]:
    """The run's saved states, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The newest state of a run. Raises BadCheckpoint if there is none or its schema is another."""
    found = states(run)
    if not found:
        raise BadCheckpoint(f"--resume: expected saved states in {run / 'checkpoints'}, found none; start the run anew")
    try:
        record = json.loads((found[-1] / "state.json").read_text())
        schema = record["schema"]
        tensors = load_file(found[-1] / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{found[-1]}: expected a saved state, got {first_line(error)}; remove it to resume from the one before"
        ) from None
    if schema != SCHEMA:
        raise BadCheckpoint(
            f"{found[-1]} has schema {schema}, this version reads {SCHEMA}; resume with the version that wrote it"
        )
    return tensors, record


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of any device and layout into a safetensors file. Raises BadInput if the disk does not take it."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:
        raise BadInput(f"cannot write to {path.parents[1]}: {first_line(error)}; make room and resume") from None


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors, and its numbers (rates, steps) as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if value is not None:
                tensors[f"{index}.{name}"] = torch.as_tensor(value)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return tensors, {"groups": groups, "params": [group["params"] for group in state["param_groups"]]}


def unflatten_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Put back what `flatten_optimizer` took apart."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    groups = [dict(group, params=params) for group, params in zip(record["groups"], record["params"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names have the prefix, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
