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


def depth_errors(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> tuple[float, float, float]:
    """RMSE, mean |error| / truth, and the share with max(truth / pred, pred / truth) below 1.25."""
    squares, relative, close = [], [], []
    for p, t, counted in zip(pred.ravel(), truth.ravel(), valid.ravel(), strict=True):
        if counted:
            squares.append((p - t) ** 2)
            relative.append(abs(p - t) / t)
            close.append(max(t / p, p / t) < 1.25)
    n = len(squares)
    return math.sqrt(sum(squares) / n), sum(relative) / n, sum(close) / n


def boundary(mask: np.ndarray) -> np.ndarray:
    """DAVIS: a pixel is on the boundary if its right, lower or lower-right neighbour in the picture is not like it."""
    H, W = mask.shape
    result = np.zeros((H, W), dtype=bool)
    for i in range(H):
        for j in range(W):
            for y, x in ((i, j + 1), (i + 1, j), (i + 1, j + 1)):
                if y < H and x < W and mask[y, x] != mask[i, j]:
                    result[i, j] = True
    return result


def boundary_f(pred: np.ndarray, truth: np.ndarray, share: float) -> float:
    """DAVIS's F by distances between boundary pixels, instead of by dilation."""
    radius = math.ceil(share * math.sqrt(pred.shape[0] ** 2 + pred.shape[1] ** 2))
    ours, theirs = np.argwhere(boundary(pred)), np.argwhere(boundary(truth))
    if len(ours) == 0 or len(theirs) == 0:
        return 1.0 if len(ours) == len(theirs) else 0.0
    squared = ((ours[:, None] - theirs[None]) ** 2).sum(2)
    precision = (squared.min(1) <= radius**2).mean()
    recall = (squared.min(0) <= radius**2).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def propagate(
    maps: np.ndarray, labels: np.ndarray, context: int, k: int, temperature: float, radius: float, disk: bool,
    restrict_first: bool,
) -> np.ndarray:  # fmt: skip
    """Labels (h, w, O) of the first of the maps (T, D, h, w), carried on cell by cell; `radius` in cells."""
    T, _, h, w = maps.shape
    carried = [labels.astype(np.float64)]
    for t in range(1, T):
        here = np.zeros_like(carried[0])
        frames = sorted({0} | set(range(max(0, t - context), t)))
        for i in range(h):
            for j in range(w):
                found = []
                for frame in frames:
                    for y in range(h):
                        for x in range(w):
                            far = math.hypot(y - i, x - j) if disk else max(abs(y - i), abs(x - j))
                            if far > radius and (frame > 0 or restrict_first):
                                continue
                            likeness = sum(a * b for a, b in zip(maps[t, :, i, j], maps[frame, :, y, x], strict=True))
                            found.append((float(likeness), frame, y, x))
                found = sorted(found, reverse=True)[:k]
                weights = [math.exp(likeness / temperature) for likeness, *_ in found]
                for weight, (_, frame, y, x) in zip(weights, found, strict=True):
                    here[i, j] += weight / sum(weights) * carried[frame][y, x]
        carried.append(here)
    return np.stack(carried)
