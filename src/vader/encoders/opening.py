"""Open the encoder that a user's text describes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader.encoders.dense import DenseEncoder, await_fitting
from vader.encoders.fitting import fit
from vader.encoders.handmade import raw_colours, sift
from vader.encoders.spec import Spec, parse, share_weights
from vader.encoders.variants import normalisation, on_device, read_cnn
from vader.encoders.weights import family_network, named_network
from vader.errors import BadInput
from vader.images.pictures import FITTED_ON, Pixels, Some
from vader.images.sources import ImageList
from vader.models.backbones import CNN, STRIDE, ViT, backbone
from vader.models.checkpoint import find_model, load_model
from vader.models.cost import fitting_decoder
from vader.models.groupnorm import settable_norms
from vader.models.network import DenseNetwork, Network, NetworkConfig, build
from vader.models.padding import edge_padded
from vader.runtime.processes import choose_device, choose_precision
from vader.runtime.progress import Say, silent


def open_encoder(
    spec: str, device: str | torch.device = "cpu", weights: Path | None = None, precision: str = "fp32"
) -> DenseEncoder:
    """Open the encoder of `spec`, [NAME=]SOURCE[@VARIANT[:D]][@centred]. SOURCE is one of

    * a run folder or `model.safetensors`: VADeR's own map, or MoCo's hypercolumn;
    * `rgb`: the mean colour of each 4 x 4 cell; `sift`: dense SIFT of 16 x 16 px at stride 4;
    * `random:NAME`: a timm network with random weights, always the same; `random-dense:NAME`: VADeR's network with
     random weights and the recipes' decoder for that CNN;
    * `timm:NAME`: with the weights in `weights`, or of `timm:NAME=FILE`, or timm's own weights, downloaded if allowed;
    * `torchvision:NAME=FILE`, and official files: `moco:FILE`, `densecl:FILE`, `pixpro:FILE`, `dino:FILE`,
      `dinov2:FILE`.

    VARIANT selects the map of a CNN: `hypercolumn` (the default), `last`, `stage:1` ... `stage:4`, `dilated` (see
    `variants.read_cnn`); these also work for a vader model's encoder, and `dense` is the model's own map. Transformers
    have only `last`: the patch tokens, at the patch's stride. With `:D`, or `@centred`, the encoder must first see
    images: call `fit`. The encoder's name is NAME, a plain word of up to 40 characters, or else the whole spec.

    Raises BadInput for anything else, BadCheckpoint for a file that does not fit.
    """
    asked = parse(spec, weights)
    encoder = _with_facts(_in_precision(_source(asked, device), device, precision), asked.text)
    if asked.dim is not None:
        encoder = await_fitting(encoder, asked.text, asked.dim)
    if asked.centred:
        encoder = await_fitting(encoder, asked.text, "centred")
    return replace(encoder, name=asked.title) if asked.title else encoder


def load(model: str | Path, *, device: str = "auto", precision: str = "fp32") -> Network | DenseEncoder:
    """Load a model: the network of a run folder or `model.safetensors`, or the encoder of any other spec.

    `open_encoder` describes the specs. Both results have `embed(images)`, from float images (B, 3, H, W) in [0, 1] on
    the model's device to L2-normalised maps (B, D, h, w), and `features(images)`, the same without normalisation. A
    network's `card`, or an encoder's `facts`, describe its origin. Raises BadInput for an unknown name or path,
    BadCheckpoint for a file that does not fit.
    """
    where = choose_device(device)
    asked = parse(str(model))
    if asked.kind == "model" and (asked.variant, asked.dim, asked.centred) == (None, None, False):
        return load_model(str(asked.file), where)
    return open_encoder(str(model), where, precision=precision)


def open_encoders(
    specs: Sequence[str | DenseEncoder],
    device: str | torch.device = "cpu",
    weights: Path | None = None,
    precision: str = "fp32",
) -> list[DenseEncoder]:
    """Open the encoder of each spec (see `open_encoder`); objects that are already encoders are returned unchanged.

    `weights` apply to all `timm:NAME` and `torchvision:NAME` without a file, which must be one network. Raises BadInput
    if no spec uses them, and as `open_encoder` does.
    """
    words = [one for one in specs if isinstance(one, str)]
    files = dict(zip(words, share_weights(words, weights), strict=True))
    return [open_encoder(one, device, files[one], precision) if isinstance(one, str) else one for one in specs]


def as_encoder(model: str | Path | DenseEncoder | Network, device: str | torch.device = "cpu") -> str | DenseEncoder:
    """A word of `open_encoder` for a path; the encoder of a network that `load` gave; others as they are."""
    if isinstance(model, Network):
        sha = str(model.card.get("sha256", ""))[:16]
        facts: dict[str, Any] = {"source": "model", "loaded": _all(model), "sha256": sha, "lineage": model.card}
        name = f"model {sha[:8]}".strip()
        return _with_facts(_read_ours(model, None, name, facts, device), name)
    return str(model) if isinstance(model, Path) else model


def open_for_images(
    spec: str | Path | DenseEncoder | Network,
    images: ImageList,
    size: int | None,
    device: str,
    *,
    precision: str = "fp32",
    say: Say = silent,
) -> DenseEncoder:
    """Open the encoder of a spec; if it must be fitted, fit it on 64 images at equal distances in the list."""
    given = as_encoder(spec, device)
    encoder = open_encoder(given, device, precision=precision) if isinstance(given, str) else given
    if encoder.pending is None:
        return encoder
    some = Some(images, FITTED_ON, size)
    say(f"fitting {encoder.name} on {len(some)} of the images")
    return fit(encoder, Pixels(some))


def fresh_encoder(config: NetworkConfig, name: str, seed: int = 0, device: str | torch.device = "cpu") -> DenseEncoder:
    """Return an encoder with the random weights of `seed`: the value of an architecture before training."""
    return _with_facts(_read_ours(_fresh(config, seed), None, name, {"source": "random", "seed": seed}, device), name)


def _source(asked: Spec, device: str | torch.device) -> DenseEncoder:
    """Open the encoder without its `:D` and `@centred`."""
    variant, told = asked.variant, asked.text
    if asked.kind in ("rgb", "sift"):
        if variant not in (None, "plain"):
            raise BadInput(f"{told}: expected no variant of {asked.kind} but plain, found @{variant}")
        return (raw_colours if asked.kind == "rgb" else sift)(device)
    if asked.kind == "model":
        network = load_model(str(asked.file), device)
        card = network.card
        facts: dict[str, Any] = {"source": "model", "loaded": _all(network), "sha256": str(card.get("sha256", ""))[:16]}
        facts |= {"file": str(find_model(Path(str(asked.file)))), "lineage": card}
        return _read_ours(network, variant, told, facts, device)
    if asked.kind == "random-dense":
        return _read_ours(_fresh(_dense_config(asked.name)), variant, told, {"source": asked.kind, "seed": 0}, device)
    if asked.kind == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found: CNN | ViT = backbone(asked.name)
        facts = {"source": "random", "seed": 0, "loaded": None, "lineage": "random weights"}
    elif asked.kind in ("timm", "torchvision"):
        if asked.kind == "torchvision" and not asked.file:
            raise BadInput(f"{told}: expected torchvision:NAME=FILE, found no file; give one, or use timm:NAME")
        found, facts = named_network(asked)
    else:
        found, facts = family_network(asked)
    if isinstance(found, CNN):
        return read_cnn(found, variant or "hypercolumn", told, facts, device)
    return _read_transformer(found, variant, told, facts, device)


def _in_precision(encoder: DenseEncoder, device: str | torch.device, precision: str) -> DenseEncoder:
    """Compute the encoder's features in bfloat16 where autocast allows it, if requested."""
    kind = torch.device(device).type
    if choose_precision(precision, kind) == "fp32":
        return encoder

    def features(images: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16):
            return encoder.features(images).float()

    return replace(encoder, features=features, facts=encoder.facts | {"precision": "bf16"})


