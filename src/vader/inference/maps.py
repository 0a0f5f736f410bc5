"""Write dense maps of a list of images of any size to disk, one after the other; resume after a stop.

Axes: B images, D embedding, H W pixels, h w cells.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from vader.encoders.dense import DenseEncoder
from vader.encoders.features import maps_of, to_tensor
from vader.encoders.tiling import OVERLAP, check_tile, count_tiles, tile_for
from vader.errors import BadInput
from vader.images.pictures import Picture, batches_of_equal_size, decode_all
from vader.images.sources import Faults, ImageList
from vader.runtime.files import claim, write_atomic, write_json
from vader.runtime.progress import Progress, Say, silent

SETTINGS, MANIFEST, SKIPPED = "maps.json", "manifest.jsonl", "skipped.json"


def write_maps(
    encoder: DenseEncoder,
    images: ImageList,
    out: Path,
    *,
    identity: str,
    size: int | None = None,
    batch: int = 8,
    tile: int | None = None,
    precision: str = "fp32",
    workers: int = 2,
    say: Say = silent,
) -> tuple[int, list[dict[str, str]]]:
    """Write `NAME.npy` (D, h, w) float16 for every image, and `manifest.jsonl`. Return the count and the skipped files.

    `identity` identifies the model; `precision` is the encoder's. A folder of the same model and settings is completed.
    Raises BadInput for a folder of another model or settings, and for a `tile` that is not larger than its overlap.
    `manifest.jsonl` has one line per image: name, map, shape, width and height of the file and as embedded, and for a
    large image the side of its tiles.
    """
    check_tile(tile, stride=encoder.stride)
    settings = {"model": identity, "stride": encoder.stride, "size": size, "precision": precision, "dtype": "float16"}
    settings |= {"images": images.fingerprint()} | ({} if tile is None else {"tile": tile})
    claim(out, settings, what="maps", begun_name=SETTINGS, differing=_differing)
    done = _read_manifest(out / MANIFEST)
    todo = [i for i, name in enumerate(images.names) if name not in done]
    faults, written = Faults(total=len(images), max_share=1.0), 0
    progress = Progress("", len(todo), say)
    with (out / MANIFEST).open("a") as lines:
        for group in batches_of_equal_size(decode_all(images, todo, size, workers, faults), batch):
            height, width = group[0].pixels.shape[:2]
            side = tile_for(height, width, tile)
            if side is not None:
                count = count_tiles(height, width, side, stride=encoder.stride)
                say(
                    f"{group[0].name}: {width}x{height} px, in {count} tiles of up to {side} px with an overlap of "
                    f"{OVERLAP} px"
                )
            maps = maps_of(encoder, to_tensor([image.pixels for image in group]), tile=tile).half().cpu().numpy()
            for image, one in zip(group, maps, strict=True):
                by = {} if side is None else {"tile": side}
                lines.write(json.dumps(_store(out, image, one) | by) + "\n")
            lines.flush()
            written += len(group)
            progress(len(group))
    skipped = faults.as_json()
    write_json(out / SKIPPED, skipped)
    if skipped:
        say(f"warning: {len(skipped)} files could not be read, the first {skipped[0]['name']}: {skipped[0]['reason']}")
    if len(skipped) == len(images):
        raise BadInput(
            f"none of {len(todo)} images could be read; the first: {skipped[0]['name']}: {skipped[0]['reason']}"
        )
    return written, skipped


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]


def _read_manifest(path: Path) -> set[str]:
    """Read the names of the images with a map. An incomplete last line is dropped, and its map is made again."""
    if not path.exists():
        return set()
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        write_atomic(path, "".join(lines[:-1]))
        lines.pop()
    return {json.loads(line)["name"] for line in lines}


def _store(out: Path, image: Picture, one: np.ndarray) -> dict[str, object]:
    # Names in a list file may point outside its folder; their maps must stay inside ours.
    target = out / "maps" / (image.name.lstrip("/").replace("../", "_up_/") + ".npy")
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    np.save(buffer, one)
    write_atomic(target, buffer.getvalue())
    height, width = image.pixels.shape[:2]
    return {
        "name": image.name, "map": str(target.relative_to(out)), "shape": list(one.shape),
        "file_size": list(image.original), "embedded_size": [width, height],
    }  # fmt: skip
