"""Who may import whom, and how long files may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "vader"

# An import goes strictly downwards. Within a layer nobody knows anybody, but for the files of a folder.
LAYERS = [
    {"errors", "tables"},
    {"geometry", "runtime"},
    {"images", "draw", "metrics", "provenance"},
    {"views", "network", "contrast", "batchnorm", "datasets"},
    {"checkpoint", "cost", "feed", "health", "journal", "tiles"},
    {"foreign", "predict"},
    {"encoders"},
    {"learner", "show", "exams", "scenes", "report"},
    {"run", "evaluation", "retrieval", "propagation"},
    {"pretrain", "evaluate", "compare", "propagate"},
    {"recipes"},
    {"commands", "commands_exams", "commands_propagation", "commands_retrieval"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Pictures stand on how pixels are counted, not on processes and devices.
NEVER = {("images", "runtime"), ("show", "journal"), ("predict", "checkpoint")}
# Each of these can be used, and read, without the others.
NEVER |= {
    ("exams", "predict"),
    ("scenes", "draw"),
    ("scenes", "checkpoint"),
    ("scenes", "predict"),
    ("report", "exams"),
}
# The use of models and the making of models know nothing of each other.
USE, MAKE = {"predict", "show"}, {"pretrain", "run", "learner", "feed", "recipes", "foreign"}
OWNERS = {
    "matplotlib": {"draw"},
    "av": {"images.video"},
    "cyclopts": {"cli.app", "cli.exams", "cli.learning", "cli.propagation", "cli.retrieval"},
    "simplejpeg": {"images.decode", "images.encode"},
    "PIL": {"images.decode", "images.encode", "images.animate"},
    "jinja2": {"report", "retrieval.browse"},
    "h5py": {"scenes.layouts.matlab", "datasets.nyu"},
    "tifffile": {"images.decode"},
    "timm": {"network", "batchnorm", "encoders.backbones"},
    "lightning_fabric": {"runtime", "learner"},
    "safetensors": {"checkpoint"},
}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def module(path: Path) -> str:
    """'images.decode' for src/vader/images/decode.py; '' for the package itself."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names a file imports when it runs, in functions too; not those for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        else:
            yield from imports(node)


def ours(name: str) -> str | None:
    """'images.decode' for 'vader.images.decode.decode'; None for what is not ours; '' for the package."""
    first, *rest = name.split(".")
    if first != "vader":
        return None
    for length in range(len(rest), 0, -1):
        path = SOURCE.joinpath(*rest[:length])
        if path.is_dir() or path.with_suffix(".py").exists():
            return ".".join(rest[:length])
    return ""


IMPORTS = {module(path): list(imports(ast.parse(path.read_text()))) for path in files()}
OWN = {name: {found for word in words if (found := ours(word)) is not None} for name, words in IMPORTS.items()}


def top(name: str) -> str:
    return name.split(".")[0]


def test_every_file_has_its_layer() -> None:
    assert {top(name) for name in IMPORTS if name} == RANK.keys()


@pytest.mark.parametrize("name", [name for name in IMPORTS if name])
def test_imports_go_downwards(name: str) -> None:
    for other in OWN[name] - {""}:
        if top(other) == top(name):
            assert other != name, f"{name} imports itself"
        else:
            assert RANK[top(other)] < RANK[top(name)], f"{name} imports {other}"
            assert (top(name), top(other)) not in NEVER, f"{name} imports {other}"


def test_the_package_imports_nothing_when_it_is_imported() -> None:
    assert set(IMPORTS[""]) <= {
        "sys",
        "types.ModuleType",
        "typing.TYPE_CHECKING",
        "typing.Any",
        "importlib.import_module",
    }


def test_the_lowest_layer_knows_nothing_of_ours_but_the_errors() -> None:
    for name in LAYERS[0] | LAYERS[1]:
        assert OWN[name] <= {"errors"}


def test_views_network_and_contrast_do_not_know_each_other() -> None:
    for name in ("views", "network", "contrast"):
        assert not OWN[name] & {"views", "network", "contrast"}
    assert not OWN["contrast"], "the losses are pure"


def reached(name: str) -> set[str]:
    """All of ours that importing a file imports."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in OWN[waiting.pop()] - {""} - found:
            found.add(other)
            waiting.append(other)
    return found


def test_using_a_model_needs_nothing_that_trains() -> None:
    for name in (*USE, "checkpoint"):
        assert not {top(other) for other in reached(name)} & MAKE, name
    for name in MAKE:
        assert not reached(name) & USE, name


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owners(library: str) -> None:
    users = {name for name, words in IMPORTS.items() if any(top(word) == library for word in words)}
    assert users == OWNERS[library]


def test_the_imports_are_really_found() -> None:
    """A walk that finds nothing would pass all of the above."""
    assert {"errors", "geometry", "images.colour", "images.warp"} <= OWN["views"]
    assert "commands" in OWN["cli.learning"], "imports within functions count"
    assert "pretrain" not in OWN["run"], "imports for type checkers do not"
    tree = ast.parse("import a.b\nif x:\n    from vader.cli import main\nif TYPE_CHECKING:\n    import c")
    assert list(imports(tree)) == ["a.b", "vader.cli.main"]


# --- Sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files(), ids=module)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_method_is_read_in_four_files() -> None:
    lines = {name: len((SOURCE / f"{name}.py").read_text().splitlines()) for name in ("views", "network", "contrast")}
    lines["pretrain"] = len((SOURCE / "pretrain.py").read_text().splitlines())
    assert sum(lines.values()) < 1100, lines
