"""Trees, houses, cars and animals with random proportions, colours and textures (frames: `model.py`)."""

import numpy as np

from vader.scenes.model import Model, Point, corners
from vader.scenes.paints import Paints
from vader.scenes.shapes import Joint, rotated


def tree(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a conifer or a round tree; in rooms a small one in a pot."""
    model = Model()
    height = rng.uniform(3.4, 6.0) if outdoors else rng.uniform(0.9, 1.5)
    bark, leaf = paints.draw("bark"), paints.draw("leaf", 1.0 if outdoors else 0.35)
    ground = 0.0
    if not outdoors:
        ground, pot = 0.14 * height + 0.06, paints.draw("ceramic", 2.0)
        model.add("cone", (0, 0, ground / 2), (0.11 * height, 0.11 * height, ground / 2), pot, taper=(1.25, 1))
    grown = height - ground
    if rng.random() < 0.5:
        clear, layers = ground + 0.16 * grown, int(rng.integers(2, 5))
        wide = grown * rng.uniform(0.2, 0.3)
        model.limb((0, 0, ground), (0, 0, ground + 0.3 * grown), (0.045 * grown, 0.035 * grown), bark)
        step = (height - clear) / layers
        for layer in range(layers):
            radius = wide * (1 - 0.72 * layer / layers)
            low, high = clear + step * layer * 0.94, min(height, clear + step * (layer + 1.45))
            turn = rotated("z", float(rng.uniform(0, 6.28)))
            model.add(
                "cone", (0, 0, (low + high) / 2), (radius, radius, (high - low) / 2), leaf, turn,
                (0.0 if layer == layers - 1 else 0.12, 1),
            )  # fmt: skip
        top, level, around = height, clear, wide
    else:
        clear = ground + grown * rng.uniform(0.38, 0.5)
        around = (height - clear) * rng.uniform(0.5, 0.68)
        level, deep = (clear + height) / 2, (height - clear) / 2
        model.limb((0, 0, ground), (0, 0, level), (0.05 * grown, 0.03 * grown), bark)
        model.add("ball", (0, 0, level), (around, around, deep), leaf)
        for angle in rng.uniform(0, 6.28) + np.arange(rng.integers(3, 6)) * rng.uniform(1.2, 1.7):
            out, size = around * rng.uniform(0.55, 0.75), around * rng.uniform(0.42, 0.6)
            at = (out * np.cos(angle), out * np.sin(angle), level + deep * rng.uniform(-0.5, 0.45))
            model.add("ball", at, (size, size, size * rng.uniform(0.75, 1)), leaf)
        top = height
    model.keypoints = [(0, 0, 0), (0, 0, clear), (0, 0, top)]
    model.keypoints += [(around, 0, level), (-around, 0, level), (0, around, level), (0, -around, level)]
    reach = 1.2 * around if outdoors else around
    model.room = (reach, reach, height)
    return model


def house(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build walls, a gable or hip roof, a door in front, windows, sometimes a chimney."""
    model = Model()
    walls, roof = paints.draw("masonry"), paints.draw("roof")
    frame = paints.plain(0.1, rng.uniform(0, 0.1), rng.uniform(0.75, 0.95))
    glass = paints.plain(0.58, rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5), gloss=0.6)
    door = paints.draw("wood", 2.0) if rng.random() < 0.5 else paints.draw("paint")
    x, y = rng.uniform(1.8, 2.5), rng.uniform(2.3, 3.3)
    storeys = 1 if rng.random() < 0.6 else 2
    high = rng.uniform(2.3, 2.7) * (1 if storeys == 1 else 1.75)
    rise, over = rng.uniform(1.2, 2.2), rng.uniform(0.15, 0.4)
    model.add("block", (0, 0, high / 2), (x, y, high / 2), walls)
    hip = rng.uniform(0.4, 0.7) if rng.random() < 0.3 else 1.0
    model.add("block", (0, 0, high + rise / 2), (x + over, y + over, rise / 2), roof, taper=(0.0, hip))
    if hip == 1:  # gables in the colour of the walls, slightly in front of the roof
        model.add("block", (0, 0, high + 0.46 * rise), (0.92 * x, y + over + 0.02, 0.46 * rise), walls, taper=(0.0, 1))
    place = rng.uniform(-0.25, 0.25) * y
    model.add("block", (x, place, 1.0), (0.04, 0.46, 1.0), door)
    spots = [side * y * 0.62 for side in (1, -1)]
    for storey in range(storeys):
        level = 1.45 + storey * (high / 2)
        for spot in spots if storey == 0 else [*spots, 0.0]:
            model.add("block", (x, spot, level), (0.03, 0.42, 0.52), frame)
            model.add("block", (x, spot, level), (0.05, 0.34, 0.44), glass)
        for side in (1, -1):
            model.add("block", (0, side * y, level), (0.42, 0.03, 0.52), frame)
            model.add("block", (0, side * y, level), (0.34, 0.05, 0.44), glass)
    if rng.random() < 0.7:
        at = (-0.35 * x, rng.choice([-0.5, 0.5]) * y, high + 0.85 * rise)
        model.add("block", at, (0.26, 0.26, 0.45 * rise + 0.2), walls)
    ends = (y + over) * hip
    model.keypoints = corners(x, y, 0) + corners(x + over, y + over, high)
    model.keypoints += [(0, ends, high + rise), (0, -ends, high + rise), (x + 0.04, place, 1.0)]
    model.room = (x + over, y + over, high + rise)
    return model


