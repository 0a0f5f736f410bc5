"""Ctrl-C from the first import on: what Python's own handler does, and a memory of it.

A KeyboardInterrupt rises wherever the program happens to be. In a finaliser, and while torch's C code imports numpy, it
is swallowed: the program would go on as if nobody had asked it to stop, or fail over a library that is half there. So
it is remembered, too: `catch_interrupts` and the command line's `main` ask `EAR`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ear:
    """A handler of SIGINT that raises KeyboardInterrupt; `received` is the signal's number once it came."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt


EAR = Ear()


def listen() -> None:
    """Let `EAR` hear SIGINT. For the command line alone, and before all that takes its time."""
    # Only in Python's own place: who ignores SIGINT (nohup, a shell's background job) or handles it has a reason to.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is (
        signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, EAR)


class Interrupts:
    """Remembers SIGINT and SIGTERM, so that a loop can finish its step and save. A second SIGINT ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Within it, interrupts are remembered instead of raised; outside the main thread nothing is caught.

    One that came before, to a handler that remembers (`Ear`, or a block around this one), counts: its
    KeyboardInterrupt was lost on its way up, or the block could not yet ask.
    """
    interrupts, before = Interrupts(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, interrupts._remember)
    except ValueError:  # signals can be caught in the main thread alone
        pass
    for handler in before.values():
        earlier = getattr(getattr(handler, "__self__", handler), "received", None)
        interrupts.received = earlier if interrupts.received is None else interrupts.received
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)  # of a block around this one, which must hear of it, too
            if isinstance(outer, Interrupts) and interrupts.received == number:
                outer.received = number


@contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM stops as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated; no report was written")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # signals can be caught in the main thread alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
