# SPDX-License-Identifier: GPL-2.0-or-later
"""Turn the configuration of an architecture or encoder, as a card or TOML file holds it, into a checked dataclass."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import LacunaError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def checked(kind: type[T], values: Mapping[str, Any], subject: str) -> T:
    """Return the dataclass `kind` filled with `values`; keys that are absent take their defaults.

    A `ValueError` that the dataclass raises in `__post_init__` counts as a bad value too.

    Args:
        kind: a dataclass whose annotations are plain types, `list[...]`, `dict[...]`, `Literal` or unions of them.
        values: what was asked for.
        subject: whose configuration it is, for messages, such as `architecture sgma`.

    Raises:
        LacunaError: `bad-config`, naming the key, what was found and what was expected.
    """
    hints = typing.get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise bad_config(subject, f"has no setting {key!r}", f"It knows {', '.join(known) or 'none'}.")
        if not _fits(value, hints[key]):
            wanted = _words(hints[key])
            raise bad_config(subject, f"was given {key} = {value!r}", f"Give {wanted} for {key}.")
    try:
        return kind(**values)
    except ValueError as problem:
        raise bad_config(subject, f"cannot be built: {problem}", "Correct this value in the configuration.") from None


def bad_config(subject: str, what: str, hint: str) -> LacunaError:
    """Return the error `bad-config`: `subject` and what is wrong with it, and what to do."""
    return LacunaError("bad-config", f"{subject[:1].upper()}{subject[1:]} {what}.", hint)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether `value` is of the annotated type `hint`; a whole number is also a float, a bool never a number."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, item) for item in inner)
    if origin is typing.Literal:
        return any(type(value) is type(item) and value == item for item in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _words(hint: Any) -> str:
    """Return the annotated type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(item) for item in inner if item is not type(None))
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(item) for item in inner)
    if origin is list:
        return f"a list, each item {_words(inner[0])}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return plain.get(hint, "a table")
