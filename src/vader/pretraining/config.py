"""Everything that determines a run, validated before it starts; read from a TOML file, a run folder, KEY=VALUE."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vader.errors import BadCheckpoint, BadInput
from vader.models.network import NetworkConfig
from vader.pretraining.views import ViewConfig

# The network that an objective needs: an embedding a cell, or one an image.
KINDS: dict[str, Literal["dense", "image"]] = {"vader": "dense", "moco": "image"}


class PretrainConfig(BaseModel):
    """Everything that determines a run. `vader.recipes` returns whole ones; the paper's constants are the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Path
    out: Path
    objective: Literal["vader", "moco"] = "vader"
    steps: int = Field(ge=1)
    seed: int = Field(0, ge=0)

    network: NetworkConfig = NetworkConfig()
    init: Path | Literal["timm"] | None = None  # weights to start from; timm: the published ones of the encoder
    allow_missing: tuple[str, ...] = ()  # patterns of names that `init` need not have
    freeze_encoder: bool = False

    views: ViewConfig = ViewConfig()
    batch: int = Field(128, ge=1)  # pairs a step, over all processes
    points: int = Field(32, ge=1)  # matched pixels an image
    read: Literal["bilinear", "nearest"] = "bilinear"  # of keys at their points

    temperature: float = Field(0.07, gt=0)
    factor: float = Field(10.0, gt=0)  # multiplies the loss
    queue: int = Field(65_536, ge=1)
    enqueue: Literal["all", "pooled"] | int = "all"  # or so many keys an image
    skip_own: bool = False  # keys of the same image in the queue are no negatives
    within_image: float | None = Field(None, gt=0)  # the image's own keys beyond so many pixels are negatives
    momentum: float = Field(0.999, ge=0, le=1)  # of the teacher
    bn_groups: int = Field(4, ge=1)  # virtual groups of batch norm; 1 switches shuffling off on one device

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr_encoder: float = Field(3e-7, ge=0)
    lr_decoder: float = Field(3e-3, ge=0)  # of all that stands on the encoder
    sgd_momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    clip_grad: float | None = Field(None, gt=0)  # of the whole gradient's norm
    max_failures: int = Field(10, ge=1)  # steps with NaN or inf in a row that stop the run

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    devices: int = Field(1, ge=1)  # processes a node
    nodes: int = Field(1, ge=1)
    compile: bool = False
    workers: int = Field(2, ge=0)
    finish: Literal["worker", "device"] = "worker"  # where colours are changed
    hold: Literal["nothing", "memory", "device"] = "nothing"  # decoded images
    max_bad_share: float = Field(0.1, ge=0, le=1)  # of unreadable files; above it the run stops

    held_out: int = Field(128, ge=1)  # images for the exam
    log_every: int = Field(20, ge=1)
    exam_every: int = Field(500, ge=1)
    save_every: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)  # saved states
    on_collapse: Literal["warn", "stop"] = "warn"
    tensorboard: bool = False

    @field_validator("init", mode="before")
    @classmethod
    def _word(cls, init: Any) -> Any:
        return "timm" if init is not None and str(init) == "timm" else init

    @field_validator("images", "init")
    @classmethod
    def _absolute(cls, path: Path | str | None) -> Path | str | None:
        """A run may be resumed from another folder than it was started in."""
        return path.absolute() if isinstance(path, Path) else path

    @model_validator(mode="after")
    def _fits_together(self) -> "PretrainConfig":
        """Refuse settings that contradict each other."""
        kind = KINDS[self.objective]
        processes = self.devices * self.nodes
        conflicts = {
            f"objective {self.objective!r} needs network.kind {kind!r}": self.network.kind != kind,
            f"batch {self.batch} must be a multiple of {processes} processes x {self.bn_groups} bn_groups":
                self.batch % (processes * self.bn_groups) != 0,
            "hold='device' draws no elastic views; use hold='memory'": self.hold == "device" and self.views.elastic > 0,
            "enqueue takes 1 key an image or more": isinstance(self.enqueue, int) and self.enqueue < 1,
            f"objective {self.objective!r} has one key an image: within_image does not apply":
                kind == "image" and self.within_image is not None,
        }  # fmt: skip
        for conflict, holds in conflicts.items():
            if holds:
                raise ValueError(conflict)
        return self


@dataclass(frozen=True)
class FeedConfig:
    """What a feed needs to know beside the images: see `PretrainConfig` for the meanings."""

    views: ViewConfig
    batch: int
    points: int
    stride: int
    seed: int
    workers: int
    finish: Literal["worker", "device"] = "worker"  # where colours are changed
    hold: Literal["nothing", "memory", "device"] = "nothing"  # decoded images


def read_config(run: Path) -> PretrainConfig:
    """The config of a run folder, with the folder's place as it is now."""
    path = run / "config.json"
    if not path.is_file():
        raise BadInput(f"--resume: expected a run folder with a config.json, found none in {run}")
    try:
        return PretrainConfig.model_validate_json(path.read_text()).model_copy(update={"out": run})
    except ValidationError as error:
        raise BadCheckpoint(f"{path}: {explain(error)}") from None


@contextmanager
def explained() -> Iterator[None]:
    """Within it, settings that do not validate raise BadInput in words."""
    try:
        yield
    except ValidationError as error:
        raise BadInput(explain(error)) from None


def explain(error: ValidationError) -> str:
    """A validation error in one line."""
    parts = []
    for problem in error.errors():
        where = ".".join(str(x) for x in problem["loc"])
        found = "" if problem["type"] in ("value_error", "missing") else f", found {problem['input']!r}"
        parts.append(f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(parts)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file of settings."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--config {path}: expected a TOML file of settings, found {error}") from None


def assign(changes: dict[str, Any], key: str, value: Any) -> None:
    """changes['a']['b'] = value for key 'a.b'; a dict is merged into what is there."""
    *path, last = key.split(".")
    for part in path:
        changes = changes.setdefault(part, {})
        if not isinstance(changes, dict):
            raise BadInput(f"--set {key}: {part} is no group of settings")
    merged = isinstance(value, dict) and isinstance(changes.get(last), dict)
    changes[last] = changes[last] | value if merged else value
