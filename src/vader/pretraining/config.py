"""Everything that determines a run, validated before it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
    init: Path | None = None  # weights to start from
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

    @field_validator("images", "init")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A run may be resumed from another folder than it was started in."""
        return path and path.absolute()

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
