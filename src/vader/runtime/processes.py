"""Device, precision, processes, random states, interrupts and atomic files: what the rest runs on.

Everything that concerns more than one process goes through here, so that the rest is written once for any number.
"""

import json
import logging
import os
import platform
import random
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from vader.errors import BadInput

# --- Device, precision, processes ----------------------------------------------------------------------------------


def choose_device(device: str) -> str:
    """'auto', 'cpu' or 'cuda' -> 'cpu' or 'cuda'. Raises BadInput if CUDA is asked for and not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: expected a CUDA device, found none; use --device cpu, or check the driver")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_precision(precision: str, device: str) -> str:
    """'auto' -> 'bf16' on GPUs and on CPUs with bf16 matrix units, 'fp32' elsewhere."""
    if precision != "auto":
        return precision
    has_units = device == "cuda" or bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    return "bf16" if has_units else "fp32"


def start_fabric(device: str, precision: str, devices: int, nodes: int = 1) -> Fabric:
    """A launched Fabric: one process, or as many as `devices` x `nodes`, torchrun or Slurm say."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision; the journal does
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
    """Whether this is process 0 of those that Fabric, torchrun or Slurm started; known before Fabric runs."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID") if name in os.environ), None)
    if rank is None:
        rank = os.environ.get("LOCAL_RANK", "0") if os.environ.get("NODE_RANK", "0") == "0" else "1"
    return rank == "0"


def gather(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The processes' tensors one after the other along the first axis, on every process. No gradient."""
    if fabric.world_size == 1:
        return tensor
    gathered = fabric.all_gather(tensor)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)


def gather_lists(fabric: Fabric, items: list[Any]) -> list[Any]:
    """The processes' lists joined, on every process; for small things that are no tensors."""
    if fabric.world_size == 1:
        return items
    everyones: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyones, items)
    return [item for theirs in everyones for item in theirs]


def everyone_agrees(fabric: Fabric, fine: bool) -> bool:
    """Whether `fine` holds on every process."""
    if fabric.world_size == 1:
        return fine
    return bool(
        fabric.all_reduce(torch.tensor(float(fine), device=fabric.device), reduce_op="sum") == fabric.world_size
    )


def average(fabric: Fabric, numbers: Mapping[str, float]) -> dict[str, float]:
    """Each number's mean over the processes."""
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
    """Torch's and numpy's global random states as tensors."""
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
    """Python's global random state as JSON."""
    version, numbers, gauss = random.getstate()
    return [version, list(numbers), gauss]


def restore_random(tensors: Mapping[str, Tensor], python: list[Any]) -> None:
    """Put the global random states back."""
    torch.set_rng_state(tensors["torch"])
    numbers = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state({"bit_generator": "MT19937", "state": {"key": numbers, "pos": int(tensors["numpy_position"])}})
    random.setstate((python[0], tuple(python[1]), python[2]))
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


# --- Interrupts ----------------------------------------------------------------------------------------------------


class Interrupts:
    """Remembers SIGINT and SIGTERM, so that a loop can finish its step and save. A second SIGINT ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Within it, interrupts are remembered instead of raised; outside the main thread nothing is caught.

    One that came before, to a handler that remembers (`cli.interrupts.Ear`, or a block around this one), counts: its
    KeyboardInterrupt was lost on its way up, or the block could not yet ask.
    """
    interrupts, before = Interrupts(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupts._remember)
    except ValueError:  # signals can be caught in the main thread alone
        pass
    for handler in before.values():
        earlier = getattr(getattr(handler, "__self__", handler), "received", None)
        interrupts.received = earlier if interrupts.received is None else interrupts.received
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)  # of a block around this one, which must hear of it, too
            if isinstance(outer, Interrupts) and interrupts.received == number:
                outer.received = number


# --- Files ---------------------------------------------------------------------------------------------------------


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """A folder that is not there yet and that a failing block leaves empty is removed again."""
    there = folder.exists()
    try:
        yield
    except BaseException:
        if not there:
            with suppress(OSError):  # it is not empty, or never was made
                folder.rmdir()
        raise


def prepare_output(folder: Path, argument: str = "--out") -> None:
    """Make an empty output folder, or raise BadInput saying why the argument's cannot be one."""
    with suppress(OSError):  # a folder that may not be read, a name too long: `make_folder` says so
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{argument}: expected a folder, {folder} is a file; choose another name")
        if folder.is_dir() and any(folder.iterdir()):
            raise BadInput(
                f"{argument}: expected a new or empty folder, {folder} is not empty; choose another or remove it"
            )
    make_folder(folder, argument)


def make_folder(folder: Path, argument: str = "--out") -> None:
    """Make a folder unless it is there, or raise BadInput if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInput(f"{argument}: cannot write to {folder} ({error.strerror}); choose another place") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that its name shows the old content or the whole new one, even if the machine stops."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):  # a full disk does not say where it is full
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # Bytes of file names that are no UTF-8 are lone surrogates here; their backslash form is JSON's own escape.
    write_atomic(path, text.encode("utf-8", "backslashreplace"))


def sync_folder(folder: Path) -> None:
    """Make renames within a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; it gets its final name only when the block ends well, and its files are on disk by then."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if folder.exists():
            remove_folder(folder)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(folder: Path) -> None:
    """Delete a folder; a stop half-way leaves a hidden rest, never half a folder under its name."""
    hidden = folder.with_name(f".old-{folder.name}.{os.getpid()}")
    folder.replace(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed process left in a folder."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def describe_machine() -> dict[str, Any]:
    """Versions and hardware, for the record of a run."""
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