def _with_facts(encoder: DenseEncoder, spec: str) -> DenseEncoder:
    encoder.facts.update({"spec": spec, "stride": encoder.stride, "channels": encoder.channels})
    return encoder


def _fresh(config: NetworkConfig, seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config).eval()


def _dense_config(name: str) -> NetworkConfig:
    with torch.random.fork_rng(devices=[]):  # fitting_decoder builds networks
        widths = {} if name == NetworkConfig().encoder else fitting_decoder(name)
    return NetworkConfig.model_validate({"encoder": name} | widths)


def _all(network: Network) -> dict[str, int]:
    """Count all tensors as matched, because `load_model` accepts only complete files."""
    return {"matched": len(network.state_dict()), "missing": 0, "unused": 0}


def _read_ours(
    network: Network, variant: str | None, name: str, facts: dict[str, Any], device: str | torch.device
) -> DenseEncoder:
    """Return an encoder of a vader network: its own map, or a variant of its encoder."""
    facts = {"loaded": None, "lineage": "random weights", **facts}
    own = "dense" if isinstance(network, DenseNetwork) else "hypercolumn"
    if (variant or own) != "dense":
        return read_cnn(network.encoder, variant or own, name, facts, device)
    if not isinstance(network, DenseNetwork):
        raise BadInput(f"{name}: expected a variant of the encoder of MoCo's network, found @dense; it has no decoder")
    network = network.to(device)
    facts |= {"network": network.config.encoder, "architecture": "cnn", "variant": "dense"}
    facts |= normalisation(network.encoder)
    return DenseEncoder(
        name,
        STRIDE,
        network.config.dim,
        on_device(network.features, device),
        facts=facts,
        norms=tuple(settable_norms(network)),
    )


def _read_transformer(
    network: ViT, variant: str | None, name: str, facts: dict[str, Any], device: str | torch.device
) -> DenseEncoder:
    if variant not in (None, "last"):
        raise BadInput(f"{name}: expected @last of a transformer, which has one resolution, found @{variant}")
    network, patch = network.eval().to(device), network.strides[-1]
    facts = {**facts, "network": network.name, "architecture": "transformer", "variant": "last"}
    facts |= normalisation(network)
    read = on_device(lambda images: network.levels(edge_padded(images, patch))[-1].float(), device)
    return DenseEncoder(name, patch, network.channels[-1], read, facts=facts)
