"""The command-line application: every verb is a public function, its flags are the function's parameters.

This file adds `--json`, the text form of a few values, the printing of results and errors, and exit codes.
"""

import errno
import inspect
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from vader import __version__
from vader.cli.settings import parse_boxes, parse_points, parse_settings
from vader.errors import BadUsage, VaderError
from vader.runtime.interrupts import EAR

app = App(
    name="vader",
    version=__version__,
    help="Unsupervised learning of dense visual representations: learn from a folder of images, embed every pixel.",
    suppress_keyboard_interrupt=False,  # `main` prints its message
)

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
Words = list[str] | None

# Parameters with another form on the command line: their annotation there, and the conversion of the words to a value.
SPELT: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "settings": (Annotated[Words, Parameter(name="--set", negative="")], lambda words: parse_settings(words or [])),
    "at": (Annotated[Words, Parameter(negative="")], lambda words: parse_points(words or [])),
    "box": (Annotated[Words, Parameter(negative="")], lambda words: parse_boxes(words or [])),
    "film": (Annotated[bool, Parameter(name="--video", negative="--no-video")], bool),
}
PYTHON_ONLY = {"watch"}
FLAGS_WITHOUT_NO = {"quiet", "freeze_encoder"}


def add(
    verb: Callable[..., Any],
    words: tuple[str, ...] = (),
    words_help: str = "",
    by_place: bool = False,
    **spelt: tuple[Any, Callable[[Any], Any]],
) -> Callable[..., Any]:
    """Add a public function as a verb of the command line.

    `spelt` are further parameters with another form on the command line. The positional parameters in `words` share one
    list of words: the last word is the last parameter, all words before it are the first one (MODEL... IMAGES).
    With `by_place` positional parameters have no flag.
    """
    ways = SPELT | spelt
    parameters = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name in words[:-1] or name in PYTHON_ONLY:
            continue
        if name in words:
            shared = Annotated[str, Parameter(help=words_help)]
            parameters.append(inspect.Parameter("words", inspect.Parameter.VAR_POSITIONAL, annotation=shared))
            continue
        default, annotation = parameter.default, parameter.annotation
        if name in ways:
            annotation, default = ways[name][0], None if default == () else default
        elif name in FLAGS_WITHOUT_NO:
            annotation = Annotated[bool, Parameter(negative="")]
        elif annotation in (str | Path, str | Path | None):  # a model stays a string, anything else is a path
            kind = str if name == "model" else Path
            annotation = kind if annotation == str | Path else kind | None
        parameter = parameter.replace(annotation=annotation, default=default)
        if by_place and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            parameter = parameter.replace(kind=parameter.POSITIONAL_ONLY)
        parameters.append(parameter)
    asked = inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    signature = inspect.Signature([*parameters, asked])

    def run(*positional: Any, json_: bool = False, **named: Any) -> None:
        values = dict(signature.bind(*positional, **named).arguments)
        if words:
            values |= _shared(words, values.pop("words", ()))
        result = verb(**{name: ways[name][1](value) if name in ways else value for name, value in values.items()})
        say(json.dumps(result.as_json(), indent=2, ensure_ascii=False) if json_ else str(result))

    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    app.command(run, name=verb.__name__)
    return run


def _shared(names: tuple[str, ...], words: tuple[str, ...]) -> dict[str, Any]:
    if len(words) < len(names):
        forms = " ".join(f"{name.upper().removesuffix('S')}..." for name in names[:-1])
        raise BadUsage(f"expected {forms} {names[-1].upper()}, found {' '.join(words) or 'nothing'}")
    return {names[0]: list(words[:-1]), names[-1]: words[-1]}


def say(result: str) -> None:
    """Print a result on standard output, in the first process only."""
    from vader.runtime.processes import is_first_process

    if is_first_process():
        print(result)


def warn(message: str) -> None:
    """Print a warning on standard error, in the first process only; print nothing for an empty message."""
    if message:
        from vader.runtime.processes import is_first_process

        if is_first_process():
            print(f"warning: {message}", file=sys.stderr)


def fail(message: str, code: int = 1) -> None:
    """Print an error as one line on standard error, in the first process only, and exit with a code."""
    from vader.runtime.processes import is_first_process

    if is_first_process():
        print(f"vader: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(code)


# Errors of the disk, not of our code: full, over quota, read-only, forbidden, broken.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


def main() -> None:
    """Run the command line: exit code 0 for success, 1 for a bad input, 2 for wrong usage, 130 for an interrupt."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain bytes that are not text
    try:
        _run()
    except BaseException:
        # Python may have swallowed a KeyboardInterrupt: during an import, or before any code checked for it.
        if EAR.received is not None:
            raise SystemExit(130) from None
        raise


def _run() -> None:
    """Run the verb and turn its errors into one line and an exit code."""
    try:
        result: Any = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"vader: {' '.join(str(error).split())} (vader --help)", file=sys.stderr)
        raise SystemExit(2) from None
    except BadUsage as error:
        fail(f"{error} (vader --help)", 2)
    except VaderError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        resume = ", then continue with --resume" if sys.argv[1:2] == ["pretrain"] else ""
        fail(f"{place}{os.strerror(error.errno)}; make room or choose another place{resume}")
    except KeyboardInterrupt as stop:
        warn(str(stop))
        raise SystemExit(130) from None
    raise SystemExit(0 if result is None else result)
