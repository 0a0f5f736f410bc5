"""Draw the pictures of the demo's report: scenes, curves, PCA colours, matches, similarity maps, a propagated clip."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scene_exams import ANGLE_NAMES, Sets, carried, images_of

from vader.encoders import DenseEncoder
from vader.encoders.features import extract
from vader.exams.pairs import query_cells
from vader.images.animate import animate
from vader.images.geometry import cell_centres, read_cells
from vader.inference.show import pca_colours
from vader.reports import draw
from vader.reports.report import Figure, Group

PALETTE = np.array([(0, 0, 0), (230, 60, 50), (40, 170, 80), (60, 110, 230), (240, 180, 40), (170, 70, 200),
                    (40, 190, 200), (250, 120, 180), (140, 140, 60), (120, 80, 40)], dtype=np.uint8)  # fmt: skip
TRAINED = ("MoCo, hypercolumn", "VADeR")


def groups(
    sets: Sets, encoders: dict[str, DenseEncoder], runs: dict[str, Path], scores: dict[str, list[dict[str, Any]]],
    folder: Path,
) -> tuple[Group, ...]:  # fmt: skip
    """All figures, made into FOLDER/pictures."""
    out = folder / "pictures"
    rows = [[(frame.image, "") for frame in sets.test[i : i + 6]] for i in (0, 6)]
    shown = {name: encoders[name] for name in ("random, hypercolumn", *TRAINED)}
    return (
        Group(title="What they learned from, and how", width=420, figures=(
            Figure(image=draw.panel(rows, out / "scenes.png"), caption="Scenes of the exams"),
            *(Figure(image=run / "pictures" / "curves.png", caption=f"Training: {name}") for name, run in runs.items()),
        )),
        Group(title="Correspondence", width=420, figures=(
            Figure(image=angles(scores, out / "angles.png"), caption="Found within 4 px, by angle between the cameras"),
            *(Figure(image=matches(encoder, sets, out / f"matches-{i}.png"), caption=f"Matches of {name}")
              for i, (name, encoder) in enumerate(shown.items())),
        )),
        Group(title="Similarity to one point", width=420, figures=tuple(
            Figure(image=similar(encoder, sets, out / f"similar-{i}.png"), caption=name)
            for i, (name, encoder) in enumerate(shown.items())
        )),
        Group(title="Embeddings as colours", width=800, figures=(
            Figure(image=pca(shown, sets, out / "pca.png"), wide=True,
                   caption="First three principal components as RGB, one basis a row"),
        )),
        Group(title="Masks of the first frame, propagated", width=800, figures=(
            Figure(image=clip(encoders, sets), wide=True, caption="Truth, then each encoder"),
        )),
    )  # fmt: skip


def angles(scores: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """Bars by angle, one colour an encoder."""
    series = {}
    for name, one in scores.items():
        values = np.array([s["match_by_angle"] for s in one], dtype=float)
        series[name] = (values.mean(0).tolist(), values.std(0, ddof=1).tolist() if len(values) > 1 else None)
    floors = {"chance": float(np.mean([s["match"] for s in scores["no features"]]))}
    del series["no features"]
    return draw.bars_by_group(ANGLE_NAMES, series, path, axis="share within 4 px", floors=floors)


def matches(encoder: DenseEncoder, sets: Sets, path: Path, lines: int = 24) -> Path:
    """Two pairs of viewpoints with their matches; green within 4 px of the truth."""
    drawn = []
    chosen = [pair for pair in sets.pairs if 10 < pair.angle < 50 and pair.visible.mean() > 0.3][:2]
    for number, pair in enumerate(chosen):
        first, second = extract(encoder, [pair.first.image, pair.second.image], embed=True)
        cells, points = query_cells(pair.points, pair.visible, encoder.stride)
        picked = np.random.default_rng(number).permutation(len(cells))[:lines]
        rows = read_cells(first[None], torch.from_numpy(cells[picked])[None])[0]
        centres = cell_centres(second.shape[1], second.shape[2], encoder.stride)
        found = centres[(rows @ second.flatten(1)).argmax(1).numpy()]
        good = np.linalg.norm(found - points[picked], axis=1) <= 4
        here = cell_centres(first.shape[1], first.shape[2], encoder.stride)[cells[picked]]
        drawn.append((pair.first.image, pair.second.image, here, found, good))
    return draw.matches(drawn, path)


def similar(encoder: DenseEncoder, sets: Sets, path: Path, count: int = 4) -> Path:
    """A point on the largest object of a scene, and the four other scenes with the most similar point."""
    frame = max(sets.test, key=lambda f: np.bincount(f.instances.ravel())[1:].max(initial=0))
    number = np.bincount(frame.instances.ravel())[1:].argmax() + 1
    inside = cv2.distanceTransform((frame.instances == number).astype(np.uint8), cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    others = [one for one in sets.test if one is not frame]
    query, *maps = extract(encoder, images_of([frame, *others]), embed=True)
    vector = query[:, int(row) // 4, int(column) // 4]
    heats = [torch.einsum("d,dhw->hw", vector, one) for one in maps]
    order = np.argsort([-float(heat.max()) for heat in heats])[:count]
    own = torch.einsum("d,dhw->hw", vector, query).numpy()
    found = [(frame.image, own, 4, (column + 0.5, row + 0.5), "itself")]
    for i in order:
        best = int(heats[i].argmax())
        at = ((best % heats[i].shape[1] + 0.5) * 4, (best // heats[i].shape[1] + 0.5) * 4)
        found.append((others[i].image, heats[i].numpy(), 4, at, f"{float(heats[i].max()):.2f}"))
    return draw.similar(frame.image, (column + 0.5, row + 0.5), found, path)


def pca(encoders: dict[str, DenseEncoder], sets: Sets, path: Path, count: int = 6) -> Path:
    """A row of pictures, then a row of colours an encoder."""
    frames = sets.test[:count]
    rows = [[(frame.image, "") for frame in frames]]
    for name, encoder in encoders.items():
        colours = pca_colours(extract(encoder, images_of(frames), embed=True))
        rows.append([(colour, name if i == 0 else "") for i, colour in enumerate(colours)])
    return draw.panel(rows, path)


def clip(encoders: dict[str, DenseEncoder], sets: Sets) -> bytes:
    """A clip with the masks laid over: truth and encoders side by side."""
    frames = max(sets.clips, key=lambda one: np.ptp([(f.instances > 0).mean() for f in one]))
    truth = np.stack([frame.instances for frame in frames])
    columns = {"truth": truth} | {name: carried(encoder, frames, sets.counts) for name, encoder in encoders.items()}
    images = []
    for t, frame in enumerate(frames):
        panels = [overlay(frame.image, masks[t], name) for name, masks in columns.items()]
        images.append(np.vstack([np.hstack(panels[:3]), np.hstack(panels[3:6])]))
    return animate(images, fps=6)


def overlay(image: np.ndarray, mask: np.ndarray, name: str, scale: int = 2) -> np.ndarray:
    """The picture with its objects tinted, twice as large, its name above."""
    tinted = np.where(mask[..., None] > 0, image // 2 + PALETTE[mask % len(PALETTE)] // 2, image).astype(np.uint8)
    large = cv2.resize(tinted, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    full = cv2.copyMakeBorder(large, 18, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(full, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return full
