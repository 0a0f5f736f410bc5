"""The command line. Thin: it turns words into configs and calls the library; torch is imported inside commands only."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from vader import __version__
from vader.errors import VaderError

app = App(
    name="vader",
    version=__version__,
    help="Unsupervised learning of dense visual representations: learn from a folder of images, embed every pixel.",
    suppress_keyboard_interrupt=False,  # `main` says what it has to say
)

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Quiet = Annotated[bool, Parameter(negative="")]


@app.command
def pretrain(
    images: Path | None = None,
    *,
    out: Path | None = None,
    recipe: Literal["quick", "default", "paper"] | None = None,
    objective: Literal["vader", "moco"] | None = None,
    encoder: str | None = None,
    init: Path | None = None,
    freeze_encoder: Annotated[bool, Parameter(negative="")] = False,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    size: int | None = None,
    queue: int | None = None,
    views: Literal["different", "same", "unmatched"] | None = None,
    seed: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int | None = None,
    devices: int | None = None,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    resume: Path | None = None,
    extend: int = 0,
    quiet: Quiet = False,
) -> None:
    """Learn a dense representation from a folder (or a list file) of unlabelled images.

    Parameters
    ----------
    images
        Folder of images (nested folders too), or a .txt file with one path a line.
    out
        Run folder to make: config, record, metrics, checkpoints, model.safetensors + model.json.
    recipe
        quick (CPU, minutes), default (one GPU, hours), paper (every constant of the paper); by hardware if absent.
    objective
        vader contrasts matched pixels; moco, the baseline, whole images.
    encoder
        A timm CNN, such as resnet50 or tf_efficientnet_lite0.
    init
        Weights to start from: MoCo, torchvision, timm, safetensors, or a vader model.
    freeze_encoder
        Train only what stands on the encoder.
    steps
        Length of the run in steps; or give --epochs or --minutes.
    epochs
        Length in passes over the images.
    minutes
        Length in minutes: the speed is measured first and turned into steps.
    batch
        Pairs of views a step, over all processes.
    size
        Side of a view in pixels, a multiple of 32.
    queue
        Keys that the queue of negatives holds.
    views
        Pairing of views: different crops, the same crop, or unmatched pixels (the paper's Table 3).
    seed
        Of everything random.
    device
        Where to train.
    precision
        bf16 on GPUs and CPUs with bf16 units, else fp32, if auto.
    workers
        Processes that read images and draw views.
    devices
        Training processes on this machine (one a GPU).
    config
        TOML file with any setting of PretrainConfig; flags win over it.
    set_
        KEY=VALUE for any setting, nested by dots: --set views.degrees=15 --set temperature=0.1
    resume
        Run folder to continue, exactly where its last saved state left it.
    extend
        With --resume: so many steps beyond the end.
    quiet
        No progress on standard error.
    """
    lengths = [
        name for name, value in (("steps", steps), ("epochs", epochs), ("minutes", minutes)) if value is not None
    ]
    if resume is None and (images is None or out is None):
        raise CycloptsError(msg="expected IMAGES and --out RUN, or --resume RUN")
    if resume is not None and (images is not None or out is not None):
        raise CycloptsError(msg="--resume: expected the run folder alone, got IMAGES or --out too")
    if extend < 0 or (extend and resume is None):
        raise CycloptsError(msg="--extend: expected a number of steps, together with --resume RUN")
    if len(lengths) > 1:
        raise CycloptsError(msg=f"expected one of --steps, --epochs, --minutes, got --{' and --'.join(lengths)}")

    from vader import commands

    given = {
        "recipe": recipe, "objective": objective, "encoder": encoder, "init": init, "freeze_encoder": freeze_encoder,
        "steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "size": size, "queue": queue,
        "views": views, "seed": seed, "device": device, "precision": precision, "workers": workers,
        "devices": devices, "config": config, "set": set_ or [],
    }  # fmt: skip
    say(commands.pretrain(images, out, resume=resume, extend=extend, quiet=quiet, given=given))


@app.command
def embed(
    model: Path,
    images: Path,
    *,
    out: Path,
    size: int | None = None,
    batch: int = 8,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
    quiet: Quiet = False,
) -> None:
    """Write a dense map of every image: one .npy (D, ceil(H/4), ceil(W/4)), float16, L2-normalised, and a manifest.

    Parameters
    ----------
    model
        A run folder or a model.safetensors.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder for the maps; if it holds maps of the same model and settings already, only missing ones are made.
    size
        Resize the short side to so many pixels first (default: as they are).
    batch
        Images at a time (of equal padded size).
    device
        Where to compute.
    precision
        bf16 or fp32.
    workers
        Threads that decode.
    quiet
        No progress on standard error.
    """
    from vader import commands

    print(commands.embed(model, images, out, size, batch, device, precision, workers, quiet))


@app.command
def show(
    what: Literal["pca", "matches", "similar"],
    model: Path,
    images: Path,
    *,
    out: Path,
    count: int = 8,
    at: str | None = None,
    size: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Pictures of what a model sees: PCA colours, matches under a known warp, or where else a pixel's like is found.

    Parameters
    ----------
    what
        pca: one basis for all images, similar colour means similar embedding; matches: lines between two views, green
        where within one cell; similar: a query pixel, its nearest images and their similarity maps.
    model
        A run folder or a model.safetensors.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder for the pictures.
    count
        How many images (taken evenly from the list); for `similar`, how many are searched is 25 times as many.
    at
        X,Y in pixels of the query image (similar only; default: the centre).
    size
        Short side in pixels the images are shown to the model at (default: as they are, at most 512).
    seed
        Of the warps.
    device
        Where to compute.
    quiet
        No progress on standard error.
    """
    from vader import commands

    for path in commands.show(what, model, images, out, count, at, size, seed, device, quiet):
        print(path)


@app.command
def scenes(
    out: Path,
    *,
    layout: Literal["images", "voc", "cityscapes", "nyu", "davis", "coco"],
    count: int = 100,
    size: str = "224x224",
    seed: int = 0,
    set_: Annotated[list[str] | None, Parameter(name="--set")] = None,
    workers: int | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Quiet = False,
) -> None:
    """Render scenes whose every label is known, as a folder that looks like a real data set to what reads it.

    Parameters
    ----------
    out
        Folder to make.
    layout
        images (plain), voc (2012), cityscapes (landscapes), nyu (Depth v2, rooms), davis (2017, clips), coco (2017).
    count
        Pictures; each fifth is for validation. For davis frames, in clips of 24 (the last is shorter, of at least 2).
    size
        Height x width in pixels, such as 480x640.
    seed
        Of everything random: the same seed gives the same bytes.
    set_
        KEY=VALUE for any setting of the scenes: --set setting=room --set haze=0.5
    workers
        Processes that render (default: as many as there are cores; one if there is little to do).
    json_
        Print what was written as JSON.
    quiet
        No progress on standard error.
    """
    from vader import commands

    summary = commands.scenes(out, layout, count, size, seed, set_ or [], workers, quiet)
    print(json.dumps({"out": str(out)} | summary) if json_ else out)


def say(result: Path) -> None:
    """A result, on standard output; once, however many processes made it."""
    from vader.runtime import is_first_process

    if is_first_process():
        print(result)


def warn(message: str) -> None:
    """One line on standard error, from the first process alone; none if there is nothing to say."""
    if message:
        from vader.runtime import is_first_process

        if is_first_process():
            print(f"warning: {message}", file=sys.stderr)


def fail(message: str) -> None:
    """One line on standard error, from the first process alone, and exit code 1."""
    from vader.runtime import is_first_process

    if is_first_process():
        print(f"vader: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(1)


# What the place to write or read gives, and no mistake of ours: full, over quota, read-only, forbidden, broken.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


def main() -> None:
    """Entry point: 0 done, 1 an error of the input, 2 wrong usage, 130 interrupted."""
    try:
        result: Any = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"vader: {' '.join(str(error).split())} (vader --help)", file=sys.stderr)
        raise SystemExit(2) from None
    except VaderError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        resume = "" if sys.argv[1:2] == ["scenes"] else ", then --resume what was saved"
        fail(f"{place}{os.strerror(error.errno)}; make room or choose another place{resume}")
    except KeyboardInterrupt as stop:
        warn(str(stop))
        raise SystemExit(130) from None
    raise SystemExit(0 if result is None else result)
