"""Group norm with settable statistics, such as those of the whole image during the computation of one tile.

Axes: B images, C channels, G groups, h w cells.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Window = tuple[float, float, float, float]  # top, bottom, left, right, as shares of a map


class Statistics:
    """Mean and variance of a norm's groups, accumulated over parts of a map (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = 0, torch.zeros(()).double(), torch.zeros(()).double()

    def add(self, part: Float[Tensor, "B C h w"], groups: int) -> None:
        """Add a part to the statistics."""
        flat = part.float().reshape(len(part), groups, -1)  # (B, G, values)
        variance, mean = (x.double().cpu() for x in torch.var_mean(flat, 2, correction=0))
        new, old = flat.shape[2], self.count
        apart = mean - self.mean
        self.count += new
        self.mean = self.mean + apart * new / self.count
        self.spread = self.spread + variance * new + apart.square() * old * new / self.count

    def normalise(self, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        """Apply group norm to values (B, C, ...) with these statistics."""
        scale = (self.spread / self.count + eps).rsqrt()  # (B, G)
        each = values.shape[1] // scale.shape[1]
        scale, mean = (x.repeat_interleave(each, 1).float().to(values.device) for x in (scale, self.mean))  # (B, C)
        shift = -mean * scale
        if weight is not None:
            scale, shift = scale * weight, shift * weight
        if bias is not None:
            shift = shift + bias
        shape = (*scale.shape, *[1] * (values.dim() - 2))
        return torch.addcmul(shift.view(shape), values.float(), scale.view(shape))


class GroupNorm(nn.GroupNorm):
    """Normalise with `given` if set; while a `window` is set, add that part of the input to `gathered`."""

    given: Statistics | None = None
    gathered: Statistics | None = None
    window: Window | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Apply `nn.GroupNorm`, or timm's norm and activation."""
        if self.window is not None and input.dim() == 4:
            self.gathered = self.gathered or Statistics()
            h, w = input.shape[2:]
            top, bottom, left, right = (round(share * n) for share, n in zip(self.window, (h, h, w, w), strict=True))
            part = input[:, :, top:bottom, left:right]
            if part.numel():  # of a map of one cell a core may have none
                self.gathered.add(part, self.num_groups)
        if self.given is None or input.dim() != 4:
            return super().forward(input)
        found = self.given.normalise(input, self.weight, self.bias, self.eps)
        after: Any = self
        return after.act(after.drop(found)) if hasattr(self, "act") else found


_SETTABLE: dict[type, type] = {nn.GroupNorm: GroupNorm}


def _settable(kind: type) -> type:
    """A class of timm's with statistics that can be set; it has a name in this module, so that it can be pickled."""
    name = f"Settable{kind.__name__}"
    made = type(name, (GroupNorm, kind), {"__module__": __name__})
    globals()[name] = made
    return made


def settable_norms(network: nn.Module) -> list[GroupNorm]:
    """Make the statistics of a network's group norms settable (timm's too); return the norms in order."""
    found: list[GroupNorm] = []
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            kind = type(module)
            if not isinstance(module, GroupNorm):
                if kind not in _SETTABLE:
                    _SETTABLE[kind] = _settable(kind)
                module.__class__ = _SETTABLE[kind]
            assert isinstance(module, GroupNorm)
            found.append(module)
    return found
