"""Recipes: complete configs for pretraining. A recipe is a function; a variant is `model_copy(update=...)`.

`suggest` picks a recipe for the hardware. The recipe fits the settings to the number of images.
"""

import os
from pathlib import Path
from typing import Any, Literal

from vader.models.cost import fitting_decoder
from vader.models.network import NetworkConfig
from vader.pretraining.config import KINDS, PretrainConfig
from vader.pretraining.objectives import OBJECTIVES, VADeR

RecipeName = Literal["quick", "default", "paper"]


def paper(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """Use every constant of the paper (section 3.2): ResNet-50 from MoCo v2 weights (give `init`), 128 pairs of 224 px,
    queue 65,536, momentum 0.999, SGD at 3e-7 / 3e-3, 6M steps at a constant rate.

    With objective 'moco' every constant of MoCo v2 (`main_moco.py`): temperature 0.2, no factor, one rate of 0.015 per
    128 images for all layers, half a cosine (stepped once per epoch in MoCo), 200 epochs of the images found.

    Cost: 768M images seen; weeks on four GPUs of 2020. Expected result: the paper's Table 1 (VOC 56.7 mIoU).
    """
    batch = _count(changes, "batch", 128)
    settings: dict[str, Any] = {"steps": 6_000_000, "workers": cpu_workers(), "bn_groups": _groups(4, changes)}
    settings |= _objective(changes).recipe("paper", count, batch)
    return _config(images, out, settings, changes)


def default(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """Use ResNet-50 at 224 px on one GPU, from scratch or from `init`: the paper's loss, and a schedule that ends.

    Cost: 100 epochs, at least 20,000 steps of 128 pairs.
    """
    batch = _count(changes, "batch", 128)
    settings: dict[str, Any] = {
        "steps": max(20_000, 100 * count // batch),
        "workers": cpu_workers(),
        "exam_every": 1000,
    }
    settings |= _objective(changes).recipe("default", count, batch)
    return _config(images, out, settings | _fitted(count, batch, settings | changes) | _short_run(changes), changes)


def quick(images: Path, out: Path, count: int, **changes: Any) -> PretrainConfig:
    """Use a small network at 96 px that learns in minutes on two CPU cores: ResNet-10-t unless `network` differs.

    Differences from the paper: 128 matched pixels per image, of which 4 are enqueued; and an image's other keys beyond
    one cell are negatives. Images of a small set are soon easy to distinguish, and then no other negative requires the
    network to locate pixels within an image (`docs/settings.md`: better matches with every seed).

    Cost: 30 epochs, at least 600 steps of 32 pairs; about 80 pairs a second on two cores with bf16 units.
    """
    batch = _count(changes, "batch", 32)
    settings: dict[str, Any] = {
        "steps": max(600, 30 * count // batch), "batch": batch, "workers": max(1, min(2, cpu_workers() - 1)),
        "views": {"size": 96}, "network": {"encoder": "resnet10t"},
        "held_out": 64, "exam_every": 200, "save_every": 200,
    }  # fmt: skip
    settings |= _objective(changes).recipe("quick", count, batch)
    return _config(images, out, settings | _fitted(count, batch, settings | changes) | _short_run(changes), changes)


RECIPES = {"paper": paper, "default": default, "quick": quick}


def suggest(device: str) -> RecipeName:
    """Return the recipe for a device."""
    return "default" if device == "cuda" else "quick"


def explain(name: RecipeName, config: PretrainConfig, count: int, trained_on: int) -> str:
    """Explain the settings for the console. Of `count` images `trained_on` are not held out."""
    text = (
        f"recipe {name}: {config.objective}, {config.network.encoder} at {config.views.size} px, batch {config.batch}, "
        f"{config.steps} steps ({config.steps * config.batch / trained_on:.1f} epochs of {trained_on} images), "
        f"{config.device} {config.precision}"
    )
    objective = OBJECTIVES[config.objective]
    entering = config.batch * objective.keys_per_image(config.enqueue, config.points)
    if config.queue < 65_536 and config.queue == queue_length(objective.wanted_keys(count), entering):  # by the recipe
        text += (
            f"\nqueue {config.queue} instead of the paper's 65536: {count} images give few keys, and in a longer queue "
            "many keys show the same things (false negatives)"
        )
    if name == "paper" and objective.paper_start and config.init is None:
        text += (
            f"\nwarning: the paper starts from {objective.paper_start}, and its encoder rate (3e-7) hardly changes a "
            "random encoder; give --init moco_v2_800ep_pretrain.pth.tar"
        )
    return text


def cpu_workers() -> int:
    """Return the number of worker processes: the cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(16, cores)


def queue_length(wanted: int, entering: int) -> int:
    """Return a queue length in whole batches of `entering` keys: `wanted`, at most 65,536, at least four batches.

    Small sets need short queues (`docs/settings.md`): a longer queue mostly adds stale keys and other views of the same
    things, which are false negatives. For ImageNet the result is the paper's length.
    """
    return max(4, min(65_536, wanted) // entering) * entering


def _config(images: Path, out: Path, settings: dict[str, Any], changes: dict[str, Any]) -> PretrainConfig:
    """Apply changes to settings, merge nested groups, and add a decoder that fits the encoder."""
    full: dict[str, Any] = {"images": images, "out": out, **settings}
    for key, value in changes.items():
        full[key] = full.get(key, {}) | value if isinstance(value, dict) else value
    network = full.setdefault("network", {})
    if isinstance(network, dict):
        encoder = network.get("encoder", NetworkConfig().encoder)
        kind = KINDS.get(str(full.get("objective")), "dense")  # the config refuses an unknown objective
        widths = {} if encoder == NetworkConfig().encoder or kind == "image" else fitting_decoder(encoder)
        full["network"] = widths | {"kind": kind} | network
    return PretrainConfig(**full)


def _fitted(count: int, batch: int, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that follow from the number of images, the batch and the `given` settings."""
    groups = max((g for g in (1, 2, 4) if batch % g == 0 and batch // g >= 8), default=1)
    fitted: dict[str, Any] = {"bn_groups": _groups(groups, given), "skip_own": count < 100_000}
    objective = _objective(given)
    keys = objective.keys_per_image(given.get("enqueue", "all"), _count(given, "points", 32))
    return fitted | {"queue": queue_length(objective.wanted_keys(count), batch * keys)}


def _objective(changes: dict[str, Any]) -> VADeR:
    """Return the requested objective; the config refuses an unknown one."""
    return OBJECTIVES.get(str(changes.get("objective")), OBJECTIVES["vader"])


def _groups(groups: int, changes: dict[str, Any]) -> int:
    """Return the virtual groups per process, so that a group has as many images on several devices as on one."""
    return max(1, groups // (_count(changes, "devices", 1) * _count(changes, "nodes", 1)))


def _count(changes: dict[str, Any], key: str, otherwise: int) -> int:
    """Return a number that other settings depend on; the config refuses an invalid value and names it."""
    value = changes.get(key, otherwise)
    return value if isinstance(value, int) and value >= 1 else otherwise


def _short_run(changes: dict[str, Any]) -> dict[str, Any]:
    """Return rates and schedule of short runs: cosine, warm-up, a teacher that follows within hundreds of steps."""
    return {
        "schedule": "cosine", "warmup_steps": 50, "momentum": 0.99,
        "lr_encoder": 1e-3 if changes.get("init") else 1e-2, "lr_decoder": 1e-2,
    }  # fmt: skip
