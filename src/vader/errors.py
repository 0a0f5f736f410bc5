"""What can go wrong by a user's doing.

Every message says what was expected, what came, and what to do. The command line prints it on one line and exits
with code 1. Our own mistakes are `assert`s and never one of these.
"""


class VaderError(Exception):
    """Root of all errors that a user's input can cause."""


class BadInput(VaderError):
    """A path, a setting or a tensor that cannot be used as given."""


class UnreadableImage(VaderError):
    """One image file cannot be decoded whole: truncated, corrupt, or of an unsupported kind."""


class BadCheckpoint(VaderError):
    """A checkpoint or weight file does not fit what was asked of it."""


class DivergedRun(VaderError):
    """Loss or gradient was NaN or infinite too many times in a row."""


class MissingExtra(VaderError):
    """An optional dependency is not installed."""


class BadUsage(BadInput):
    """Words of a call that do not go together; exit code 2 on the command line."""
