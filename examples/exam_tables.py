"""Evaluate encoders with every exam whose data lie in one folder, and keep each exam's report.

The tables of frozen features and of correspondence in docs/results.md:

    python examples/exam_tables.py DATA OUT rgb random=random:resnet10t@hypercolumn vader=RUN [--only voc davis-dino]

DATA holds VOC2012, CamVid, rgbd/kitchen, DAVIS and animals in the layouts of `vader evaluate`; an exam whose folder is
not there is left out and named. OUT/EXAM is what `vader evaluate` writes, OUT/EXAM.json and .md are its report alone.
An exam that is there already is not run again.
"""

import argparse
import shutil
import sys
from pathlib import Path

from vader.exams.evaluate import evaluate_encoders as evaluate

EXAMS = {  # a name: task, protocol, folder
    "voc": ("segmentation", "voc-animals-linear/vader", "VOC2012"),
    "camvid": ("segmentation", "camvid-linear/vader", "CamVid"),
    "kitchen": ("depth", "rgbd-linear/vader", "rgbd/kitchen"),
    "davis-timecycle": ("propagation", "davis/timecycle-480", "DAVIS"),
    "davis-dino": ("propagation", "davis/dino", "DAVIS"),
    "camvid-clip": ("propagation", "camvid/dino", "CamVid"),
    "warp": ("match", "warp-pck", "VOC2012/JPEGImages"),
    "keypoints": ("match", "keypoints", "animals"),
    "posed": ("match", "posed-rgbd", "rgbd/kitchen"),
    "scenes": ("match", "scenes", "."),
}


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--only", nargs="+", choices=EXAMS, default=list(EXAMS))
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--memory")
    a = parser.parse_args()
    for name in a.only:
        task, protocol, folder = EXAMS[name]
        if not (a.data / folder).is_dir():
            print(f"{name}: no folder {a.data / folder}, left out", file=sys.stderr)
            continue
        place = a.out / name
        if not place.exists():
            evaluate(
                a.encoders, task, protocol, a.data / folder, place, trials=a.trials, memory=a.memory,
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )  # fmt: skip
        for ending in ("json", "md"):
            shutil.copyfile(place / f"report.{ending}", a.out / f"{name}.{ending}")
        print((a.out / f"{name}.md").read_text())


if __name__ == "__main__":
    main()
