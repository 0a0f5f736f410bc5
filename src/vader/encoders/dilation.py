"""Dilate a convolutional network: all levels at stride 4, strides replaced by dilation (Chen et al. 2018, DeepLab).

The paper's baselines are global networks with this change (its section 4, "effective stride 4"): res3 to res5 keep
their resolution, their convolutions are dilated by 2, 4 and 8, the weights stay. Then every cell of the deepest level
has the value of the strided network on a shifted image whose grid meets that cell.

The strides are measured by running the network once, not read from its code. So any CNN works whose spatial operations
are modules: a module with an input at stride s >= 4 has its taps spread by s / 4, and stride 1.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vader.errors import BadInput
from vader.models.backbones import CNN, STRIDE

PROBE = 128  # pixels; every level's side divides it
REFUSED = re.compile("Attention|Attn|Window|Rel[A-Z]?.*Pos")  # modules that depend on the number of cells


@dataclass(frozen=True)
class _Step:
    """One spatial module of the original network; pairs are (height, width)."""

    name: str
    module: Any
    spread: int  # its input's stride / 4: the new distance of neighbouring taps
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]  # padding above and left of even maps, in its input's cells

    @property
    def strided(self) -> bool:
        return self.stride != (1, 1)

    @property
    def lean(self) -> tuple[float, float]:
        """The offset of a window's centre from its cell to the right (below), in the input's cells."""
        spans = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
        return (spans[0] / 2 - self.before[0], spans[1] / 2 - self.before[1])


@torch.no_grad()
def dilate(encoder: CNN) -> CNN:
    """Change the encoder's modules in place so that all its levels have stride 4.

    Downsampling windows that are all shifted by the same amount (TensorFlow's "same" padding, even kernels) are centred
    on their cells, as far as whole cells allow: this only shifts the map. In parallel branches with different shifts
    the taps stay where the weights expect them. Raises BadInput for networks with attention or with downsampling other
    than by convolutions and pools.
    """
    assert not encoder.training
    for name, module in encoder.body.named_modules():
        if REFUSED.search(type(module).__name__):
            raise _refusal(encoder, f"{name} is {type(module).__name__}")
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise _refusal(encoder, f"{name} pads by {module.padding_mode}")
    steps = _steps(encoder)
    for spread in sorted({step.spread for step in steps}):
        here = [step for step in steps if step.spread == spread]
        centred = len({step.lean for step in here if step.strided}) == 1
        for step in here:
            _convert(encoder, step, centred and step.strided)
    try:
        sides = [tuple(level.shape[2:]) for level in encoder(_probe(encoder))]
    except (RuntimeError, ValueError) as error:
        raise _refusal(encoder, str(error).splitlines()[0]) from None
    if set(sides) != {(PROBE // STRIDE, PROBE // STRIDE)}:
        raise _refusal(encoder, f"levels of {PROBE} px have {[side[0] for side in sides]} cells a side afterwards")
    return encoder


def _refusal(encoder: CNN, reason: str) -> BadInput:
    return BadInput(
        f"{encoder.name}@dilated: expected a network that downsamples only by convolutions and pools, found one that "
        f"cannot be dilated ({reason}); use @hypercolumn"
    )


def _probe(encoder: CNN) -> Tensor:
    return torch.zeros(1, 3, PROBE, PROBE, device=encoder.mean.device)


def _steps(encoder: CNN) -> list[_Step]:
    """Find the spatial modules with an input at stride 4 or more, by running the network on a black image."""
    seen: dict[str, set[int]] = {}
    modules = {n: m for n, m in encoder.body.named_modules() if isinstance(m, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d)}

    def watch(name: str) -> Any:
        return lambda module, args: seen.setdefault(name, set()).add(args[0].shape[-1])

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    encoder(_probe(encoder))
    for hook in hooks:
        hook.remove()
    found = []
    for name, sides in seen.items():
        if sides == {1}:  # reduced to one cell, as in squeeze-and-excitation
            continue
        if len(sides) > 1 or PROBE % min(sides):
            raise _refusal(encoder, f"{name} sees maps of {sorted(sides)} cells for {PROBE} px")
        stride = PROBE // sides.pop()
        if stride >= STRIDE:
            found.append(_step(encoder, name, modules[name], stride // STRIDE))
    return found


def _step(encoder: CNN, name: str, module: Any, spread: int) -> _Step:
    kernel, stride, dilation = (_pair(getattr(module, word, 1)) for word in ("kernel_size", "stride", "dilation"))
    if isinstance(module.padding, str) or _pads_itself(module):
        excess = [max(d * (k - 1) + 1 - s, 0) for k, s, d in zip(kernel, stride, dilation, strict=True)]
        before = (excess[0] // 2, excess[1] // 2)
    else:
        before = _pair(module.padding)
    return _Step(name, module, spread, kernel, stride, dilation, before)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _pads_itself(module: nn.Module) -> bool:
    """Tell whether a module is timm's Conv2dSame or similar, which pads in its forward regardless of `padding`."""
    return type(module).__name__.endswith("Same")


def _convert(encoder: CNN, step: _Step, centred: bool) -> None:
    """Give a module stride 1, taps `spread` times as far apart, and padding that keeps the number of cells."""
    if step.spread == 1 and not step.strided:
        return
    spans = [step.spread * d * (k - 1) for k, d in zip(step.kernel, step.dilation, strict=True)]
    before = [span // 2 if centred else step.spread * b for span, b in zip(spans, step.before, strict=True)]
    after = [span - b for span, b in zip(spans, before, strict=True)]
    if min(after) < 0:
        raise _refusal(encoder, f"{step.name} pads more than its kernel reaches")
    around = (before[1], after[1], before[0], after[0])  # left, right, above, below
    dilation = (step.spread * step.dilation[0], step.spread * step.dilation[1])
    module = step.module
    if not isinstance(module, nn.Conv2d):
        pool = _DilatedMax if isinstance(module, nn.MaxPool2d) else _DilatedMean
        parent, _, last = step.name.rpartition(".")
        setattr(encoder.body.get_submodule(parent), last, pool(step.kernel, dilation, around))
        return
    module.stride, module.dilation = (1, 1), dilation
    if _pads_itself(module):
        if before != [span // 2 for span in spans]:
            raise _refusal(encoder, f"{step.name} pads by itself, but parallel branches do not")
    elif before == after:
        module.padding = (before[0], before[1])
    else:
        module.padding = (0, 0)
        module.register_forward_pre_hook(lambda _, args: (F.pad(args[0], around),))


class _DilatedPool(nn.Module):
    """A pool with stride 1 and taps `dilation` cells apart; cells beyond the border do not count."""

    def __init__(self, kernel: tuple[int, int], dilation: tuple[int, int], around: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.kernel, self.dilation, self.around = kernel, dilation, around


class _DilatedMean(_DilatedPool):
    def forward(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        channels = maps.shape[1]
        ones = maps.new_ones(1, 1, *self.kernel)
        count = F.conv2d(F.pad(torch.ones_like(maps[:1, :1]), self.around), ones, dilation=self.dilation)
        weight = ones.expand(channels, 1, *self.kernel)
        return F.conv2d(F.pad(maps, self.around), weight, dilation=self.dilation, groups=channels) / count


class _DilatedMax(_DilatedPool):
    def forward(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        padded = F.pad(maps, self.around, value=-torch.inf)
        return F.max_pool2d(padded, self.kernel, stride=1, dilation=self.dilation)
