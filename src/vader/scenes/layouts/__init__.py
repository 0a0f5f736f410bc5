"""Write rendered scenes as data sets on disk, in the folder layouts of real ones.

A data set is written under a hidden name beside its destination and renamed when it is complete. Four fifths of the
pictures (DAVIS: of the clips) are for training, every fifth is for validation. The same order gives the same bytes,
whatever the number of processes.

Each data set has scenes.json, the settings, and cameras.json, the camera of each picture. Normals, flow and occlusion
do not fit these layouts and are available only in Python (`scenes.frame`, `scenes.truth.flow`).
"""

import json
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from vader import __version__
from vader.errors import BadInput, MissingExtra, VaderError
from vader.scenes.layouts import cityscapes, coco, davis, images, nyu, voc
from vader.scenes.layouts.order import Layout, Made, Order, is_val, put
from vader.scenes.world import SceneConfig

LAYOUTS: dict[str, Layout] = {
    "images": images.LAYOUT,
    "voc": voc.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
    "nyu": nyu.LAYOUT,
    "davis": davis.LAYOUT,
    "coco": coco.LAYOUT,
}

SMALLEST, LARGEST = 32, 4096  # px a side
WORTH = 20_000_000  # pixels; fewer are rendered before several processes have started
OUT = "OUT"  # the name of this argument on the command line
CAMERAS = (
    "intrinsics: from camera coordinates (metres; x right, y down, z along the view) to pixels, the centre of the "
    "first at (0.5, 0.5); pose: from camera to world coordinates (z up); depth is along the camera's z"
)

Record = TypeVar("Record")


