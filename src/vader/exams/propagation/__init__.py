"""The labels of a clip's first frame, carried through the clip by likeness of features alone.

affinity -> top-k -> labels: three pure functions, always on a tile of the queries, so that never more than tile x
neighbourhood similarities exist. `protocols.py` has the constants, `clip.py` the way through a clip, `scores.py` J and
F of what comes out.
"""

from vader.exams.propagation.affinity import affinity, top_k
from vader.exams.propagation.clip import (
    Propagator,
    carry_through,
    copy_first,
    propagate,
    propagate_frames,
    propagate_maps,
)
from vader.exams.propagation.labels import carry
from vader.exams.propagation.protocols import PROTOCOLS, PropagationProtocol, find_protocol
from vader.exams.propagation.scores import (
    ClipScore,
    davis_scores,
    foreground,
    mean_scores,
    score_clip,
    score_frames,
    sequence_scores,
)

__all__ = [
    "PROTOCOLS",
    "ClipScore",
    "PropagationProtocol",
    "Propagator",
    "affinity",
    "carry",
    "carry_through",
    "copy_first",
    "davis_scores",
    "find_protocol",
    "foreground",
    "mean_scores",
    "propagate",
    "propagate_frames",
    "propagate_maps",
    "score_clip",
    "score_frames",
    "sequence_scores",
    "top_k",
]
