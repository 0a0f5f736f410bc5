"""Rendered scenes with exact truth. The room is also its verb: `vader.scenes(out, layout=...)`, see `verbs.scenes`."""

import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package that can be called: the verb and the room have one name."""

    def __call__(self, *positional: Any, **named: Any) -> Any:
        from vader.scenes.verbs import scenes

        return scenes(*positional, **named)

    @property
    def __signature__(self) -> Signature:
        from vader.scenes.verbs import scenes

        return signature(scenes)


sys.modules[__name__].__class__ = _Room
