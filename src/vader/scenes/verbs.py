"""The public verb `scenes`. What renders is imported when it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vader.errors import BadInput
from vader.runtime.verb import verb


@dataclass(frozen=True)
class Rendered:
    """A rendered data set: its folder, and what was written."""

    folder: Path
    summary: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return str(self.folder)

    def as_json(self) -> dict[str, Any]:
        """What was written."""
        return {"out": str(self.folder)} | self.summary


@verb
def scenes(
    out: str | Path,
    *,
    layout: Literal["images", "voc", "cityscapes", "nyu", "davis", "coco"],
    count: int = 100,
    size: str | int | tuple[int, int] = "224x224",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Rendered:
    """Render scenes whose every label is known, as a folder in the layout of a public data set.

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
    settings
        KEY=VALUE for any setting of the scenes: --set setting=room --set haze=0.5. In Python a dict.
    workers
        Processes that render (default: as many as there are cores; one if there is little to do).
    quiet
        No progress on standard error.
    """
    from pydantic import ValidationError

    from vader.runtime.progress import to_stderr
    from vader.scenes import layouts
    from vader.scenes.world import SceneConfig

    height, width = _sides(size)
    try:
        config = SceneConfig(**({"setting": layouts.LAYOUTS[layout].setting} | dict(settings or {})))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise BadInput(
            f"--set: {where}: {found['msg'].removeprefix('Value error, ')}, found {found['input']!r}"
        ) from None
    summary = layouts.write(
        Path(out), layout, count=count, width=width, height=height, seed=seed, config=config, workers=workers,
        say=None if quiet else to_stderr,
    )  # fmt: skip
    return Rendered(Path(out), summary)


def _sides(size: str | int | tuple[int, int]) -> tuple[int, int]:
    """'HxW', one side, or (H, W) -> (H, W)."""
    text = f"{size}x{size}" if isinstance(size, int) else size if isinstance(size, str) else "x".join(map(str, size))
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise BadInput(f"--size: expected HxW in pixels, such as 480x640, found {text!r}")
    return int(height), int(width)
