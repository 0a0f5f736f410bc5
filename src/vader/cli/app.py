"""What all verbs share: the application, the words of common flags, what is said where, and exit codes."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError

from vader import __version__
from vader.errors import VaderError
from vader.runtime.interrupts import EAR

app = App(
    name="vader",
    version=__version__,
    help="Unsupervised learning of dense visual representations: learn from a folder of images, embed every pixel.",
    suppress_keyboard_interrupt=False,  # `main` says what it has to say
)

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Quiet = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]


def say(result: Path) -> None:
    """A result, on standard output; once, however many processes made it."""
    from vader.runtime.processes import is_first_process

    if is_first_process():
        print(result)


def warn(message: str) -> None:
    """One line on standard error, from the first process alone; none if there is nothing to say."""
    if message:
        from vader.runtime.processes import is_first_process

        if is_first_process():
            print(f"warning: {message}", file=sys.stderr)


def fail(message: str) -> None:
    """One line on standard error, from the first process alone, and exit code 1."""
    from vader.runtime.processes import is_first_process

    if is_first_process():
        print(f"vader: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(1)


# What the place to write or read gives, and no mistake of ours: full, over quota, read-only, forbidden, broken.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR}


def main() -> None:
    """Entry point: 0 done, 1 an error of the input, 2 wrong usage, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    try:
        _run()
    except BaseException:
        # An interrupt that was lost on its way up may have torn an import, or nobody asked for it in time.
        if EAR.received is not None:
            raise SystemExit(130) from None
        raise


def _run() -> None:
    """The verb, with its errors as lines and exit codes."""
    try:
        result: Any = app(exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"vader: {' '.join(str(error).split())} (vader --help)", file=sys.stderr)
        raise SystemExit(2) from None
    except VaderError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        resume = ", then --resume what was saved" if sys.argv[1:2] == ["pretrain"] else ""
        fail(f"{place}{os.strerror(error.errno)}; make room or choose another place{resume}")
    except KeyboardInterrupt as stop:
        warn(str(stop))
        raise SystemExit(130) from None
    raise SystemExit(0 if result is None else result)
