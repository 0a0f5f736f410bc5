"""Report pages for clips: tables of sequences or classes, strips of the median and worst object, and an animation that
shows all encoders side by side.

Axes: H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from vader.datasets.clips import Clip
from vader.datasets.example import VOID
from vader.exams.clips.evaluation import COPIED, MEASURES, ClipResult, Clips
from vader.exams.clips.scores import sequence_scores
from vader.exams.files import prediction_file, read_prediction
from vader.exams.labelled.pages import class_table
from vader.images.animate import animate
from vader.images.encode import colour_map
from vader.reports import draw
from vader.reports.report import Figure, Group
from vader.reports.tables import Cell, Row, Table

TIMES = 5  # frames of a clip in a strip
SIDE = 320  # px, width of a picture in a strip
FRAMES = 24  # in an animation
PIXELS = 2_500_000  # of all frames of an animation; a GIF needs about one byte for each
SIDES = (112, 280)  # px, minimum and maximum width of a panel of an animation
TITLE = 14  # px, height of the title above each panel
BLEND = 0.5  # opacity of the object colours over a picture
LONG = 44  # maximum number of letters of a title


def clip_pages(
    results: Sequence[ClipResult], protocol: Any, clips: Clips, folder: Path, folders: dict[str, str],
    pictures: bool = True,
) -> tuple[list[Table], list[Group]]:  # fmt: skip
    """Tables, and figures if `pictures`, beyond the results; predictions are read back from `folder`."""
    if clips.classes:
        table = class_table(results, clips.classes, ())
        missing = [name for name in clips.classes if name not in clips.first_classes]
        note = f"Not in the first frame and therefore never predicted: {', '.join(missing)}." if missing else ""
        tables = [table.model_copy(update={"note": note})]
    else:
        tables = [sequence_table(results, clips, name) for name in ("j_and_f", "j_mean", "f_mean")]
    if not pictures:
        return tables, []
    pages = Pages(results, clips, folder, folders)
    figures = [pages.strip(clip, text) for clip, text in shown_clips(results, clips)]
    median = shown_clips(results, clips)[0][0]
    return tables, [Group(title="Clips", figures=(*figures, pages.moving(median)), width=900)]


def sequence_table(results: Sequence[ClipResult], clips: Clips, measure: str) -> Table:
    """Make a row for each sequence, and for each of its objects if there are several, and a column for each encoder."""
    found = [sequence_scores({c.name: s for c, s in zip(clips.clips, one.scores, strict=True)}) for one in results]
    single = {f"{c.name}_1": c.name for c, s in zip(clips.clips, results[0].scores, strict=True) if len(s.ids) == 1}
    column = MEASURES[measure]
    return Table(
        title=f"{column.name} of each sequence",
        subject="sequence",
        # No arrow: the best value in a column marks the easiest sequence, not the best encoder.
        columns=tuple(column.column.model_copy(update={"name": one.name, "better": None}) for one in results),
        rows=tuple(
            Row(name=single.get(name, name), cells=tuple(Cell.of(column.scale * one[name][measure]) for one in found))
            for name in found[0]
        ),
    )


def shown_clips(results: Sequence[ClipResult], clips: Clips) -> list[tuple[Clip, str]]:
    """Choose the clips of the median and the worst object by the mean over encoders, each with its description."""
    if clips.classes:
        return [(clips.clips[0], "")]
    scored = [one for one in results if one.name != COPIED] or list(results)
    each = np.mean([one.pictures[0] for one in scored], axis=0)
    order = np.argsort(each, kind="stable")
    found: list[tuple[Clip, str]] = []
    for word, place in (("median", order[len(order) // 2]), ("worst", order[0])):
        clip, label = clips.objects[int(place)]
        text = f"{word} object of {len(order)}, {clip.name}_{label}: J&F {100 * each[place]:.1f} % over the encoders"
        if clip.name not in [known.name for known, _ in found]:
            found.append((clip, text))
    return found


class Pages:
    """Draws the masks of a clip: the ground truth and the prediction of each encoder."""

    def __init__(self, results: Sequence[ClipResult], clips: Clips, folder: Path, folders: dict[str, str]) -> None:
        self.results, self.clips, self.folder, self.folders = results, clips, folder, folders

    def masks(self, clip: Clip, t: int) -> list[Integer[np.ndarray, "_ _"]]:
        """Return the masks of a frame: the ground truth, then each encoder's prediction."""
        found = [
            read_prediction(prediction_file(self.folder, self.folders[one.name], clip.frame(t))) for one in self.results
        ]
        return [self.clips.filed(clip.mask(t)), *found]

    def panels(self, clip: Clip, t: int, side: int) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Return the frame overlaid with each of its masks, `side` pixels wide."""
        image = clip.image(t)
        background = None if self.clips.classes else 0
        return [_small(tinted(image, mask, background), side) for mask in self.masks(clip, t)]

    def strip(self, clip: Clip, text: str) -> Figure:
        """Draw a row for the ground truth and for each encoder, and a column for each time."""
        times = np.linspace(0, len(clip) - 1, min(TIMES, len(clip))).round().astype(int).tolist()
        columns = [self.panels(clip, t, SIDE) for t in times]
        rows = []
        for i, name in enumerate(["truth", *(self._title(one, clip) for one in self.results)]):
            titles = [name, *(f"frame {t}" for t in times[1:])]
            rows.append([(column[i], title) for column, title in zip(columns, titles, strict=True)])
        path = self.folder / ".strip.jpg"  # JPEG: these are photographs, and a PNG is ten times larger
        caption = (
            f"{clip.name}{f' ({text})' if text else ''}: ground truth and the masks of every encoder in frames "
            f"{', '.join(map(str, times))}; the first mask is given"
        )
        try:
            image = draw.panel(rows, path).read_bytes()
        finally:
            path.unlink(missing_ok=True)
        return Figure(image=image, caption=caption, alt=caption, wide=True)

    def _title(self, result: ClipResult, clip: Clip) -> str:
        name = result.name if len(result.name) <= LONG else f"…{result.name[1 - LONG :]}"
        if self.clips.classes:
            return name
        score = result.scores[[one.name for one in self.clips.clips].index(clip.name)]
        return f"{name}\nJ&F {50 * float(score.j.mean() + score.f.mean()):.1f} %"

    def moving(self, clip: Clip) -> Figure:
        """Draw the ground truth and all encoders side by side through the clip, as a GIF of at most a few megabytes."""
        times = np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int).tolist()
        names = ["truth", *(one.name for one in self.results)]
        height, width = clip.size
        room = (PIXELS / (len(times) * len(names)) * width / height) ** 0.5
        side = int(np.clip(room, *SIDES)) // 2 * 2
        frames = [_grid(self.panels(clip, t, side), names) for t in times]
        caption = f"{clip.name}: {', '.join(names)}, row by row; {len(times)} of {len(clip)} frames"
        return Figure(image=animate(frames, fps=6, kind="gif"), caption=caption, alt=caption, wide=True)


def tinted(
    image: UInt8[np.ndarray, "H W 3"], mask: Integer[np.ndarray, "H W"], background: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Tint the picture with the colours of the labels. Void pixels keep the picture. With a `background`, its pixels
    keep the picture too, and white outlines surround the objects."""
    plain = mask == VOID if background is None else (mask == VOID) | (mask == background)
    mixed = ((1 - BLEND) * image + BLEND * colour_map()[mask.astype(np.int64)]).astype(np.uint8)
    found = np.where(plain[..., None], image, mixed)
    if background is not None:  # class maps have many small regions, which outlines would hide
        edges = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        found[edges] = 255
    return found


def _small(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = image.shape[:2]
    if width <= side:
        return image
    return cv2.resize(image, (side, max(1, round(height * side / width))), interpolation=cv2.INTER_AREA)


def _grid(panels: Sequence[np.ndarray], names: Sequence[str]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Arrange the panels in rows of up to three, each below its name."""
    columns = min(3, len(panels))
    titled = [np.concatenate([_title(name, one.shape[1]), one]) for one, name in zip(panels, names, strict=True)]
    titled += [np.full_like(titled[0], 255)] * (-len(titled) % columns)
    rows = [np.concatenate(titled[i : i + columns], 1) for i in range(0, len(titled), columns)]
    return np.concatenate(rows)


def _title(name: str, width: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Draw the name in black on white, as large as fits."""
    text = name.encode("ascii", "replace").decode()
    bar = np.full((TITLE, width, 3), 255, np.uint8)
    (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    size = min(0.4, 0.4 * (width - 4) / max(length, 1))
    cv2.putText(bar, text, (2, TITLE - 4), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    return bar
