"""Plain pictures: images/000000.jpg ..."""

from collections.abc import Iterable
from pathlib import Path

from vader.images.encode import jpeg
from vader.scenes.layouts.order import Layout, Order, put, spend


def make(order: Order, folder: Path, index: int) -> None:
    """One picture, world `index`'s."""
    put(folder / "images" / f"{index:06d}.jpg", jpeg(order.frame(index).image))


def collect(order: Order, folder: Path, records: Iterable[None]) -> None:
    """Nothing is common to plain pictures."""
    spend(records)


LAYOUT = Layout(make, collect, names={})
