"""Propagate the labels of a clip's first frame through the clip, using only the similarity of features.

affinity -> top-k -> labels: three pure functions that work on one tile of queries at a time, so that memory holds at
most tile x neighbourhood similarities. `protocols.py` has the constants, `clip.py` the loop over a clip.
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
