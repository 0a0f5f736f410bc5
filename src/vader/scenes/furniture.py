"""Mugs, tables, chairs and lamps with random proportions, colours and textures (frames: `model.py`)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np

from vader.scenes.model import Model, corners
from vader.scenes.paints import Paints
from vader.scenes.shapes import rotated
from vader.scenes.textures import Surface


def mug(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a cup with a handle at the front, sometimes full."""
    model = Model()
    glaze, inner = paints.draw("ceramic"), paints.draw("ceramic")
    inner = replace(inner, pattern="plain")
    height = rng.uniform(0.17, 0.23)
    low = height * rng.uniform(0.33, 0.45)
    taper = rng.uniform(0.95, 1.25)
    top = low * taper
    model.add("shell", (0, 0, height / 2), (low, low, height / 2), glaze, taper=(taper, 1))
    model.add("shell", (0, 0, height / 2), (0.88 * low, 0.88 * low, height / 2), inner, taper=(taper, 1))
    model.add("disc", (0, 0, height), (top, top, 1), glaze, taper=(0.87, 1))
    level = rng.uniform(0.65, 0.85) if rng.random() < 0.6 else 0.1
    wide = 0.89 * (low + (top - low) * level)
    drink = paints.plain(rng.uniform(0.04, 0.09), 0.7, rng.uniform(0.2, 0.45), gloss=0.4)
    model.add("disc", (0, 0, level * height), (wide, wide, 1), drink if level > 0.5 else inner)
    out, thick = rng.uniform(0.28, 0.4) * height, 0.055 * height
    angles = np.linspace(-1.45, 1.45, 7)
    middle = (low + top) / 2 * 0.93
    bend = [(middle + out * np.cos(a), 0.0, 0.52 * height + 0.3 * height * np.sin(a)) for a in angles]
    for start, end in pairwise(bend):
        model.limb(start, end, (thick, thick), glaze)
    model.keypoints = [(0, top, height), (0, -top, height), (-top, 0, height)]
    model.keypoints += [(0, low, 0), (0, -low, 0), (-low, 0, 0), (bend[3][0] + thick, 0.0, bend[3][2])]
    model.room = (max(low, top) + out, max(low, top), height)
    return model


