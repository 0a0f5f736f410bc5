"""Device, precision, processes, random states, and the description of the machine.

All communication between processes is in this file, so that other code is the same for one process and for many.
"""

import logging
import os
import platform
import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from vader.errors import BadInput

# --- Device, precision, processes ----------------------------------------------------------------------------------


def choose_device(device: str) -> str:
    """Resolve 'auto', 'cpu' or 'cuda' to 'cpu' or 'cuda'. Raises BadInput if CUDA is requested but not available."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: expected a CUDA device, found none; use --device cpu, or check the driver")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_precision(precision: str, device: str) -> str:
    """Resolve 'auto' to 'bf16' on GPUs and on CPUs with bf16 matrix units, to 'fp32' elsewhere."""
    if precision != "auto":
        return precision
    has_units = device == "cuda" or bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    return "bf16" if has_units else "fp32"


def start_fabric(device: str, precision: str, devices: int, nodes: int = 1) -> Fabric:
    """Launch Fabric with one process, or with as many as `devices` x `nodes`, torchrun or Slurm request."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it prints the precision, and so does the journal
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],  # type: ignore[arg-type]
        strategy="auto" if devices * nodes == 1 and "WORLD_SIZE" not in os.environ else "ddp",
    )
    fabric.launch()
    return fabric


def is_first_process() -> bool:
    """Tell whether this is process 0 of those that Fabric, torchrun or Slurm started; works before Fabric runs."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), None)
    if rank is None:
        rank = os.environ.get("LOCAL_RANK", "0") if os.environ.get("NODE_RANK", "0") == "0" else "1"
    return rank == "0"


def gather(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Concatenate the processes' tensors along the first axis, on every process. No gradient."""
    if fabric.world_size == 1:
        return tensor
    gathered = fabric.all_gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)


def gather_lists(fabric: Fabric, items: list[Any]) -> list[Any]:
    """Concatenate the processes' lists, on every process; for small things other than tensors."""
    if fabric.world_size == 1:
        return items
    everyones: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyones, items)
    return [item for theirs in everyones for item in theirs]


def everyone_agrees(fabric: Fabric, fine: bool) -> bool:
    """Tell whether `fine` is true on every process."""
    if fabric.world_size == 1:
        return fine
    return bool(
        fabric.all_reduce(torch.tensor(float(fine), device=fabric.device), reduce_op="sum") == fabric.world_size
    )


def average(fabric: Fabric, numbers: Mapping[str, float]) -> dict[str, float]:
    """Average each number over the processes."""
    if fabric.world_size == 1 or not numbers:
        return dict(numbers)
    own = torch.tensor(list(numbers.values()), dtype=torch.float64, device=fabric.device)
    means = fabric.all_reduce(own, reduce_op="mean")
    assert isinstance(means, Tensor)
    return dict(zip(numbers, means.tolist(), strict=True))


# --- Random states -------------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators (fresh weights, dropout)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_tensors() -> dict[str, Tensor]:
    """Return torch's and numpy's global random states as tensors."""
    numpy_state: Any = np.random.get_state(legacy=True)
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(numpy_state[1]).astype(np.int64)),
        "numpy_position": torch.tensor([numpy_state[2]]),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def python_random_state() -> list[Any]:
    """Return Python's global random state as JSON values."""
    version, numbers, gauss = random.getstate()
    return [version, list(numbers), gauss]


def restore_random(tensors: Mapping[str, Tensor], python: list[Any]) -> None:
    """Restore the global random states."""
    torch.set_rng_state(tensors["torch"])
    numbers = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state({"bit_generator": "MT19937", "state": {"key": numbers, "pos": int(tensors["numpy_position"])}})
    random.setstate((python[0], tuple(python[1]), python[2]))
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


# --- Interrupts ----------------------------------------------------------------------------------------------------


# --- Files ---------------------------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """Return versions and hardware, for the record of a run."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    names = ("vader-dense", "torch", "torchvision", "timm", "numpy", "opencv-python-headless", "simplejpeg")
    return {
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in names},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }
