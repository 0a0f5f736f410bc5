"""Handle Ctrl-C from the first import on: as Python's own handler does, and remember it.

A KeyboardInterrupt may be raised anywhere in the program. In a finaliser, and while torch's C code imports numpy, it is
swallowed: the program would ignore it, or fail because of a partly imported library. So `EAR` also remembers it, and
`catch_interrupts` and the command line's `main` check `EAR`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ear:
    """A handler of SIGINT that raises KeyboardInterrupt and stores the signal's number in `received`."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt


EAR = Ear()


def listen() -> None:
    """Install `EAR` as the handler of SIGINT. For the command line only, before the slow imports."""
    # Replace only Python's own handler: if SIGINT is ignored (nohup, a shell's background job) or handled, keep that.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is (
        signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, EAR)


class Interrupts:
    """Remember SIGINT and SIGTERM, so that a loop can finish its step and save. A second SIGINT stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Remember interrupts inside the block instead of raising them; outside the main thread nothing is caught.

    An earlier interrupt that a remembering handler received (`Ear`, or an outer block) counts too, because its
    KeyboardInterrupt may have been swallowed, or the block could not check yet.
    """
    interrupts, before = Interrupts(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupts._remember)
    except ValueError:  # signals can be caught in the main thread only
        pass
    for handler in before.values():
        earlier = getattr(getattr(handler, "__self__", handler), "received", None)
        interrupts.received = earlier if interrupts.received is None else interrupts.received
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)  # the handler of an outer block, which must also receive it
            if isinstance(outer, Interrupts) and interrupts.received == number:
                outer.received = number


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM inside the block stop the program as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated; no report was written")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # signals can be caught in the main thread only
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
