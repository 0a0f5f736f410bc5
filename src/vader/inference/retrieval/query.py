"""Find the images with the pixels most similar to points or boxes of a picture, and where they are.

Axes: D embedding, h w cells, N points. Points and boxes are in pixels of the picture's file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float32

from vader.errors import BadInput, UnreadableImage
from vader.images.geometry import cell_centres, inside, read_at
from vader.images.pictures import MIN_SIDE, Picture, read_picture
from vader.inference.retrieval.index import Index
from vader.inference.retrieval.models import Model
from vader.reports import draw

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
MARK = (255, 75, 62)


@dataclass(frozen=True)
class Hit:
    """An image: its highest similarity, where it is (in the file's pixels), its picture and its map of similarities."""

    name: str
    score: float
    at: Point
    picture: Picture
    heat: Float32[np.ndarray, "h w"]
    stride: int  # of `heat`, in pixels of the picture

    def as_json(self) -> dict[str, Any]:
        """Return name, similarity and position."""
        return {
            "image": self.name,
            "similarity": round(self.score, 4),
            "x": round(self.at[0], 1),
            "y": round(self.at[1], 1),
        }


@dataclass(frozen=True)
class Answer:
    """The query and the hits, best first; `own` is the query's own picture. `ms` is the time of the search only."""

    own: Hit
    points: tuple[Point, ...]
    boxes: tuple[Box, ...]
    hits: tuple[Hit, ...]
    ms: float


def find(
    index: Index, model: Model, image: Path, points: Sequence[Point], boxes: Sequence[Box] = (), top: int = 8
) -> Answer:
    """Find the `top` images of the index with the pixels most similar to points and boxes of `image`.

    Several points and boxes are averaged. An image is ranked by its best cell; the query picture, if it belongs to the
    collection, is left out. Raises BadInput for no point, a point outside the picture, a file that is not a picture,
    and a picture below 32 px, which is too small for an encoder.
    """
    try:
        picture = read_picture(image, index.manifest["settings"]["size"])
    except UnreadableImage as error:
        raise BadInput(f"{error}; expected a query picture") from None
    if min(picture.original) < MIN_SIDE:
        width, height = picture.original
        raise BadInput(
            f"{image}: expected a query picture of at least {MIN_SIDE} px a side, found {width}x{height}; "
            "give a larger one"
        )
    stride = int(model.identity["stride"])
    own = model.map_of(picture.pixels)
    vector = query_vector(own, stride, picture, points, boxes)
    since = time.perf_counter()
    found = index.nearest_images(vector, top, index.number_of(image))
    ms = 1e3 * (time.perf_counter() - since)
    hits = []
    for i, _ in found:
        cells, apart = index.map_of(i, model)
        hits.append(_hit(index.rows[i].name, index.picture(i), cells @ vector, apart))
    hits.sort(key=lambda hit: -hit.score)
    itself = _hit(image.name, picture, own @ vector, stride)
    return Answer(itself, tuple(points), tuple(boxes), tuple(hits), ms)


def query_vector(
    cells: Float32[np.ndarray, "h w D"], stride: int, picture: Picture, points: Sequence[Point], boxes: Sequence[Box]
) -> Float32[np.ndarray, "D"]:
    """Return the normalised mean of the query: the map at points, and the mean of the cells inside boxes.

    Points are read bilinearly. A box that contains no cell centre counts as its middle.
    """
    if not (points or boxes):
        raise BadInput("expected a point or a box to search for, found none; give --at X,Y or --box X0,Y0,X1,Y1")
    asked = [_at(cells, stride, picture, point) for point in points]
    h, w, dim = cells.shape
    for box in boxes:
        _check_box(box, picture)
        corner, size = picture.to_seen(*box[:2]), picture.to_seen(box[2] - box[0], box[3] - box[1])
        within = inside(cell_centres(h, w, stride) - np.array(corner), *size)
        if within.any():
            asked.append(cells.reshape(h * w, dim)[within].mean(0))
        else:
            asked.append(_at(cells, stride, picture, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)))
    mean = np.mean(asked, axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)


def _at(cells: np.ndarray, stride: int, picture: Picture, point: Point) -> np.ndarray:
    x, y = point
    width, height = picture.original
    if not (0 <= x <= width and 0 <= y <= height):
        raise BadInput(f"--at: expected a point in {width}x{height} px, found {x:g},{y:g}")
    maps = torch.from_numpy(cells).permute(2, 0, 1)[None]
    place = torch.tensor([[picture.to_seen(x, y)]], dtype=torch.float32)
    found = read_at(maps, place, stride)[0, 0].numpy()
    return found / max(float(np.linalg.norm(found)), 1e-9)


def _check_box(box: Box, picture: Picture) -> None:
    left, top, right, bottom = box
    width, height = picture.original
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        came = ",".join(f"{v:g}" for v in box)
        raise BadInput(f"--box: expected left,top,right,bottom within {width}x{height} px, found {came}")


def _hit(name: str, picture: Picture, heat: np.ndarray, stride: int) -> Hit:
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    height, width = picture.pixels.shape[:2]
    seen = (min((column + 0.5) * stride, width), min((row + 0.5) * stride, height))
    return Hit(name, float(heat.max()), picture.to_file(*seen), picture, heat.astype(np.float32), stride)


def draw_answer(answer: Answer, path: Path) -> Path:
    """Draw the query with its points and boxes, and each hit above its map of similarities."""
    picture = answer.own.picture
    marked = picture.pixels.copy()
    for box in answer.boxes:
        corners = [tuple(round(v) for v in picture.to_seen(*corner)) for corner in (box[:2], box[2:])]
        cv2.rectangle(marked, corners[0], corners[1], MARK, 2)
    for point in answer.points[1:]:  # the first is drawn over the picture
        x, y = picture.to_seen(*point)
        cv2.drawMarker(marked, (round(x), round(y)), MARK, cv2.MARKER_CROSS, 24, 3)
    if answer.points:
        first = answer.points[0]
    else:
        left, top, right, bottom = answer.boxes[0]
        first = ((left + right) / 2, (top + bottom) / 2)
    shown = [(picture.pixels, answer.own.heat, answer.own.stride, picture.to_seen(*answer.own.at), "itself")]
    for hit in answer.hits:
        label = f"{Path(hit.name).name} {hit.score:.2f}"
        shown.append((hit.picture.pixels, hit.heat, hit.stride, hit.picture.to_seen(*hit.at), label))
    asked = [f"({x:.0f}, {y:.0f})" for x, y in answer.points]
    asked += [f"[{','.join(f'{v:.0f}' for v in box)}]" for box in answer.boxes]
    title = f"most similar pixels to {answer.own.name} at {' + '.join(asked)}"
    return draw.similar(marked, picture.to_seen(*first), shown, path, title)
