"""Every constant of the matching exams, by name.

All encoders get the same points, whatever their stride. The answer is the centre of the best cell. Further columns have
soft-argmax and mutual matches. Shares are means over pairs of the share of errors at or below a threshold.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MatchProtocol:
    """The constants of all matching protocols. `unit`: thresholds are in pixels, or in shares of the object's size."""

    name: str
    data: str
    thresholds: tuple[float, ...]
    headline: float  # one of the thresholds
    unit: Literal["px", "box"] = "px"
    temperature: float = 0.02  # of the soft-argmax
    window: int = 2  # cells on each side of the best, for the soft-argmax
    seed: int = 20_201_213

    def measure(self, threshold: float) -> str:
        """Return the name of a threshold."""
        return f"within {threshold:g} px" if self.unit == "px" else f"PCK@{threshold:g}"


@dataclass(frozen=True, kw_only=True)
class WarpProtocol(MatchProtocol):
    """Two MoCo v2 views of an image; the warp of image i depends only on the seed and i.

    If there are more than `images` images, evenly spaced ones of the sorted list are used. Points are centres of the
    4 px cells of view 1 that view 2 shows too. Only pairs with changed colours count for the headline.
    """

    images: int = 256
    size: int = 224  # px of a view's side
    points: int = 100  # for each pair
    grid: int = 4  # px


@dataclass(frozen=True, kw_only=True)
class ScenesProtocol(MatchProtocol):
    """Rendered worlds from two viewpoints, exposed as two shots, with exact flow; only visible points are used."""

    pairs: int = 64
    size: int = 192  # px of a side
    points: int = 200  # for each pair, at most
    grid: int = 4  # px
    angles: tuple[float, ...] = (0, 15, 30, 60, 180)  # degrees between the cameras' axes, edges of the table rows


@dataclass(frozen=True, kw_only=True)
class KeypointsProtocol(MatchProtocol):
    """Keypoints of two animals of one class in different images of the val split.

    Pairs are ordered and have at least `common` keypoints visible in both; at most `pairs` are drawn for each class.
    Images are resized to a short side of `side`. The whole target image is searched; errors are divided by the longer
    side of the target's box.
    """

    side: int = 256  # px
    pairs: int = 200  # for each class, as in Probe3D's evaluation of SPair-71k
    common: int = 5


@dataclass(frozen=True, kw_only=True)
class PosedProtocol(MatchProtocol):
    """Two frames of the val split, the earlier one first; true matches follow from depth, poses and intrinsics.

    Pairs are grouped by the distance of the cameras' centres; at most `pairs` are drawn for each bin. Points are
    centres of every `grid`-th pixel where depth is known and smooth, and where the second frame's depth agrees within
    the larger of `near` and `far` times the depth. A pair with fewer than `fewest` points is left out.
    """

    edges: tuple[float, ...] = (0, 0.1, 0.2, 0.4, 0.8, 1.6)  # metres between the cameras
    pairs: int = 100  # for each bin
    grid: int = 8  # px
    points: int = 200  # for each pair, at most
    fewest: int = 20
    near: float = 0.03  # metres
    far: float = 0.02  # of the depth


PROTOCOLS: dict[str, MatchProtocol] = {
    one.name: one
    for one in (
        WarpProtocol(name="warp-pck", data="folder", thresholds=(4, 8, 16, 22.4), headline=4),
        ScenesProtocol(name="scenes", data="scenes", thresholds=(1, 2, 4, 8), headline=4, seed=20_201_216),
        KeypointsProtocol(name="keypoints", data="animals", thresholds=(0.05, 0.1, 0.2), headline=0.1, unit="box"),
        PosedProtocol(name="posed-rgbd", data="posed", thresholds=(4, 8, 16), headline=8),
    )
}
