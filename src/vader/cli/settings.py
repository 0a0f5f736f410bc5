"""Parse the text form of values: KEY=VALUE settings, points and boxes."""

import tomllib
from collections.abc import Sequence
from typing import Any

from vader.errors import BadInput


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Parse KEY=VALUE words to values by key; the last value of a key wins."""
    return dict(parse_setting(word) for word in words)


def parse_setting(word: str) -> tuple[str, Any]:
    """Parse 'KEY=VALUE' to the key and a TOML value (a bare word is a string, none is None)."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise BadInput(f"--set: expected KEY=VALUE, found {word!r}")
    if text.lower() == "none":
        return key, None
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def parse_points(words: Sequence[str]) -> list[Any]:
    """Parse 'X,Y' words to points (x, y) in pixels."""
    return [_numbers("--at", "X,Y", word) for word in words]


def parse_point(word: str | None) -> Any:
    """Parse 'X,Y' to (x, y); None stays None."""
    return None if word is None else _numbers("--at", "X,Y", word)


def parse_boxes(words: Sequence[str]) -> list[Any]:
    """Parse 'X0,Y0,X1,Y1' words to boxes in pixels."""
    return [_numbers("--box", "X0,Y0,X1,Y1", word) for word in words]


def _numbers(flag: str, form: str, word: str) -> Any:
    """Parse '1,2' to (1.0, 2.0); the count must match the form."""
    try:
        found = tuple(float(part) for part in word.split(","))
    except ValueError:
        found = ()
    if len(found) != form.count(",") + 1:
        raise BadInput(f"{flag}: expected {form} in pixels, found {word!r}")
    return found
