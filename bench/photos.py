"""Write JPEG files of about 500 x 375 from photographs in scikit-image and scikit-learn."""

from pathlib import Path

from PIL import Image


def write_photos(folder: Path, count: int) -> None:
    """Write `000.jpg` ... into the folder: the photographs over and over, each time cropped a little more."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]
    for number in range(count):
        source = sources[number % len(sources)]
        shift = (number // len(sources)) * 3
        part = source[shift : source.shape[0] - shift, shift : source.shape[1] - shift]
        Image.fromarray(part).resize((500, 375), Image.Resampling.LANCZOS).save(
            folder / f"{number:03d}.jpg", quality=90
        )
