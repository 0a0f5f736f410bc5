"""Golden values: what the command line computes on rendered scenes, to the last digit.

`python tests/golden/record.py` writes golden.json and old.tar.xz beside itself. Do this only when a change of numbers
is meant, and say so in the changelog. tests/test_golden.py computes the same and compares.

Everything goes through the command line, at one thread, so that the code may be laid out anew under it. Sentences,
times, paths and versions are left out; names, numbers and pixels are compared.
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
GOLDEN, OLD = HERE / "golden.json", HERE / "old.tar.xz"
Run = Callable[..., str]  # the words of a command -> what it printed

NETWORK = {
    "network.encoder": "test_convnext", "network.dim": 16, "network.pyramid_width": 16, "network.decoder_width": 16,
    "network.pyramid_outputs": "false",
}  # fmt: skip
SHORT = {
    "views.size": 64, "batch": 8, "bn_groups": 2, "workers": 0, "held_out": 4, "queue": 512, "exam_every": 30,
    "save_every": 30, "log_every": 1, "lr_encoder": 0.01,
}  # fmt: skip
LAYOUTS = {
    "images": ["--count", 24, "--size", "96x128"], "voc": ["--count", 10, "--size", "64x96"],
    "cityscapes": ["--count", 10, "--size", "64x96", "--set", "setting=landscape"],
    "nyu": ["--count", 5, "--size", "480x640"], "davis": ["--count", 28, "--size", "64x96"],
    "coco": ["--count", 6, "--size", "64x96"],
}  # fmt: skip
# Protocols that rendered scenes suffice for, with the layout that each needs: one score to all digits for each.
PROTOCOLS = [
    ("segmentation", "voc-linear/vader", "voc"), ("segmentation", "voc-linear/vader:50%", "voc"),
    ("segmentation", "voc-linear/leopart", "voc"), ("segmentation", "voc-kmeans/vader", "voc"),
    ("depth", "nyu-linear/vader", "nyu"), ("neighbours", "voc/hummingbird", "voc"),
    ("neighbours", "voc/hummingbird-full", "voc"), ("propagation", "davis/timecycle-320", "davis"),
    ("propagation", "davis/dino", "davis"), ("match", "scenes", None), ("match", "warp-pck", "images"),
]  # fmt: skip
SENTENCES = {"lead", "note", "title", "caption", "alt", "verdicts", "groups", "subject"}
PASSING = {
    "commit", "uncommitted changes", "hardware", "system", "versions", "command", "finished", "time, s",
    "peak memory, MiB", "seconds", "features, MB", "file",
}  # fmt: skip


def command(*words: object, folder: Path) -> str:
    """What `vader WORDS...` prints, run in a folder at one thread."""
    vader = Path(sys.executable).with_name("vader")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [vader, *map(str, words)], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def machine() -> dict[str, Any]:
    """What must be equal for equal bits."""
    from importlib.metadata import version

    names = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "simplejpeg", "faiss-cpu")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    except OSError:
        found = {}
    flags = hashlib.sha256(" ".join(sorted(found.get("flags", "").split())).encode()).hexdigest()[:16]
    cpu = [found.get(key, "") for key in ("vendor_id", "cpu family", "model", "model name")]
    return {
        "python": platform.python_version(), "system": platform.system(), "cpu": cpu, "flags": flags,
        **{name: version(name) for name in names},
    }  # fmt: skip


# --- What is computed ----------------------------------------------------------------------------------------------


def settings(**changes: object) -> list[str]:
    """`--set` words of a small run."""
    return [word for key, value in (NETWORK | SHORT | changes).items() for word in ("--set", f"{key}={value}")]


def scenes(run: Run, folder: Path, layouts: Iterable[str] = LAYOUTS) -> dict[str, Any]:
    """The bytes of every layout but HDF5's, which hold library versions: of that one, the arrays."""
    found = {}
    for layout in layouts:
        run("scenes", layout, "--layout", layout, "--workers", 1, "--quiet", *LAYOUTS[layout])
        files = sorted(path for path in (folder / layout).rglob("*") if path.is_file() and path.suffix != ".mat")
        found[layout] = digest(*(path.read_bytes() for path in files))
        if layout == "nyu":
            found["nyu arrays"] = _arrays(folder / layout / "nyu_depth_v2_labeled.mat")
    return found


