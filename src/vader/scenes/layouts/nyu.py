"""NYU Depth v2: nyu_depth_v2_labeled.mat, a MATLAB 7.3 file (HDF5), and splits.mat, a MATLAB 5 file.

Worlds are rooms by default. MATLAB orders axes in reverse: its H x W x 3 x N is (N, 3, W, H) here. The file has images,
depths, rawDepths, labels, instances, names, sceneTypes, scenes, rawRgbFilenames and rawDepthFilenames. It has no
accelData (there is no hand-held device) and no namesToIds (a MATLAB object with the content of names).

labels are 1 + our class, and names[label - 1] is its name; instances are 1, 2 ... within a picture, 0 for stuff. depths
are the exact values in metres, at most `FARTHEST`. rawDepths simulate a sensor: 0 within `FRAME` of the picture's
shorter side from its edges, on surfaces seen at less than `GRAZING` degrees, at steps in depth, and beyond `FARTHEST`.

Legend: H W pixels, N pictures.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32

from vader.scenes.frame import CLASSES, Frame
from vader.scenes.layouts.matlab import MatFile, columns
from vader.scenes.layouts.order import Layout, Made, Order, is_val, put
from vader.scenes.layouts.voc import compact

FARTHEST = 10.0
FRAME = 0.02
GRAZING = 10.0
STEP = 0.05  # relative difference of depth between neighbouring pixels

ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {  # type and the axes between N and W
    "images": ("u1", (3,)),
    "depths": ("f4", ()),
    "rawDepths": ("f4", ()),
    "labels": ("u2", ()),
    "instances": ("u1", ()),
}
SPLITS = {"trainNdxs": False, "testNdxs": True}  # whether they are for validation


def raw_depth(frame: Frame) -> Float32[np.ndarray, "H W"]:
    """Return the depth with a sensor's holes as 0."""
    height, width = frame.depth.shape
    depth = np.minimum(frame.depth, 2 * FARTHEST)  # infinite differences would not be steps
    rays = frame.camera.pixels() - (width / 2, height / 2)
    rays = np.concatenate([rays / frame.camera.focal, np.ones((len(rays), 1))], 1).reshape(height, width, 3)
    cosine = -(frame.normals * rays).sum(2) / np.linalg.norm(rays, axis=2)
    window = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(depth, window) - cv2.erode(depth, window) > 2 * STEP * depth
    edge = max(1, round(FRAME * min(height, width)))
    framed = np.ones(depth.shape, bool)
    framed[edge:-edge, edge:-edge] = False
    holes = framed | steps | (cosine < np.sin(np.radians(GRAZING))) | (frame.depth > FARTHEST)
    return np.where(holes, np.float32(0), frame.depth)


def make(order: Order, folder: Path, index: int) -> Made:
    """Return one picture's part of each array, with axes reversed as MATLAB stores them."""
    frame = order.frame(index)
    record = {
        "images": frame.image,
        "depths": np.minimum(frame.depth, np.float32(FARTHEST)),
        "rawDepths": raw_depth(frame),
        "labels": frame.classes.astype(np.uint16) + np.uint16(1),
        "instances": compact(frame)[0],
    }
    arrays = {name: np.ascontiguousarray(array.T) for name, array in record.items()}
    return Made(_picture(_scene(order, index)), frame.camera, arrays)


def _scene(order: Order, index: int) -> str:
    return f"{order.config.setting}_{index:06d}"


def _picture(scene: str) -> str:
    """Return a file name for rawRgbFilenames, which in NYU names the source; cameras.json uses the same name."""
    return f"{scene}/r.ppm"


def collect(order: Order, folder: Path, records: Iterable[dict[str, np.ndarray]]) -> None:
    """Write both files; memory holds the arrays of one picture at a time."""
    with MatFile(folder / "nyu_depth_v2_labeled.mat") as file:
        for name, (kind, axes) in ARRAYS.items():
            file.array(name, kind, (order.count, *axes, order.width, order.height))
        for index, record in enumerate(records):
            for name, values in record.items():
                file.put(name, index, values)
        names = [_scene(order, index) for index in range(order.count)]
        file.cell("names", list(CLASSES))
        file.cell("sceneTypes", [order.config.setting] * order.count)
        file.cell("scenes", names)
        file.cell("rawRgbFilenames", [_picture(name) for name in names])
        file.cell("rawDepthFilenames", [f"{name}/d.pgm" for name in names])
    split = {name: [i + 1 for i in range(order.count) if is_val(i, order.count) == val] for name, val in SPLITS.items()}
    put(folder / "splits.mat", columns(split))


LAYOUT = Layout(
    make, collect, {name: i + 1 for i, name in enumerate(CLASSES)}, setting="room", needs=("h5py", "scenes")
)
