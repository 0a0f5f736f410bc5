"""Measure the time of an exam beyond the encoder's own forward passes.

A complete `vader.evaluate` with a segmentation protocol on VOC's layout (open, trials, predictions, report) is
compared with forward passes alone over the same images, in the same process, one after the other. The script also
prints the memory of the features. Without a data set it renders scenes.

    python bench/probe.py [--data VOC2012 --encoder random:tf_efficientnet_lite0 --trials 5 --pictures 960]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vader.datasets.opening import open_labelled
from vader.encoders import open_encoder
from vader.exams.evaluate import evaluate_encoders as evaluate

ALLOWED = "1.5 x + 60 s"


def shortened(labelled, count, place):
    """The first pictures of a set in VOC's layout, as a data set in `place` of links to its files."""
    lists, masks = place / "ImageSets" / "Segmentation", place / "SegmentationClass"
    for folder in (lists, masks, place / "JPEGImages"):
        folder.mkdir(parents=True, exist_ok=True)
    names = labelled.names[:count]
    listed, kept = {"train": "train.txt", "val": "val.txt"}[labelled.split], set(names)
    (lists / listed).write_text("".join(f"{name}\n" for name in names))
    (place / "classes.txt").write_text("".join(f"{name}\n" for name in labelled.classes))
    for path in labelled.files:
        if path.stem in kept:
            folder = "JPEGImages" if path.suffix == ".jpg" else "SegmentationClass"
            (place / folder / path.name).symlink_to(path.resolve())
    return open_labelled("voc", place, labelled.split)


def forward(encoder, sets, device):
    """Seconds of decoding, and of the encoder alone, a picture at a time."""
    decoding = passing = 0.0
    for labelled in sets:
        for i in range(len(labelled)):
            since = time.perf_counter()
            image = labelled.image(i)
            between = time.perf_counter()
            with torch.no_grad():
                pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255).to(device)
                float(encoder.features(pixels).flatten()[0])  # waits for the device
            decoding, passing = decoding + between - since, passing + time.perf_counter() - between
    return decoding, passing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", default="random:tf_efficientnet_lite0")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=960)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--protocol", default="voc-linear/vader")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if a.data is None:
            from vader.scenes.layouts import write

            a.data = Path(folder) / "scenes"
            write(a.data, "voc", count=a.pictures, width=320, height=240)
        whole = [open_labelled("voc", a.data, split) for split in ("train", "val")]
        share, few = min(1.0, a.pictures / sum(map(len, whole))), Path(folder) / "few"
        train, val = (shortened(one, round(share * len(one)), few) for one in whole)
        encoder = open_encoder(a.encoder, a.device)
        print(
            f"{a.encoder} ({encoder.channels} channels, stride {encoder.stride}), {len(train)} + {len(val)} "
            f"pictures, {a.trials} trials, {a.device}, {torch.get_num_threads()} threads"
        )
        spent = time.process_time()
        decoding, passing = forward(encoder, (train, val), a.device)
        spent = time.process_time() - spent
        since, cpu = time.perf_counter(), time.process_time()
        done = evaluate(
            [encoder], "segmentation", a.protocol, few, Path(folder) / "report", trials=a.trials, memory=a.memory,
            batch=a.batch, device=a.device,
        )  # fmt: skip
        taken, cpu = time.perf_counter() - since, time.process_time() - cpu
    print(f"bare forward passes {passing:8.1f} s, decoding {decoding:.1f} s")
    print(f"the exam            {taken:8.1f} s   x {taken / passing:.2f} of bare forward passes")
    (result,) = done.results
    phases = result.seconds | {"the rest": taken - sum(result.seconds.values())}
    print("   " + ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in phases.items()))
    # What others on the machine do is not in these.
    print(f"CPU seconds         {cpu:8.1f} s   x {cpu / spent:.2f} of {spent:.1f} s of decoding and forward passes")
    over = taken - 1.5 * passing
    print(f"beyond 1.5 x        {over:8.1f} s   (allowed: {ALLOWED}: {'kept' if over <= 60 else 'NOT kept'})")
    facts = done.report.facts
    most, limit, written = (facts["features, MB"][name] for name in ("most in memory", "limit", "written to a file"))
    print(
        f"features in memory  {most:8.1f} MB of {limit} MB allowed (x {most / max(limit, 1):.3f}), "
        f"in a file {written:.1f} MB; peak of the process {facts['peak memory, MiB']} MiB"
    )
    headline = next(iter(result.values))
    values = [headline.scale * value for value in result.values[headline]]
    print(f"{headline.name} {np.mean(values):.2f} +- {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}")


if __name__ == "__main__":
    main()
