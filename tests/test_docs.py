"""The commands and the Python of README.md and docs/guides/*.md run as they stand there.

A document is run in an empty folder, from its first block to its last. Blocks of `sh`, `bash` and `console`: lines
that begin with `vader ` or `$ vader `, to their end, over `\\` at a line's end, and up to a pipe; other lines are what
a user sees or does elsewhere. Blocks of `python` are executed, one after the other with the same names. Blocks of other
languages and of none are left alone, and so is what follows a line `<!-- not run: WHY -->`.

What a document names and does not make itself is there: `GIVEN` has the names. What would take long or a download is
written small: `SHORTER` and `ELSEWHERE` have what is replaced. A document that needs more adds a line there.
"""

import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Rendered, copied
from labelled import make_folder
from samples import SMALL, forked, pretrain, settings
from shots import shot, write_clip, write_first

from vader.images.video import write_mp4

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]

# Flags of `vader pretrain` -> what stands for them. None: a setting of `samples.SMALL` does.
SHORTER: dict[str, tuple[str, ...] | None] = {
    "--minutes": ("--steps", "4"), "--epochs": ("--steps", "4"), "--steps": ("--steps", "4"),
    "--extend": ("--extend", "2"),
    "--recipe": None, "--encoder": None, "--init": None, "--size": None, "--batch": None, "--queue": None,
    "--workers": None, "--devices": None, "--device": None, "--precision": None,
}  # fmt: skip
# The same of all other verbs: pictures and trials are fewer, and what is asked of a GPU is done here.
FEWER: dict[str, tuple[str, ...] | None] = {
    "--count": ("--count", "10"), "--trials": ("--trials", "1"), "--device": None, "--precision": None,
}  # fmt: skip
FAST = ("embed", "evaluate", "index", "propagate", "retrieve", "show")  # these take a --device
# Words whose weights would be downloaded -> random ones. A variant after the @ stays.
ELSEWHERE = [
    (re.compile(r"\b(timm|torchvision):vit[\w.]*|\bdino:[\w./-]+"), "random:test_vit"),
    (re.compile(r"\b(timm|torchvision):[\w.]+|\bmoco:[\w./-]+"), "random:test_resnet"),
    (re.compile(r"\bminutes=[\d.]+"), "steps=4"),
]


@dataclass(frozen=True)
class Piece:
    """A command's line or a block of Python, with the number of its first line."""

    line: int
    kind: str  # "vader" or "python"
    text: str


def pieces(text: str) -> Iterator[Piece]:
    """What a document has to run, in its order."""
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for block in fence.finditer(text):
        before = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        if re.fullmatch(r"<!-- not run: .+ -->", before):
            continue
        first = text[: block.start(2)].count("\n") + 1
        if block[1] == "python":
            yield Piece(first, "python", block[2])
        elif block[1] in ("sh", "bash", "console"):
            joined = re.sub(r"\\\n", lambda _: "\\\0", block[2])  # a \0 keeps the count of lines
            for number, line in enumerate(joined.split("\n")):
                found = re.fullmatch(r"(?:\$ )?(vader .*)", line, re.DOTALL)
                if found:
                    lines = first + number + joined[: joined.find(line)].count("\0")
                    yield Piece(lines, "vader", found[1].replace("\\\0", " "))


def words_of(text: str) -> list[str]:
    """The words after `vader`, small enough for a test."""
    for what, instead in ELSEWHERE:
        text = what.sub(instead, text)
    words = shlex.split(text, comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))]
    table = SHORTER if words[:1] == ["pretrain"] else FEWER
    kept: list[str] = []
    given = iter(words)
    for word in given:
        flag, equals, _ = word.partition("=")
        if flag not in table:
            kept.append(word)
            continue
        if not equals:
            next(given, None)
        kept += table[flag] or ()
    if words[:1] == ["pretrain"] and "--resume" not in words:
        kept += ["--recipe", "quick", "--device", "cpu", "--precision", "fp32", *small(kept)]
        if "--steps" not in kept:
            kept += ["--steps", "4"]
    elif words[:1] and words[0] in FAST:
        kept += ["--device", "cpu"]
    if words[:1] == ["evaluate"] and "--no-pictures" not in kept:
        kept += ["--no-pictures"]
    return kept


def small(words: list[str]) -> list[str]:
    """Settings of a short run, but for those that the words set themselves."""
    mine = {word.partition("=")[0] for word in words if "=" in word}
    return [word for key, value in SMALL.items() if key not in mine for word in ("--set", f"{key}={value}")]


# --- What there is ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A short run with an objective, made when it is first asked for."""
    place = tmp_path_factory.mktemp("finished")

    def of(objective: str) -> Path:
        out = place / objective
        if not out.exists():
            changes = {"objective": "moco", "network__kind": "image"} if objective == "moco" else {}
            done = pretrain(photos, out, 4, **changes)
            assert done.returncode == 0, done.stderr
        return out

    return of


