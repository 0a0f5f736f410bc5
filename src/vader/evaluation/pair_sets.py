"""Pairs of pictures for the exams of matching: views of an image, rendered worlds, animals, posed frames.

Nothing is opened before it is asked for. Axes: H W pixels, N points of a pair, B pairs. Points are (x, y) in pixels.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vader.datasets.animals import Animal, AnimalSet, open_animal_keypoints
from vader.datasets.files import fingerprint_files
from vader.datasets.posed import PosedSet, carry_points, open_posed
from vader.errors import BadInput
from vader.exams.matching import (
    KeypointsProtocol,
    MatchProtocol,
    PosedProtocol,
    ScenesProtocol,
    WarpProtocol,
    draw_warp,
    query_cells,
    view_of,
    warp_points,
)
