"""Virtual groups: make batch norm on one device behave as on several devices.

MoCo shuffles its keys over GPUs so that a query and its key never share batch statistics: a network can use these to
identify the pair without its content. On one device shuffling has an effect only if batch norm works in groups.
"""

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


class _Grouped(nn.BatchNorm2d):
    """Batch norm that computes statistics over each of `groups` consecutive parts of the batch.

    So one device behaves like G devices with a batch norm each, which shuffled keys need (MoCo, section 3.3).
    """

    groups = 1

    def normalise(self, x: Tensor) -> Tensor:
        G = self.groups
        assert len(x) % G == 0, f"batch norm in {G} groups needs a multiple of {G} images, found {len(x)}"
        # G updates of the running statistics together have the weight of one normal update.
        momentum = 1 - (1 - (self.momentum or 0.0)) ** (1 / G)
        parts = [
            F.batch_norm(part, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps)
            for part in x.chunk(G)
        ]
        return torch.cat(parts)


class GroupedBatchNorm(_Grouped):
    """`nn.BatchNorm2d` in virtual groups while training."""

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x) if self.training and self.groups > 1 else super().forward(x)


class GroupedBatchNormAct(BatchNormAct2d, _Grouped):
    """timm's batch norm + activation in virtual groups while training."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.groups > 1:
            return self.act(self.drop(self.normalise(x)))
        return BatchNormAct2d.forward(self, x)


def use_virtual_groups(network: nn.Module, groups: int) -> int:
    """Make every batch norm of `network` use `groups` parts of the batch; return the number of batch norms."""
    found = 0
    for module in network.modules():
        if isinstance(module, _Grouped | nn.BatchNorm2d):
            if type(module) is nn.BatchNorm2d:
                module.__class__ = GroupedBatchNorm
            elif type(module) is BatchNormAct2d:
                module.__class__ = GroupedBatchNormAct
            if isinstance(module, _Grouped):
                module.groups = groups
                found += 1
    return found
