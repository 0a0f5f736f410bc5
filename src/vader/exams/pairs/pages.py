"""Report pages of matching: tables by group and by stride, pictures with matches as lines, and files of matches.

Axes: H W pixels, M matches of all pairs together, B pairs, K thresholds. Points are (x, y) in pixels.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from vader.errors import UnreadableImage
from vader.exams.pairs import MatchProtocol, ScenesProtocol, ceiling, chance
from vader.exams.pairs.evaluation import PairResult
from vader.exams.pairs.sets import PairSet
from vader.images.encode import jpeg
from vader.reports import draw
from vader.reports.report import Figure, Group
from vader.reports.tables import Cell, Column, Row, Table
from vader.runtime.files import write_atomic

SHOWN = 4  # pairs
LINES = 24  # shown matches of a pair
ZOOM = 2
QUALITY = 85  # of JPEG; keeps a page of a dozen encoders within a few MB
GAP = 8  # pixels between two pictures
ENDING = ".matches.npz"


def pair_pages(
    results: Sequence[PairResult], protocol: MatchProtocol, material: PairSet, folder: Path, folders: dict[str, str],
    pictures: bool = True,
) -> tuple[list[Table], list[Group]]:  # fmt: skip
    """Further tables, and figures if `pictures`; writes predictions/ENCODER.matches.npz with every match of each."""
    for one in results:
        if one.matches is not None and one.name in folders:
            write_matches(folder / "predictions" / f"{folders[one.name]}{ENDING}", one, material)
    # For angles, show all thresholds: with the angle some answers become coarse and others wrong.
    shown = protocol.thresholds if isinstance(protocol, ScenesProtocol) else (protocol.headline,)
    tables = [group_table(results, protocol, material, threshold) for threshold in shown]
    tables[1:] = [one.model_copy(update={"note": ""}) for one in tables[1:]]  # the first table has the note
    tables += stride_table(results, protocol, material)
    return tables, _pictures(results, protocol, material) if pictures else []


def write_matches(path: Path, result: PairResult, material: PairSet) -> None:
    """Write every match: the names of the pairs, and each match's pair index, point, truth and predictions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    matches = result.matches
    assert matches is not None
    np.savez_compressed(
        file, names=np.array(material.names), pair=matches.pair, points=matches.points.astype(np.float32),
        truths=matches.truths.astype(np.float32), found=matches.found.astype(np.float32),
        soft=matches.soft.astype(np.float32), mutual=matches.mutual, scale=matches.scale.astype(np.float32),
    )  # fmt: skip
    write_atomic(path, file.getvalue())


# --- Tables --------------------------------------------------------------------------------------------------------


def group_table(results: Sequence[PairResult], protocol: MatchProtocol, material: PairSet, threshold: float) -> Table:
    """Make a row for each class, angle or distance and a column for each encoder; means over the pairs of a group."""
    column = protocol.thresholds.index(threshold)
    known = _known(results)
    group = {int(i): material.truth(int(i)).group for i in np.flatnonzero(known)}
    columns = tuple(Column(name=one.name, unit="%", digits=1) for one in results)
    rows = []
    for name in material.groups:
        mine = [i for i, of in group.items() if of == name]
        cells = tuple(
            Cell(mean=100 * float(np.mean(_shares(one)[mine, column]))) if mine else Cell() for one in results
        )
        rows.append(Row(name=name, note=f"{len(mine)} pairs", cells=cells))
    title = f"{protocol.measure(threshold)} by {material.by}"
    note = "Means over pairs."
    if absent := int((~known[: material.counted]).sum()):
        note += f" {absent} of {material.counted} pairs have no common points, or too few, and are left out."
    if unread := next((one.unread for one in results if one.unread), ()):
        note += f" Files that could not be read: {'; '.join(unread[:3])}{'; ...' if len(unread) > 3 else ''}."
    return Table(title=title, subject=material.by, columns=columns, rows=tuple(rows), note=note)


