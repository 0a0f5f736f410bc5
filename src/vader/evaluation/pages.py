"""Results -> a report: tables, bars of the classes, confusion matrices, best and worst pictures.

Axes: T trials, B pictures, K classes, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

from vader import draw
from vader.datasets.example import Example
from vader.evaluation.files import MILLIMETRES, colours, prediction_file, read_prediction
from vader.evaluation.results import Result, difference_table, differences, resampled, result_table
from vader.evaluation.sitting import Sets
from vader.metrics import VOID
from vader.report import Figure, Group, Report
from vader.tables import Cell, Column, Row, Table

SHOWN = 4  # best and worst pictures of each encoder
SIDE = 256  # px of a shown picture
BLEND = 0.55  # of the classes' colours over a picture


def make_report(
    results: Sequence[Result], protocol: Any, sets: Sets, folder: Path, folders: dict[str, str], facts: dict[str, Any]
) -> Report:
    """The whole report; predictions are read back from `folder`, charts are drawn in a hidden folder there."""
    headline = next(iter(results[0].values))
    tables = [result_table("Results", results, _note(results, sets))]
    if len(results) > 1 and results[0].paired:
        means = [float(np.mean(one.values[headline])) for one in results]
        draws = [resampled(one.pictures, sets.val.scored) for one in results]
        found = differences([one.name for one in results], means, draws, headline.scale)
        tables.append(difference_table(headline.column, found, results[0].pictures.shape[1]))
    groups = []
    if results[0].classes is not None:
        tables.append(class_table(results, sets.val.classes, sets.val.scored))
        groups.append(_charts(results, sets.val.classes, folder))
    groups += [_examples(one, protocol, sets, folder, folders[one.name]) for one in results]
    return Report(
        title=f"{protocol.name} on {sets.val.name}",
        lead=(
            f"{len(sets.train)} pictures to learn from, {len(sets.val)} to be scored on; "
            f"{len(next(iter(results[0].values.values())))} trials. The encoders are frozen.",
        ),
        tables=tuple(tables), groups=tuple(groups), facts=facts,
    )  # fmt: skip


def _note(results: Sequence[Result], sets: Sets) -> str:
    parts = []
    if sets.val.scored:
        names = ", ".join(sets.val.classes[i] for i in sets.val.scored)
        parts.append(f"mIoU-{len(sets.val.scored)} is over {names}.")
    if skipped := results[0].skipped:
        parts.append(f"{skipped} of {len(sets.val)} pictures have nothing to score and were skipped.")
    return " ".join(parts)


def class_table(results: Sequence[Result], classes: Sequence[str], scored: Sequence[int]) -> Table:
    """A row a class, a column an encoder; a class that is neither in the truth nor predicted shows a dash."""
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


def _charts(results: Sequence[Result], classes: Sequence[str], folder: Path) -> Group:
    series = {}
    for one in results:
        table = 100 * _table_of(one)
        spread = table.std(0, ddof=1).tolist() if len(table) > 1 else None
        series[one.name] = (table.mean(0).tolist(), spread)
    figures = [
        _figure(lambda path: draw.bars_by_group(list(classes), series, path, axis="IoU, %"), folder,
                "IoU of each class, mean and deviation over trials", wide=True)
    ]  # fmt: skip
    for one in results:
        if one.confusion is not None:
            matrix = one.confusion
            figures.append(
                _figure(lambda path, m=matrix: draw.confusion(m, classes, path), folder,
                        f"{one.name}: what the pixels of each class (row) were called (column), per cent of the row; "
                        "first trial")
            )  # fmt: skip
    return Group(title="Classes", figures=tuple(figures), width=420)


def _figure(paint: Any, folder: Path, caption: str, wide: bool = False, chart: bool = True) -> Figure:
    path = folder / ".figure.png"
    try:
        return Figure(image=paint(path).read_bytes(), caption=caption, alt=caption, wide=wide, chart=chart)
    finally:
        path.unlink(missing_ok=True)


# --- Examples ------------------------------------------------------------------------------------------------------


def _examples(result: Result, protocol: Any, sets: Sets, folder: Path, encoder: str) -> Group:
    """The pictures that the first trial did best and worst on."""
    scores = picture_scores(result.pictures[0])
    order = [int(i) for i in np.argsort(scores, kind="stable") if np.isfinite(scores[i])]
    worst, best = order[:SHOWN], order[::-1][:SHOWN]
    if result.pictures.ndim == 2:  # an error: the small ones are good
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
            caption = f"{result.name}, {word}: picture, truth, prediction of the first trial"
            figures.append(
                _figure(lambda path, some=rows: draw.panel(some, path), folder, caption, wide=False, chart=False)
            )
    return Group(title=f"Examples: {result.name}", figures=tuple(figures), width=420)


def picture_scores(pictures: np.ndarray) -> Float[np.ndarray, "B"]:
    """How well one trial did on each picture: mean IoU of the classes it shows, or its RMSE; nan: nothing to score."""
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
    step = max(1, -(-max(example.image.shape[:2]) // SIDE))  # every so many rows and columns: no label is mixed
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
    """The picture tinted by the classes' colours; void keeps the picture as it is."""
    mixed = (1 - BLEND) * image + BLEND * colours()[labels.astype(np.int64)]
    return np.where((labels == VOID)[..., None], image, mixed.astype(np.uint8))
