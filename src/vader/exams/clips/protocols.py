"""The exams that clips are sat at by name: what is propagated, and which way.

`davis/*`: the objects of DAVIS's val clips by J and F; of 2017's list, unless there is 2016's alone. `davis-2016/*`:
those of 2016's list, all objects of a frame as one. `camvid/*`: the val split of CamVid as one clip, the first
frame's class map given, by mean IoU over the classes of all later frames; pixels that were given as void, or drew
their label from there, are called no class.
"""

from dataclasses import dataclass
from typing import Literal

from vader.inference.propagation.protocols import PROTOCOLS as WAYS
from vader.inference.propagation.protocols import PropagationProtocol


@dataclass(frozen=True, kw_only=True)
class ClipExam:
    """A set of clips and the constants of propagation."""

    name: str
    data: Literal["davis", "davis-2016", "camvid"]
    way: PropagationProtocol


_WHOSE = {name.removeprefix("davis/"): way for name, way in WAYS.items()}
PROTOCOLS: dict[str, ClipExam] = {
    exam.name: exam
    for exam in (
        *(ClipExam(name=f"davis/{whose}", data="davis", way=way) for whose, way in _WHOSE.items()),
        *(ClipExam(name=f"davis-2016/{whose}", data="davis-2016", way=way) for whose, way in _WHOSE.items()),
        *(ClipExam(name=f"camvid/{w}", data="camvid", way=_WHOSE[w]) for w in ("dino", "timecycle-480")),
    )
}
