"""Pascal VOC 2012: VOCdevkit/VOC2012 with pictures, class and object masks, boxes and lists.

Class 0 is background (all stuff and clutter), 1 to 8 are the kinds; objects are 1, 2 ... in a picture, in the order
of the XML file. 255 is void: the `VOID` pixels on each side of a boundary between objects, or between an object and the
background, 4 px in all (VOC's own is 5, centred on pixels; ours is centred on the edge between two). Boxes are VOC's:
pixels counted from 1, both ends included; they contain all visible pixels of an object, also those under void.

Legend: H W pixels.
"""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from vader.images.encode import colour_map, jpeg, palette_png
from vader.scenes.frame import KINDS, Frame
from vader.scenes.layouts.order import Layout, Made, Order, put, put_lists, spend
from vader.scenes.truth import boxes

VOID = 2
NAMES = {"background": 0} | {kind: i + 1 for i, kind in enumerate(KINDS)}


def boundary(regions: Integer[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Return the pixels with another region within `width` pixels, counted along rows, columns or diagonals."""
    values = regions.astype(np.uint16)
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return cv2.dilate(values, window) != cv2.erode(values, window)


def compact(frame: Frame) -> tuple[UInt8[np.ndarray, "H W"], list[int]]:
    """Return the map of instances renumbered 1, 2 ... without gaps, and the frame's numbers in that order."""
    shown, places = np.unique(frame.instances, return_inverse=True)
    numbers = [int(number) for number in shown if number]
    assert len(numbers) < 255, "a palette has room for 254"
    return (places.reshape(frame.instances.shape) + (0 if 0 in shown else 1)).astype(np.uint8), numbers


def make(order: Order, folder: Path, index: int) -> Made:
    """Write the files of one picture."""
    frame = order.frame(index)
    objects, numbers = compact(frame)
    kinds = {one.number: one.kind for one in frame.objects}
    label = np.array([0] + [NAMES[kinds[number]] for number in numbers], np.uint8)
    void = boundary(objects, VOID)
    place, name = folder / "VOCdevkit" / "VOC2012", _name(index)
    for kind, values in (("Class", label[objects]), ("Object", objects)):
        values = np.where(void, np.uint8(255), values)
        put(place / f"Segmentation{kind}" / f"{name}.png", palette_png(values, colour_map()))
    picture = place / "JPEGImages" / f"{name}.jpg"
    put(picture, jpeg(frame.image))
    found = boxes(frame)
    put(place / "Annotations" / f"{name}.xml", _annotation(name, frame, [(kinds[n], found[n]) for n in numbers]))
    return Made(picture.relative_to(folder).as_posix(), frame.camera)


def collect(order: Order, folder: Path, records: Iterable[None]) -> None:
    """Write the lists; segmentation and detection use the same pictures."""
    spend(records)
    for task in ("Segmentation", "Main"):
        lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / task
        put_lists(lists, [_name(i) for i in range(order.count)], trainval=True)
    put(folder / "classes.txt", "".join(f"{name}\n" for name in NAMES))


def _name(index: int) -> str:
    return f"2012_{index + 1:06d}"


def _annotation(name: str, frame: Frame, objects: list[tuple[str, tuple[int, int, int, int]]]) -> str:
    height, width = frame.instances.shape
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2012", filename=f"{name}.jpg", segmented=1)
    _add(ElementTree.SubElement(root, "source"), database="rendered scenes", annotation="VOC2012", image="vader")
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    for kind, (left, top, right, bottom) in objects:
        cut = left == 0 or top == 0 or right == width or bottom == height
        one = ElementTree.SubElement(root, "object")
        _add(one, name=kind, pose="Unspecified", truncated=int(cut), difficult=0)
        _add(ElementTree.SubElement(one, "bndbox"), xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **words: object) -> None:
    for tag, text in words.items():
        ElementTree.SubElement(parent, tag).text = str(text)


LAYOUT = Layout(make, collect, NAMES)
