"""The verbs that make a model and use it: pretrain, embed, show."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.exceptions import CycloptsError

from vader.cli.app import Device, Precision, Quiet, app, say


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
    tile: int | None = None,
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
    tile
        Side in pixels of the tiles that a larger image goes by, so that memory does not follow its size (default:
        1536 for images of more than 1536 x 1536 pixels). The map stays the whole image's to 1 % of its norm.
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

    print(commands.embed(model, images, out, size, batch, tile, device, precision, workers, quiet))


@app.command
def show(
    what: Literal["pca", "matches", "similar"],
    *words: str,
    out: Path,
    count: int = 8,
    at: str | None = None,
    size: int | None = None,
    basis: Literal["panel", "image"] = "panel",
    seed: int = 0,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Pictures of what models see: PCA colours, matches under a known warp, or where else a pixel's like is found.

    Parameters
    ----------
    what
        pca: similar colour means similar embedding; matches: lines between two views, green where within one cell;
        similar: a query pixel, its nearest images and their similarity maps.
    words
        MODEL... IMAGES: one model or several, drawn beside each other, and last a folder of images, a .txt list, or
        one image. Models as evaluate takes them: runs/first, rgb, random:resnet10t@hypercolumn:64; a NAME= before one
        is what the picture calls it.
    out
        Folder for the pictures.
    count
        How many images (taken evenly from the list); for `similar`, how many are searched is 25 times as many.
    at
        X,Y in pixels of the query image (similar only; default: the centre).
    size
        Short side in pixels the images are shown to the model at (default: as they are, at most 512).
    basis
        Of the colours (pca only): one for all images of a model, or one for each image.
    seed
        Of the warps.
    device
        Where to compute.
    quiet
        No progress on standard error.
    """
    if len(words) < 2:
        raise CycloptsError(msg=f"expected MODEL... IMAGES, got {' '.join(words) or 'neither'}")

    from vader import commands

    *models, images = words
    for path in commands.show(what, models, Path(images), out, count, at, size, seed, device, basis, quiet):
        print(path)
