"""Materials: surfaces drawn at random from families of colours and patterns, so that objects of a kind differ."""

from colorsys import hsv_to_rgb
from typing import Literal

import numpy as np

from vader.scenes.textures import Colour, Pattern, Surface

Family = Literal[
    "wood", "fabric", "metal", "paint", "leaf", "fur", "masonry", "roof", "stone", "ceramic", "wallpaper",
    "floor", "bark", "toy",
]  # fmt: skip

# Hue range, saturation range, value range (as shown, not linear), patterns, sizes in metres, gloss.
Range = tuple[float, float]
FAMILIES: dict[Family, tuple[Range, Range, Range, tuple[Pattern, ...], Range, float]] = {
    "wood": ((0.05, 0.11), (0.35, 0.65), (0.4, 0.85), ("wood", "wood", "wood", "plain"), (0.05, 0.1), 0.1),
    "fabric": ((0, 1), (0.2, 0.65), (0.35, 0.9), ("stripes", "checks", "spots", "noise", "plain"), (0.06, 0.16), 0),
    "metal": ((0.5, 0.7), (0, 0.2), (0.25, 0.75), ("plain",), (0.2, 0.5), 0.4),
    "paint": ((0, 1), (0.45, 0.9), (0.45, 0.95), ("plain",), (0.3, 0.8), 0.35),
    "leaf": ((0.18, 0.38), (0.45, 0.75), (0.35, 0.68), ("noise", "noise", "spots"), (0.25, 0.6), 0),
    "fur": ((0.03, 0.11), (0.1, 0.6), (0.2, 0.9), ("noise", "spots", "stripes", "plain"), (0.1, 0.22), 0),
    "masonry": ((0.0, 0.12), (0.05, 0.5), (0.6, 0.92), ("brick", "plain", "stripes", "noise"), (0.3, 0.5), 0),
    "roof": ((0.97, 1.08), (0.1, 0.65), (0.3, 0.6), ("brick", "stripes", "noise"), (0.3, 0.5), 0),
    "stone": ((0.05, 0.15), (0.02, 0.2), (0.4, 0.75), ("noise", "spots"), (0.1, 0.4), 0),
    "ceramic": ((0, 1), (0.05, 0.85), (0.55, 0.97), ("plain", "stripes", "spots", "checks"), (0.035, 0.08), 0.5),
    "wallpaper": ((0, 1), (0.05, 0.4), (0.6, 0.95), ("plain", "stripes", "noise", "brick", "spots"), (0.15, 0.5), 0),
    "floor": ((0.04, 0.13), (0.1, 0.5), (0.45, 0.85), ("wood", "checks", "noise", "brick"), (0.12, 0.4), 0.08),
    "bark": ((0.05, 0.1), (0.25, 0.5), (0.25, 0.55), ("noise", "stripes"), (0.06, 0.15), 0),
    "toy": (
        (0, 1),
        (0.3, 0.9),
        (0.4, 0.95),
        ("stripes", "checks", "spots", "noise", "plain", "wood"),
        (0.08, 0.3),
        0.15,
    ),
}
BOLD = ("fabric", "toy", "ceramic")  # families whose second colour is independent of the first
CALM = ("wallpaper", "floor", "masonry", "metal")  # families whose second colour is close to the first


class Paints:
    """Draws materials; `strength` 0 gives one flat colour each, 1 the full contrast of patterns."""

    def __init__(self, rng: np.random.Generator, strength: float) -> None:
        self.rng = rng
        self.strength = strength

    def draw(self, family: Family, size: float = 1.0) -> Surface:
        """Draw a surface of the family; `size` enlarges its pattern."""
        rng = self.rng
        hues, saturations, values, patterns, sizes, gloss = FAMILIES[family]
        hue, saturation, value = rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values)
        first = shade(hue, saturation, value)
        if family in BOLD and rng.random() < 0.5:
            second = shade(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.3, 1))
        else:
            apart = rng.uniform(0.1, 0.3) if family in CALM else rng.uniform(0.25, 0.5)
            other = value * (1 - apart) if value > 0.5 else value * (1 + 1.6 * apart)
            second = shade(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.5, 1.2), other)
        return self.make(
            first, second, patterns[int(rng.integers(len(patterns)))], float(rng.uniform(*sizes) * size), gloss
        )

    def make(
        self, first: Colour, second: Colour, pattern: Pattern = "plain", scale: float = 0.3, gloss: float = 0.0,
        glow: float = 0.0,
    ) -> Surface:  # fmt: skip
        """Make a surface of given colours with the contrast of `strength`, at a random place in its pattern."""
        a, b = np.array(first), np.array(second)
        b = a + (b - a) * self.strength
        phase = self.rng.uniform(0, 16, 3)
        grain = (0.03 if gloss > 0.3 else 0.1) * self.strength
        return Surface(_colour(a), _colour(b), pattern, scale, _colour(phase), grain, gloss, glow)

    def plain(self, hue: float, saturation: float, value: float, gloss: float = 0.0, glow: float = 0.0) -> Surface:
        """Make a surface of one colour."""
        colour = shade(hue, saturation, value)
        return self.make(colour, colour, gloss=gloss, glow=glow)


def shade(hue: float, saturation: float, value: float) -> Colour:
    """Convert hue (it wraps), saturation and value as displayed, each clipped to 0..1, to a linear colour."""
    shown = hsv_to_rgb(hue % 1, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1)))
    return (shown[0] ** 2, shown[1] ** 2, shown[2] ** 2)


def _colour(values: np.ndarray) -> Colour:
    return (float(values[0]), float(values[1]), float(values[2]))
