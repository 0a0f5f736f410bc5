"""Who may import whom, what stands at the top, and how long files may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "vader"

# From the ground: a room imports only from rooms of lower floors. Within a room files may import each other.
FLOORS = [
    {"errors"},
    {"runtime", "images"},
    {"reports", "datasets", "scenes", "models"},
    {"encoders", "pretraining"},
    {"finetuning"},
    {"inference"},
    {"exams"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(FLOORS) for name in names}
ENTRIES = {"__init__.py", "errors.py"} | RANK.keys() - {"errors"}

OWNERS = {
    "matplotlib": {"reports.draw"},
    "av": {"images.video"},
    "simplejpeg": {"images.decode", "images.encode"},
    "PIL": {"images.decode", "images.encode", "images.animate"},
    "jinja2": {"reports.report", "inference.retrieval.browse"},
    "h5py": {"scenes.layouts.matlab", "datasets.nyu"},
    "tifffile": {"images.decode"},
    "timm": {"models.backbones", "models.batchnorm"},
    "lightning_fabric": {"runtime.processes", "pretraining.learner"},
    "safetensors": {"models.checkpoint", "runtime.states"},
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


def test_the_top_has_fourteen_entries() -> None:
    found = {path.name for path in SOURCE.iterdir()} - {"__pycache__", "py.typed"}
    assert found == ENTRIES
    assert len(ENTRIES) == 14


@pytest.mark.parametrize("name", [name for name in IMPORTS if name])
def test_imports_go_downwards(name: str) -> None:
    for other in OWN[name] - {""}:
        if top(other) != top(name):
            assert RANK[top(other)] < RANK[top(name)], f"{name} imports {other}"


def test_no_file_imports_itself_around_a_circle() -> None:
    for name in OWN:
        if name:
            assert name not in reached(name), f"{name} is reached from itself"


def test_the_package_imports_nothing_when_it_is_imported() -> None:
    assert set(IMPORTS[""]) <= {
        "sys",
        "types.ModuleType",
        "typing.TYPE_CHECKING",
        "typing.Any",
        "importlib.import_module",
    }


def test_views_network_and_contrast_do_not_know_each_other() -> None:
    method = {"pretraining.views", "models.network", "pretraining.contrast"}
    for name in method:
        assert not OWN[name] & method
    assert not OWN["pretraining.contrast"], "the losses are pure"


def reached(name: str) -> set[str]:
    """All of ours that importing a file imports."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in OWN[waiting.pop()] - {""} - found:
            found.add(other)
            waiting.append(other)
    return found


def test_a_model_loads_without_what_trains_it() -> None:
    for name in ("models.checkpoint", "encoders.opening"):
        assert "pretraining" not in {top(other) for other in reached(name)}


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owners(library: str) -> None:
    users = {name for name, words in IMPORTS.items() if any(top(word) == library for word in words)}
    assert users == OWNERS[library]


def test_the_command_line_alone_knows_cyclopts() -> None:
    assert {top(name) for name, words in IMPORTS.items() if any(top(word) == "cyclopts" for word in words)} == {"cli"}


def test_the_imports_are_really_found() -> None:
    """A walk that finds nothing would pass all of the above."""
    assert {"errors", "images.geometry", "images.colour", "images.warp"} <= OWN["pretraining.views"]
    tree = ast.parse("import a.b\nif x:\n    from vader.cli import main\nif TYPE_CHECKING:\n    import c")
    assert list(imports(tree)) == ["a.b", "vader.cli.main"]


# --- Sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", files(), ids=module)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_method_is_read_in_four_files() -> None:
    names = ("models/network", "pretraining/views", "pretraining/contrast", "pretraining/pretrain")
    lines = {name: len((SOURCE / f"{name}.py").read_text().splitlines()) for name in names}
    assert sum(lines.values()) < 1100, lines
