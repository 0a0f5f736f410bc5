"""The named protocols for clips: what is propagated, and how.

`davis/*`: the objects of the DAVIS val clips, scored by J and F; the 2017 list, or the 2016 list if it is the only one.
`davis-2016/*`: the clips of the 2016 list, with all objects of a frame as one. `camvid/*`: the CamVid val split as one
clip, scored by mean IoU over the classes of all frames after the first, whose class map is given. Pixels that are void
in the first frame, or whose label comes from such pixels, have no predicted class.
"""

from dataclasses import dataclass
from typing import Literal

from vader.inference.propagation.protocols import PROTOCOLS as WAYS
from vader.inference.propagation.protocols import PropagationProtocol


@dataclass(frozen=True, kw_only=True)
class ClipExam:
    """A set of clips and the constants of the propagation."""

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
