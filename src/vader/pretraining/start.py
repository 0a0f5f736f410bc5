"""The public verb `pretrain`: check the arguments, make a config, start or resume a run.

The command line uses the same signature and docstring. Heavy imports happen when the verb runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vader.errors import BadInput, BadUsage
from vader.runtime.verb import verb

if TYPE_CHECKING:
    from vader.models.network import Network
    from vader.pretraining.config import PretrainConfig

# The config key that each flag sets.
FLAGS = {
    "objective": "objective", "init": "init", "steps": "steps", "batch": "batch", "queue": "queue", "seed": "seed",
    "workers": "workers", "devices": "devices", "size": "views.size", "views": "views.pairing",
    "encoder": "network.encoder",
}  # fmt: skip


@dataclass(frozen=True)
class Pretrained:
    """A finished run: its folder, the file of the best model, the verdict, and the scores of the match exam."""

    folder: Path
    model: Path
    steps: int
    verdict: str
    scores: dict[str, float] = field(repr=False)

    def __str__(self) -> str:
        return str(self.folder)

    def __fspath__(self) -> str:
        return str(self.folder)

    def as_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {
            "out": str(self.folder), "model": str(self.model), "steps": self.steps, "verdict": self.verdict,
            "scores": self.scores,
        }  # fmt: skip


@verb
def pretrain(
    images: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: Literal["quick", "default", "paper"] | None = None,
    objective: Literal["vader", "moco"] | None = None,
    encoder: str | None = None,
    init: str | Path | None = None,
    freeze_encoder: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    size: int | None = None,
    queue: int | None = None,
    views: Literal["different", "same", "unmatched"] | None = None,
    seed: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    workers: int | None = None,
    devices: int | None = None,
    config: "str | Path | PretrainConfig | None" = None,
    settings: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    extend: int = 0,
    quiet: bool = False,
    watch: "Callable[[int, Network], None] | None" = None,
) -> Pretrained:
    """Learn a dense representation from a folder (or a list file) of unlabelled images.

    Parameters
    ----------
    images
        Folder of images (nested folders too), or a .txt file with one path per line.
    out
        Run folder to create: config, record, metrics, checkpoints, model.safetensors + model.json.
    recipe
        quick (CPU, minutes), default (one GPU, hours), paper (every constant of the paper); default: by hardware.
    objective
        vader contrasts matched pixels; moco, the baseline, contrasts whole images.
    encoder
        A timm CNN, such as resnet50 or tf_efficientnet_lite0.
    init
        Weights to start from: a file (MoCo, torchvision, timm, safetensors, or a vader model), or timm for the
        published weights of the encoder.
    freeze_encoder
        Train only the layers after the encoder.
    steps
        Length of the run in steps. Give one of steps, epochs and minutes.
    epochs
        Length in passes over the images.
    minutes
        Length in minutes: the speed is measured first and converted to steps.
    batch
        Pairs of views per step, over all processes.
    size
        Side of a view in pixels, a multiple of 32.
    queue
        Length of the queue of negatives, in keys.
    views
        Pairing of views: different crops, the same crop, or unmatched pixels (the paper's Table 3).
    seed
        Seed of all random numbers.
    device
        Device to train on.
    precision
        bf16 or fp32 (auto: bf16 if the hardware supports it).
    workers
        Processes that read images and draw views.
    devices
        Training processes on this machine (one per GPU).
    config
        TOML file with any setting of PretrainConfig; flags override it. In Python also a whole PretrainConfig.
    settings
        KEY=VALUE for any setting, nested by dots: --set views.degrees=15 --set temperature=0.1. In Python a dict.
    resume
        Run folder to resume from its last saved state; the result is the same as without the stop.
    extend
        With resume: number of steps to add to the run.
    quiet
        Print no progress on standard error.
    watch
        In Python only: a function called with the step and the network after every exam.
    """
    if not (images is None or isinstance(images, str | Path)):  # vader.pretrain(config), as it was before
        images, config = None, images
    given = {
        "recipe": recipe, "objective": objective, "encoder": encoder, "init": init, "freeze_encoder": freeze_encoder,
        "steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "size": size, "queue": queue,
        "views": views, "seed": seed, "device": device, "precision": precision, "workers": workers,
        "devices": devices, "config": config, "settings": settings,
    }  # fmt: skip
    _check_words(images, out, resume, extend, given)
    from vader.pretraining.config import PretrainConfig
    from vader.pretraining.pretrain import run_pretraining
    from vader.runtime.files import removed_if_empty

    if isinstance(config, PretrainConfig):
        beside = [*(["resume"] if resume is not None else []), *(name for name in _given(given) if name != "config")]
        if beside:
            raise BadUsage(f"config: a PretrainConfig contains all settings, found {', '.join(beside)} beside it")
        if images is not None or out is not None:
            raise BadUsage("config: a PretrainConfig contains images and out; leave out these two arguments")
        return _result(run_pretraining(config, quiet=quiet, watch=watch))
    if resume is not None:
        resumed = _resumed_config(Path(resume), given)
        return _result(run_pretraining(resumed, resume=True, extend=extend, quiet=quiet, watch=watch))
    assert images is not None
    assert out is not None
    with removed_if_empty(Path(out)):
        return _result(run_pretraining(_make_config(Path(images), Path(out), given, quiet), quiet=quiet, watch=watch))


def _check_words(images: object, out: object, resume: object, extend: int, given: dict[str, Any]) -> None:
    whole = given["config"] is not None and not isinstance(given["config"], str | Path)
    if resume is None and (images is None or out is None) and not whole:
        raise BadUsage("expected IMAGES and --out RUN, or --resume RUN")
    if resume is not None and (images is not None or out is not None):
        raise BadUsage("--resume: expected only the run folder, found IMAGES or --out too; leave them out")
    if extend < 0 or (extend and resume is None):
        raise BadUsage("--extend: expected a positive number of steps and --resume RUN")
    lengths = [name for name in ("steps", "epochs", "minutes") if given[name] is not None]
    if len(lengths) > 1:
        raise BadUsage(f"expected one of --steps, --epochs, --minutes, found --{' and --'.join(lengths)}")


def _result(folder: Path) -> Pretrained:
    import json

    record = json.loads((folder / "record.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    steps = record.get("steps", config["steps"])
    return Pretrained(folder, folder / "model.safetensors", steps, record["verdict"]["text"], record["scores"])


def _given(words: dict[str, Any]) -> list[str]:
    """The names of the words that say something."""
    return [name for name, value in words.items() if not (value is None or value is False or value in ("auto", [], {}))]


def _resumed_config(run: Path, given: dict[str, Any]) -> "PretrainConfig":
    """Return the config of a run to resume. Only the number of workers may differ: it changes no result."""
    from vader.pretraining.config import read_config

    config = read_config(run)
    kept = [name for name in _given(given) if name != "workers"]
    if kept:
        flag = "set" if kept[0] == "settings" else kept[0].replace("_", "-")
        raise BadInput(f"--resume: a run keeps its settings, found --{flag}; leave it out")
    return config if given["workers"] is None else config.model_copy(update={"workers": given["workers"]})


def _make_config(images: Path, out: Path, given: dict[str, Any], quiet: bool = False) -> "PretrainConfig":
    """Make a config from a recipe, a TOML file, settings and flags; later ones override earlier ones."""
    from vader.images.sources import list_images
    from vader.pretraining import recipes
    from vader.pretraining.config import explained
    from vader.pretraining.plan import trained_on, with_length
    from vader.runtime.processes import is_first_process
    from vader.runtime.progress import silent, to_stderr

    say = silent if quiet or not is_first_process() else to_stderr
    count = len(list_images(images))
    changes = gather_changes(given)
    name = given["recipe"] or recipes.suggest(changes["device"])
    with explained():
        config = recipes.RECIPES[name](images, out, count, **changes)
    config = with_length(config, count, given["epochs"], given["minutes"], say)
    say(recipes.explain(name, config, count, trained_on(config, count)))
    return config


def gather_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Return the changes to the recipe: from the TOML file, then `settings`, then flags; later ones override."""
    from vader.models.cost import is_depthwise
    from vader.pretraining.config import assign, read_toml
    from vader.runtime.processes import choose_device, choose_precision

    changes: dict[str, Any] = read_toml(Path(given["config"])) if given["config"] is not None else {}
    for key, value in (given["settings"] or {}).items():
        assign(changes, key, value)
    if named := {"images", "out"} & changes.keys():
        raise BadInput(
            f"{min(named)}: expected on the command line only, found in --config or --set; leave it out there"
        )
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
