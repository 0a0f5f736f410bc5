"""What the command line's verbs do: words -> configs -> the library."""

import math
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from vader.errors import BadCheckpoint, BadInput
from vader.images.sources import list_images
from vader.models.cost import is_depthwise
from vader.pretraining import recipes
from vader.pretraining.config import PretrainConfig
from vader.pretraining.feed import split
from vader.pretraining.pretrain import pretrain as run_pretrain
from vader.runtime.files import make_folder, prepare_output, removed_if_empty
from vader.runtime.interrupts import catch_interrupts
from vader.runtime.journal import read_metrics
from vader.runtime.processes import choose_device, choose_precision, is_first_process


def pretrain(
    images: Path | None, out: Path | None, *, resume: Path | None, extend: int, quiet: bool, given: dict[str, Any]
) -> Path:
    """Start or continue a run; see `vader pretrain --help`."""
    if resume is not None:
        return run_pretrain(resumed_config(resume, given), resume=True, extend=extend, quiet=quiet)
    assert images is not None, "the command line asks for them"
    assert out is not None
    with removed_if_empty(out):
        return run_pretrain(make_config(images, out, given, quiet), quiet=quiet)


def resumed_config(run: Path, given: dict[str, Any]) -> PretrainConfig:
    """The config of a run to continue. Only the number of workers may differ, for it changes no result."""
    config = read_config(run)
    kept = [name for name, value in given.items() if value not in (None, False, "auto", []) and name != "workers"]
    if kept:
        raise BadInput(f"--resume: a run keeps its settings, got --{kept[0].replace('_', '-')}; leave it out")
    return config if given["workers"] is None else config.model_copy(update={"workers": given["workers"]})


def read_config(run: Path) -> PretrainConfig:
    """The config of a run folder, with the folder's place as it is now."""
    path = run / "config.json"
    if not path.is_file():
        raise BadInput(f"--resume: expected a run folder with a config.json, found none in {run}")
    try:
        return PretrainConfig.model_validate_json(path.read_text()).model_copy(update={"out": run})
    except ValidationError as error:
        raise BadCheckpoint(f"{path}: {explain(error)}") from None


def make_config(images: Path, out: Path, given: dict[str, Any], quiet: bool = False) -> PretrainConfig:
    """A config from a recipe, a TOML file, --set and flags, in rising order of precedence."""
    count = len(list_images(images))
    changes = gather_changes(given)
    name = given["recipe"] or recipes.suggest(changes["device"])
    config = build(name, images, out, count, changes)
    for length in ("epochs", "minutes"):
        if given[length] is not None and not 0 < given[length] < math.inf:
            raise BadInput(f"--{length}: expected a number above 0, got {given[length]:g}")
    trained_on = len(split(count, config.held_out, config.seed)[1])
    if given["epochs"] is not None:
        config = config.model_copy(update={"steps": max(1, round(given["epochs"] * trained_on / config.batch))})
    if given["minutes"] is not None:
        config = config.model_copy(update={"steps": steps_in(config, given["minutes"], quiet)})
    if not quiet and is_first_process():
        print(recipes.explain(name, config, count, trained_on), file=sys.stderr)
    return config


FLAGS = {  # and the settings that they stand for
    "objective": "objective", "init": "init", "steps": "steps", "batch": "batch", "queue": "queue", "seed": "seed",
    "workers": "workers", "devices": "devices", "size": "views.size", "views": "views.pairing",
    "encoder": "network.encoder",
}  # fmt: skip


def gather_changes(given: dict[str, Any]) -> dict[str, Any]:
    """What is to differ from the recipe: the TOML file's settings, over them --set's, over these the flags'."""
    changes: dict[str, Any] = read_toml(given["config"]) if given["config"] is not None else {}
    for item in given["set"]:
        key, value = parse_setting(item)
        assign(changes, key, value)
    if named := {"images", "out"} & changes.keys():
        raise BadInput(f"{min(named)}: it is given on the command line; leave it out of --config and --set")
    for flag, key in FLAGS.items():
        if given[flag] is not None:
            assign(changes, key, given[flag])
    if given["freeze_encoder"]:
        changes["freeze_encoder"] = True
    device, precision = (
        changes.get(name, "auto") if given[name] == "auto" else given[name] for name in ("device", "precision")
    )
    changes["device"] = choose_device(device)
    changes["precision"] = choose_precision(precision, changes["device"])
    if precision == "auto" and changes["device"] == "cpu" and given["encoder"] and is_depthwise(given["encoder"]):
        changes["precision"] = "fp32"
    return changes


def build(name: recipes.RecipeName, images: Path, out: Path, count: int, changes: dict[str, Any]) -> PretrainConfig:
    """A recipe's config with changes, nested ones merged. Raises BadInput in words for what does not validate."""
    try:
        return recipes.RECIPES[name](images, out, count, **changes)
    except ValidationError as error:
        raise BadInput(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A validation error in one line."""
    parts = []
    for problem in error.errors():
        where = ".".join(str(x) for x in problem["loc"])
        got = "" if problem["type"] in ("value_error", "missing") else f", got {problem['input']!r}"
        parts.append(f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(parts)


def parse_setting(item: str) -> tuple[str, Any]:
    """'KEY=VALUE' -> key and the value as TOML reads it (a bare word is a string)."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise BadInput(f"--set: expected KEY=VALUE, got {item!r}")
    if text.lower() == "none":
        return key, None
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def assign(changes: dict[str, Any], key: str, value: Any) -> None:
    """changes['a']['b'] = value for key 'a.b'."""
    *path, last = key.split(".")
    for part in path:
        changes = changes.setdefault(part, {})
        if not isinstance(changes, dict):
            raise BadInput(f"--set {key}: {part} is no group of settings")
    changes[last] = value


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file of settings."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--config {path}: expected a TOML file of settings, got {error}") from None


