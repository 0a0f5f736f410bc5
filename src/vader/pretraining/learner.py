"""The parts of a run that change: student, teacher, queue and optimizer; and how they are saved and restored."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vader.models.batchnorm import use_virtual_groups
from vader.models.foreign import LoadReport, initialise
from vader.models.network import Network
from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import Contrast, Queue
from vader.pretraining.feed import Batch
from vader.runtime.processes import python_random_state, random_tensors, restore_random, seed_everything
from vader.runtime.states import flatten_optimizer, under_prefix, unflatten_optimizer, with_prefix


@runtime_checkable
class Objective(Protocol):
    """The methods of an objective that a learner uses (`objectives.py`)."""

    def parts(self, config: PretrainConfig) -> Network: ...
    def memory(self, config: PretrainConfig) -> Queue: ...
    def loss(self, learner: "Learner", config: PretrainConfig, batch: Batch, step: int) -> tuple[Contrast, Tensor]: ...
    def keys_per_image(self, enqueue: str | int, points: int) -> int: ...


class Learner:
    """The parts of a run that change.

    `network` is the student, `student` the same network prepared by Fabric (precision, gradients of all processes).
    `teacher` follows the student and never has a gradient.
    """

    def __init__(self, config: PretrainConfig, fabric: Fabric, objective: Objective) -> None:
        self.fabric, self.objective = fabric, objective
        seed_everything(config.seed)
        self.network: Network = objective.parts(config)
        self.report: LoadReport | None = None
        if config.init is not None:
            self.report = initialise(self.network, config.init, config.allow_missing)
        self.network.to(fabric.device).to(memory_format=torch.channels_last)
        use_virtual_groups(self.network, config.bn_groups)
        self.teacher: Network = copy.deepcopy(self.network).requires_grad_(False)
        self.queue = objective.memory(config).to(fabric.device)
        self.frozen = config.freeze_encoder
        if self.frozen:
            self.network.encoder.requires_grad_(False)
        self.optimizer = _optimizer(config, self.network)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        prepared: Any = torch.compile(self.network) if config.compile else self.network
        wrapped, self.optimizer = fabric.setup(prepared, self.optimizer)
        self.student: nn.Module = wrapped
        if config.compile:
            self.teacher.compile()
        both = [*self.network.named_buffers(), *self.teacher.named_buffers()]
        self._statistics = [buffer for name, buffer in both if name.endswith(("running_mean", "running_var"))]
        self._kept = [buffer.clone() for buffer in self._statistics]
        self.train()

    def train(self) -> None:
        """Switch to training mode; a frozen encoder keeps its batch-norm statistics in both networks."""
        self.network.train()
        self.teacher.train()
        if self.frozen:
            self.network.encoder.eval()
            self.teacher.encoder.eval()

    def keep_statistics(self) -> None:
        """Copy both networks' batch-norm statistics, because a forward pass changes them before its loss is known."""
        if self._statistics:
            torch._foreach_copy_(self._kept, self._statistics)

    def put_back_statistics(self) -> None:
        """Restore the statistics that `keep_statistics` copied: one batch with NaN would otherwise stay in them."""
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._kept)

    def set_rate(self, factor: float) -> None:
        """Set the learning rates to the base rates times a factor."""
        for group, base in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = base * factor

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embed images with the student in evaluation mode, as a user does: (B, D, h, w)."""
        self.network.eval()
        with self.fabric.autocast():
            maps = self.network.embed(images.contiguous(memory_format=torch.channels_last))
        self.train()
        return maps

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and numbers of the parts, and the random states."""
        optimizer_tensors, optimizer_record = flatten_optimizer(self.optimizer)
        tensors = {
            **with_prefix("student", self.network.state_dict()),
            **with_prefix("teacher", self.teacher.state_dict()),
            **with_prefix("queue", self.queue.state_dict()),
            **with_prefix("optimizer", optimizer_tensors),
            **with_prefix("random", random_tensors()),
        }
        record = {
            "queue": {"pointer": self.queue.pointer, "filled": self.queue.filled},
            "optimizer": optimizer_record,
            "random": python_random_state(),
        }
        return tensors, record

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Load what `capture` returned."""
        self.network.load_state_dict(under_prefix("student", tensors))
        self.teacher.load_state_dict(under_prefix("teacher", tensors))
        self.queue.load_state_dict(under_prefix("queue", tensors))
        self.queue.pointer, self.queue.filled = record["queue"]["pointer"], record["queue"]["filled"]
        unflatten_optimizer(self.optimizer, under_prefix("optimizer", tensors), record["optimizer"])
        restore_random(under_prefix("random", tensors), record["random"])


def _optimizer(config: PretrainConfig, network: Network) -> torch.optim.Optimizer:
    """Make the optimizer: one rate for the encoder, one for the other layers; decay on every parameter, as in MoCo."""
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    own = {id(p) for p in network.encoder.parameters()}
    rest = [p for p in network.parameters() if id(p) not in own]
    groups = [{"params": encoder, "lr": config.lr_encoder}, {"params": rest, "lr": config.lr_decoder}]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=config.sgd_momentum, weight_decay=config.weight_decay)