def table(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a square table on four legs, or a round one on three legs or a pedestal."""
    model = Model()
    scale = 1.25 if outdoors else 1.0
    top = paints.draw(("wood", "wood", "fabric", "paint")[rng.integers(4)])
    frame = top if rng.random() < 0.5 else paints.draw(("wood", "metal", "paint")[rng.integers(3)])
    height, thick = scale * rng.uniform(0.58, 0.76), scale * rng.uniform(0.018, 0.035)
    leg = scale * rng.uniform(0.025, 0.045)
    under = height - 2 * thick
    if rng.random() < 0.45:
        radius = scale * rng.uniform(0.45, 0.65)
        model.add("cone", (0, 0, height - thick), (radius, radius, thick), top)
        x = y = radius * 0.7071
        if rng.random() < 0.5:
            model.limb((0, 0, 0), (0, 0, under), (1.6 * leg, 1.2 * leg), frame)
            model.add("cone", (0, 0, 0.03), (0.6 * radius, 0.6 * radius, 0.03), frame, taper=(0.7, 1))
            feet = corners(0.6 * x, 0.6 * y, 0)
        else:
            feet = corners(0.95 * x, 0.95 * y, 0)
            for foot in feet:
                model.limb(foot, (0.6 * foot[0], 0.6 * foot[1], under), (0.8 * leg, leg), frame)
    else:
        x, y = scale * rng.uniform(0.5, 0.72), scale * rng.uniform(0.34, 0.48)
        model.add("block", (0, 0, height - thick), (x, y, thick), top)
        feet = corners(x - 1.5 * leg, y - 1.5 * leg, 0)
        square = rng.random() < 0.6
        for foot in feet:
            if square:
                model.add("block", (foot[0], foot[1], under / 2), (leg, leg, under / 2), frame)
            else:
                model.limb(foot, (foot[0], foot[1], under), (0.6 * leg, 1.2 * leg), frame)
        if rng.random() < 0.6:
            rail = (x - 2 * leg, y - 2 * leg, 0.04 * scale)
            model.add("block", (0, 0, under - rail[2]), rail, frame)
    model.keypoints = corners(x, y, height) + feet
    model.room = (radius, radius, height) if x == y else (x, y, height)
    model.shelf = (0.8 * x, 0.8 * y, height)
    return model


def chair(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a seat on four legs with a back of boards, slats or cloth; sometimes with arms."""
    model = Model()
    scale = 1.25 if outdoors else 1.0
    wood = paints.draw(("wood", "wood", "paint", "metal")[rng.integers(4)])
    soft = paints.draw("fabric") if rng.random() < 0.6 else wood
    x, y = scale * rng.uniform(0.2, 0.25), scale * rng.uniform(0.2, 0.26)
    seat, back = scale * rng.uniform(0.42, 0.5), scale * rng.uniform(0.36, 0.55)
    leg, thick = scale * rng.uniform(0.018, 0.03), scale * rng.uniform(0.02, 0.05)
    splay = rng.uniform(0.85, 1.1)
    model.add("block", (0, 0, seat - thick), (x, y, thick), soft)
    feet = corners(splay * (x - leg), splay * (y - leg), 0)
    for foot, top in zip(feet, corners(x - leg, y - leg, seat - 2 * thick), strict=True):
        model.limb(foot, top, (0.8 * leg, leg), wood)
    lean = rng.uniform(0.0, 0.12) * scale
    high = seat + back
    for side in (1, -1):
        model.limb((-x + leg, side * (y - leg), seat), (-x + leg - lean, side * (y - leg), high), (leg, leg), wood)
    style = rng.integers(3)
    tilt = rotated("y", -np.arctan2(lean, back))
    middle = (-x + leg - lean / 2, 0.0, seat + back / 2)
    if style == 0:
        model.add("block", (middle[0], 0, seat + 0.56 * back), (0.6 * leg, y - leg, 0.38 * back), soft, tilt)
    elif style == 1:
        for level in (0.3, 0.62, 0.92):
            at = (-x + leg - lean * level, 0.0, seat + back * level)
            model.add("block", at, (0.6 * leg, y - leg, 0.08 * back), wood, tilt)
    else:
        model.add("block", (-x + leg - lean, 0, high), (leg, y, 0.09 * back), wood, tilt)
        for slat in np.linspace(-0.6, 0.6, 4):
            start, end = (-x + leg, slat * y, seat), (-x + leg - lean, slat * y, high)
            model.limb(start, end, (0.6 * leg, 0.6 * leg), wood)
    if rng.random() < 0.35:
        for side in (1, -1):
            arm = seat + 0.4 * back
            model.limb((x - leg, side * (y - leg), seat), (x - leg, side * (y - leg), arm), (leg, leg), wood)
            model.add("block", (0, side * (y - leg), arm), (x, 1.4 * leg, 0.7 * leg), wood)
    model.keypoints = corners(x, y, seat) + feet + [(-x + leg - lean, side * (y - leg), high) for side in (1, -1)]
    model.room = (x + 0.06 + lean / 2, y + 0.03, high)
    return model


def lamp(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a desk lamp or a floor lamp in rooms, a street lamp outdoors."""
    model = Model()
    metal = paints.draw(("metal", "paint", "metal")[rng.integers(3)])
    light = paints.plain(rng.uniform(0.1, 0.15), rng.uniform(0.1, 0.35), 1, glow=1.2)
    if outdoors:
        _street_lamp(rng, model, metal, light)
        return model
    desk = rng.random() < 0.5
    height = rng.uniform(0.34, 0.46) if desk else rng.uniform(1.15, 1.5)
    base, rod = (0.09, 0.012) if desk else (0.16, 0.018)
    wide = rng.uniform(0.1, 0.13) if desk else rng.uniform(0.17, 0.24)
    deep, taper = wide * rng.uniform(0.6, 0.9), rng.uniform(0.45, 0.8)
    cloth = replace(paints.draw("fabric", 0.6), glow=0.45)
    model.add("cone", (0, 0, 0.015), (base, base, 0.015), metal, taper=(0.8, 1))
    bend = (-0.1, 0.0, 0.55 * height) if desk and rng.random() < 0.6 else (0.0, 0.0, 0.5 * height)
    neck = (-bend[0], 0.0, height)
    model.limb((0, 0, 0.02), bend, (rod, rod), metal)
    model.limb(bend, neck, (rod, rod), metal)
    model.add("ball", bend, (1.6 * rod, 1.6 * rod, 1.6 * rod), metal)
    model.add("shell", (neck[0], 0, height), (wide, wide, deep), cloth, taper=(taper, 1))
    model.add("ball", (neck[0], 0, height - 0.2 * deep), (0.35 * wide, 0.35 * wide, 0.4 * wide), light)
    model.keypoints = [(0, 0, 0.03), (0, base, 0), (0, -base, 0), bend, neck]
    model.keypoints += [(neck[0], 0, height + deep), (neck[0], wide, height - deep), (neck[0], -wide, height - deep)]
    model.room = (max(base, wide + abs(neck[0])), max(base, wide), height + deep)
    return model


def _street_lamp(rng: np.random.Generator, model: Model, metal: Surface, light: Surface) -> None:
    height = rng.uniform(3.2, 4.6)
    model.add("cone", (0, 0, 0.2), (0.2, 0.2, 0.2), metal, taper=(0.6, 1))
    if rng.random() < 0.5:  # an arm over the road
        reach = rng.uniform(0.8, 1.3)
        model.limb((0, 0, 0.2), (0, 0, height), (0.1, 0.07), metal)
        model.limb((0, 0, height - 0.05), (reach, 0, height + 0.2), (0.06, 0.05), metal)
        head = (reach + 0.2, 0.0, height + 0.2)
        model.add("block", head, (0.42, 0.2, 0.1), metal, taper=(0.7, 0.7))
        model.add("block", (head[0], 0, head[2] - 0.12), (0.34, 0.15, 0.04), light)
        top, side = (head[0], 0.0, head[2] + 0.1), 0.2
    else:  # a lantern
        model.limb((0, 0, 0.2), (0, 0, height), (0.1, 0.06), metal)
        head = (0.0, 0.0, height + 0.28)
        side = rng.uniform(0.22, 0.3)
        if rng.random() < 0.5:
            model.add("ball", head, (side, side, 0.28), light)
            top = (0.0, 0.0, height + 0.56)
        else:
            model.add("cone", head, (0.65 * side, 0.65 * side, 0.28), light, taper=(1.4, 1))
            model.add("cone", (0, 0, height + 0.66), (side * 1.15, side * 1.15, 0.1), metal, taper=(0.2, 1))
            top, side = (0.0, 0.0, height + 0.76), 0.78 * side
    model.keypoints = [(0, 0, 0.4), (0, 0.2, 0), (0, -0.2, 0), (0, 0, height / 2), (0, 0, height), top]
    model.keypoints += [(head[0], side, head[2]), (head[0], -side, head[2])]
    model.room = (0.35, 0.35, top[2])
