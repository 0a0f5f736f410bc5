"""What makes a function a public verb: words that are not among its choices are refused before anything starts."""

import inspect
from collections.abc import Callable
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from vader.errors import BadInput

Verb = TypeVar("Verb", bound=Callable[..., Any])


def verb(function: Verb) -> Verb:
    """Let a function raise BadInput for an argument that is not one of its parameter's `Literal` choices."""
    signature = inspect.signature(function)
    choices = {name: found for name, one in signature.parameters.items() if (found := _choices(one.annotation))}

    @wraps(function)
    def checked(*positional: Any, **named: Any) -> Any:
        for name, value in signature.bind(*positional, **named).arguments.items():
            if name in choices and value not in choices[name]:
                words = ", ".join(str(word) for word in choices[name] if word is not None)
                raise BadInput(f"--{name}: expected one of {words}, found {value!r}")
        return function(*positional, **named)

    return checked  # type: ignore[return-value]


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a Literal or None; () for other annotations."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        parts = get_args(annotation)
        values = [_choices(part) for part in parts if part is not NoneType]
        if all(values):
            return (*(value for each in values for value in each), *([None] if NoneType in parts else []))
    return ()