def _arrays(path: Path) -> str:
    import h5py

    with h5py.File(path) as file:
        return digest(*(file[name][...].tobytes() for name in ("images", "rawDepths", "depths")))


def start_weights(path: Path) -> None:
    """A file of weights for `--init`: few levels, so that what starts from it packs small."""
    import timm

    model: Any = timm.create_model(NETWORK["network.encoder"], pretrained=False)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape)
        levels = rng.integers(-2, 3, shape) / (2.0 * np.sqrt(max(1, np.prod(shape[1:]))))
        tensors[name] = np.asarray(levels if len(shape) > 1 else value.numpy(), dtype=np.float32)
    save_file(tensors, path)


def pretrain(run: Run, folder: Path, objective: str) -> dict[str, Any]:
    """Losses of 30 steps, the match exam, and the weights after the last one."""
    words = ["--objective", objective, "--recipe", "quick", "--steps", 30, "--device", "cpu", "--precision", "fp32"]
    if objective == "moco":
        words += ["--init", "start.safetensors"]
    run("pretrain", "images/images", "--out", objective, "--quiet", *words, *settings())
    lines = [json.loads(line) for line in (folder / objective / "metrics.jsonl").read_text().splitlines()]
    return {
        "losses": [line["loss"] for line in lines if "loss" in line],
        "match": [line["match"] for line in lines if "match" in line],
        "weights": weights(folder / objective / "last.safetensors"),
    }


def exams(run: Run, folder: Path) -> dict[str, Any]:
    """Every score of every protocol, of a trained model and of raw colour."""
    found = {}
    for number, (task, protocol, data) in enumerate(PROTOCOLS):
        words = ["--task", task, "--protocol", protocol, "--out", f"report{number}", "--trials", 1, "--quiet"]
        words += ["--data", data] if data else []
        run("evaluate", "ours=vader", "rgb", *words, "--device", "cpu")
        found[protocol] = scores(json.loads((folder / f"report{number}" / "report.json").read_text()))
    return found


def report(run: Run, folder: Path) -> dict[str, Any]:
    """A whole report.json without sentences, times and paths."""
    return plain(json.loads((folder / "report0" / "report.json").read_text()))


def maps(run: Run, folder: Path) -> dict[str, Any]:
    """Embeddings on disk."""
    run("embed", "vader", "images/images", "--out", "maps", "--device", "cpu", "--precision", "fp32", "--quiet")
    return {path.name: array(np.load(path)) for path in sorted((folder / "maps").rglob("*.npy"))[:4]}


def index(run: Run, folder: Path) -> dict[str, Any]:
    """The bytes of an index's files, and an answer."""
    run("index", "vader", "images/images", "--out", "index", "--device", "cpu", "--kind", "flat", "--quiet")
    manifest = json.loads((folder / "index" / "manifest.json").read_text())
    words = ["retrieve", "index", "images/images/000003.jpg", "--at", "40,50", "--top", 5, "--device", "cpu", "--json"]
    hits = json.loads(run(*words))["hits"]
    return {
        "files": {name: digest((folder / "index" / name).read_bytes()) for name in sorted(manifest["files"])},
        "hits": [[hit[key] for key in ("image", "score", "x", "y") if key in hit] for hit in hits],
    }


def propagated(run: Run, folder: Path) -> dict[str, Any]:
    """Masks carried through a clip."""
    *_, clip = sorted((folder / "davis" / "JPEGImages" / "480p").iterdir())  # the shorter one
    mask = folder / "davis" / "Annotations" / "480p" / clip.name / "00000.png"
    words = ["--masks", mask, "--out", "masks", "--device", "cpu", "--quiet"]
    run("propagate", "vader", clip, *words)
    return {path.name: digest(path.read_bytes()) for path in sorted((folder / "masks" / "masks").glob("*.png"))}


