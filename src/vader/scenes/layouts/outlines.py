"""Convert masks to outlines that give exactly the same mask.

Legend: H W pixels; h w those of the box of a piece.
"""

import cv2
import numpy as np
from jaxtyping import Bool

Corner = tuple[int, int]  # (x, y)
Loop = list[Corner]  # in order; the first is not repeated at the end


def pieces(mask: Bool[np.ndarray, "H W"]) -> list[tuple[Bool[np.ndarray, "h w"], Corner]]:
    """Return the parts of a mask that are connected by edges of pixels, each cropped, with its corner's position."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    found = []
    for label in range(1, count):
        x, y, w, h = (int(number) for number in boxes[label, :4])
        found.append((labels[y : y + h, x : x + w] == label, (x, y)))
    return found


def polygons(mask: Bool[np.ndarray, "H W"]) -> list[Loop]:
    """Return one outline for each piece along the edges of its pixels: corners are integers from 0 to W and 0 to H.

    A hole is joined to the outline by a slit of zero width, so filling the polygon by the even-odd or the winding rule,
    as COCO's tools do, gives exactly the mask. (Outlines through pixel centres, as in OpenCV's contours, lose half a
    pixel on each side: a fifth of an object ten pixels wide.)
    """
    return [[(x + left, y + top) for x, y in _joined(_loops(piece))] for piece, (left, top) in pieces(mask)]


def traced(piece: Bool[np.ndarray, "h w"]) -> Loop:
    """Return the outer outline of one piece through the centres of its border pixels, with holes filled and at least
    three corners.

    Corners are pixel indices, for tools that count the outline as inside (Pillow's `ImageDraw.polygon`).
    """
    (contour, *others), _ = cv2.findContours(piece.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert not others, "expected one piece"
    corners = [(int(x), int(y)) for x, y in contour[:, 0]]
    return corners + corners[-1:] * (3 - len(corners))


def _edges(piece: Bool[np.ndarray, "h w"]) -> dict[Corner, list[Corner]]:
    """Map the start of each edge between inside and outside to its directions, with the inside on the right."""
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
    """Return a piece's outlines along its pixels' edges, corners only: first the outer one, then those of the holes."""
    ahead, loops = _edges(piece), []
    while ahead:
        # Start at the leftmost point: in the first round it is on the outer outline, and pixels never touch there.
        start = here = min(ahead)
        way = ahead[here][0]
        loop: Loop = []
        while not loop or here != start:
            ways, before = ahead[here], way
            # At touching corners turn right to stay with this pixel; the other pixel has its own outline.
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
    """Join an outer outline and its holes to one polygon by slits from each hole to the nearest corner."""
    polygon, *holes = loops
    for hole in holes:
        x, y = hole[0]
        near = min(range(len(polygon)), key=lambda i: (polygon[i][0] - x) ** 2 + (polygon[i][1] - y) ** 2)
        polygon = [*polygon[: near + 1], *hole, hole[0], *polygon[near:]]
    return polygon
