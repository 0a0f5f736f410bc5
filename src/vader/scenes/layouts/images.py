"""Plain pictures: images/000000.jpg ..."""

from collections.abc import Iterable
from pathlib import Path

from vader.images.encode import jpeg
from vader.scenes.layouts.order import Layout, Made, Order, put, spend


def make(order: Order, folder: Path, index: int) -> Made:
    """Write one picture, of world `index`."""
    frame, name = order.frame(index), f"images/{index:06d}.jpg"
    put(folder / name, jpeg(frame.image))
    return Made(name, frame.camera)


def collect(order: Order, folder: Path, records: Iterable[None]) -> None:
    """Do nothing: plain pictures have no common files."""
    spend(records)


LAYOUT = Layout(make, collect, names={})
