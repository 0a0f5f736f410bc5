"""Choose the labelled pictures of a split when only a few have labels: nested subsets by seed."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from vader.errors import BadInput

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of a split, for curves over the number of labels
HALF = 0.5 + 1e-9  # 0.145 x 100 is a little less than 14.5 in binary


def subset_size(count: int, size: float | int) -> int:
    """Return the number of pictures: an int unchanged; a share (float up to 1.0) of `count` rounded half up, minimum 1.

    So 2, 5, 10, 20, 50 % are 212, 529, 1058, 2116, 5291 of VOC's 10,582, and 16, 40, 80, 159, 398 of NYU's 795, as in
    the paper's curves. Raises BadInput for a share or number that the split does not have.
    """
    if isinstance(size, bool) or not (0 < size <= (1 if isinstance(size, float) else count)):
        raise BadInput(
            f"labelled pictures: expected a share above 0 and up to 1.0, or a number from 1 to {count}, found {size!r}"
        )
    return max(1, math.floor(size * count + HALF)) if isinstance(size, float) else size


def nested_subsets(
    pictures: int | Sequence[str], sizes: Sequence[float | int], seed: int
) -> dict[float | int, Int64[np.ndarray, "_"]]:
    """Return the ascending indices of the pictures for each size; for one seed, smaller subsets are part of larger.

    `pictures` is a number of pictures or their names; with names, the choice does not depend on their order. Subsets
    are random and not balanced by class, because choosing by class would need the labels. Raises BadInput like
    `subset_size`.
    """
    names = None if isinstance(pictures, int) else list(pictures)
    count = pictures if isinstance(pictures, int) else len(pictures)
    order = np.random.default_rng(seed).permutation(count).astype(np.int64)
    if names is not None:
        order = np.array(sorted(range(count), key=names.__getitem__), dtype=np.int64)[order]
    assert len(set(sizes)) == len(sizes), "1 and 1.0 are one key: ask for them in two calls"
    return {size: np.sort(order[: subset_size(count, size)]) for size in sizes}
