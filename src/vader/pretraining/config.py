"""The settings of a run, validated before it starts; read from a TOML file, a run folder or KEY=VALUE."""

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

# The kind of network of each objective: one embedding per cell, or one per image.
KINDS: dict[str, Literal["dense", "image"]] = {"vader": "dense", "moco": "image"}


class PretrainConfig(BaseModel):
    """All settings of a run. `vader.recipes` returns complete configs; the defaults are the paper's constants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Path
    out: Path
    objective: Literal["vader", "moco"] = "vader"
    steps: int = Field(ge=1)
    seed: int = Field(0, ge=0)

    network: NetworkConfig = NetworkConfig()
    init: Path | Literal["timm"] | None = None  # weights to start from; timm: the encoder's published weights
    allow_missing: tuple[str, ...] = ()  # patterns of names that may be missing in `init`
    freeze_encoder: bool = False

    views: ViewConfig = ViewConfig()
    batch: int = Field(128, ge=1)  # pairs per step, over all processes
    points: int = Field(32, ge=1)  # matched pixels per image
    read: Literal["bilinear", "nearest"] = "bilinear"  # how keys are read at their points

    temperature: float = Field(0.07, gt=0)
    factor: float = Field(10.0, gt=0)  # multiplies the loss
    queue: int = Field(65_536, ge=1)
    enqueue: Literal["all", "pooled"] | int = "all"  # or a number of keys per image
    skip_own: bool = False  # do not use keys of the same image in the queue as negatives
    within_image: float | None = Field(None, gt=0)  # the image's other keys beyond this distance (px) are negatives
    momentum: float = Field(0.999, ge=0, le=1)  # of the teacher
    bn_groups: int = Field(4, ge=1)  # virtual groups of batch norm; 1 turns shuffling off on one device

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr_encoder: float = Field(3e-7, ge=0)
    lr_decoder: float = Field(3e-3, ge=0)  # of all layers after the encoder
    sgd_momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    clip_grad: float | None = Field(None, gt=0)  # limit of the whole gradient's norm
    max_failures: int = Field(10, ge=1)  # the run stops after this many steps with NaN or inf in a row

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    devices: int = Field(1, ge=1)  # processes per node
    nodes: int = Field(1, ge=1)
    compile: bool = False
    workers: int = Field(2, ge=0)
    finish: Literal["worker", "device"] = "worker"  # where colours are changed
    hold: Literal["nothing", "memory", "device"] = "nothing"  # decoded images
    max_bad_share: float = Field(0.1, ge=0, le=1)  # of unreadable files; above this share the run stops

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
        """Make paths absolute: a run may be resumed from another working directory."""
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
            "hold='device' has no elastic views; use hold='memory'": self.hold == "device" and self.views.elastic > 0,
            "enqueue: expected 1 key per image or more": isinstance(self.enqueue, int) and self.enqueue < 1,
            f"objective {self.objective!r} has one key per image; leave out within_image":
                kind == "image" and self.within_image is not None,
        }  # fmt: skip
        for conflict, holds in conflicts.items():
            if holds:
                raise ValueError(conflict)
        return self


@dataclass(frozen=True)
class FeedConfig:
    """The settings of a feed: see `PretrainConfig` for the meanings."""

    views: ViewConfig
    batch: int
    points: int
    stride: int
    seed: int
    workers: int
    finish: Literal["worker", "device"] = "worker"  # where colours are changed
    hold: Literal["nothing", "memory", "device"] = "nothing"  # decoded images


def read_config(run: Path) -> PretrainConfig:
    """Read the config of a run folder; `out` is the folder's present path."""
    path = run / "config.json"
    if not path.is_file():
        raise BadInput(f"--resume: expected a run folder with a config.json, found none in {run}")
    try:
        return PretrainConfig.model_validate_json(path.read_text()).model_copy(update={"out": run})
    except ValidationError as error:
        raise BadCheckpoint(f"{path}: {explain(error)}") from None


@contextmanager
def explained() -> Iterator[None]:
    """Turn a validation error inside the context into a BadInput with a readable message."""
    try:
        yield
    except ValidationError as error:
        raise BadInput(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Describe a validation error in one line."""
    parts = []
    for problem in error.errors():
        where = ".".join(str(x) for x in problem["loc"])
        found = "" if problem["type"] in ("value_error", "missing") else f", found {problem['input']!r}"
        parts.append(f"{where + ': ' if where else ''}{problem['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(parts)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--config {path}: expected a TOML file of settings, found {error}") from None


def assign(changes: dict[str, Any], key: str, value: Any) -> None:
    """Set changes['a']['b'] = value for key 'a.b'; a dict is merged into an existing dict."""
    *path, last = key.split(".")
    for part in path:
        changes = changes.setdefault(part, {})
        if not isinstance(changes, dict):
            raise BadInput(f"--set {key}: expected a group of settings, found the setting {part}")
    merged = isinstance(value, dict) and isinstance(changes.get(last), dict)
    changes[last] = changes[last] | value if merged else value
