"""Slow, obvious versions of what the package computes, written from the definitions alone.

Nothing here may call the function that it is there to check. Points are (x, y) in pixels; the centre of pixel (column
j, row i) is (j + 0.5, i + 0.5).
"""

import math

import numpy as np


def equation_2(
    queries: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    temperature: float,
    factor: float = 1.0,
    query_image: np.ndarray | None = None,
    negative_image: np.ndarray | None = None,
    within: np.ndarray | None = None,
) -> dict[str, float]:
    """Section 3.1, equation 2, one query after another; also the loss at chance, the accuracy and the alignment."""
    losses, chances, hits, gaps = [], [], [], []
    points = within.shape[1] if within is not None else 1
    for i, query in enumerate(queries):
        against = []
        for j, negative in enumerate(negatives):
            if query_image is not None and query_image[i] == negative_image[j]:
                continue
            against.append(sum(a * b for a, b in zip(query, negative, strict=True)) / temperature)
        if within is not None:
            image = i // points
            for j in range(points):
                if within[image, i % points, j]:
                    other = positives[image * points + j]
                    against.append(sum(a * b for a, b in zip(query, other, strict=True)) / temperature)
        own = sum(a * b for a, b in zip(query, positives[i], strict=True)) / temperature
        top = max([own, *against])
        losses.append(math.log(sum(math.exp(x - top) for x in [own, *against])) + top - own)
        chances.append(math.log(1 + len(against)))
        hits.append(all(own > x for x in against))
        gaps.append(sum((a - b) ** 2 for a, b in zip(query, positives[i], strict=True)))
    N = len(queries)
    return {
        "loss": factor * sum(losses) / N,
        "chance": factor * sum(chances) / N,
        "accuracy": sum(hits) / N,
        "alignment": sum(gaps) / N,
    }


def coordinate_image(width: int, height: int, beyond: int = 0) -> np.ndarray:
    """An image whose pixels say where they are: channels x, y (of the pixel's centre) and 0; float32.

    It can go on for some pixels `beyond` the image on every side, so that nothing outside looks like something inside.
    """
    image = np.zeros((height + 2 * beyond, width + 2 * beyond, 3), dtype=np.float32)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            image[row, column, :2] = column - beyond + 0.5, row - beyond + 0.5
    return image


def bilinear(array: np.ndarray, x: float, y: float) -> np.ndarray:
    """The (H, W, C) array read at a point, between the four pixel centres around it; edge pixels go on for ever."""
    H, W = array.shape[:2]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    result = np.zeros(array.shape[2])
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            result += weight * array[min(max(row, 0), H - 1), min(max(column, 0), W - 1)]
    return result


def match_by_search(
    first: np.ndarray, second: np.ndarray, stride: int, width: int, height: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Matches found by looking: two rendered coordinate images -> {cell of view 1: (its image point, point in view 2)}.

    For every cell of view 1 whose centre shows a point of the image, all pixels of view 2 are searched for the one
    that shows the nearest point; the place between pixels then follows from the differences to its neighbours (one
    Newton step on the pixels). Cells whose place is not within the pixel centres of view 2 have no entry.
    """
    size = first.shape[0]
    found = {}
    shown = second[..., :2].reshape(-1, 2).astype(np.float64)
    for row in range(size // stride):
        for column in range(size // stride):
            point = bilinear(first[..., :2], (column + 0.5) * stride, (row + 0.5) * stride)
            if not (0 <= point[0] <= width and 0 <= point[1] <= height):
                continue
            i, j = divmod(int(((shown - point) ** 2).sum(1).argmin()), size)
            if not (0 < i < size - 1 and 0 < j < size - 1):
                continue
            along_x = (second[i, j + 1, :2].astype(np.float64) - second[i, j - 1, :2]) / 2
            along_y = (second[i + 1, j, :2].astype(np.float64) - second[i - 1, j, :2]) / 2
            step = np.linalg.solve(np.stack([along_x, along_y], 1), point - second[i, j, :2])
            if np.abs(step).max() < 1:
                found[row * (size // stride) + column] = (point, np.array([j + 0.5, i + 0.5]) + step)
    return found


def effective_rank(rows: np.ndarray) -> float:
    """Roy & Vetterli 2007: exp of the entropy of the singular values, by way of the Gram matrix's eigenvalues."""
    values = [math.sqrt(max(x, 0.0)) for x in np.linalg.eigvalsh(rows.T.astype(np.float64) @ rows)]
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def pck(
    first: np.ndarray, second: np.ndarray, cells: np.ndarray, points: np.ndarray, stride: int, within: float
) -> float:
    """Share of the cells of map 1 (D, h, w) whose most similar cell of map 2 has its centre close to the true point."""
    hits = 0
    _, h, w = second.shape
    for cell, point in zip(cells, points, strict=True):
        query = first[:, cell // w, cell % w]
        best, centre = -math.inf, (0.0, 0.0)
        for row in range(h):
            for column in range(w):
                likeness = float((query * second[:, row, column]).sum())
                if likeness > best:
                    best, centre = likeness, ((column + 0.5) * stride, (row + 0.5) * stride)
        hits += math.dist(centre, point) <= within
    return hits / len(cells)
