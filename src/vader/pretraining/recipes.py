"""Whole configs for pretraining. A recipe is a function; a variant is a `replace` (`model_copy(update=...)`).

`suggest` picks one for the hardware and fits it to the number of images; the rest is arithmetic on what it finds.
"""

import os
from pathlib import Path
from typing import Any, Literal

from vader.models.backbones import STRIDE
from vader.models.cost import fitting_decoder
from vader.models.network import NetworkConfig
from vader.pretraining.config import PretrainConfig

RecipeName = Literal["quick", "default", "paper"]


def paper(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """Every constant of the paper (section 3.2): ResNet-50 from MoCo v2 weights (give `init`), 128 pairs of 224 px,
    queue 65,536, momentum 0.999, SGD at 3e-7 / 3e-3, 6M steps at a constant rate.

    With objective 'moco' every constant of MoCo v2 (`main_moco.py`): temperature 0.2, no factor, one rate of 0.015 a
    128 images for all, half a cosine (which theirs steps once an epoch), 200 epochs of the images found.

    Cost: 768M images seen; weeks on four GPUs of its day. Expected: the paper's Table 1 (VOC 56.7 mIoU).
    """
    batch = _count(changes, "batch", 128)
    settings: dict[str, Any] = {"steps": 6_000_000, "workers": cpu_workers(), "bn_groups": _groups(4, changes)}
    if changes.get("objective") == "moco":
        lr = 0.015 * batch / 128
        settings |= {
            "steps": max(1, 200 * count // batch), "temperature": 0.2, "factor": 1.0,
            "lr_encoder": lr, "lr_decoder": lr, "schedule": "cosine",
        }  # fmt: skip
    return _config(images, out, settings, changes)


def default(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """ResNet-50 at 224 px on one GPU, from scratch or from `init`: the paper's loss, a schedule that ends.

    Cost: 100 epochs, at least 20,000 steps of 128 pairs.
    """
    batch = _count(changes, "batch", 128)
    settings = {"steps": max(20_000, 100 * count // batch), "workers": cpu_workers(), "exam_every": 1000}
    return _config(images, out, settings | _fitted(count, batch, settings | changes) | _short_run(changes), changes)


def quick(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """A small network at 96 px that learns within minutes on two CPU cores: ResNet-10-t unless `network` says else.

    Where it leaves the paper: 128 matched pixels an image, of which 4 are enqueued, and an image's own other keys are
    negatives beyond one cell. A small set's pictures are soon told apart, and then nothing else asks what lies where
    within one (`docs/settings.md`: better matches in every seed).

    Cost: 30 epochs, at least 600 steps of 32 pairs; about 80 pairs a second on two cores with bf16 units.
    """
    batch = _count(changes, "batch", 32)
    settings: dict[str, Any] = {
        "steps": max(600, 30 * count // batch), "batch": batch, "workers": max(1, min(2, cpu_workers() - 1)),
        "views": {"size": 96}, "network": {"encoder": "resnet10t"},
        "held_out": 64, "exam_every": 200, "save_every": 200,
    }  # fmt: skip
    if changes.get("objective") != "moco":
        settings |= {"points": 128, "enqueue": 4, "within_image": float(STRIDE)}
    return _config(images, out, settings | _fitted(count, batch, settings | changes) | _short_run(changes), changes)


RECIPES = {"paper": paper, "default": default, "quick": quick}


def suggest(device: str) -> RecipeName:
    """The recipe that suits a device."""
    return "default" if device == "cuda" else "quick"


def explain(name: RecipeName, config: PretrainConfig, count: int, trained_on: int) -> str:
    """Why the settings are what they are, for the console. Of `count` images `trained_on` are not held out."""
    text = (
        f"recipe {name}: {config.objective}, {config.network.encoder} at {config.views.size} px, batch {config.batch}, "
        f"{config.steps} steps ({config.steps * config.batch / trained_on:.1f} epochs of {trained_on} images), "
        f"{config.device} {config.precision}"
    )
    entering = config.batch * (1 if config.objective == "moco" else keys_per_image(config.enqueue, config.points))
    if config.queue < 65_536 and config.queue == queue_length(count, config.objective, entering):  # not the user's
        text += (
            f"\nqueue {config.queue} instead of the paper's 65536: {count} images give few keys, and a queue that "
            "holds more than a share of them is full of the same things (false negatives)"
        )
    if name == "paper" and config.objective == "vader" and config.init is None:
        text += (
            "\nwarning: the paper starts from official MoCo v2 weights and its encoder rate (3e-7) leaves a fresh "
            "encoder as it is; give --init moco_v2_800ep_pretrain.pth.tar"
        )
    return text


def cpu_workers() -> int:
    """Worker processes that the machine's cores allow (cores this process may use, at most 16)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(16, cores)


def keys_per_image(enqueue: str | int, points: int) -> int:
    """How many keys of an image VADeR enqueues. What is no answer counts as 1, for the config to refuse."""
    return {"all": points}.get(enqueue, 1) if isinstance(enqueue, str) else max(1, enqueue)


def queue_length(count: int, objective: str, entering: int) -> int:
    """Whole batches of `entering` keys: about as many pixels as there are images, at most the paper's 65,536, at
    least four batches; of MoCo's whole images one in 32.

    Small sets want short queues (`docs/settings.md`): a longer one mostly adds stale keys and other views of the same
    things, which are false negatives. ImageNet gets the paper's.
    """
    wanted = count // 32 if objective == "moco" else count
    return max(4, min(65_536, wanted) // entering) * entering


def _config(images: Path, out: Path, settings: dict[str, Any], changes: dict[str, Any]) -> PretrainConfig:
    """Settings with changes over them, nested groups merged, and a decoder that suits the encoder."""
    full: dict[str, Any] = {"images": images, "out": out, **settings}
    for key, value in changes.items():
        full[key] = full.get(key, {}) | value if isinstance(value, dict) else value
    network = full.setdefault("network", {})
    if isinstance(network, dict):
        encoder = network.get("encoder", NetworkConfig().encoder)
        kind = "image" if full.get("objective") == "moco" else "dense"
        widths = {} if encoder == NetworkConfig().encoder or kind == "image" else fitting_decoder(encoder)
        full["network"] = widths | {"kind": kind} | network
    return PretrainConfig(**full)


def _fitted(count: int, batch: int, given: dict[str, Any]) -> dict[str, Any]:
    """What follows from the number of images, the batch and what else is `given`."""
    groups = max((g for g in (1, 2, 4) if batch % g == 0 and batch // g >= 8), default=1)
    fitted: dict[str, Any] = {"bn_groups": _groups(groups, given), "skip_own": count < 100_000}
    if given.get("objective") == "moco":
        return fitted | {"queue": queue_length(count, "moco", batch), "temperature": 0.2, "factor": 1.0}
    keys = keys_per_image(given.get("enqueue", "all"), _count(given, "points", 32))
    return fitted | {"queue": queue_length(count, "vader", batch * keys)}


def _groups(groups: int, changes: dict[str, Any]) -> int:
    """Virtual groups a process, so that a group holds as many images on several devices as on one."""
    return max(1, groups // (_count(changes, "devices", 1) * _count(changes, "nodes", 1)))


def _count(changes: dict[str, Any], key: str, otherwise: int) -> int:
    """A number that others follow from. What is none is refused by the config, which names it."""
    value = changes.get(key, otherwise)
    return value if isinstance(value, int) and value >= 1 else otherwise


def _short_run(changes: dict[str, Any]) -> dict[str, Any]:
    """Rates and schedule for runs that end: cosine, warm-up, a teacher that follows within hundreds of steps."""
    return {
        "schedule": "cosine", "warmup_steps": 50, "momentum": 0.99,
        "lr_encoder": 1e-3 if changes.get("init") else 1e-2, "lr_decoder": 1e-2,
    }  # fmt: skip
