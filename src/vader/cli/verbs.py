"""All verbs, in the order of the help. Their signatures and help texts are those of the library's functions."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from vader.cli.app import add
from vader.cli.settings import parse_point
from vader.exams.verbs import compare, evaluate
from vader.inference.verbs import browse, embed, index, propagate, retrieve, show
from vader.pretraining.start import pretrain
from vader.scenes.verbs import scenes

add(pretrain, config=(Path | None, lambda path: path))
add(embed)
add(
    show,
    words=("models", "images"),
    words_help="MODEL... IMAGES: one or several models as in evaluate, drawn side by side; then a folder "
    "of images, a .txt list, or one image.",
    at=(str | None, parse_point),
)
add(evaluate, models=(Annotated[list[str], Parameter(negative="")], list), memory=(str | None, lambda text: text))
add(compare, reports=(Annotated[list[Path], Parameter(negative="")], list))
add(propagate, by_place=True)  # --video is the flag of the film
add(index)
add(retrieve)
add(browse)
add(scenes, size=(str, str))
