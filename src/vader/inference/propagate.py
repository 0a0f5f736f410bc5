"""Propagate the masks of one or a few frames through a user's clip; resume a stopped run.

Memory does not grow with the clip: it holds one frame and the protocol's context frames.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vader.datasets.davis import mask_png
from vader.encoders import DenseEncoder, fit, open_encoder
from vader.encoders.spec import parse
from vader.errors import BadInput
from vader.images.pictures import MIN_SIDE
from vader.images.video import Broken, Clip, can_read_videos, open_clip
from vader.inference.propagation import PropagationProtocol, Propagator, find_protocol
from vader.inference.propagation.clip import see
from vader.inference.propagation.given import Given, check_objects, check_places, read_masks
from vader.inference.propagation.pictures import FILM, GIF, MASKS, draw
from vader.runtime.files import claim, make_folder, remove_leftovers, write_atomic, write_json
from vader.runtime.interrupts import catch_interrupts
from vader.runtime.processes import choose_device
from vader.runtime.progress import Progress
from vader.runtime.states import load_state, save_state, states

FORMAT = 1
BEGUN, DONE = "begun.json", "propagate.json"
FITTED_ON = 16  # frames at equal distances, for encoders that must be fitted
KEEP_EVERY = 60.0  # seconds of work that a kill may lose; saving a state takes up to one second

Say = Callable[[str], None]


def propagate_clip(
    model: str,
    video: Path,
    masks: Path,
    out: Path,
    *,
    protocol: str = "davis/dino",
    size: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    film: bool = True,
    keep_every: float = KEEP_EVERY,
    say: Say | None = None,
) -> dict[str, Any]:
    """Write a mask for every frame of a clip; return the content of `propagate.json`.

    `video` is a folder of frames or a video file. `masks` is an indexed or grey PNG for the first frame, or a folder of
    PNGs named like the frames or by their numbers: 0 is background, 1 to 254 are objects and 255 is void. If a mask has
    only 0 and 255, 255 is object 1. Frames before the first mask are all background. `size`, in pixels, is the short
    side of the frames for the encoder, instead of the protocol's resizing. A pending encoder is fitted on 16 frames.

    `out` receives masks/NAME.png (indexed, as in DAVIS, of the frames' size), strip.png, propagate.json and, with
    `film`, overlay.mp4, or overlay.gif without PyAV. Call it again to resume a run that was stopped, also by kill -9:
    the masks are the same, and at most the work of the last `keep_every` seconds is repeated. A complete run is not
    changed. A frame that cannot be read has no mask and is listed under `skipped`.

    Raises BadInput for frames that differ in size, masks of another size, without an object or with more than 254, and
    an `out` with other content, and as `open_encoder` does; MissingExtra for a video file without PyAV.
    """
    say = say or (lambda line: None)
    if size is not None and size < MIN_SIDE:
        raise BadInput(f"--size: expected at least {MIN_SIDE} px, found {size}")
    way = find_protocol(protocol)
    if size is not None:
        way = replace(way, resize="short-stride", side=size)
    clip = open_clip(video)
    check_places(Path(video), Path(masks), Path(out))
    given = read_masks(Path(masks), clip)
    where = choose_device(device)
    encoder = open_encoder(model, where, weights, precision)
    check_objects(given, way, way.size(*clip.size, encoder.stride), say)
    begun: dict[str, Any] = {
        "format": FORMAT, "model": _identity(model, weights, encoder), "protocol": protocol, "settings": way.facts(),
        "video": clip.fingerprint(), "masks": given.digest,
    }  # fmt: skip
    done = claim(out, begun, what="masks", begun_name=BEGUN, done_name=DONE)
    wanted = (FILM if can_read_videos() else GIF) if film else None
    if done is not None and (wanted is None or any((out / name).is_file() for name in (FILM, GIF))):
        say(f"{out} is already complete; nothing to do")
        _tidy(out)
        return done
    if done is None:
        done = begun | {"source": str(video)} | _carry(clip, given, encoder, way, where, out, keep_every, say)
    since = time.monotonic()
    draw(clip, done, out, wanted, say)
    done["seconds"]["pictures"] = round(time.monotonic() - since, 2)
    write_json(out / DONE, done)
    _tidy(out)
    return done


def _identity(model: str, weights: Path | None, encoder: DenseEncoder) -> dict[str, Any]:
    """Identify a model by its variant and its file's content, independent of the file's folder."""
    asked, sha = parse(model, weights), encoder.facts.get("sha256")
    return {
        "kind": asked.kind, "name": asked.name, "file": str(asked.file) if asked.file and not sha else None,
        "sha256": sha, "variant": asked.variant, "dim": asked.dim, "centred": asked.centred, "stride": encoder.stride,
        "channels": encoder.channels,
    }  # fmt: skip


def _tidy(out: Path) -> None:
    """Remove the files that only an unfinished run needs."""
    (out / BEGUN).unlink(missing_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    for folder in (out, out / MASKS):
        remove_leftovers(folder)


# --- From frame to frame ------------------------------------------------------------------------------------------


def _carry(
    clip: Clip, given: Given, encoder: DenseEncoder, way: PropagationProtocol, device: str, out: Path,
    keep_every: float, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """Write the masks, from the last saved state if there is one; return their count and the skipped frames."""
    encoder = _fitted(encoder, clip, way, say)
    propagator = Propagator(way, stride=encoder.stride, size=way.size(*clip.size, encoder.stride), out=clip.size)
    record: dict[str, Any] = {"frames": 0, "masks_written": 0, "skipped": [], "seconds": 0.0}
    if states(out):
        tensors, kept = load_state(out)
        # Cloned, because the rounding of products depends on the memory alignment, which differs in a file.
        propagator.restore({name: tensor.clone().to(device) for name, tensor in tensors.items()})
        record = {key: kept[key] for key in record}
        say(f"resumed after {record['frames']} frames")
    make_folder(out / MASKS)
    since, kept_at = time.monotonic(), record["frames"]
    told = Progress("", clip.total, say, unit="frames", start=kept_at)

    def keep() -> None:
        nonlocal since, kept_at
        now = time.monotonic()
        record["seconds"], since = record["seconds"] + now - since, now
        if record["frames"] > kept_at:
            save_state(out, record["frames"], propagator.state(), record, keep=1)
            kept_at = record["frames"]

    with catch_interrupts() as interrupts:
        for number, frame in clip.frames(range(record["frames"], sys.maxsize)):
            if isinstance(frame, Broken):
                _skip(record["skipped"], number, clip, frame.reason, number in given.files)
            else:
                found = propagator.step(see(encoder, frame, way, device), given.read(number))
                write_atomic(out / MASKS / f"{clip.name(number)}.png", mask_png(found.astype(np.uint8)))
                record["masks_written"] += 1
            record["frames"] = number + 1
            told()
            if interrupts.received:
                keep()
                raise KeyboardInterrupt(f"stopped after frame {clip.name(number)}; continue with the same command")
            if time.monotonic() - since >= keep_every:
                keep()
        keep()
    assert propagator.ids is not None, "the frames include one with a mask"
    return {
        **record, "objects": [int(number) for number in propagator.ids[1:]], "given": len(given.files),
        "size": [*clip.size[::-1]], "seen": [*propagator.size[::-1]],
        "seconds": {"propagation": round(record["seconds"], 2)},
    }  # fmt: skip


def _skip(skipped: list[dict[str, Any]], number: int, clip: Clip, reason: str, given: bool) -> None:
    """Record a skipped frame; join consecutive ones with the same reason, because an incomplete clip may have many."""
    reason = f"{reason}; its mask was not used" if given else reason
    if skipped and skipped[-1]["reason"] == reason and skipped[-1]["first"] + skipped[-1]["count"] == number:
        skipped[-1]["count"] += 1
    else:
        skipped.append({"frame": clip.name(number), "first": number, "count": 1, "reason": reason})


def _fitted(encoder: DenseEncoder, clip: Clip, way: PropagationProtocol, say: Say) -> DenseEncoder:
    """Fit a pending encoder on the clip."""
    if encoder.pending is None:
        return encoder
    say(f"fitting {encoder.name} on the clip")
    chosen = set(np.linspace(0, clip.total - 1, min(FITTED_ON, clip.total)).round().astype(int).tolist())
    frames = (frame for _, frame in clip.frames(chosen) if not isinstance(frame, Broken))
    return fit(encoder, [way.resized(frame, encoder.stride) for frame in frames])
