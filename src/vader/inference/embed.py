"""A model on a person's own images, of any size: dense maps in memory and on disk.

Axes: B images, D embedding, H W pixels, h w cells.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vader.encoders.tiling import OVERLAP, by_tiles, check_tile, count_tiles, tile_for
from vader.errors import BadInput, UnreadableImage
from vader.images.decode import decode
from vader.images.sources import Faults, ImageList
from vader.models.backbones import STRIDE
from vader.models.network import Network
from vader.models.padding import MIN_SIDE
from vader.runtime.files import make_folder, write_atomic, write_json
from vader.runtime.progress import clock

PIXELS_A_BATCH = 512 * 512  # times --batch; larger images go fewer at a time, so memory does not follow their size


@dataclass(frozen=True)
class Decoded:
    """One image of a list, ready for the model."""

    index: int
    pixels: np.ndarray  # (H, W, 3) uint8, after resizing
    original: tuple[int, int]  # width and height in the file


def resize_short_side(image: np.ndarray, size: int | None) -> np.ndarray:
    """The image with its short side at `size` pixels (None: as it is), and at least the model's 32 on each side."""
    height, width = image.shape[:2]
    scale = 1.0 if size is None else size / min(height, width)
    new = (max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale)))
    if new == (width, height):
        return image
    return cv2.resize(image, new, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def decode_all(
    images: ImageList, indices: list[int], size: int | None, workers: int, faults: Faults
) -> Iterator[Decoded]:
    """The images one after the other, decoded ahead by threads; unreadable ones are noted and left out."""

    def read(index: int) -> Decoded | tuple[str, str]:
        try:
            image = decode(images.path(index))
        except UnreadableImage as error:
            return images.names[index], str(error)
        return Decoded(index, resize_short_side(image, size), (image.shape[1], image.shape[0]))

    ahead = 4 * max(1, workers)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.submit(read, index) for index in indices[:ahead]]
        for place in range(len(indices)):
            result = waiting.pop(0).result()
            if place + ahead < len(indices):
                waiting.append(pool.submit(read, indices[place + ahead]))
            if isinstance(result, Decoded):
                yield result
            else:
                faults.add(*result)


def batches_of_equal_size(images: Iterator[Decoded], batch: int) -> Iterator[list[Decoded]]:
    """Groups of images whose sizes are equal, at most `batch` and at most so many pixels."""
    groups: dict[tuple[int, int], list[Decoded]] = {}
    for image in images:
        height, width = image.pixels.shape[:2]
        group = groups.setdefault((height, width), [])
        group.append(image)
        if len(group) >= max(1, min(batch, batch * PIXELS_A_BATCH // (height * width))):
            yield groups.pop((height, width))
        elif sum(len(g) for g in groups.values()) >= 8 * batch:
            yield groups.pop(max(groups, key=lambda key: len(groups[key])))
    yield from groups.values()


def to_tensor(images: list[Decoded], device: str) -> Tensor:
    """(B, 3, H, W) floats in [0, 1] on the device."""
    stacked = torch.from_numpy(np.stack([image.pixels for image in images])).to(device)
    return stacked.permute(0, 3, 1, 2).float().div_(255)


@torch.inference_mode()
def embed(network: Network, pixels: Tensor, precision: str = "fp32", tile: int | None = None) -> Tensor:
    """(B, D, h, w) normalised maps as float32; of large images by tiles of `tile` px (None: chosen), see `tiles`."""
    enabled = precision == "bf16"
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=enabled):
        return by_tiles(network.embed, pixels, STRIDE, tile)


def embed_to_disk(
    network: Network,
    images: ImageList,
    out: Path,
    *,
    identity: str,
    size: int | None = None,
    batch: int = 8,
    tile: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    workers: int = 2,
    say: Callable[[str], None] | None = None,
) -> int:
    """Write `NAME.npy` (D, h, w) float16 for every image, and `manifest.jsonl`; returns how many were written.

    `identity` names the model. A folder begun with the same model and settings (precision too) is completed, another
    is refused with BadInput, as is a `tile` that its overlap leaves nothing of. `manifest.jsonl` has a line an image:
    name, map, shape, width and height of the file and as embedded, and of a large image the side of its tiles.
    """
    check_tile(tile)
    settings = {"model": identity, "stride": 4, "size": size, "precision": precision, "dtype": "float16"}
    settings |= {"images": images.fingerprint()} | ({} if tile is None else {"tile": tile})
    _claim(out, settings)
    manifest = out / "manifest.jsonl"
    done = _read_manifest(manifest)
    todo = [i for i, name in enumerate(images.names) if name not in done]
    faults, written, since, told = Faults(total=len(images), max_share=1.0), 0, time.monotonic(), 0.0
    network = network.to(device)
    with manifest.open("a") as lines:
        for group in batches_of_equal_size(decode_all(images, todo, size, workers, faults), batch):
            height, width = group[0].pixels.shape[:2]
            side = tile_for(height, width, tile)
            if say and side is not None:
                say(
                    f"{images.names[group[0].index]}: {width}x{height} px, by {count_tiles(height, width, side)} tiles "
                    f"of up to {side} px that overlap by {OVERLAP} px"
                )
            maps = embed(network, to_tensor(group, device), precision, tile).half().cpu().numpy()
            for image, one in zip(group, maps, strict=True):
                by = {} if side is None else {"tile": side}
                lines.write(json.dumps(_store(out, images, image, one) | by) + "\n")
            lines.flush()
            written += len(group)
            elapsed = time.monotonic() - since
            if say and (elapsed - told > 2 or written == len(todo)):
                told = elapsed
                speed = written / elapsed
                say(f"{written}/{len(todo)} images  {speed:.1f} images/s  ETA {clock((len(todo) - written) / speed)}")
    skipped = faults.as_json()
    write_json(out / "skipped.json", skipped)
    if skipped and say:
        say(f"warning: {len(skipped)} files could not be read, first {skipped[0]['name']}: {skipped[0]['reason']}")
    if len(skipped) == len(images):
        raise BadInput(
            f"none of {len(todo)} images could be read; the first: {skipped[0]['name']}: {skipped[0]['reason']}"
        )
    return written


def _read_manifest(path: Path) -> set[str]:
    """The names of the images whose maps are there. A line that a kill cut short is dropped: its map is made again."""
    if not path.exists():
        return set()
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        write_atomic(path, "".join(lines[:-1]))
        lines.pop()
    return {json.loads(line)["name"] for line in lines}


def _claim(out: Path, settings: dict[str, object]) -> None:
    path = out / "maps.json"
    if path.is_file():
        if json.loads(path.read_text()) != settings:
            raise BadInput(
                f"--out: {out} holds maps of another model, size, precision or image list; choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"--out: expected a new or empty folder, {out} is not; choose another or remove it")
    make_folder(out)
    write_json(path, settings)


def _store(out: Path, images: ImageList, image: Decoded, one: np.ndarray) -> dict[str, object]:
    from io import BytesIO

    name = images.names[image.index]
    # Names of a list file may lead out of its folder; their maps may not lead out of ours.
    target = out / "maps" / (name.lstrip("/").replace("../", "_up_/") + ".npy")
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    np.save(buffer, one)
    write_atomic(target, buffer.getvalue())
    height, width = image.pixels.shape[:2]
    return {
        "name": name, "map": str(target.relative_to(out)), "shape": list(one.shape),
        "file_size": list(image.original), "embedded_size": [width, height],
    }  # fmt: skip
