"""The exams that clips are sat at by name: what is propagated, and which way.

`davis/*`: the objects of DAVIS's val clips by J and F. `camvid/*`: the val split of CamVid as one clip, the first
frame's class map given, by mean IoU over the classes of all later frames; pixels that were given as void, or drew
their label from there, are called no class.
"""

from dataclasses import dataclass
from typing import Literal

from vader.exams.propagation.protocols import PROTOCOLS as WAYS
from vader.exams.propagation.protocols import PropagationProtocol


@dataclass(frozen=True, kw_only=True)
class ClipExam:
    """A set of clips and the constants of propagation."""

    name: str
    data: Literal["davis", "camvid"]
    way: PropagationProtocol


PROTOCOLS: dict[str, ClipExam] = {name: ClipExam(name=name, data="davis", way=way) for name, way in WAYS.items()} | {
    f"camvid/{whose}": ClipExam(name=f"camvid/{whose}", data="camvid", way=WAYS[f"davis/{whose}"])
    for whose in ("dino", "timecycle-480")
}
