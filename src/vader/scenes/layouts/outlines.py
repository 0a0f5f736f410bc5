"""Masks -> outlines that give exactly the mask back.

Legend: H W pixels; h w those of a piece's box.
"""

import cv2
import numpy as np
from jaxtyping import Bool

Corner = tuple[int, int]  # (x, y)
Loop = list[Corner]  # in turn; the first is not repeated


def pieces(mask: Bool[np.ndarray, "H W"]) -> list[tuple[Bool[np.ndarray, "h w"], Corner]]:
    """The parts of a mask that hang together by the edges of pixels, each cut out, and where its corner lay."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    found = []
    for label in range(1, count):
        x, y, w, h = (int(number) for number in boxes[label, :4])
        found.append((labels[y : y + h, x : x + w] == label, (x, y)))
    return found


def polygons(mask: Bool[np.ndarray, "H W"]) -> list[Loop]:
    """One outline a piece, along the edges of its pixels: corners are whole numbers from 0 to W and 0 to H.

    A hole is joined to the outline by a slit of no width, so that whoever fills the polygon by the even-odd or the
    winding rule, COCO's tools among them, gets the very mask. (Through the pixels' centres, as OpenCV's contours run,
    half a pixel would be lost all around: a fifth of an object ten pixels wide.)
    """
    return [[(x + left, y + top) for x, y in _joined(_loops(piece))] for piece, (left, top) in pieces(mask)]


def traced(piece: Bool[np.ndarray, "h w"]) -> Loop:
    """The outer outline of one piece through its outermost pixels' centres, holes filled; three corners at least.

    Corners are pixel indices, for those who count the outline as inside (Pillow's `ImageDraw.polygon`).
    """
    (contour, *others), _ = cv2.findContours(piece.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert not others, "it is one piece"
    corners = [(int(x), int(y)) for x, y in contour[:, 0]]
    return corners + corners[-1:] * (3 - len(corners))


def _edges(piece: Bool[np.ndarray, "h w"]) -> dict[Corner, list[Corner]]:
    """Where each edge between inside and outside starts -> its directions, such that inside is on the right hand."""
    padded = np.pad(piece, 1)
    inside = padded[1:-1, 1:-1]
    ahead: dict[Corner, list[Corner]] = {}
    for way, neighbour, (right, down) in (
        ((1, 0), padded[:-2, 1:-1], (0, 0)),  # along the upper edge, from the pixel's upper left corner
        ((0, 1), padded[1:-1, 2:], (1, 0)),
        ((-1, 0), padded[2:, 1:-1], (1, 1)),
        ((0, -1), padded[1:-1, :-2], (0, 1)),
    ):
        rows, columns = np.nonzero(inside & ~neighbour)
        for start in zip((columns + right).tolist(), (rows + down).tolist(), strict=True):
            ahead.setdefault(start, []).append(way)
    return ahead


def _loops(piece: Bool[np.ndarray, "h w"]) -> list[Loop]:
    """A piece's outlines along its pixels' edges, corners only: first the outer one, then the holes'."""
    ahead, loops = _edges(piece), []
    while ahead:
        # The leftmost point: at the first turn it is on the outer outline, and never one where two pixels touch.
        start = here = min(ahead)
        way = ahead[here][0]
        loop: Loop = []
        while not loop or here != start:
            ways, before = ahead[here], way
            # Where only corners touch, turn right and so stay with this pixel: the other's turn comes later.
            way = ways[0] if len(ways) == 1 else (-before[1], before[0])
            ways.remove(way)
            if not ways:
                del ahead[here]
            if way != before or not loop:
                loop.append(here)
            here = (here[0] + way[0], here[1] + way[1])
        loops.append(loop)
    return loops


def _joined(loops: list[Loop]) -> Loop:
    """One polygon of an outer outline and its holes', joined by slits from each hole to the nearest corner."""
    polygon, *holes = loops
    for hole in holes:
        x, y = hole[0]
        near = min(range(len(polygon)), key=lambda i: (polygon[i][0] - x) ** 2 + (polygon[i][1] - y) ** 2)
        polygon = [*polygon[: near + 1], *hole, hole[0], *polygon[near:]]
    return polygon
