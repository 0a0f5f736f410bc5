"""Render scenes, pretrain MoCo and VADeR at equal cost, and evaluate both, in a few minutes.

    python examples/demo.py FOLDER [--minutes 1.9] [--seeds 1] [--plain]

It needs no data and no GPU. FOLDER receives the images, the runs, `report.html` with the table and pictures, and
`report.json`. For your own photos use `examples/photos.py` or `vader pretrain --help`.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import IO

import torch
from scene_exams import (
    ANGLE_NAMES,
    SMALL,
    THRESHOLDS,
    Counts,
    Sets,
    evaluate_on,
    images_of,
    make_sets,
    nothing,
    propagation,
)
from scene_pictures import groups

from vader.encoders import DenseEncoder, fresh_encoder, open_encoder, reduce_by_pca
from vader.models.network import NetworkConfig
from vader.reports.provenance import describe
from vader.reports.report import Claim, Report, write
from vader.reports.tables import Cell, Column, Row, Table, to_markdown
from vader.scenes.world import SceneConfig

# 0.37 M parameters: four times the steps of a ResNet-10-t in the same minutes, and the minutes are few.
ENCODER = "test_resnet"
IMAGES, SIDE = 500, 128  # of pretraining
MINUTES = 1.9  # of training, both networks at once
MARK = ".vader-demo"  # in a folder that an earlier demo made, which a new one may replace
SETTINGS = ("--encoder", ENCODER, "--size", 64, "--set", "held_out=32", "--set", "exam_every=100")

COLUMNS = {
    "miou": Column(name="segmentation", unit="mIoU", better="higher", digits=3),
    "depth_rmse": Column(name="depth", unit="RMSE, m", better="lower", digits=3),
    "j": Column(name="propagation", unit="J", better="higher", digits=3),
    "match": Column(name="match", unit="within 4 px", better="higher", digits=3),
}
Scores = dict[str, list[dict]]  # of each encoder, one a seed


def vader(*words: object) -> None:
    """Run the command that a user would type, and show it; what it says of a failure is the last line but ours."""
    command = ["vader", *map(str, words)]
    print("$ " + " ".join(command), flush=True)
    done = subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=False)
    if done.returncode:
        sys.exit(f"demo: `vader {command[1]}` failed (exit code {done.returncode}); see above")


def vader_at_once(commands: dict[str, tuple[object, ...]]) -> None:
    """Run commands beside each other, each on its share of the cores; their lines begin with their names."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // len(commands) if hasattr(os, "sched_getaffinity") else 1))
    running = {}
    for name, words in commands.items():
        command = ["vader", *map(str, words)]
        print("$ " + " ".join(command), flush=True)
        running[name] = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": threads},
        )  # fmt: skip
    readers = [Thread(target=relay, args=(name, one.stdout), daemon=True) for name, one in running.items()]
    for reader in readers:
        reader.start()
    try:
        while None in (ends := [one.poll() for one in running.values()]) and not any(ends):
            time.sleep(0.1)
        for name, one in running.items():
            if one.returncode:
                sys.exit(f"demo: `vader {commands[name][0]}` of {name} failed (exit code {one.returncode}); see above")
    finally:
        for one in running.values():
            one.terminate()
            one.wait()
        for reader in readers:
            reader.join()


def relay(name: str, lines: IO[str]) -> None:
    """Print a command's lines as they come."""
    with lines:
        for line in lines:
            print(f"{name:5} | {line}", end="", flush=True)


def check(**numbers: float) -> None:
    """End with one line where a flag's number is not above 0."""
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            sys.exit(f"demo: --{name}: expected a number above 0, found {number:g}")


def claim(folder: Path) -> None:
    """Make an empty folder; a folder of an earlier demo is emptied, any other non-empty folder is refused."""
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
            sys.exit(f"demo: expected a new or empty folder, {folder} holds other things; choose another")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARK).touch()
    except OSError as error:
        sys.exit(f"demo: FOLDER: cannot write to {folder} ({error.strerror}); choose another place")


def train(folder: Path, seed: int, minutes: float) -> dict[str, Path]:
    """MoCo and VADeR on the same images for the same time, at once: a small network makes little of two cores."""
    runs = {name: folder / f"{name}-{seed}" for name in ("moco", "vader")}
    vader_at_once({
        name: ("pretrain", folder / "images", "--out", run, "--objective", name, "--minutes", minutes, "--seed", seed,
               "--workers", 0, *SETTINGS)
        for name, run in runs.items()
    })  # fmt: skip
    return runs


def contestants(runs: dict[str, Path], sets: Sets, seed: int) -> dict[str, DenseEncoder]:
    """Open the encoders to evaluate. Hypercolumns have 960 channels, reduced to VADeR's 128 on images of the probes.

    Random weights have two rows: as MoCo's hypercolumn and as VADeR's network, the models before training.
    """
    dense = NetworkConfig.model_validate(json.loads((runs["vader"] / "config.json").read_text())["network"])
    some = images_of(sets.train[:60])
    return {
        "raw colour": open_encoder("rgb"),
        "random, hypercolumn": reduce_by_pca(
            fresh_encoder(NetworkConfig(kind="image", encoder=ENCODER), "random", seed), some, dense.dim
        ),
        "random, VADeR's network": fresh_encoder(dense, "random-dense", seed),
        "MoCo, hypercolumn": reduce_by_pca(open_encoder(str(runs["moco"])), some, dense.dim),
        "VADeR": open_encoder(str(runs["vader"])),
    }


