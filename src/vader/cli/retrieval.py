"""The verbs that search a collection: index, retrieve, browse."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vader.cli.app import Device, Json, Quiet, app


@app.command
def index(
    model: str,
    images: Path,
    *,
    out: Path,
    stride: int | None = None,
    sample: int | None = None,
    size: int | None = None,
    kind: Literal["auto", "flat", "pq"] = "auto",
    vectors: Annotated[bool, Parameter(negative="--no-vectors")] = True,
    seed: int = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Collect the embeddings of a folder's pixels, to search them: built in a stream, resumed after a stop.

    Parameters
    ----------
    model
        A run folder, a model.safetensors, timm:NAME, rgb ..., as `vader evaluate` takes them.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder of the index; one that was begun with the same words is gone on with.
    stride
        Keep a cell every so many pixels (default: 8, or the model's own stride where that is larger).
    sample
        Or keep so many cells an image, those that stand for most of it.
    size
        Short side in pixels the images are shown to the model at (default: as they are, at most 512).
    kind
        flat: exact search; pq: compressed, for millions of cells; auto: by their number.
    vectors
        Keep exact vectors beside a compressed index, which rank its finds again.
    seed
        Of the sampling and the compression.
    device
        Where to compute.
    json_
        Print what was made as JSON.
    quiet
        No progress on standard error.
    """
    from vader import commands_retrieval

    print(commands_retrieval.index(
        model, images, out, stride, sample, size, kind, vectors, seed, device, json_, quiet
    ))  # fmt: skip


@app.command
def retrieve(
    index: Path,
    image: Path,
    *,
    at: Annotated[list[str] | None, Parameter(negative="")] = None,
    box: Annotated[list[str] | None, Parameter(negative="")] = None,
    top: int = 8,
    out: Path | None = None,
    model: str | None = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Where else is this? The images of an index that hold what lies at some pixels of an image, and where.

    Parameters
    ----------
    index
        Folder that `vader index` made.
    image
        Image to ask with, of the collection or not.
    at
        X,Y in pixels of the image; several are averaged.
    box
        X0,Y0,X1,Y1 in pixels: all of what lies in it.
    top
        How many images.
    out
        Picture of the answer: the query, and the similarity map of each image found.
    model
        Where the index's model lies now, if not where it was.
    device
        Where to compute.
    json_
        Print the answer as JSON.
    """
    from vader import commands_retrieval

    print(commands_retrieval.retrieve(index, image, at or [], box or [], top, out, model, device, json_))


@app.command
def browse(
    index: Path,
    *,
    out: Path,
    count: int | None = None,
    model: str | None = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """One HTML page that works from the disk: click a pixel, every image shows where the same thing is.

    Parameters
    ----------
    index
        Folder that `vader index` made.
    out
        Page to write.
    count
        How many of the images (default: all; about 200 at most).
    model
        Where the index's model lies now, if not where it was.
    device
        Where to compute.
    json_
        Print what was made as JSON.
    """
    from vader import commands_retrieval

    print(commands_retrieval.browse(index, out, count, model, device, json_))