def stride_table(results: Sequence[PairResult], protocol: MatchProtocol, material: PairSet) -> list[Table]:
    """Make a table of what the cells of each stride allow: chance and the nearest cell. None without encoders."""
    strides = sorted({one.stride for one in results if one.stride})
    if not strides:
        return []
    pairs = [int(i) for i in np.flatnonzero(_known(results)[: material.counted])]
    best: dict[int, list[np.ndarray]] = {stride: [] for stride in strides}
    drawn: dict[int, list[np.ndarray]] = {stride: [] for stride in strides}
    for i in pairs:
        truth = material.truth(i)
        for stride in strides:
            rest = (truth.truths, truth.scale, *truth.sizes[1], protocol.thresholds, stride)
            best[stride].append(ceiling(*rest))
            drawn[stride].append(chance(*rest))
    shares = [
        Column(name=f"{what}, {protocol.measure(t)}", unit="%", digits=1)
        for what in ("nearest cell", "cell at random")
        for t in protocol.thresholds
    ]
    columns = (Column(name="largest error of the nearest cell", unit="px", digits=1), *shares)
    rows = tuple(
        Row(name=f"{stride} px",
            cells=(Cell(mean=stride / 2**0.5),
                   *(Cell(mean=100 * v) for v in (*np.mean(best[stride], 0), *np.mean(drawn[stride], 0)))))
        for stride in strides
    )  # fmt: skip
    note = "An answer is the centre of a cell, so without refinement no encoder exceeds the nearest cell."
    return [Table(title="What a stride allows", subject="stride", columns=columns, rows=rows, note=note)]


def _known(results: Sequence[PairResult]) -> Bool[np.ndarray, "B"]:
    """Return which pairs are scored; the same for all results."""
    return np.isfinite(_shares(results[0])[:, 0])


def _shares(result: PairResult) -> Float[np.ndarray, "B K"]:
    assert result.shares is not None
    return result.shares


# --- Pictures ------------------------------------------------------------------------------------------------------


def _pictures(results: Sequence[PairResult], protocol: MatchProtocol, material: PairSet) -> list[Group]:
    """Draw some pairs of every group, each with the matches of every encoder."""
    known = np.flatnonzero(_known(results)[: material.counted])
    # Show the middle pair of each group, so that there is a picture for each row; of a single group, several pairs.
    by_group: dict[str, list[int]] = {}
    for i in known.tolist():
        by_group.setdefault(material.truth(i).group, []).append(i)
    each = max(1, SHOWN // max(1, len(by_group)))
    chosen = [some[(2 * k + 1) * len(some) // (2 * each)] for some in by_group.values() for k in range(each)]
    groups = []
    for i in dict.fromkeys(chosen):
        truth = material.truth(i)
        try:
            first, second = (material.picture(n) for n in material.links[i])
        except UnreadableImage:  # the file was damaged after scoring
            continue
        picked = np.unique(np.linspace(0, len(truth.points) - 1, LINES).round().astype(int))
        figures = []
        for one in results:
            if one.matches is None or not one.stride:  # a baseline
                continue
            mine = one.matches.pair == i
            right = one.matches.errors()[mine] <= protocol.headline
            picture = lines(first, second, truth.points[picked], one.matches.found[mine][picked], right[picked])
            caption = f"{one.name}: {right.sum()} of {len(right)} {protocol.measure(protocol.headline)}"
            figures.append(Figure(image=jpeg(picture, QUALITY), caption=caption, alt=caption))
        groups.append(Group(title=f"Matches: {material.names[i]} ({truth.group})", figures=tuple(figures), width=420))
    return groups


def lines(
    first: UInt8[np.ndarray, "H W 3"],
    second: UInt8[np.ndarray, "_ _ 3"],
    points: Float[np.ndarray, "M 2"],
    found: Float[np.ndarray, "M 2"],
    right: Bool[np.ndarray, "M"],
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Draw two pictures side by side at double size, with lines to the predictions: green if right, else red."""
    height = max(first.shape[0], second.shape[0])
    width = first.shape[1] + GAP
    canvas = np.full((height, width + second.shape[1], 3), 255, np.uint8)
    canvas[: first.shape[0], : first.shape[1]] = first
    canvas[: second.shape[0], width:] = second
    canvas = cv2.resize(canvas, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_LINEAR)
    colours = {good: tuple(int(word[k : k + 2], 16) for k in (1, 3, 5)) for good, word in
               ((True, draw.GOOD), (False, draw.BAD))}  # fmt: skip
    # Draw wrong matches first, so that they do not hide right ones.
    for n in np.argsort(right, kind="stable"):
        start, end = _at(points[n]), _at(found[n] + np.array([width, 0]))
        colour = colours[bool(right[n])]
        cv2.line(canvas, start, end, colour, 1, cv2.LINE_AA, SHIFT)
        for at in (start, end):
            cv2.circle(canvas, at, 3 << SHIFT, colour, -1, cv2.LINE_AA, SHIFT)
    return canvas


SHIFT = 4  # fractional bits of OpenCV's coordinates


def _at(point: Float[np.ndarray, "2"]) -> tuple[int, int]:
    """Convert a point to OpenCV's coordinates in the enlarged picture: 1/16 px from the centre of the first pixel."""
    x, y = ((ZOOM * point - 0.5) * 2**SHIFT).round().astype(int).tolist()
    return x, y
