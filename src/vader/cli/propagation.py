"""The verb for a person's own clips: propagate."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vader.cli.app import Device, Json, Quiet, app


@app.command
def propagate(
    model: str,
    video: Path,
    *,
    masks: Path,
    out: Path,
    protocol: str = "davis/dino",
    size: int | None = None,
    weights: Path | None = None,
    film: Annotated[bool, Parameter(name="--video", negative="--no-video")] = True,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry the masks of a clip's first frame through all others: a mask of every frame, and a film of them.

    A run that was stopped goes on when the same command is given again.

    Parameters
    ----------
    model
        A run folder, a model.safetensors, timm:NAME, rgb ..., as `vader evaluate` takes them.
    video
        Folder of frames, in natural order, or a video file (pip install 'vader-dense[video]').
    masks
        PNG of the first frame's objects (0 background, 1, 2 ... objects, 255 void), or a folder of PNGs called as their
        frames or by their numbers, for objects that come later.
    out
        Folder for the result: masks/, overlay.mp4, strip.png, propagate.json.
    protocol
        Whose constants: davis/dino, davis/timecycle-480, davis/timecycle-320, davis/crw, davis/dinov3, davis/uvc.
    size
        Short side in pixels that the model sees (default: as the protocol has it).
    weights
        Weights for a timm:NAME without a file.
    film
        Write overlay.mp4 (overlay.gif without PyAV).
    device
        Where to compute.
    json_
        Print what was made as JSON.
    quiet
        No progress on standard error.
    """
    from vader import commands_propagation

    print(commands_propagation.propagate(
        model, video, masks, out, protocol, size, weights, film, device, json_, quiet
    ))  # fmt: skip
