"""Make the picture of the README: photographs, their embeddings in PCA colours, and matches.

    python examples/readme_picture.py docs/pictures/readme.jpg [--steps 500]

The model trains on rendered scenes alone and has seen none of the photographs. These ship inside scikit-image, whose
licence notes (docstrings of `skimage.data`) allow everyone to redistribute them: astronaut (NASA, public domain),
chelsea (Stefan van der Walt, CC0), coffee (Rachel Michetti, CC0), rocket (SpaceX, public domain).
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

import vader

PHOTOS = ("chelsea", "coffee", "rocket", "astronaut")
WIDTH = 1000  # pixels of the picture
MODELS = ("raw-colour=rgb", "untrained=random-dense:test_resnet")


def draw(folder: Path, steps: int) -> list[Path]:
    """Train on scenes, then draw PCA colours of the photographs and matches in one of them."""
    photos = folder / "photos"
    photos.mkdir()
    for number, name in enumerate(PHOTOS):
        Image.fromarray(getattr(data, name)()).save(photos / f"{number}-{name}.png")
    scenes = vader.scenes(folder / "scenes", layout="images", count=500, size="128x128")
    run = vader.pretrain(
        scenes.folder, out=folder / "run", recipe="quick", encoder="test_resnet", size=64, steps=steps, device="cpu"
    )
    models = [*MODELS, f"VADeR={run.folder}"]
    colours = vader.show("pca", models, photos, out=folder / "pca", count=len(PHOTOS), size=256, device="cpu")
    first = photos / f"0-{PHOTOS[0]}.png"
    lines = vader.show("matches", models[1:], first, out=folder / "matches", count=1, size=192, device="cpu")
    return [colours.picture, lines.picture]


def join(pictures: list[Path], out: Path) -> None:
    """Put the pictures below each other, at one width."""
    opened = [Image.open(path).convert("RGB") for path in pictures]
    resized = [one.resize((WIDTH, round(one.height * WIDTH / one.width)), Image.Resampling.LANCZOS) for one in opened]
    page = Image.new("RGB", (WIDTH, sum(one.height for one in resized)), "white")
    top = 0
    for one in resized:
        page.paste(one, (0, top))
        top += one.height
    out.parent.mkdir(parents=True, exist_ok=True)
    page.save(out, quality=82, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        join(draw(Path(place), words.steps), words.out)
    print(words.out)
