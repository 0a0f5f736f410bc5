"""Draw figures from arrays into PNG files. No other module imports matplotlib.

Axes: H W pixels, N points. Images are uint8 or floats in [0, 1], (H, W, 3); points are (x, y) in pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

GOOD, BAD = "#35d06a", "#ff4b3e"
SERIES = ("#1d7a66", "#e3a63c", "#7686bd", "#c6ccd0", "#a8493d", "#4a3a63")


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return path


def _show(axis: Any, image: np.ndarray, title: str = "") -> None:
    height, width = image.shape[:2]
    # The extent puts pixel centres at + 0.5, as in the whole package.
    axis.imshow(image, extent=(0, width, height, 0), interpolation="nearest")
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_title(_printable(title), fontsize=8)
    axis.axis("off")


def _printable(text: str) -> str:
    """Replace bytes of file names that are not text, because Matplotlib rejects them."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def panel(rows: Sequence[Sequence[tuple[np.ndarray, str]]], path: Path, title: str = "") -> Path:
    """Draw a grid of titled images."""
    columns = max(len(row) for row in rows)
    # Rows of wide images are low, so that the page has little empty space.
    tallest = [max((image.shape[0] / image.shape[1] for image, _ in row), default=0) for row in rows]
    heights = [0.35 + min(2.1, 2.5 * ratio) for ratio in tallest]
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(2.6 * columns, 0.3 + sum(heights)), squeeze=False, height_ratios=heights
    )
    for row, line in zip(rows, axes, strict=True):
        for axis in line:
            axis.axis("off")
        for (image, name), axis in zip(row, line, strict=False):
            _show(axis, image, name)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def matches(
    pairs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    path: Path,
    title: str = "",
    names: Sequence[str] = (),
) -> Path:
    """Draw pairs of views side by side with a line from each query to its match.

    A pair is (view 1, view 2, queries, found, good). With `names`, pairs belong to these encoders in turn, which get a
    column each.
    """
    columns = len(names) or min(2, len(pairs))
    lines = -(-len(pairs) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(6 * columns, 3.1 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, (first, second, queries, found, good)) in enumerate(zip(axes.flat, pairs, strict=False)):
        gap = 8
        width = first.shape[1] + gap
        between = np.full((first.shape[0], gap, 3), 255, dtype=np.uint8)
        name = f"{names[index % columns]}: " if names else ""
        told = f"{name}{int(good.sum())} of {len(good)} within one cell"
        _show(axis, np.concatenate([first, between, second], 1), told)
        for (x0, y0), (x1, y1), right in zip(queries, found, good, strict=True):
            axis.plot([x0, x1 + width], [y0, y1], color=GOOD if right else BAD, linewidth=0.9, alpha=0.9)
            axis.plot([x0, x1 + width], [y0, y1], "o", color=GOOD if right else BAD, markersize=2)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


# Image, its map of cosines and the map's stride in pixels, the best pixel, a name.
Found = Sequence[tuple[np.ndarray, np.ndarray, int, tuple[float, float], str]]


def similar(query: np.ndarray, at: tuple[float, float], found: Found, path: Path, title: str = "") -> Path:
    """Draw the query with its pixel marked, then each found image above its similarity map, with the best pixel marked.

    Maps share one colour scale, so that a lower peak looks lower.
    """
    return similar_beside(query, at, [("query", found)], path, title)


def similar_beside(
    query: np.ndarray, at: tuple[float, float], answers: Sequence[tuple[str, Found]], path: Path, title: str = ""
) -> Path:
    """Draw `similar` for the answers (name, found) of several encoders below each other, each with its own scale.

    Cosines of different encoders cannot be compared.
    """
    columns = 1 + max(len(found) for _, found in answers)
    figure, axes = plt.subplots(2 * len(answers), columns, figsize=(2.6 * columns, 4.8 * len(answers)), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for (name, found), upper, lower in zip(answers, axes[::2], axes[1::2], strict=True):
        _show(upper[0], query, name)
        upper[0].plot(*at, "+", color=BAD, markersize=14, markeredgewidth=2.5)
        low = min(float(np.quantile(heat, 0.5)) for _, heat, *_ in found)
        for column, (image, heat, stride, best, label) in enumerate(found, 1):
            _show(upper[column], image, label)
            upper[column].plot(*best, "+", color=GOOD, markersize=10, markeredgewidth=2)
            height, width = image.shape[:2]
            # The last cells extend beyond the picture if its sides are not multiples of the stride.
            reach = (0, heat.shape[1] * stride, heat.shape[0] * stride, 0)
            drawn = lower[column].imshow(heat, extent=reach, cmap="magma", vmin=low, vmax=1.0)
            lower[column].set(xlim=(0, width), ylim=(height, 0))
        place = lower[0].inset_axes((0.05, 0.6, 0.9, 0.08))
        figure.colorbar(drawn, cax=place, orientation="horizontal", ticks=[low, 1.0])
        place.set_xticklabels([f"{low:.4g}", "1"], fontsize=7)
        place.set_title("cosine", fontsize=8)
    figure.suptitle(_printable(title), fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def curves(lines: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> Path:
    """Draw loss and chance, the match rate and its baselines, rank and spread from the lines of `metrics.jsonl`."""
    steps = [line for line in lines if "chance_loss" in line and not line.get("skipped")]
    exams = [line for line in lines if "match" in line]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    axes[0].plot([x["step"] for x in steps], [x["chance_loss"] for x in steps], "--", color="grey", label="chance")
    axes[0].plot([x["step"] for x in steps], [x["loss"] for x in steps], label="loss")
    filling = [x["step"] for x in steps if x["queue_fill"] < 1]
    if filling:
        axes[0].axvspan(0, filling[-1], color="orange", alpha=0.15, label="queue fills: more negatives, higher loss")
    axes[0].set_title("loss")
    axes[0].legend(fontsize=7)
    for name, style in (
        ("match", "-"),
        ("start", ":"),
        ("hypercolumn", ":"),
        ("raw_colour", ":"),
        ("chance_match", "--"),
    ):
        axes[1].plot([x["step"] for x in exams], [x[name] for x in exams], style, label=name.replace("_", " "))
    axes[1].set_title("held-out points matched within one cell")
    axes[1].legend(fontsize=7)
    axes[2].plot([x["step"] for x in exams], [x["rank"] for x in exams], label="effective rank")
    axes[2].legend(fontsize=7, loc="upper left")
    right = axes[2].twinx()
    right.plot(
        [x["step"] for x in exams], [x["deviation"] for x in exams], color="tab:red", label="deviation (1 = even)"
    )
    right.legend(fontsize=7, loc="lower right")
    axes[2].set_title("spread of embeddings")
    for axis in axes:
        axis.set_xlabel("step")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def bars_by_group(
    groups: Sequence[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float] | None]],
    path: Path,
    title: str = "",
    axis: str = "",
    floors: Mapping[str, float] | None = None,
) -> Path:
    """Draw bars side by side in each group, one colour for each series: (means, standard deviations or None), NaN if
    unknown.

    `floors` are reference levels (chance, a ceiling), drawn as dashed lines across all groups.
    """
    assert groups, "nothing to draw"
    assert all(len(means) == len(groups) for means, _ in series.values()), "expected one mean for each group"
    figure, plot = plt.subplots(figsize=(max(5.5, 1.2 + 0.34 * len(groups) * (len(series) + 1)), 3.4))
    width = 0.8 / len(series)
    for index, (name, (means, deviations)) in enumerate(series.items()):
        places = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        colour = SERIES[index % len(SERIES)]
        plot.bar(places, means, 0.9 * width, yerr=deviations, label=name, color=colour, capsize=2, ecolor="#444444")
    for name, level in (floors or {}).items():
        plot.axhline(level, linestyle="--", linewidth=1, color="#888888", zorder=0)
        plot.annotate(name, (1.0, level), xycoords=("axes fraction", "data"), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8, color="#666666")  # fmt: skip
    plot.set_xticks(range(len(groups)), groups)
    plot.set_xlim(-0.6, len(groups) - 0.4)
    plot.set_ylabel(axis)
    plot.spines[["top", "right"]].set_visible(False)
    plot.tick_params(length=0)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    # Below the bars, where it hides none of them.
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(6, len(series)), frameon=False, fontsize=8)
    return _save(figure, path)


def confusion(matrix: np.ndarray, names: Sequence[str], path: Path, title: str = "") -> Path:
    """Draw a confusion matrix (K, K) of counts as shares of its rows, which are the truth; empty rows stay empty."""
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(100.0 * matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    count = len(names)
    side = min(14.0, 2.2 + 0.32 * count)
    figure, plot = plt.subplots(figsize=(side, side))
    shown = plot.imshow(shares, cmap="Greens", vmin=0, vmax=100)
    size = 8 if count <= 30 else 4
    plot.set_xticks(range(count), names, rotation=90, fontsize=size)
    plot.set_yticks(range(count), names, fontsize=size)
    plot.set_xlabel("called")
    plot.set_ylabel("truth")
    plot.tick_params(length=0)
    if count <= 25:  # larger matrices are not readable with numbers
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            share = shares[row, column]
            plot.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6,
                      color="white" if share > 60 else "black")  # fmt: skip
    figure.colorbar(shown, shrink=0.6, label="% of the row")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def heat(values: np.ndarray) -> np.ndarray:
    """Colour numbers from 0 to 1, (H, W), from dark to bright, (H, W, 3) uint8; 0, which is unknown, is grey."""
    coloured = (255 * mpl.colormaps["magma"](np.clip(values, 0, 1))[..., :3]).astype(np.uint8)
    coloured[values <= 0] = 128
    return coloured
