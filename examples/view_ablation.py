"""Repeat the paper's Table 3 at a small scale: how the two views of a pair must be related.

    python examples/view_ablation.py FOLDER [--steps 300] [--seeds 3]

It trains VADeR on rendered scenes with `different` views (the method), the `same` view twice (with different colours),
and `unmatched` pixels (of the same image, but not the same point). Each run is evaluated with linear segmentation and
propagation. FOLDER receives the runs and `report.json`, `.md` and `.html`. A run of 300 steps takes about two minutes
on two cores.
"""

import argparse
import json
import time
from pathlib import Path

from demo import COLUMNS, IMAGES, SETTINGS, SIDE, check, claim, vader
from scene_exams import SMALL, Counts, evaluate_on, make_sets, nothing, propagation

from vader.encoders import fresh_encoder, open_encoder
from vader.models.network import NetworkConfig
from vader.reports.provenance import describe
from vader.reports.report import Claim, Report, write
from vader.reports.tables import Cell, Row, Table, to_markdown
from vader.scenes.world import SceneConfig

PAPER = {"unmatched": (32.4, 9.8), "same": (48.0, 46.7), "different": (56.7, 52.4)}  # VOC mIoU, DAVIS J
SCORES = ("miou", "j")
# The table is about the paper's loss: its points, all enqueued, negatives from other images alone.
PAPERS = ("--queue", 4096, "--set", "points=32", "--set", "enqueue=all", "--set", "within_image=none")
Found = dict[str, list[dict]]  # by views, one a seed


def train(folder: Path, views: str, seed: int, steps: int) -> Path:
    """One run, the paper's loss."""
    run = folder / f"{views}-{seed}"
    vader("pretrain", folder / "images", "--out", run, "--views", views, "--seed", seed, "--steps", steps, "--quiet",
          "--workers", 0, *SETTINGS, *PAPERS)  # fmt: skip
    return run


def table_of(found: Found) -> Table:
    """A row for each kind of views."""
    rows = [
        Row(
            name=name,
            note=f"paper, VOC and DAVIS: {PAPER[name][0]}, {PAPER[name][1]}" if name in PAPER else "",
            ours=name == "different",
            reference=name not in PAPER,
            cells=tuple(Cell.of([s[key] for s in one]) for key in SCORES),
        )
        for name, one in found.items()
    ]
    return Table(
        title="Views of a pair, on scenes", subject="views", columns=tuple(COLUMNS[key] for key in SCORES),
        rows=tuple(rows),
    )  # fmt: skip


def verdicts(found: Found) -> tuple[Claim, ...]:
    """Whether the paper's order holds, in every seed."""
    told = []
    for key in SCORES:
        for better, worse in (("different", "same"), ("same", "unmatched")):
            ours, theirs = ([s[key] for s in found[name]] for name in (better, worse))
            leads = [a > b for a, b in zip(ours, theirs, strict=True)]
            told.append(
                Claim(
                    statement=f"{COLUMNS[key].name}: {better} views lead {worse}",
                    holds=all(leads),
                    evidence=f"{sum(ours) / len(ours):.3f} against {sum(theirs) / len(theirs):.3f}; "
                    f"{sum(leads)} of {len(leads)} seeds",
                )
            )
    return tuple(told)


def main() -> None:
    """Make scenes, nine runs, two evaluations of each, and a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--small", action="store_true", help="tiny exams, to test the script")
    a = parser.parse_args()
    started = time.monotonic()
    check(steps=a.steps, seeds=a.seeds, images=a.images)
    claim(a.folder)
    vader("scenes", a.folder / "images", "--layout", "images", "--count", a.images, "--size", f"{SIDE}x{SIDE}",
          "--workers", 2)  # fmt: skip
    counts = SMALL if a.small else Counts()
    sets = make_sets(counts, SceneConfig(), workers=2)
    found: Found = {"no features": [nothing(sets, 0)], "not trained": [], **{name: [] for name in PAPER}}
    for seed in range(a.seeds):
        for name in PAPER:
            run = train(a.folder, name, seed, a.steps)
            encoder = open_encoder(str(run))
            found[name].append(evaluate_on(encoder, sets, seed))
            print(f"{name} {seed}: " + ", ".join(f"{key} {found[name][-1][key]:.3f}" for key in SCORES), flush=True)
        dense = NetworkConfig.model_validate(json.loads((run / "config.json").read_text())["network"])
        found["not trained"].append(evaluate_on(fresh_encoder(dense, "not trained", seed), sets, seed))
    facts = describe(
        protocol={"exams": vars(counts), "training": " ".join(map(str, (*SETTINGS, *PAPERS))), "steps": a.steps,
                  "images": a.images, "image side": SIDE, "propagation": vars(propagation(counts))},
        data={"exams": sets.fingerprint}, seeds=range(a.seeds), started=started,
    )  # fmt: skip
    report = Report(
        title="What the views of a pair must have in common",
        lead=(f"VADeR was trained for {a.steps} steps on {a.images} rendered pictures with each kind of views.",),
        tables=(table_of(found),), verdicts=verdicts(found), facts=facts | {"scores": found},
    )  # fmt: skip
    page = write(report, a.folder)
    print("\n" + to_markdown(report.tables[0]))
    for verdict in report.verdicts:
        print(f"{'yes' if verdict.holds else 'NO '}  {verdict.statement}: {verdict.evidence}")
    print(f"\nReport: {page}")


if __name__ == "__main__":
    main()
