"""The words for an encoder: SOURCE[@VARIANT[:D]][@centred].

runs/first                       a vader model's own features
runs/first@last                  its encoder's deepest level
timm:resnet50=r50.pth@dilated    a timm network with weights from a file
moco:moco_v2.pth.tar@hypercolumn:128@centred
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vader.errors import BadInput

KINDS = {
    "timm": "timm:NAME or timm:NAME=FILE",
    "random": "random:NAME",
    "random-dense": "random-dense:NAME",
    "torchvision": "torchvision:NAME=FILE",
    "moco": "moco:FILE",
    "densecl": "densecl:FILE",
    "pixpro": "pixpro:FILE",
    "dino": "dino:FILE",
    "dinov2": "dinov2:FILE",
}
PLAIN = ("rgb", "sift")
CNN_VARIANTS = ("hypercolumn", "last", "dilated", "stage:1", "stage:2", "stage:3", "stage:4")
ACCEPTED = f"a run folder, a model.safetensors, {', '.join(PLAIN)}, {', '.join(KINDS.values())} (NAME: a timm network)"
VARIANT = re.compile(r"(?P<variant>dense|dilated|hypercolumn|last|plain|stage:\d+)(?::(?P<dim>\d+))?")


@dataclass(frozen=True)
class Spec:
    """An encoder as a user named it: `kind` is one of KINDS, of PLAIN, or 'model' for a path of ours."""

    text: str
    kind: str
    name: str = ""  # of a timm network
    file: Path | None = None
    variant: str | None = None
    dim: int | None = None
    centred: bool = False


def parse(text: str, weights: Path | None = None) -> Spec:
    """Take a spec apart; `weights` is the file of a `timm:` or `torchvision:` spec that names none.

    Raises BadInput for words that are none of the forms and for a path where nothing lies.
    """
    source, variant, dim, centred = _without_variant(text)
    kind, colon, rest = source.partition(":")
    if source in PLAIN:
        found = Spec(text, source, variant=variant, dim=dim, centred=centred)
    elif colon and kind in KINDS and rest:
        name, file = _name_and_file(kind, rest)
        found = Spec(text, kind, name, file, variant, dim, centred)
    elif Path(source).exists():
        found = Spec(text, "model", file=Path(source), variant=variant, dim=dim, centred=centred)
    else:
        raise BadInput(f"model: expected {ACCEPTED}, got {text!r}, which is no file either; check the path or the name")
    if weights is None:
        return found
    if found.kind not in ("timm", "torchvision") or found.file:
        raise BadInput(f"--weights is for a timm:NAME or torchvision:NAME without a file, {text!r} takes none")
    return Spec(text, found.kind, found.name, weights, variant, dim, centred)


def _without_variant(text: str) -> tuple[str, str | None, int | None, bool]:
    """Source, variant, dimensions, centred. A path may itself hold an @: what lies there wins, then known words."""
    source, variant, dim, centred = text, None, None, False
    while "@" in source and not _lies_there(source):
        before, _, word = source.rpartition("@")
        match = VARIANT.fullmatch(word)
        if word == "centred" and not centred and variant is None:
            source, centred = before, True
        elif match and variant is None:
            source, variant = before, match["variant"]
            dim = int(match["dim"]) if match["dim"] else None
        elif (":" in before and "/" not in word) or Path(before).exists() or before in PLAIN:
            raise BadInput(
                f"model: expected after @ one of {', '.join(CNN_VARIANTS)}, with :D to reduce it to D dimensions, "
                f"then perhaps @centred, got {word!r} in {text!r}"
            )
        else:
            break
    return source, variant, dim, centred


def _lies_there(source: str) -> bool:
    """Whether the source, or what follows its colon or equals sign, is a path where something lies."""
    return any(path and Path(path).exists() for path in (source, source.partition(":")[2], source.partition("=")[2]))


def _name_and_file(kind: str, rest: str) -> tuple[str, Path | None]:
    """A timm network's name and a file, whichever the kind of spec has."""
    if kind in ("timm", "torchvision"):
        name, equals, file = rest.partition("=")
        if equals and not file:
            raise BadInput(f"model: expected a file after = in {kind}:{rest}, got nothing; name one or leave out the =")
        return name, Path(file) if file else None
    if kind.startswith("random"):
        return rest, None
    return "", Path(rest)
