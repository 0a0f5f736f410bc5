"""Load foreign weights (official MoCo v1/v2, torchvision, timm, or another vader model) into an encoder or network.

Every load reports which tensors matched, which were missing and which were not used. A partial match is an error
unless the user allows the missing names.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.serialization import safe_globals

from vader.errors import BadCheckpoint
from vader.models.backbones import CNN, published_tensors
from vader.models.checkpoint import read_tensors
from vader.models.network import Network

ADVICE = "check --encoder, or allow names with --set 'allow_missing=[\"PATTERN\"]'"

# Prefixes of the wanted network's names in known code bases, tried in this order.
PREFIXES = (
    "module.encoder_q.",  # facebookresearch/moco, saved from DistributedDataParallel
    "encoder_q.",
    "module.base_encoder.",  # MoCo v3
    "module.backbone.",
    "backbone.",
    "module.encoder.",
    "module.",
    "model.",
    "encoder.body.",  # a vader model
    "",
)


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a file: the network's names that matched or are missing, and the file's unused names."""

    source: str
    prefix: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.matched)} tensors matched, {len(self.missing)} missing, {len(self.unused)} not used"
        text = f"{self.source}: {counts}"
        for word, names in (("missing", self.missing), ("not used", self.unused)):
            if names:
                text += f"; {word}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        return text


def initialise(network: Network, path: Path | Literal["timm"], allow_missing: tuple[str, ...] = ()) -> LoadReport:
    """Load a weight file into a network's encoder, or into the whole network if the file is a vader model of its shape.

    "timm" means the weights that timm publishes for the encoder's name, from the Hub or its cache.

    `allow_missing` are patterns (regular expressions) of names that may be missing in the file. Raises BadCheckpoint
    with the report if other names are missing or a shape differs.
    """
    if path == "timm":
        published, source = published_tensors(network.encoder.name)
        return initialise_encoder(network.encoder, published, source, allow_missing=allow_missing)
    tensors = read_foreign(path)
    ours = network.state_dict()
    if tensors.keys() >= ours.keys() and not _differing(tensors, ours):
        return load_into(network, tensors, str(path), allow_missing=allow_missing)
    return initialise_encoder(network.encoder, tensors, str(path), allow_missing=allow_missing)


def initialise_encoder(
    encoder: CNN,
    tensors: Mapping[str, Tensor],
    source: str,
    prefix: str | None = None,
    allow_missing: tuple[str, ...] = (),
    advice: str = ADVICE,
) -> LoadReport:
    """Load named tensors into an encoder: those under `prefix`, or under the known prefix with the most matches.

    Raises BadCheckpoint as `initialise` does; the message ends with `advice`.
    """
    ours = encoder.body.state_dict()
    if prefix is None:
        prefix, renamed = _best_prefix(tensors, ours)
    else:
        renamed = _strip(prefix, tensors, ours)
    others = tuple(name for name in tensors if not name.startswith(prefix))
    return load_into(encoder.body, renamed, source, prefix, others, allow_missing, advice)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Read tensors with `read_tensors`, also from files that contain training options, such as PixPro's and DINO's.

    The options are an `argparse.Namespace`, which contains plain values and executes nothing. Other classes fail.
    """
    with safe_globals([argparse.Namespace]):
        return read_tensors(path)


def _best_prefix(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Find the prefix with the most of the encoder's names; return it and the tensors without it."""
    prefix = max(PREFIXES, key=lambda candidate: len(_strip(candidate, tensors, ours).keys() & ours.keys()))
    return prefix, _strip(prefix, tensors, ours)


def _strip(prefix: str, tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_timm_name(n[len(prefix) :], ours): t for n, t in tensors.items() if n.startswith(prefix)}


def _timm_name(name: str, ours: Mapping[str, Tensor]) -> str:
    """Rename for timm's `features_only` networks, which flatten `stem.0` to `stem_0` in some families."""
    flattened = name.replace(".", "_", 1)
    return flattened if name not in ours and flattened in ours else name


def _differing(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    return [name for name in ours if name in tensors and tensors[name].shape != ours[name].shape]


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    prefix: str = "",
    others: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    advice: str = ADVICE,
) -> LoadReport:
    """Load tensors by the module's names; `prefix` was removed from them, `others` are the file's other names.

    Raises BadCheckpoint, with the report and `advice`, for missing names, other shapes, or a file of a larger network.
    """
    ours = module.state_dict()
    differing = _differing(tensors, ours)
    # num_batches_tracked is a counter that old files lack and that no code reads.
    wanted = [name for name in ours if not name.endswith("num_batches_tracked")]
    missing = tuple(name for name in wanted if name not in tensors)
    unused = (*(prefix + name for name in tensors if name not in ours), *others)
    report = LoadReport(source, prefix, tuple(n for n in wanted if n in tensors), missing, unused)
    if differing:
        name = differing[0]
        raise BadCheckpoint(
            f"{source}: {name} has shape {tuple(tensors[name].shape)}, the network expects {tuple(ours[name].shape)} "
            f"({len(differing)} tensors differ); check that these weights belong to this network; {advice}"
        )
    refused = [name for name in missing if not any(re.search(pattern, name) for pattern in allow_missing)]
    if refused or not report.matched:
        raise BadCheckpoint(f"{report}. A partial match is refused; {advice}")
    # All names of ResNet-18 are also in ResNet-34; unused tensors in the same blocks reveal the larger network.
    blocks = {name.split(".")[0] for name in ours}
    larger = [name for name in tensors if name not in ours and name.split(".")[0] in blocks]
    if larger:
        raise BadCheckpoint(
            f"{report}. The file's network is larger than the encoder ({len(larger)} more tensors in the same blocks, "
            f"such as {larger[0]}); {advice}"
        )
    module.load_state_dict({name: tensors.get(name, ours[name]) for name in ours})
    return report