def write(
    out: Path,
    layout: str,
    *,
    count: int,
    width: int = 224,
    height: int = 224,
    seed: int = 0,
    config: SceneConfig | None = None,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write a data set of `count` pictures of width x height pixels and return the contents of scenes.json.

    `config` defaults to the usual worlds of the layout. `workers` processes render (None: one per core, or one for few
    pixels). `say` receives a progress line every two seconds. Raises BadInput for invalid settings before rendering
    starts, and OSError for a full disk; after an error or an interrupt no files are left.
    """
    from vader.runtime.files import write_json
    from vader.runtime.interrupts import catch_interrupts

    out = out.resolve()
    check(out, layout, count, width, height, seed, workers)
    chosen = LAYOUTS[layout]
    order = Order(count, width, height, seed, config or SceneConfig(setting=chosen.setting))
    val = sum(is_val(i, chosen.parts(count)) for i in range(chosen.parts(count)))
    summary = {
        "generator": f"vader {__version__}", "layout": layout, "count": count, "seed": seed,
        "size": {"height": height, "width": width}, "train": chosen.parts(count) - val, "val": val,
        "config": order.config.model_dump(mode="json"), "classes": dict(chosen.names),
    }  # fmt: skip
    workers = workers or choose_workers(count * width * height)
    try:
        with (
            catch_interrupts() as interrupts,  # until temporary files are removed
            whole_folder(out) as folder,
            closing(in_order(partial(chosen.make, order, folder), count, workers)) as records,
        ):
            told = _until(lambda: interrupts.received is not None, progress(records, count, say))
            cameras: dict[str, Any] = {}
            chosen.collect(order, folder, _keep_cameras(told, cameras))
            write_json(folder / "scenes.json", summary)
            put(folder / "cameras.json", _cameras_text(cameras))
    except OSError as error:
        error.filename = str(out)  # not the hidden name
        raise
    except BrokenProcessPool:
        fewer = workers // 2 or 1
        raise VaderError(
            f"expected all processes to finish, found one killed, perhaps for lack of memory; try --workers {fewer}"
        ) from None
    return summary


def check(out: Path, layout: str, count: int, width: int, height: int, seed: int, workers: int | None) -> None:
    """Raise BadInput for invalid settings, and MissingExtra for a library that the layout needs."""
    if layout not in LAYOUTS:
        raise BadInput(f"--layout: expected one of {', '.join(LAYOUTS)}, found {layout!r}")
    chosen = LAYOUTS[layout]
    if count < chosen.least:
        raise BadInput(f"--count: expected at least {chosen.least} for {layout}, found {count}")
    for side in (height, width):
        if not SMALLEST <= side <= LARGEST:
            raise BadInput(f"--size: expected {SMALLEST} to {LARGEST} px a side, found {height}x{width}")
    if seed < 0:
        raise BadInput(f"--seed: expected 0 or more, found {seed}")
    if workers is not None and workers < 1:
        raise BadInput(f"--workers: expected at least 1, found {workers}")
    if chosen.needs and find_spec(chosen.needs[0]) is None:
        library, extra = chosen.needs
        raise MissingExtra(f"--layout {layout} needs {library}; install it with: pip install 'vader-dense[{extra}]'")
    try:
        fixed = out == Path.cwd() or out.is_mount()
    except OSError as error:  # the name is too long
        raise BadInput(f"{OUT}: cannot write to {out} ({error.strerror}); choose another place") from None
    if fixed:  # these cannot be replaced by a rename
        raise BadInput(f"{OUT}: expected a new folder, found the current folder or a mount in {out}; use one inside it")


def choose_workers(pixels: int) -> int:
    """Return the number of cores; 1 for few pixels, because starting processes takes seconds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return cores if pixels > WORTH else 1


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Create a hidden folder beside `out` to fill; at the end of the block it is renamed to `out` or deleted."""
    from vader.runtime.files import prepare_output

    absent = [folder for folder in (out, *out.parents) if not folder.exists()]  # innermost first
    name = os.fsencode(out.name)[:200].decode(errors="ignore")  # file systems allow 255 bytes
    hidden = out.with_name(f".{name}.{os.getpid()}")
    try:
        prepare_output(out, OUT)  # raise before rendering starts
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        yield hidden
        os.sync()  # once for thousands of files: one by one it would take longer than rendering
        hidden.replace(out)  # replaces an empty folder
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        for folder in absent:
            with suppress(OSError):
                folder.rmdir()
        raise


def in_order(make: Callable[[int], Record], count: int, workers: int) -> Generator[Record, None, None]:
    """Yield make(0), make(1) ... from this process or several, computed a few ahead."""
    if workers == 1:
        yield from map(make, range(count))
        return
    # A forked process would inherit locks that torch's threads hold.
    pool = ProcessPoolExecutor(min(workers, count), get_context("spawn"), initializer=_start)
    waiting: deque[Future[Record]] = deque()
    try:
        for index in range(count):
            waiting.append(_submit(pool, partial(make, index)))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, make: Callable[[], Record]) -> Future[Record]:
    """Submit with interrupts blocked, so that the worker processes inherit this and only the parent handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(make)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    """Make a new worker process end when its parent ends, for any reason."""
    parent = parent_process()
    assert parent is not None

    def end() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _until(stop: Callable[[], bool], records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records until an interrupt; the current picture is finished first."""
    for record in records:
        yield record
        if stop():
            raise KeyboardInterrupt


def _keep_cameras(made: Iterable[Made], cameras: dict[str, Any]) -> Iterator[Any]:
    """Yield the records and store the camera of each picture in `cameras`."""
    for one in made:
        camera = one.camera
        cameras[one.picture] = {"intrinsics": camera.intrinsics.tolist(), "pose": camera.pose.tolist()}
        yield one.record


def _cameras_text(cameras: dict[str, Any]) -> str:
    """Format the cameras with one picture per line."""
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(camera)}" for name, camera in cameras.items())
    return f'{{\n  "conventions": {json.dumps(CAMERAS)},\n  "pictures": {{\n{lines}\n  }}\n}}\n'


def progress(records: Iterable[Record], count: int, say: Callable[[str], None] | None) -> Iterator[Record]:
    """Yield the records and report every few seconds how many are done and how long the rest takes."""
    from vader.runtime.progress import Progress

    done = Progress("", count, say, unit="pictures")
    for record in records:
        yield record
        done()
