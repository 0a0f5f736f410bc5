"""Model files: a pair `model.safetensors` + `model.json`. Loading them executes nothing.

A model file is what users share; it loads without the training code.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vader.errors import BadCheckpoint, BadInput
from vader.models.backbones import STRIDE
from vader.models.network import Network, NetworkConfig, build
from vader.runtime.files import write_atomic, write_json
from vader.runtime.states import SCHEMA, first_line


def save_model(path: Path, tensors: Mapping[str, Tensor], network: NetworkConfig, card: Mapping[str, Any]) -> None:
    """Write `path` (model.safetensors) and its card (model.json) in the same folder.

    The card contains the SHA-256 of the tensors. A stop between the two writes leaves new tensors with the older card
    of the same run, which describes the same network.
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
    """Find the model file of a path: the file itself, its card, or a run folder. Raises BadInput."""
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
    """Load the network of a run folder or a model file in evaluation mode; its card is `network.card`.

    Raises BadInput for a missing file, BadCheckpoint for a file that is not a complete vader model.
    """
    path = find_model(Path(path))
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        schema, description = card["schema"], card["network"]
        tensors = load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = f"no {error} in the card" if isinstance(error, KeyError) else first_line(error)
        raise BadCheckpoint(f"{path}: expected a vader model and its .json card, found {reason}") from None
    if schema != SCHEMA:
        raise BadCheckpoint(f"{path}: expected schema {SCHEMA}, found {schema}; update vader")
    try:
        network = build(NetworkConfig.model_validate(description))
        network.load_state_dict(tensors)
        _normalise_as(network, card.get("normalisation"))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:  # pydantic's errors are ValueErrors
        reason = " ".join(str(error).split())[:200]
        raise BadCheckpoint(f"{path}: expected tensors that fit the card, found others ({reason})") from None
    network.card = card
    return network.eval().to(device)


def _normalise_as(network: Network, normalisation: Any) -> None:
    """Set a network's normalisation to that of its card, because timm's numbers for an encoder's name may change.

    Without one (None) timm's numbers stay. An invalid mean or std raises one of several classes.
    """
    if normalisation is None:
        return
    for buffer, name, least in ((network.encoder.mean, "mean", -math.inf), (network.encoder.std, "std", 0.0)):
        values = torch.tensor(normalisation[name], dtype=torch.float32)
        if values.shape != (3,) or not values.isfinite().all() or values.min() <= least:
            raise ValueError(f"expected the {name} of three channels, found {normalisation[name]}")
        buffer.copy_(values.view(3, 1, 1))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file: .safetensors, or a torch file with weights_only=True (nothing executes)."""
    if not path.is_file():
        raise BadInput(f"weights: expected a file, found no {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors come in many classes
        raise BadCheckpoint(
            f"{path}: expected safetensors or a torch file of plain tensors, found something else ({first_line(error)})"
        ) from None
    for key in ("state_dict", "model", "teacher", "student"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise BadCheckpoint(f"{path}: expected named tensors, found none")
    return tensors