def examine(
    encoders: dict[str, DenseEncoder], sets: Sets, seed: int, plain: bool
) -> Iterator[tuple[str, dict[str, float | list[float]]]]:
    """Evaluate each encoder, two at a time, because an exam's steps are too small for all cores."""
    threads = max(1, torch.get_num_threads() // 2)
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        yield from zip(
            encoders, pool.map(lambda one: evaluate_on(one, sets, seed, plain), encoders.values()), strict=True
        )


def table_of(scores: Scores, channels: dict[str, int], title: str, columns: dict[str, Column]) -> Table:
    """Make the table: a row per encoder, a column per exam."""
    rows = [
        Row(
            name=name, note=f"{channels[name]} channels" if name in channels else "", ours=name == "VADeR",
            reference=name not in channels, cells=tuple(Cell.of([s[key] for s in one]) for key in columns),
        )
        for name, one in scores.items()
    ]  # fmt: skip
    return Table(title=title, subject="encoder", columns=tuple(columns.values()), rows=tuple(rows))


def angles_of(scores: Scores, channels: dict[str, int], threshold: int) -> Table:
    """Matches within THRESHOLDS[threshold] px by the angle between the cameras."""
    first = next(iter(scores.values()))[0]
    columns = [
        Column(name=f"{name} ({int(n)} pairs)", unit=f"within {THRESHOLDS[threshold]:g} px", better="higher", digits=3)
        for name, n in zip(ANGLE_NAMES, first["pairs_by_angle"], strict=True)
    ]
    rows = [
        Row(name=name, ours=name == "VADeR", reference=name not in channels,
            cells=tuple(Cell.of([s["match_within_by_angle"][i][threshold] for s in one]) for i in range(len(columns))))
        for name, one in scores.items()
    ]  # fmt: skip
    title = f"Matches within {THRESHOLDS[threshold]:g} px by angle between the cameras"
    return Table(title=title, subject="encoder", columns=tuple(columns), rows=tuple(rows))


def verdicts(scores: Scores) -> tuple[Claim, ...]:
    """Whether VADeR leads, in every seed."""
    told = []
    for key, column in COLUMNS.items():
        rivals = ["raw colour", "random, hypercolumn", "random, VADeR's network"]
        rivals += ["MoCo, hypercolumn"] if key in ("j", "match") else []
        ours = [s[key] for s in scores["VADeR"]]
        for rival in rivals:
            theirs = [s[key] for s in scores[rival]]
            leads = [a > b if column.better == "higher" else a < b for a, b in zip(ours, theirs, strict=True)]
            told.append(Claim(
                statement=f"{column.name}: VADeR leads {rival}", holds=all(leads),
                evidence=f"{sum(ours) / len(ours):.3f} against {sum(theirs) / len(theirs):.3f}; "
                f"{sum(leads)} of {len(leads)} seeds",
            ))  # fmt: skip
    return tuple(told)


def main() -> None:
    """Make scenes, two runs per seed, evaluations, and a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training, both networks at once")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--plain", action="store_true", help="repeat two exams with one exposure for all clips")
    parser.add_argument("--small", action="store_true", help="tiny exams, to test the script")
    a = parser.parse_args()
    started = time.monotonic()
    check(minutes=a.minutes, seeds=a.seeds, images=a.images)
    claim(a.folder)
    vader("scenes", a.folder / "images", "--layout", "images", "--count", a.images, "--size", f"{SIDE}x{SIDE}",
          "--workers", 2)  # fmt: skip
    counts = SMALL if a.small else Counts()
    print("rendering the exams' scenes", flush=True)
    sets = make_sets(counts, SceneConfig(), workers=2)
    scores: Scores = {"no features": []}
    channels: dict[str, int] = {}
    for seed in range(a.seeds):
        runs = train(a.folder, seed, a.minutes)
        scores["no features"].append(nothing(sets, seed))
        encoders = contestants(runs, sets, seed)
        for name, found in examine(encoders, sets, seed, a.plain):
            print(f"exams: {name}", flush=True)
            scores.setdefault(name, []).append(found)
            channels[name] = encoders[name].channels
    tables = [
        table_of(scores, channels, "Four exams on scenes that no encoder saw", COLUMNS),
        *(angles_of(scores, channels, i) for i in range(len(THRESHOLDS))),
    ]
    if a.plain:
        columns = {f"{key}_plain": COLUMNS[key] for key in ("j", "match")}
        title = "The same clips and pairs at one exposure: every surface keeps its colour"
        tables.append(table_of(scores, channels, title, columns))
    facts = describe(
        protocol={"exams": vars(counts), "training": " ".join(map(str, SETTINGS)), "minutes": a.minutes,
                  "images": a.images, "image side": SIDE, "propagation": vars(propagation(counts))},
        data={"exams": sets.fingerprint}, seeds=range(a.seeds), started=started,
    )  # fmt: skip
    report = Report(
        title="VADeR on rendered scenes",
        lead=(
            f"MoCo and VADeR were trained on the same {a.images} unlabelled pictures for {a.minutes:g} minutes, "
            "at once; then both, and what needs no training, sat four exams on scenes they had not seen.",
        ),
        tables=tuple(tables), verdicts=verdicts(scores), facts=facts | {"scores": scores},
        groups=groups(sets, contestants(runs, sets, a.seeds - 1), runs, scores, a.folder),
    )  # fmt: skip
    page = write(report, a.folder)
    print("\n" + to_markdown(tables[0]))
    for verdict in report.verdicts:
        print(f"{'yes' if verdict.holds else 'NO '}  {verdict.statement}: {verdict.evidence}")
    print(f"\nReport: {page}\nModel:  {runs['vader'] / 'model.safetensors'}\nTook {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
