"""Learn a dense representation from photos in a few minutes, with pictures and a verdict.

    python examples/photos.py FOLDER [--minutes 3]

The photos are those inside scikit-image, scikit-learn and matplotlib, cut into tiles. These are only about 20
pictures, so do not expect a general representation. Use a folder of your own instead (`vader pretrain --help`).
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import skimage
import sklearn
from PIL import Image

TILE = 160  # pixels
MARK = ".vader-demo"  # in a folder that an earlier demo made, which a new one may replace
PHOTOS = {
    Path(skimage.__file__).parent / "data": (
        "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "ihc.png", "retina.jpg",
        "hubble_deep_field.jpg", "brick.png", "grass.png", "gravel.png", "camera.png", "coins.png",
    ),
    Path(sklearn.__file__).parent / "datasets" / "images": ("china.jpg", "flower.jpg"),
    Path(mpl.get_data_path()) / "sample_data": ("grace_hopper.jpg",),
}  # fmt: skip


def write_tiles(folder: Path) -> int:
    """Cut the photos into tiles that do not overlap; returns how many there are."""
    folder.mkdir(parents=True)
    count = 0
    for source, names in PHOTOS.items():
        for name in names:
            with Image.open(source / name) as file:
                photo = file.convert("RGB")
            photo.thumbnail((960, 960))
            pixels = np.asarray(photo)
            for y in range(0, pixels.shape[0] - TILE + 1, TILE):
                for x in range(0, pixels.shape[1] - TILE + 1, TILE):
                    tile = pixels[y : y + TILE, x : x + TILE]
                    if tile.std() > 15:  # not the black around the retina, nor empty sky
                        Image.fromarray(tile).save(folder / f"{Path(name).stem}-{y:03d}-{x:03d}.png")
                        count += 1
    return count


NAMES = {
    "best": "VADeR, the model kept",
    "start": "the same network before training",
    "hypercolumn": "its encoder's hypercolumn before training",
    "raw_colour": "raw colour",
    "chance": "chance",
    "geometry_only_last": "VADeR at the end, colours unchanged",
}


def vader(*words: object) -> None:
    """Run the command that a user would type, and show it."""
    command = ["vader", *map(str, words)]
    print("$ " + " ".join(command), flush=True)
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)


def main() -> None:
    """Tiles, a run, pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    a = parser.parse_args()
    if a.folder.exists() and any(a.folder.iterdir()) and not (a.folder / MARK).exists():
        sys.exit(f"demo: expected a new or empty folder, {a.folder} holds other things; choose another")
    shutil.rmtree(a.folder, ignore_errors=True)
    a.folder.mkdir(parents=True)
    (a.folder / MARK).touch()
    tiles, run, pictures = a.folder / "tiles", a.folder / "run", a.folder / "pictures"
    print(f"{write_tiles(tiles)} tiles of {TILE} px in {tiles}")
    vader("pretrain", tiles, "--out", run, "--minutes", a.minutes)
    for what in ("pca", "matches", "similar"):
        vader("show", what, run, tiles, "--out", pictures)
    record = json.loads((run / "record.json").read_text())
    print("\nHeld-out tiles, share of points matched within one cell of the truth:")
    for name, value in sorted(record["scores"].items(), key=lambda item: -item[1]):
        print(f"    {NAMES[name]:42s} {value:.3f}")
    print(f"Verdict: {record['verdict']['text']}")
    print(f"Model:    {run / 'model.safetensors'}")
    print(f"Pictures: {pictures} and {run / 'pictures' / 'curves.png'}")


if __name__ == "__main__":
    main()
