"""The errors that a user's input can cause.

Every message says what was expected, what was found, and what to do. The command line prints it on one line and exits
with code 1. Mistakes of our own code are `assert`s and never one of these classes.
"""


class VaderError(Exception):
    """The base class of all errors that a user's input can cause."""


class BadInput(VaderError):
    """A path, a setting or a tensor that cannot be used as given."""


class UnreadableImage(VaderError):
    """An image file that cannot be decoded completely: truncated, corrupt, or of an unsupported kind."""


class BadCheckpoint(VaderError):
    """A checkpoint or weight file that is damaged or does not fit the network."""


class DivergedRun(VaderError):
    """The loss or the gradient was NaN or infinite too many times in a row."""


class MissingExtra(VaderError):
    """An optional dependency is not installed."""


class BadUsage(BadInput):
    """Arguments that are missing or cannot be combined; exit code 2 on the command line."""
