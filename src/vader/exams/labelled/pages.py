"""Report pages of exams with labels: bar charts of classes, confusion matrices, best and worst pictures.

Axes: T trials, B pictures, K classes, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

from vader.datasets.example import Example
from vader.exams.files import MILLIMETRES, prediction_file, read_prediction
from vader.exams.labelled.linear import Sets
from vader.exams.pages import figure
from vader.exams.results import Result
from vader.images.encode import colour_map
from vader.reports import draw
from vader.reports.metrics import VOID
from vader.reports.report import Group
from vader.reports.tables import Cell, Column, Row, Table

SHOWN = 4  # best and worst pictures of each encoder
SIDE = 256  # px, longer side of a picture
BLEND = 0.55  # opacity of the class colours over a picture


def class_table(results: Sequence[Result], classes: Sequence[str], scored: Sequence[int]) -> Table:
    """Make a row for each class and a column for each encoder; a class neither true nor predicted shows a dash."""
    columns = tuple(Column(name=one.name, unit="IoU %", better="higher", digits=1) for one in results)
    rows = tuple(
        Row(name=name, note="scored" if i in scored else "",
            cells=tuple(Cell.of(100 * _table_of(one)[:, i]) for one in results))
        for i, name in enumerate(classes)
    )  # fmt: skip
    return Table(title="IoU of each class", subject="class", columns=columns, rows=rows)


def _table_of(result: Result) -> Float[np.ndarray, "T K"]:
    assert result.classes is not None
    return result.classes


def class_tables(results: Sequence[Result], sets: Sets) -> list[Table]:
    """Make a table of the IoU of each class; none without classes."""
    if results[0].classes is None:
        return []
    return [class_table(results, sets.val.classes, sets.val.scored)]


def class_charts(results: Sequence[Result], sets: Sets, folder: Path) -> list[Group]:
    """Draw bars of the classes and confusion matrices; none without classes."""
    return [] if results[0].classes is None else [_charts(results, sets.val.classes, folder)]


def _charts(results: Sequence[Result], classes: Sequence[str], folder: Path) -> Group:
    series = {}
    for one in results:
        table = 100 * _table_of(one)
        spread = table.std(0, ddof=1).tolist() if len(table) > 1 else None
        series[one.name] = (table.mean(0).tolist(), spread)
    figures = [
        figure(lambda path: draw.bars_by_group(list(classes), series, path, axis="IoU, %"), folder,
                "IoU of each class, mean and standard deviation over trials", wide=True)
    ]  # fmt: skip
    for one in results:
        if one.confusion is not None:
            matrix = one.confusion
            figures.append(
                figure(lambda path, m=matrix: draw.confusion(m, classes, path), folder,
                        f"{one.name}: predicted class (column) of the pixels of each true class (row), in per cent of "
                        "the row; first trial")
            )  # fmt: skip
    return Group(title="Classes", figures=tuple(figures), width=420)


# --- Examples ------------------------------------------------------------------------------------------------------


def example_groups(result: Result, protocol: Any, sets: Sets, folder: Path, encoder: str) -> Group:
    """Draw the pictures with the first trial's best and worst scores."""
    scores = picture_scores(result.pictures[0])
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    worst, best = order[:SHOWN], order[::-1][:SHOWN]
    if result.pictures.ndim == 2:  # an error: smaller is better
        worst, best = best, worst
    unit = "m RMSE" if result.pictures.ndim == 2 else "% IoU"
    scale = 1 if result.pictures.ndim == 2 else 100
    figures = []
    for word, chosen in (("best", best), ("worst", worst)):
        rows = []
        for i in chosen:
            example = sets.val[i]
            found = read_prediction(prediction_file(folder, encoder, example.name))
            title = f"{scale * scores[i]:.3g} {unit}"
            rows.append([*_three(example, found, protocol, title)])
        if rows:
            caption = f"{result.name}, {word}: picture, ground truth, prediction of the first trial"
            figures.append(
                figure(lambda path, some=rows: draw.panel(some, path), folder, caption, wide=False, chart=False)
            )
    return Group(title=f"Examples: {result.name}", figures=tuple(figures), width=420)


def picture_scores(pictures: np.ndarray) -> Float[np.ndarray, "B"]:
    """Return one trial's score of each picture: mean IoU of the classes it shows, or RMSE; nan: nothing to score."""
    if pictures.ndim == 1:
        return pictures.astype(np.float64)
    hits, truths, called = (pictures[:, i].astype(np.float64) for i in range(3))
    union = truths + called - hits
    each = np.divide(hits, union, out=np.full_like(hits, np.nan), where=truths > 0)
    shown = (truths > 0).sum(1)
    return np.divide(np.nansum(each, 1), shown, out=np.full(len(hits), np.nan), where=shown > 0)


def _three(
    example: Example, found: Integer[np.ndarray, "H W"], protocol: Any, title: str
) -> list[tuple[np.ndarray, str]]:
    step = max(1, -(-max(example.image.shape[:2]) // SIDE))  # subsample rows and columns, so that labels do not mix
    image, found = example.image[::step, ::step], found[::step, ::step]
    name = example.name if len(example.name) < 28 else f"…{example.name[-27:]}"
    if example.labels is not None:
        truth = example.labels[::step, ::step]
        return [(image, name), (overlay(image, truth), "truth"), (overlay(image, found), title)]
    assert example.depth is not None
    truth = np.nan_to_num(example.depth[::step, ::step])
    far = float(min(truth.max(), protocol.farthest)) or 1.0
    return [
        (image, name),
        (draw.heat(truth / far), f"truth, to {far:.1f} m"),
        (draw.heat(found / (MILLIMETRES * far)), title),
    ]


def overlay(image: UInt8[np.ndarray, "H W 3"], labels: Integer[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Tint the picture with the colours of the classes; void pixels keep the picture."""
    mixed = (1 - BLEND) * image + BLEND * colour_map()[labels.astype(np.int64)]
    return np.where((labels == VOID)[..., None], image, mixed.astype(np.uint8))
