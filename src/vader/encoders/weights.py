"""Load published weight files into networks, by the tensor names of the code that wrote them.

The names are those of the upstream code: facebookresearch/moco (main_moco.py), WXinlong/DenseCL (openselfsup/models/
densecl.py, tools/extract_backbone_weights.py), zdaxie/PixPro (main_pretrain.py, contrast/models/PixPro.py),
facebookresearch/dino (utils.py, main_dino.py), facebookresearch/dinov2 (dinov2/models/vision_transformer.py).
"""

import re
from collections.abc import Mapping
from hashlib import file_digest
from typing import Any

import torch
from torch import Tensor

from vader.encoders.spec import Spec
from vader.errors import BadCheckpoint
from vader.models.backbones import CNN, IMAGENET, ViT, backbone, published_tensors, vit_of
from vader.models.foreign import LoadReport, initialise_encoder, load_into, read_foreign

# The prefixes of the wanted network in each code base; the first one that exists is used. A file of the query encoder
# alone has no prefix.
FAMILIES = {
    "moco": ("module.encoder_q.", "encoder_q.", "module.base_encoder.", ""),
    "densecl": ("backbone.", "encoder_q.0.", ""),
    "pixpro": ("module.encoder.", "encoder.", ""),
    "dino": ("module.backbone.", "backbone.", "module.", ""),
    "dinov2": ("module.backbone.", "backbone.", "module.", ""),
}
FIRST = {"resnet": "conv1.weight", "vit": "patch_embed.proj.weight"}
# (blocks of each stage, bottleneck, width of the first stage's 3x3) -> timm's name
RESNETS: dict[tuple[tuple[int, ...], bool, int], str] = {
    ((2, 2, 2, 2), False, 64): "resnet18",
    ((3, 4, 6, 3), False, 64): "resnet34",
    ((3, 4, 6, 3), True, 64): "resnet50",
    ((3, 4, 23, 3), True, 64): "resnet101",
    ((3, 8, 36, 3), True, 64): "resnet152",
    ((3, 4, 6, 3), True, 128): "wide_resnet50_2",
    ((3, 4, 23, 3), True, 128): "wide_resnet101_2",
}
ADVICE = "check that the file is of this network"


def named_network(spec: Spec) -> tuple[CNN | ViT, dict[str, Any]]:
    """Load the network of a `timm:` or `torchvision:` spec with its weights; return it and its facts.

    Raises BadInput for weights that are not available, BadCheckpoint for a file that does not fit.
    """
    network = backbone(spec.name)
    if spec.file:
        tensors, origin = read_foreign(spec.file), _file_facts(spec)
    else:
        tensors, source = published_tensors(spec.name)
        origin = {"file": None, "sha256": None, "lineage": source}
    told = str(spec.file or f"timm:{spec.name}")
    if isinstance(network, CNN):
        report = initialise_encoder(network, tensors, told, advice=ADVICE)
    else:
        report = load_into(network.body, tensors, told, advice=ADVICE)
    if spec.kind == "torchvision":
        _normalise(network)
    return network, {"source": spec.kind, "loaded": _counts(report), **origin}


def family_network(spec: Spec) -> tuple[CNN | ViT, dict[str, Any]]:
    """Load the network in a file of MoCo, DenseCL, PixPro, DINO or DINOv2; return it and its facts.

    The shapes determine the architecture. Raises BadInput for a missing file, BadCheckpoint for another kind of file.
    """
    assert spec.file is not None
    tensors, told = read_foreign(spec.file), str(spec.file)
    prefix, kind = _find(spec, tensors)
    network: CNN | ViT
    if kind == "resnet":
        network = backbone(_resnet_name(told, {n.removeprefix(prefix): t for n, t in tensors.items()}))
        assert isinstance(network, CNN)
        _normalise(network)
        report = initialise_encoder(network, tensors, told, prefix, advice=ADVICE)
    else:
        others = tuple(name for name in tensors if not name.startswith(prefix))
        inner = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        network, renamed = vit_of(inner, told)
        report = load_into(network.body, renamed, told, prefix, others, advice=ADVICE)
    return network, {"source": spec.kind, "loaded": _counts(report), **_file_facts(spec)}


def _find(spec: Spec, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Find the prefix of the family's network in a file, and whether it is a ResNet or a transformer."""
    kinds = FIRST if spec.kind.startswith("dino") else {"resnet": FIRST["resnet"]}
    for prefix in FAMILIES[spec.kind]:
        for kind, first in kinds.items():
            if prefix + first in tensors:
                return prefix, kind
    wanted = " or ".join(prefix + first for first in kinds.values() for prefix in FAMILIES[spec.kind])
    raise BadCheckpoint(
        f"{spec.file}: expected a {spec.kind} file, with a tensor {wanted}, found {len(tensors)} others such as "
        f"{next(iter(tensors))}; check that it is of {spec.kind}"
    )


def _resnet_name(told: str, tensors: Mapping[str, Tensor]) -> str:
    blocks = [re.match(r"layer([1-4])\.(\d+)\.conv1\.weight", name) for name in tensors]
    counts = tuple(len({m[2] for m in blocks if m and m[1] == stage}) for stage in "1234")
    bottleneck = "layer1.0.conv3.weight" in tensors
    middle = tensors.get("layer1.0.conv2.weight", torch.zeros(0)).shape[0]
    if (counts, bottleneck, middle) not in RESNETS:
        raise BadCheckpoint(
            f"{told}: expected a ResNet ({', '.join(RESNETS.values())}), found {counts} blocks of {middle} channels; "
            "open it as timm:NAME=FILE"
        )
    return RESNETS[counts, bottleneck, middle]


def _normalise(network: CNN | ViT) -> None:
    """Set ImageNet's mean and deviation: all these weights were trained with them, even if timm has others."""
    for buffer, values in zip((network.mean, network.std), IMAGENET, strict=True):
        buffer.copy_(torch.tensor(values).view(3, 1, 1))


def _counts(report: LoadReport) -> dict[str, int]:
    return {"matched": len(report.matched), "missing": len(report.missing), "unused": len(report.unused)}


def _file_facts(spec: Spec) -> dict[str, Any]:
    assert spec.file is not None
    with spec.file.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()[:16]
    making = "official file" if spec.kind in FAMILIES else "file"
    return {"file": str(spec.file), "sha256": digest, "lineage": f"{spec.kind}, {making} {spec.file.name}"}
