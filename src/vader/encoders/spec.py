"""Parse the text form of an encoder: [NAME=]SOURCE[@VARIANT[:D]][@centred].

runs/first                       a vader model's own features
runs/first@last                  the deepest level of its encoder
timm:resnet50=r50.pth@dilated    a timm network with weights from a file
moco:moco_v2.pth.tar@hypercolumn:128@centred
ours=/long/path/to/runs/first    the same as without "ours=", with a short name for tables
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
TITLE = re.compile(r"[\w.@+:-]{1,40}")
VARIANT = re.compile(r"(?P<variant>dense|dilated|hypercolumn|last|plain|stage:\d+)(?::(?P<dim>\d+))?")


@dataclass(frozen=True)
class Spec:
    """A parsed encoder spec: `kind` is one of KINDS, of PLAIN, or 'model' for the path of a vader model.

    `title` is the name in tables, if the user chose one; `text` is the spec without it.
    """

    text: str
    kind: str
    name: str = ""  # of a timm network
    file: Path | None = None
    variant: str | None = None
    dim: int | None = None
    centred: bool = False
    title: str | None = None

    @property
    def takes_weights(self) -> bool:
        """Whether `weights` can supply the weights."""
        return self.kind in ("timm", "torchvision") and self.file is None


def parse(text: str, weights: Path | None = None) -> Spec:
    """Parse a spec; `weights` is the file of a `timm:` or `torchvision:` spec without a file.

    A plain word before the first = is a title, unless it starts like a source (`timm:NAME=FILE`), or the word, or the
    whole text without its variant, is an existing path.

    Raises BadInput for a text of no known form and for a path that does not exist.
    """
    title, text = _title(text)
    found = replace(_untitled(text), title=title)
    if weights is None:
        return found
    if not found.takes_weights:
        raise BadInput(f"--weights is for a timm:NAME or torchvision:NAME without a file, found {text!r}; leave it out")
    return replace(found, file=weights)


def share_weights(texts: Sequence[str], weights: Path | None) -> list[Path | None]:
    """Return the file for each of several specs: `weights` for specs that use it (of one network only), or None.

    Raises BadInput if no spec uses it, if several networks would use it, and as `parse` does.
    """
    if weights is None:
        return [None] * len(texts)
    specs = [parse(text) for text in texts]
    networks = {f"{one.kind}:{one.name}" for one in specs if one.takes_weights}
    if not networks:
        raise BadInput(
            f"--weights is for a timm:NAME or torchvision:NAME without a file, found none among {', '.join(texts)}"
        )
    if len(networks) > 1:
        raise BadInput(
            f"--weights: expected one network to load {weights} into, found {' and '.join(sorted(networks))}; "
            "give each network its file: timm:NAME=FILE"
        )
    return [weights if one.takes_weights else None for one in specs]


def _title(text: str) -> tuple[str | None, str]:
    """Split a text into the title, if there is one, and the spec."""
    word, equals, rest = text.partition("=")
    source, colon, _ = word.partition(":")
    if not (equals and rest and TITLE.fullmatch(word)) or (colon and source in KINDS):
        return None, text
    if Path(word).exists() or Path(_without_variant(text)[0]).exists():
        return None, text
    return word, rest


def _untitled(text: str) -> Spec:
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
        raise BadInput(f"model: expected {ACCEPTED}, found {text!r}, which is not a file; check the path or the name")
    return found


def _without_variant(text: str) -> tuple[str, str | None, int | None, bool]:
    """Split a spec into source, variant, dimensions, centred. In a path with an @, existing files win over variants."""
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
                f"model: expected after @ one of {', '.join(CNN_VARIANTS)}, optionally with :D to reduce it to D "
                f"dimensions, and optionally @centred after it, found {word!r} in {text!r}"
            )
        else:
            break
    return source, variant, dim, centred


def _lies_there(source: str) -> bool:
    """Tell whether the source, or the part after its colon or equals sign, is an existing path."""
    return any(path and Path(path).exists() for path in (source, source.partition(":")[2], source.partition("=")[2]))


def _name_and_file(kind: str, rest: str) -> tuple[str, Path | None]:
    """Split a source into a timm network's name and a file, as its kind requires."""
    if kind in ("timm", "torchvision"):
        name, equals, file = rest.partition("=")
        if equals and not file:
            raise BadInput(f"model: expected a file after = in {kind}:{rest}, found none; give one or leave out the =")
        return name, Path(file) if file else None
    if kind.startswith("random"):
        return rest, None
    return "", Path(rest)
