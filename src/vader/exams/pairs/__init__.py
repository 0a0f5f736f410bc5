"""Exams on pairs: where in the second picture is this point of the first?

`images/finding.py` answers from two maps, `scores.py` compares with the truth, `flows.py` does both for the exact flow
of a pair of rendered pictures, `warps.py` makes pairs of one image, `protocols.py` has the constants.
"""

from vader.exams.pairs.flows import (
    ANGLES,
    QUERIES,
    THRESHOLDS,
    AngleBin,
    MatchScore,
    by_angle,
    match_scores,
    query_cells,
)
from vader.exams.pairs.protocols import (
    PROTOCOLS,
    KeypointsProtocol,
    MatchProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
)
from vader.exams.pairs.scores import Matches, by_pair, ceiling, chance
from vader.exams.pairs.warps import draw_warp, view_of, warp_points

__all__ = [
    "ANGLES",
    "PROTOCOLS",
    "QUERIES",
    "THRESHOLDS",
    "AngleBin",
    "KeypointsProtocol",
    "MatchProtocol",
    "MatchScore",
    "Matches",
    "PosedProtocol",
    "ScenesProtocol",
    "WarpProtocol",
    "by_angle",
    "by_pair",
    "ceiling",
    "chance",
    "draw_warp",
    "match_scores",
    "query_cells",
    "view_of",
    "warp_points",
]
