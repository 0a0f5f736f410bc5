"""Find the best learning rate for the linear probes.

With each setting a probe is trained on four fifths of the train split and scored on the rest; the val split is not
used. The table has a row per encoder and a column per setting. The last row is the mean loss compared with each
encoder's best.

    python bench/sweep.py DATA --protocol voc-linear/vader rgb random:resnet10t ...
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vader.datasets.opening import open_labelled
from vader.encoders import fit, open_encoder
from vader.encoders.store import Budget, Maps, Store, encode, fill, parse_memory
from vader.exams.labelled import depth, segmentation
from vader.exams.labelled.linear import Pictures
from vader.exams.labelled.protocols import LinearDepth
from vader.exams.protocols import find_protocol
from vader.exams.results import mean_iou
from vader.reports.tables import Cell, Column, Row, Table, to_markdown
from vader.runtime.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--task", default="segmentation", choices=("segmentation", "depth"))
    parser.add_argument("--protocol", default="voc-linear/vader")
    parser.add_argument("--rates", type=float, nargs="+", default=segmentation.RATES)
    parser.add_argument("--steps", type=int, nargs="+", help="default: the protocol's")
    parser.add_argument("--seeds", type=int, default=3, help="splits, each with its own held-out fifth")
    parser.add_argument("--memory")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    protocol = find_protocol(a.task, a.protocol)
    train = open_labelled(protocol.data, a.data, "train")
    of_depth = isinstance(protocol, LinearDepth)
    columns, rows = [], []
    settings = [(steps, rate) for steps in a.steps or [protocol.probe.steps] for rate in a.rates]
    for steps, rate in settings:
        better = "lower" if of_depth else "higher"
        columns.append(Column(name=f"{steps} steps, {rate:g}", unit="m" if of_depth else "%", better=better, digits=2))
    for word in a.encoders:
        encoder = fit(open_encoder(word, a.device), Pictures(train))
        budget = Budget(parse_memory(a.memory))
        with Store(budget) as truths, Store(budget) as cells:
            progress = Progress(word, len(train), print)
            dtype = getattr(torch, protocol.features)
            fill(Maps(cells), truths, encode(encoder, train, dtype=dtype, progress=progress), of_depth)
            found: dict[tuple[int, float], list[float]] = {setting: [] for setting in settings}
            for steps in a.steps or [protocol.probe.steps]:
                config = replace(protocol.probe, steps=steps)
                for seed in range(a.seeds):
                    common = {"rates": a.rates, "stride": encoder.stride, "seed": seed, "config": config}
                    if of_depth:
                        scores = depth.sweep_probe(
                            Maps(cells), truths, farthest=protocol.farthest, device=a.device, **common
                        )
                        numbers = {rate: score.rmse for rate, score in scores.items()}
                    else:
                        classes = len(train.classes)
                        scores = segmentation.sweep_probe(Maps(cells), truths, classes, device=a.device, **common)
                        numbers = {
                            rate: 100 * float(mean_iou(score.counts.sum(0), train.scored))
                            for rate, score in scores.items()
                        }
                    for rate, number in numbers.items():
                        found[steps, rate].append(number)
        rows.append(Row(name=word, cells=tuple(Cell.of(found[setting]) for setting in settings)))
    means = np.array([[cell.mean for cell in row.cells] for row in rows], dtype=np.float64)
    best = means.min(1, keepdims=True) if of_depth else means.max(1, keepdims=True)
    lost = tuple(Cell.of(float(value)) for value in np.abs(means - best).mean(0))
    rows.append(Row(name="mean loss against each one's best", cells=lost, reference=True))
    title = f"{protocol.name}: rates on a held-out fifth of the train split"
    note = f"{'RMSE' if of_depth else 'Mean IoU'} of {len(train)} training pictures' held-out fifth."
    print(to_markdown(Table(title=title, subject="encoder", columns=tuple(columns), rows=tuple(rows), note=note)))


if __name__ == "__main__":
    main()
