"""Saved states of a run: everything that it needs to resume as if it had not stopped.

A state is a folder `checkpoints/step-00001000/` with `state.safetensors` and `state.json`. Loading a state executes
nothing from it.
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

SCHEMA = 1  # of run states and model cards; increased when their meaning changes


def save_state(run: Path, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any], keep: int) -> Path:
    """Write the run's state after `step` steps and delete all states but the last `keep`."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    with atomic_folder(folder) as temporary:
        write_tensors(temporary / "state.safetensors", tensors)
        (temporary / "state.json").write_text(json.dumps({"schema": SCHEMA, "step": step, **record}, indent=1))
    for old in states(run)[:-keep]:
        remove_folder(old)
    return folder


def states(run: Path) -> list[Path]:
    """List the run's saved states, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the newest state of a run. Raises BadCheckpoint for no state, a damaged one, or another schema."""
    found = states(run)
    if not found:
        raise BadCheckpoint(f"--resume: expected saved states in {run / 'checkpoints'}, found none; start a new run")
    try:
        record = json.loads((found[-1] / "state.json").read_text())
        schema = record["schema"]
        tensors = load_file(found[-1] / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadCheckpoint(
            f"{found[-1]}: expected a saved state, found {first_line(error)}; remove it to resume from the state before"
        ) from None
    if schema != SCHEMA:
        raise BadCheckpoint(
            f"{found[-1]}: expected schema {SCHEMA}, found {schema}; resume with the version of vader that wrote it"
        )
    return tensors, record


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any device and layout to a safetensors file. Raises BadInput if the disk refuses them."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:
        raise BadInput(f"cannot write to {path.parents[1]}: {first_line(error)}; make room and resume") from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert an optimizer's state to named tensors, and its numbers (rates, steps) to JSON values."""
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
    """Load what `flatten_optimizer` returned into an optimizer."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = tensor
    groups = [dict(group, params=params) for group, params in zip(record["groups"], record["params"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add a prefix to the tensors' names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have the prefix, without the prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
