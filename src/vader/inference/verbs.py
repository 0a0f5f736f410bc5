"""The public verbs that use a model: embed, show, propagate, index, retrieve, browse.

The command line uses the same signatures and docstrings. Heavy imports happen when a verb runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from vader.errors import BadInput
from vader.inference.results import Drawn, Embedded, Found, Indexed, Page, Propagated
from vader.runtime.verb import verb

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


@verb
def embed(
    model: str | Path,
    images: str | Path,
    *,
    out: str | Path,
    size: int | None = None,
    batch: int = 8,
    tile: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
    quiet: bool = False,
) -> Embedded:
    """Write a dense map of every image: one .npy file (D, h, w), float16, L2-normalised, and a manifest.

    If the folder has maps of the same model and settings, only the missing ones are written.

    Parameters
    ----------
    model
        A run folder, a model.safetensors, timm:NAME, random:NAME, rgb ...; a variant follows after an @.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder for the maps.
    size
        Short side in pixels to which images are resized first (default: no resizing).
    batch
        Images per batch (of equal size).
    tile
        Side in pixels of the tiles for larger images, which limit the memory (default: 1536 for images of more than
        1536 x 1536 pixels). The map differs from the whole image's map by at most 1 % of its norm.
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    workers
        Number of threads that decode images.
    quiet
        Print no progress on standard error.
    """
    from vader.encoders.opening import open_for_images
    from vader.images.sources import list_images
    from vader.inference.maps import write_maps
    from vader.runtime.processes import choose_device, choose_precision
    from vader.runtime.progress import silent, to_stderr

    _check_size(size)
    if batch < 1:
        raise BadInput(f"--batch: expected at least 1, found {batch}")
    where = choose_device(device)
    computed = choose_precision(precision, where)
    listed = list_images(Path(images))
    say = silent if quiet else to_stderr
    encoder = open_for_images(model, listed, size, where, precision=computed, say=say)
    written, skipped = write_maps(
        encoder, listed, Path(out), identity=encoder.identity, size=size, batch=batch, tile=tile, precision=computed,
        workers=workers, say=say,
    )  # fmt: skip
    done = Embedded(Path(out), len(listed), written, tuple(fault["name"] for fault in skipped))
    say(done.sentence())
    return done


@verb
def show(
    what: Literal["pca", "matches", "similar"],
    models: str | Path | Sequence[str | Path],
    images: str | Path,
    *,
    out: str | Path,
    count: int = 8,
    at: Point | None = None,
    size: int | None = None,
    basis: Literal["panel", "image"] = "panel",
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    quiet: bool = False,
) -> Drawn:
    """Draw what models compute: PCA colours, matches under a known warp, or the pixels most similar to one.

    Parameters
    ----------
    what
        pca: similar colours mean similar embeddings; matches: lines between two views, green if within one cell;
        similar: a query pixel, the images with the most similar pixels, and their similarity maps.
    models
        One or several models, drawn side by side, as in `vader evaluate`: runs/first, rgb,
        random:resnet10t@hypercolumn:64. Put NAME= before a model to set its name in the picture.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder for the picture.
    count
        Number of images, at equal distances in the list; `similar` searches 25 times as many.
    at
        X,Y of the query in pixels of the first image (similar only; default: the centre).
    size
        Short side in pixels to which images are resized (default: no resizing up to 512).
    basis
        Basis of the colours (pca only): one for all images of a model, or one for each image.
    seed
        Seed of the warps.
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    quiet
        Print no progress on standard error.
    """
    from vader.encoders.opening import open_for_images
    from vader.images.sources import list_images
    from vader.inference import show as pictures
    from vader.runtime.files import make_folder
    from vader.runtime.processes import choose_device
    from vader.runtime.progress import silent, to_stderr

    if count < 1:
        raise BadInput(f"--count: expected at least 1, found {count}")
    _check_size(size)
    specs: list[Any] = list(models) if isinstance(models, list | tuple) else [models]
    if not specs:
        raise BadInput("expected at least one MODEL, found none")
    where, listed, folder = choose_device(device), list_images(Path(images)), Path(out)
    say = silent if quiet else to_stderr
    encoders = [open_for_images(spec, listed, size, where, precision=precision, say=say) for spec in specs]
    make_folder(folder)
    if what == "pca":
        return Drawn(pictures.show_pca(encoders, listed, folder, count, size, basis))
    if what == "matches":
        return Drawn(pictures.show_matches(encoders, listed, folder, count, size, seed))
    return Drawn(pictures.show_similar(encoders, listed, folder, count, at, size))


@verb
def propagate(
    model: str | Path,
    video: str | Path,
    *,
    masks: str | Path,
    out: str | Path,
    protocol: str = "davis/dino",
    size: int | None = None,
    weights: str | Path | None = None,
    film: bool = True,
    device: Device = "auto",
    precision: Precision = "fp32",
    quiet: bool = False,
) -> Propagated:
    """Propagate the masks of a clip's first frame to all other frames; write a mask for each frame, and a film.

    Give the same command again to resume a run that was stopped, also by kill -9.

    Parameters
    ----------
    model
        A run folder, a model.safetensors, timm:NAME, rgb ..., as in `vader evaluate`.
    video
        Folder of frames, in natural order, or a video file (pip install 'vader-dense[video]').
    masks
        PNG of the first frame's objects (0 background, 1, 2 ... objects, 255 void), or a folder of PNGs named like
        their frames or by their numbers, for objects that appear later.
    out
        Folder for the result: masks/, overlay.mp4, strip.png, propagate.json.
    protocol
        Protocol with the constants: davis/dino, davis/timecycle-480, davis/timecycle-320, davis/crw, davis/dinov3,
        davis/uvc.
    size
        Short side in pixels to which frames are resized (default: the protocol's).
    weights
        File of weights for a timm:NAME without one.
    film
        Write overlay.mp4 (overlay.gif without PyAV).
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    quiet
        Print no progress on standard error.
    """
    from vader.inference.propagate import propagate_clip
    from vader.runtime.progress import silent, to_stderr

    done = propagate_clip(
        str(model), Path(video), Path(masks), Path(out), protocol=protocol, size=size,
        weights=None if weights is None else Path(weights), device=device, precision=precision, film=film,
        say=silent if quiet else to_stderr,
    )  # fmt: skip
    return Propagated(
        Path(out), done["frames"], done["masks_written"], tuple(done["objects"]), done["seconds"]["propagation"],
        tuple(done["skipped"]), done,
    )  # fmt: skip


@verb
def index(
    model: str | Path,
    images: str | Path,
    *,
    out: str | Path,
    stride: int | None = None,
    sample: int | None = None,
    size: int | None = None,
    kind: Literal["auto", "flat", "pq"] = "auto",
    vectors: bool = True,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "fp32",
    quiet: bool = False,
) -> Indexed:
    """Build a search index of the embeddings of a folder's pixels; resume after a stop.

    Parameters
    ----------
    model
        A run folder, a model.safetensors, timm:NAME, rgb ..., as in `vader evaluate`.
    images
        Folder of images, a .txt list, or one image.
    out
        Folder of the index; give the same command again to resume a stopped one.
    stride
        Distance of the indexed cells in pixels (default: 8, or the model's own stride if that is larger).
    sample
        Instead of stride: number of cells per image, chosen to represent most of it.
    size
        Short side in pixels to which images are resized (default: no resizing up to 512).
    kind
        flat: exact search; pq: compressed, for millions of cells; auto: by the number of cells.
    vectors
        Store exact vectors beside a compressed index, to re-rank its results.
    seed
        Seed of the sampling and the compression.
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    quiet
        Print no progress on standard error.
    """
    from pydantic import ValidationError

    from vader.images.sources import list_images
    from vader.inference.retrieval.building import IndexConfig, build_index
    from vader.runtime.processes import choose_device
    from vader.runtime.progress import silent, to_stderr

    try:
        config = IndexConfig(stride=stride, sample=sample, size=size, kind=kind, vectors=vectors, seed=seed)
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadInput(f"--{problem['loc'][0]}: {problem['msg']}, found {problem['input']!r}") from None
    made = build_index(
        str(model), list_images(Path(images)), Path(out), config, device=choose_device(device), precision=precision,
        say=silent if quiet else to_stderr,
    )  # fmt: skip
    return Indexed(Path(out), made["pictures"], made["cells"], made["dim"], made["quality"]["recall"], made)


@verb
def retrieve(
    index: str | Path,
    image: str | Path,
    *,
    at: Point | Sequence[Point] = (),
    box: Box | Sequence[Box] = (),
    top: int = 8,
    out: str | Path | None = None,
    model: str | Path | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Found:
    """Find the images of an index with the same content as some pixels of an image, and where it is in them.

    Parameters
    ----------
    index
        Folder written by `vader index`.
    image
        Query image; it need not be in the index.
    at
        X,Y of a query in pixels of the image; the embeddings of several are averaged.
    box
        X0,Y0,X1,Y1 in pixels: the query is the content of this box.
    top
        Number of images to return.
    out
        File for a picture of the result: the query, and the similarity map of each image found.
    model
        Present path of the index's model, if it was moved.
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    """
    from vader.inference.retrieval.index import open_index
    from vader.inference.retrieval.query import draw_answer, find
    from vader.runtime.processes import choose_device

    if top < 1:
        raise BadInput(f"--top: expected at least 1, found {top}")
    picture = None if out is None else Path(out)
    if picture is not None and picture.suffix.lower() not in (".png", ".jpg", ".jpeg", ".pdf", ".svg"):
        raise BadInput(f"--out: expected a file name such as hits.png, found {picture}")
    opened, words = open_index(Path(index)), None if model is None else str(model)
    opened_model = opened.open_model(words, choose_device(device), precision)
    answer = find(opened, opened_model, Path(image), _several(at), _several(box), top)
    if picture is not None:
        draw_answer(answer, picture)
    hits = tuple(hit.as_json() for hit in answer.hits)
    return Found(hits, answer.ms, opened.manifest["quality"], picture)


@verb
def browse(
    index: str | Path,
    *,
    out: str | Path,
    count: int | None = None,
    model: str | Path | None = None,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> Page:
    """Write one HTML page that works offline: click a pixel, and every image shows where the same thing is.

    Parameters
    ----------
    index
        Folder written by `vader index`.
    out
        File of the page.
    count
        Number of images (default: all; about 200 at most).
    model
        Present path of the index's model, if it was moved.
    device
        Device to compute on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    """
    from vader.inference.retrieval.browse import write_page
    from vader.inference.retrieval.index import open_index
    from vader.runtime.processes import choose_device

    page = Path(out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"--out: expected a file name such as page.html, found {page}")
    opened = open_index(Path(index))
    return write_page(
        opened,
        page,
        count=count,
        model=None if model is None else str(model),
        device=choose_device(device),
        precision=precision,
    )


def _several(places: Any) -> list[Any]:
    """One point or box, or several -> several."""
    return [places] if places and isinstance(places[0], int | float) else list(places)


def _check_size(size: int | None) -> None:
    if size is not None and size < 32:
        raise BadInput(f"--size: expected at least 32 px, found {size}")