PARTS: dict[str, Callable[[Run, Path], dict[str, Any]]] = {
    "scenes": scenes,
    "vader": lambda run, folder: pretrain(run, folder, "vader"),
    "moco": lambda run, folder: pretrain(run, folder, "moco"),
    "exams": exams,
    "report": report,
    "maps": maps,
    "index": index,
    "propagated": propagated,
}


# --- How it is written down ----------------------------------------------------------------------------------------


def digest(*parts: bytes) -> str:
    """The first 16 digits of a SHA-256 over all parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()[:16]


def weights(path: Path) -> dict[str, Any]:
    """A digest of all tensors, and for other machines each tensor's mean and deviation."""
    tensors = load_file(path)
    return {
        "sha256": digest(*(name.encode() + tensors[name].tobytes() for name in sorted(tensors))),
        "moments": {name: [float(one.mean()), float(one.std())] for name, one in sorted(tensors.items())},
    }


def array(values: np.ndarray) -> dict[str, Any]:
    """A digest, and for other machines a few values."""
    some = values.astype(np.float64).ravel()[:: max(1, values.size // 8)]
    return {"shape": list(values.shape), "sha256": digest(values.tobytes()), "some": some.tolist()}


def scores(found: dict[str, Any]) -> dict[str, list[float | None]]:
    """Rows of a report's first table."""
    return {row["name"]: [cell["mean"] for cell in row["cells"]] for row in found["tables"][0]["rows"]}


def plain(value: Any) -> Any:
    """JSON without sentences and what passes."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in SENTENCES | PASSING}
    return [plain(one) for one in value] if isinstance(value, list) else value


def produce(folder: Path, parts: list[str] | None = None) -> dict[str, Any]:
    """The golden values as the present code gives them; `folder` must be empty."""
    start_weights(folder / "start.safetensors")

    def run(*words: object) -> str:
        return command(*words, folder=folder)

    return {name: part(run, folder) for name, part in PARTS.items() if parts is None or name in parts}


# --- Files as the recorded commit wrote them -----------------------------------------------------------------------


def write_old(folder: Path) -> None:
    """A run, a report, an index and propagated masks, packed small."""

    def run(*words: object) -> str:
        return command(*words, folder=folder)

    # A frozen encoder of few levels is held three times in a state, and packs to almost nothing.
    small = {"network.dim": 8, "views.size": 32, "batch": 4, "queue": 64, "bn_groups": 1, "save_every": 4, "keep": 1}
    words = ["--recipe", "quick", "--steps", 4, "--device", "cpu", "--precision", "fp32", "--quiet"]
    words += ["--init", "start.safetensors", "--freeze-encoder", *settings(**small)]
    run("pretrain", "few", "--out", "run", *words)
    run("index", "run", "few", "--out", "index", "--device", "cpu", "--kind", "flat", "--stride", 32, "--quiet")
    words = ["--task", "match", "--protocol", "warp-pck", "--data", "few", "--out", "report", "--quiet"]
    run("evaluate", "run", "rgb", *words, "--device", "cpu")
    for path in folder.rglob("*.json"):
        path.write_text(path.read_text().replace(str(folder), "OLD"))
    with tarfile.open(OLD, "w:xz", preset=9) as tar:
        for name in ("few", "run", "index", "report"):
            tar.add(folder / name, arcname=name, filter=_nobodys)


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if info.name.endswith((".png", ".html", ".md", "last.safetensors", "last.json")):
        return None
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = produce(folder)
        text = io.StringIO()
        json.dump({"machine": machine()} | found, text, indent=1)
        GOLDEN.write_text(text.getvalue() + "\n")
        (folder / "few").mkdir()
        for path in sorted((folder / "images" / "images").iterdir())[:10]:
            shutil.copy(path, folder / "few")
        for name in ("index",):
            shutil.rmtree(folder / name)
        write_old(folder)


if __name__ == "__main__":
    main()
