"""Ctrl-C from the first import on: what Python's own handler does, and a memory of it.

A KeyboardInterrupt rises wherever the program happens to be. In a finaliser, and while torch's C code imports numpy, it
is swallowed: the program would go on as if nobody had asked it to stop, or fail over a library that is half there. So
it is remembered, too: `runtime.catch_interrupts` and `main` ask `EAR`.
"""

import signal
import threading
from types import FrameType


class Ear:
    """A handler of SIGINT that raises KeyboardInterrupt; `received` is the signal's number once it came."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt


EAR = Ear()

# Only in Python's own place: who ignores SIGINT (nohup, a shell's background job) or handles it has a reason to.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is (
    signal.default_int_handler
):
    signal.signal(signal.SIGINT, EAR)
