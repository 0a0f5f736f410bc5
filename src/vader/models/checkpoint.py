"""Run states and portable models: tensors in safetensors, everything else in JSON; nothing executes on loading.

A run state is a folder `checkpoints/step-00001000/` with `state.safetensors` and `state.json`; it has all that a run
needs to go on as if it had not stopped. A portable model is a pair of files `model.safetensors` + `model.json`; it is
what users take away, and it loads without the training code.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vader.errors import BadCheckpoint, BadInput
from vader.models.network import STRIDE, Network, NetworkConfig, build
from vader.runtime.processes import atomic_folder, remove_folder, write_atomic, write_json

SCHEMA = 1  # of run states and model cards; raised when their meaning changes


# --- Run states ----------------------------------------------------------------------------------------------------


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


# --- Portable models -----------------------------------------------------------------------------------------------


def save_model(path: Path, tensors: Mapping[str, Tensor], network: NetworkConfig, card: Mapping[str, Any]) -> None:
    """Write `path` (model.safetensors) and its card beside it (model.json).

    The card names the tensors' SHA-256. A stop between the two leaves new tensors under the older card of the same
    run, which describes the same network.
    """
    from hashlib import sha256

    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    full = {
        "format": "vader model",
        "schema": SCHEMA,
        "sha256": sha256(data).hexdigest(),
        "network": network.model_dump(),
        "stride": STRIDE,
        **card,
    }
    write_atomic(path, data)
    write_json(path.with_suffix(".json"), full)


def find_model(path: Path) -> Path:
    """A model file for what a user names: the file itself, its card, or a run folder. Raises BadInput."""
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if not path.is_file():
        raise BadInput(
            f"model: expected a run folder or a model.safetensors, found no {path}; a run writes it at its first exam"
        )
    return path


def load_model(path: Path | str, device: str | torch.device = "cpu") -> Network:
    """The network of a run folder or a model file, in evaluation mode, with its card as `network.card`.

    Raises BadInput for a missing file, BadCheckpoint for one that is not a whole vader model.
    """
    path = find_model(Path(path))
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        schema, description = card["schema"], card["network"]
        tensors = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"no {error} in the card" if isinstance(error, KeyError) else first_line(error)
        raise BadCheckpoint(f"{path}: expected a vader model and its .json card, got {reason}") from None
    if schema != SCHEMA:
        raise BadCheckpoint(f"{path} has schema {schema}, this version reads {SCHEMA}; update vader")
    try:
        network = build(NetworkConfig.model_validate(description))
        network.load_state_dict(tensors)
        _normalise_as(network, card.get("normalisation"))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:  # pydantic's is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise BadCheckpoint(f"{path}: its tensors do not fit its card ({reason})") from None
    network.card = card
    return network.eval().to(device)


def _normalise_as(network: Network, normalisation: Any) -> None:
    """Let a network normalise its images as its card says: timm's numbers for an encoder's name may change.

    A card without (None) leaves timm's. What is no mean and std raises one of several classes.
    """
    if normalisation is None:
        return
    for buffer, name, least in ((network.encoder.mean, "mean", -math.inf), (network.encoder.std, "std", 0.0)):
        values = torch.tensor(normalisation[name], dtype=torch.float32)
        if values.shape != (3,) or not values.isfinite().all() or values.min() <= least:
            raise ValueError(f"expected the {name} of three channels, got {normalisation[name]}")
        buffer.copy_(values.view(3, 1, 1))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file: .safetensors, or a torch file read with weights_only=True (nothing executes)."""
    if not path.is_file():
        raise BadInput(f"weights: expected a file, found no {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors come in many classes
        raise BadCheckpoint(
            f"{path}: expected safetensors or a torch file of plain tensors, got something else ({first_line(error)})"
        ) from None
    for key in ("state_dict", "model", "teacher", "student"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise BadCheckpoint(f"{path}: expected named tensors, found none")
    return tensors
