"""All verbs, in the order of the help. Their signatures and help texts are those of the library's functions."""

from pathlib import Path

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
add(evaluate, models=(list[str], list), memory=(str | None, lambda text: text))
add(compare, reports=(list[Path], list))
add(propagate)
add(index)
add(retrieve)
add(browse)
add(scenes)