@pytest.fixture
def given(photos: Path, rendered: Rendered, finished: Callable[[str], Path]) -> dict[str, Callable[[Path], object]]:
    """Names that documents may use -> what puts them there."""

    def run(objective: str) -> Callable[[Path], object]:
        return lambda place: shutil.copytree(finished(objective), place)

    def scenes(layout: str, **changes: int) -> Callable[[Path], object]:
        return lambda place: copied(rendered(layout, 10, **changes), place)

    def film(place: Path) -> None:
        write_mp4(place, (shot(number)[0] for number in range(9)), 8)

    sets = {
        "VOC2012": scenes("voc"), "voc": scenes("voc"), "VOCdevkit": scenes("voc"), "NYUv2": scenes("nyu"),
        "nyu": scenes("nyu"), "Cityscapes": scenes("cityscapes"), "cityscapes": scenes("cityscapes"),
        "DAVIS": scenes("davis", clip=5), "davis": scenes("davis", clip=5), "COCO": scenes("coco"),
        "coco": scenes("coco"), "labelled": make_folder, "my-data": make_folder, "cells": make_folder,
    }  # fmt: skip
    return {
        **sets,
        "photos": lambda place: shutil.copytree(photos, place),  # 00.jpg to 11.jpg
        "photo.jpg": lambda place: shutil.copy(photos / "02.jpg", place),
        "run": run("vader"), "RUN": run("vader"), "moco": run("moco"),
        "model.safetensors": lambda place: [
            shutil.copy(finished("vader") / name, place.with_name(name)) for name in ("model.safetensors", "model.json")
        ],
        "clip": write_clip, "clip.mp4": film, "first.png": write_first,
    }  # fmt: skip


def made_by(commands: list[list[str]]) -> set[str]:
    """Names that a document's own commands write."""
    outs = {words[i + 1] for words in commands for i, word in enumerate(words[:-1]) if word == "--out"}
    return outs | {words[1] for words in commands if words[0] == "scenes" and len(words) > 1}


def run_document(text: str, folder: Path, given: dict[str, Callable[[Path], object]], name: str) -> int:
    """Run all of a document in a folder; give back how many pieces it has."""
    found = [*pieces(text)]
    commands = {piece: words_of(piece.text) for piece in found if piece.kind == "vader"}
    written = made_by([*commands.values()]) | set(re.findall(r'out="([^"]+)"', text))
    everything = re.sub(r"--objective \S+", "", "\n".join(piece.text for piece in found))
    for thing, put in given.items():
        if thing not in written and re.search(rf"(?<![\w.-]){re.escape(thing)}(?![\w-]|\.\w)", everything):
            put(folder / thing)
    names: dict[str, object] = {"__name__": "document"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        warnings.simplefilter("default")  # as users run it
        for piece in found:
            if piece.kind == "python":
                text = piece.text
                for what, instead in ELSEWHERE:
                    text = what.sub(instead, text)
                exec(compile("\n" * (piece.line - 1) + text, name, "exec"), names)
            else:
                done = forked(*commands[piece], where=folder, timeout=300)
                assert done.returncode == 0, (
                    f"{name}:{piece.line}: {piece.text}\nran as {commands[piece]}\n{done.stderr}"
                )
    return len(found)


# --- The documents ------------------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_runs(path: Path, given: dict[str, Callable[[Path], object]], tmp_path: Path) -> None:
    run_document(path.read_text(), tmp_path, given, path.name)


SAMPLE = """
Text, and `vader no such verb` in it.

```sh
pip install vader-dense
vader pretrain photos --out run --minutes 30 --encoder resnet50 \\
      --set temperature=0.1          # a comment
vader pretrain photos --out other --objective moco
```

```console
$ vader embed run photos/02.jpg --out maps | cat
maps
```

```python
import vader

model = vader.load("run")
```

<!-- not run: it needs a GPU -->
```sh
vader pretrain photos --out elsewhere --device cuda
```

```
vader evaluate RUN ...
```

```python
assert model.config.dim == 16
import numpy as np

(path,) = __import__("pathlib").Path("maps").rglob("*.npy")
assert np.load(path).shape[0] == 16
```
"""


def test_what_a_document_has_to_run() -> None:
    found = [*pieces(SAMPLE)]
    assert [(piece.kind, piece.line) for piece in found] == [
        ("vader", 6), ("vader", 8), ("vader", 12), ("python", 17), ("python", 32),
    ]  # fmt: skip
    words = words_of(found[0].text)
    assert words[:8] == ["pretrain", "photos", "--out", "run", "--steps", "4", "--set", "temperature=0.1"]
    assert "resnet50" not in words
    assert words_of(found[2].text) == ["embed", "run", "photos/02.jpg", "--out", "maps", "--device", "cpu"]
    told = words_of(
        "vader evaluate timm:resnet50@hypercolumn:128 moco:a/b.pth dino:c.pth --trials=5 --task match > out"
    )
    assert told == [
        "evaluate", "random:test_resnet@hypercolumn:128", "random:test_resnet", "random:test_vit", "--trials", "1",
        "--task", "match", "--device", "cpu", "--no-pictures",
    ]  # fmt: skip
    assert words_of("vader pretrain --resume run --extend 5000") == ["pretrain", "--resume", "run", "--extend", "2"]
    assert all(f"{key}=" in " ".join(settings()) for key in SMALL)


@pytest.mark.whole
def test_a_sample_runs(given: dict[str, Callable[[Path], object]], tmp_path: Path) -> None:
    assert run_document(SAMPLE, tmp_path, given, "sample") == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps", "other", "photos", "run"]


@pytest.mark.whole
def test_all_that_is_given_can_be_made(given: dict[str, Callable[[Path], object]], tmp_path: Path) -> None:
    for name, put in given.items():
        put(tmp_path / name)
        assert (tmp_path / name).exists()


@pytest.mark.whole
@pytest.mark.parametrize(
    "wrong",
    [
        "```sh\nvader show stars RUN photos --out pictures\n```\n",
        "```python\nimport vader\n\nvader.load('none')\n```\n",
    ],
)
def test_a_document_that_is_wrong_fails(
    wrong: str, given: dict[str, Callable[[Path], object]], tmp_path: Path
) -> None:  # fmt: skip
    with pytest.raises(Exception, match=r"guide:2: vader show stars|expected .*none"):
        run_document(wrong, tmp_path, given, "guide")
