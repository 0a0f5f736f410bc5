"""The labels of a clip's first frame, carried through the clip by likeness of features alone.

affinity -> top-k -> labels: three pure functions, always on a tile of the queries, so that never more than tile x
neighbourhood similarities exist. `protocols.py` has the constants, `clip.py` the way through a clip.
"""

from vader.inference.propagation.affinity import affinity, top_k
from vader.inference.propagation.clip import (
    Propagator,
    carry_through,
    copy_first,
    propagate,
    propagate_frames,
    propagate_maps,
)
from vader.inference.propagation.labels import carry
from vader.inference.propagation.protocols import PROTOCOLS, PropagationProtocol, find_protocol

__all__ = [
    "PROTOCOLS",
    "PropagationProtocol",
    "Propagator",
    "affinity",
    "carry",
    "carry_through",
    "copy_first",
    "find_protocol",
    "propagate",
    "propagate_frames",
    "propagate_maps",
    "top_k",
]