def steps_in(config: PretrainConfig, minutes: float, quiet: bool) -> int:
    """How many steps and exams fit into so many minutes here: a few are run in a folder that is thrown away."""
    import tempfile

    if config.devices * config.nodes > 1:
        raise BadInput("--minutes measures the speed of one process; with several give --steps or --epochs")
    prepare_output(config.out)  # refused now rather than after the measurement
    with tempfile.TemporaryDirectory() as folder, catch_interrupts() as interrupts:
        trial = config.model_copy(
            update={"out": Path(folder) / "trial", "steps": 20, "log_every": 10, "exam_every": 1000, "save_every": 1000}
        )
        with suppress(KeyboardInterrupt):  # what the trial says of going on is not for a folder that is about to go
            run_pretrain(trial, quiet=True)
        if interrupts.received is not None:
            raise KeyboardInterrupt("stopped while the speed was measured; the run itself has not begun")
        lines = read_metrics(trial.out)
    per_step = config.batch / [line["images_per_s"] for line in lines if "images_per_s" in line][-1]  # now warm
    exams = [line["exam_s"] for line in lines if "exam_s" in line] or [0.0]  # the first has the baselines to do
    left = 60 * minutes - exams[0] - exams[-1]
    steps = max(1, int(left / (per_step + exams[-1] / config.exam_every)))
    if not quiet:
        speed = f"about {1 / per_step:.2f} steps/s and {exams[-1]:.1f} s an exam here"
        print(f"{speed}: {steps} steps in {minutes:g} minutes", file=sys.stderr)
    return steps


def embed(
    model: Path, images: Path, out: Path, size: int | None, batch: int, tile: int | None, device: str, precision: str,
    workers: int, quiet: bool,
) -> Path:  # fmt: skip
    """Write dense maps; see `vader embed --help`."""
    from vader.inference import embed as predict
    from vader.models.checkpoint import load_model

    if size is not None and size < 32:
        raise BadInput(f"--size: expected at least 32 px, got {size}")
    if batch < 1:
        raise BadInput(f"--batch: expected at least 1, got {batch}")
    device = choose_device(device)
    network = load_model(model, device)
    listed = list_images(images)
    predict.embed_to_disk(
        network, listed, out, identity=network.card["sha256"], size=size, batch=batch, tile=tile, device=device,
        precision=choose_precision(precision, device), workers=workers, say=None if quiet else to_stderr,
    )  # fmt: skip
    return out


FITTED_ON = 64  # pictures at most, evenly from the list, for encoders that have to see some first


def show(
    what: str, models: Sequence[str], images: Path, out: Path, count: int, at: str | None, size: int | None, seed: int,
    device: str, basis: Literal["panel", "image"], quiet: bool,
) -> list[Path]:  # fmt: skip
    """Write pictures; see `vader show --help`."""
    from vader.encoders import fit, open_encoder
    from vader.inference import show as pictures

    if count < 1:
        raise BadInput(f"--count: expected at least 1, got {count}")
    if size is not None and size < 32:
        raise BadInput(f"--size: expected at least 32 px, got {size}")
    device, listed = choose_device(device), list_images(images)
    encoders = [open_encoder(spec, device) for spec in models]
    if any(encoder.pending is not None for encoder in encoders):
        some = [one.pixels for one in pictures.read_some(listed, FITTED_ON, size)]
        if not quiet:
            print(f"fitting on {len(some)} of the images what has to see some first", file=sys.stderr)
        encoders = [fit(encoder, some) for encoder in encoders]
    make_folder(out)
    if what == "pca":
        return [pictures.show_pca(encoders, listed, out, count, size, basis)]
    if what == "matches":
        return [pictures.show_matches(encoders, listed, out, count, size, seed)]
    return [pictures.show_similar(encoders, listed, out, count, parse_point(at), size)]


def scenes(
    out: Path, layout: str, count: int, size: str, seed: int, settings: list[str], workers: int | None, quiet: bool
) -> dict[str, Any]:
    """Render a data set; see `vader scenes --help`."""
    from vader.runtime.progress import to_stderr
    from vader.scenes import layouts
    from vader.scenes.world import SceneConfig

    height, width = parse_size(size)
    changes: dict[str, Any] = {}
    for item in settings:
        assign(changes, *parse_setting(item))
    try:
        config = SceneConfig(**({"setting": layouts.LAYOUTS[layout].setting} | changes))
    except ValidationError as error:
        raise BadInput(f"--set: {explain(error)}") from None
    return layouts.write(
        out, layout, count=count, width=width, height=height, seed=seed, config=config, workers=workers,
        say=None if quiet else to_stderr,
    )  # fmt: skip


def parse_size(text: str) -> tuple[int, int]:
    """'HxW' -> (H, W)."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise BadInput(f"--size: expected HxW in pixels, such as 480x640, got {text!r}")
    return int(height), int(width)


def parse_point(text: str | None) -> tuple[float, float] | None:
    """'X,Y' -> (X, Y)."""
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--at: expected X,Y in pixels, got {text!r}") from None
    return x, y