def car(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a saloon, a hatchback, a van or a pick-up."""
    model = Model()
    body = paints.draw("paint") if rng.random() < 0.75 else paints.plain(0.6, 0.05, rng.uniform(0.2, 0.95), gloss=0.5)
    glass = paints.plain(0.58, 0.3, 0.22, gloss=0.8)
    black, silver = paints.plain(0, 0, 0.16), paints.plain(0.6, 0.05, 0.72, gloss=0.6)
    x, y = rng.uniform(1.85, 2.25), rng.uniform(0.82, 0.92)
    wheel, sill = rng.uniform(0.3, 0.36), 0.24
    waist = rng.uniform(0.8, 0.95)
    style = rng.integers(4)
    roof = rng.uniform(1.38, 1.55) if style < 2 else rng.uniform(1.65, 1.95)
    # The cabin's middle, its half length, and the taper of its top.
    where, half, lean = [(-0.1, 0.62, 0.6), (-0.32, 0.66, 0.72), (-0.2, 0.79, 0.86), (0.12, 0.36, 0.75)][style]
    model.add("block", (0, 0, (sill + waist) / 2), (x, y, (waist - sill) / 2), body, taper=(0.97, 0.94))
    cabin, deep = (x * half, 0.9 * y, (roof - waist) / 2), roof - waist
    model.add("block", (where * x, 0, waist + deep / 2), cabin, glass, taper=(lean, 0.84))
    roof_x, roof_y = cabin[0] * lean, cabin[1] * 0.84
    model.add("block", (where * x, 0, roof), (roof_x * 1.02, roof_y * 1.02, 0.035), body, taper=(0.95, 0.93))
    for at in (-0.006, -0.294) if style != 3 else ():  # pillars between the side windows
        middle = (where * x + at * cabin[0], 0.0, waist + deep / 2)
        model.add("block", middle, (0.05, 0.92 * y, deep / 2), body, taper=(1, 0.84))
    if style == 3:  # the rim of the bed, and its dark inside
        model.add("panel", (-0.58 * x, 0, waist + 0.012), (0.36 * x, 0.72 * y, 1), black)
    spin = paints.make((0.35, 0.35, 0.38), (0.75, 0.75, 0.78), "checks", 0.16, 0.4)
    spots = corners(0.62 * x, y, wheel)
    for spot in spots:
        side = float(np.sign(spot[1]))
        joint = Joint(spot, spin=1 / wheel)
        inner = (spot[0], side * (y - 0.1), wheel)
        turn = rotated("x", np.pi / 2)
        model.add("disc", (spot[0], side * (y + 0.004), wheel + 0.02), (1.22 * wheel, 1.22 * wheel, 1), black, turn)
        model.add("cone", inner, (wheel, wheel, 0.14), black, turn, joint=joint)
        model.add("disc", (spot[0], side * (y + 0.045), wheel), (0.6 * wheel, 0.6 * wheel, 1), spin, turn, joint=joint)
    light = paints.plain(0.14, 0.1, 1, gloss=0.5, glow=0.5)
    red = paints.plain(0.0, 0.85, 0.8, gloss=0.4, glow=0.2)
    level = sill + 0.62 * (waist - sill)
    for side in (1, -1):
        model.add("ball", (x * 0.985, side * 0.72 * y, level), (0.05, 0.15, 0.1), light)
        model.add("block", (-x * 0.985, side * 0.78 * y, level), (0.03, 0.12, 0.1), red)
    for end in (1, -1):
        model.add("block", (end * x, 0, sill + 0.1), (0.07, 0.97 * y, 0.09), silver if rng.random() < 0.5 else black)
    model.keypoints = corners(0.62 * x, y + 0.045, wheel, 0)
    model.keypoints += [(end * x, side * 0.72 * y, level) for end in (1.01, -1.01) for side in (1, -1)]
    model.keypoints += corners(roof_x, roof_y, roof + 0.03, where * x)
    model.room = (x + 0.08, y + 0.06, roof + 0.04)
    return model


def animal(rng: np.random.Generator, paints: Paints, outdoors: bool) -> Model:
    """Build a four-legged animal: a cat or a dog in rooms, a cow, a horse or a sheep outdoors."""
    model = Model()
    fur = paints.draw("fur", 1.6 if outdoors else 0.7)
    dark = paints.plain(0.05, 0.3, rng.uniform(0.1, 0.3))
    scale = rng.uniform(1.15, 1.5) if outdoors else rng.uniform(0.5, 0.65)  # length of the body
    x, y = 0.5 * scale, scale * rng.uniform(0.16, 0.21)
    deep = scale * rng.uniform(0.19, 0.25)
    leg = scale * rng.uniform(0.42, 0.62) if outdoors else scale * rng.uniform(0.36, 0.5)
    thick = scale * rng.uniform(0.045, 0.065)
    middle = leg + 0.75 * deep
    model.add("ball", (0, 0, middle), (x, y, deep), fur)
    step = 2 * np.pi / (1.3 * scale)  # radians of its step cycle per metre
    paws: list[Point] = []
    for number, (spot, phase) in enumerate(zip(corners(0.62 * x, 0.6 * y, 0), (0, np.pi, np.pi, 0), strict=True)):
        hip = (spot[0], spot[1], middle)
        joint = Joint(hip, swing=0.38, stride=step, phase=phase)
        model.limb((spot[0], spot[1], 0.04 * scale), hip, (0.8 * thick, 1.3 * thick), fur, joint)
        paw = (spot[0] + 0.25 * thick, spot[1], 0.03 * scale)
        paws.append(paw)
        model.riding.append((6 + number, joint))
        model.add("block", paw, (1.2 * thick, thick, 0.03 * scale), dark, taper=(0.8, 0.8), joint=joint)
    long, rise = scale * rng.uniform(0.1, 0.3), scale * rng.uniform(0.2, 0.5)
    shoulder = (0.72 * x, 0.0, middle + 0.35 * deep)
    head = (0.85 * x + long, 0.0, middle + 0.3 * deep + rise)
    model.limb(shoulder, head, (0.62 * deep, 0.42 * deep), fur)
    size = scale * rng.uniform(0.11, 0.15)
    model.add("ball", head, (1.15 * size, 0.9 * size, size), fur)
    snout = rng.uniform(0.9, 1.9) * size
    tip = (head[0] + 0.6 * size + snout, 0.0, head[2] - 0.45 * size)
    model.limb(head, tip, (0.75 * size, 0.5 * size), fur)
    model.add("ball", tip, (0.28 * size, 0.42 * size, 0.36 * size), dark)
    ear, spread = size * rng.uniform(0.5, 1.0), rng.uniform(0.35, 0.9)
    ears: list[Point] = []
    for side in (1, -1):
        start = (head[0] - 0.2 * size, side * 0.5 * size, head[2] + 0.6 * size)
        end = (start[0] - 0.1 * ear, start[1] + side * ear * spread, start[2] + ear * (1.2 - spread))
        model.limb(start, end, (0.32 * size, 0.08 * size), dark if rng.random() < 0.4 else fur)
        ears.append(end)
        eye = (head[0] + 0.72 * size, side * 0.58 * size, head[2] + 0.28 * size)
        model.add("ball", eye, (0.17 * size, 0.17 * size, 0.17 * size), dark)
    start = (-0.93 * x, 0.0, middle + 0.3 * deep)
    end = (start[0] - scale * rng.uniform(0.12, 0.3), 0.0, start[2] + scale * rng.uniform(-0.4, 0.35))
    model.limb(start, end, (0.6 * thick, 0.35 * thick), fur)
    model.keypoints = [(tip[0] + 0.28 * size, 0.0, tip[2]), *ears, (0.5 * x, 0.0, middle + 0.87 * deep), start, end]
    model.keypoints += paws
    model.room = (tip[0] + 0.3 * size, max(1.2 * y, 0.15 * scale), head[2] + size)
    return model
