"""Keep the past frames that the next frame is compared with, and their labels.

Axes: D embedding, h w cells, O P Q objects.
"""

from collections import Counter, deque
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vader.inference.propagation.labels import stretched
from vader.inference.propagation.protocols import PropagationProtocol
from vader.inference.propagation.step import carry_frame


@dataclass(frozen=True)
class Held:
    """A past frame: its map and the labels of its cells."""

    keys: Float[Tensor, "h w D"]
    labels: Float[Tensor, "hw O"]
    number: int


@dataclass
class Context:
    """The frames that the next one is compared with: all frames with given masks, and the last few."""

    protocol: PropagationProtocol
    given: list[Held] = field(default_factory=list)
    recent: deque[Held] = field(default_factory=deque)

    def add(self, held: Held, given: bool = False) -> None:
        """Add the next frame and drop frames older than the protocol's context."""
        if given:
            self.given.append(held)
        self.recent.append(held)
        while len(self.recent) > self.protocol.context:
            self.recent.popleft()

    def frames(self) -> tuple[list[Held], list[bool]]:
        """Return the frames, those with given masks first, and which of them have no radius."""
        known = {held.number for held in self.given}
        if self.protocol.padded:
            lacking = self.protocol.context - len(self.recent)
            before = [self.given[0]] * lacking + list(self.recent)
        else:
            before = [held for held in self.recent if held.number not in known]
        free = not self.protocol.restrict_first
        return [*self.given, *before], [free] * len(self.given) + [False] * len(before)

    def carry_to(self, keys: Float[Tensor, "h w D"], stride: int, chunk: int | None) -> Float[Tensor, "hw O"]:
        """Return the labels of the next frame, as the protocol feeds them back."""
        frames, free = self.frames()
        counts = None
        if self.protocol.normalised == "per frame":  # frames do not compete, so a repeated frame counts twice
            times = Counter((held.number, unbounded) for held, unbounded in zip(frames, free, strict=True))
            once = {(held.number, unbounded): held for held, unbounded in zip(frames, free, strict=True)}
            frames, free = list(once.values()), [unbounded for _, unbounded in once]
            counts = [times[place] for place in once]
        labels = torch.stack([held.labels for held in frames])
        found = carry_frame(keys, [held.keys for held in frames], labels, free, self.protocol, stride, chunk, counts)
        return stretched(found) if self.protocol.fed_back == "stretched" else found

    def learn(self, keys: Float[Tensor, "h w D"], labels: Float[Tensor, "hw O"], fresh: list[int], stride: int) -> None:
        """Add the objects `fresh` of a new mask to the labels of the frames held, by propagating backwards from it.

        Otherwise earlier cells of these objects, still labelled as background, would vote for the background.
        """
        seen: dict[int, Held] = {}
        for held in [*self.given, *self.recent]:
            if held.number not in seen:
                shares = carry_frame(held.keys, [keys], labels[None], [True], self.protocol, stride)[:, fresh]
                seen[held.number] = replace(held, labels=with_objects(held.labels, shares))
        self.given = [seen[held.number] for held in self.given]
        self.recent = deque(seen[held.number] for held in self.recent)


def with_objects(labels: Float[Tensor, "hw O"], shares: Float[Tensor, "hw P"]) -> Float[Tensor, "hw Q"]:
    """Add P new objects to the labels of O objects, whose shares decrease by those of the new ones."""
    return torch.cat([labels * (1 - shares.sum(1, keepdim=True)).clamp_min(0), shares], 1)
