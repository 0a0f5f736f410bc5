"""Where in a second picture is this point of the first?

`finding.py` answers from two maps, `scores.py` compares with the truth, `flows.py` does both for the exact flow of a
pair of rendered pictures, `warps.py` makes pairs of one image, `protocols.py` has the constants.
"""

from vader.exams.matching.finding import Found, Refine, cells_at, find, parabola, soft_argmax
from vader.exams.matching.flows import (
    ANGLES,
    QUERIES,
    THRESHOLDS,
    AngleBin,
    MatchScore,
    by_angle,
    match_scores,
    query_cells,
)
from vader.exams.matching.protocols import (
    PROTOCOLS,
    KeypointsProtocol,
    MatchProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
)
from vader.exams.matching.scores import Matches, by_pair, ceiling, chance
from vader.exams.matching.warps import draw_warp, view_of, warp_points

__all__ = [
    "ANGLES",
    "PROTOCOLS",
    "QUERIES",
    "THRESHOLDS",
    "AngleBin",
    "Found",
    "KeypointsProtocol",
    "MatchProtocol",
    "MatchScore",
    "Matches",
    "PosedProtocol",
    "Refine",
    "ScenesProtocol",
    "WarpProtocol",
    "by_angle",
    "by_pair",
    "ceiling",
    "cells_at",
    "chance",
    "draw_warp",
    "find",
    "match_scores",
    "parabola",
    "query_cells",
    "soft_argmax",
    "view_of",
    "warp_points",
]
