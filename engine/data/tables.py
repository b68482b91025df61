# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML files read key by key: every mistake is told with the file, the key, what was found and what was expected."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import LacunaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REQUIRED = object()
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def read_toml(path: str, code: str) -> Table:
    """Return the root table of the TOML file at `path`.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`, or `code` for text that is no TOML.
    """
    try:
        with open(path, "rb") as stream:
            return Table(tomllib.load(stream), path, code)
    except FileNotFoundError:
        raise LacunaError("file-missing", f"{path} does not exist.", "Check the path.") from None
    except OSError as problem:
        text = f"{path} cannot be read: {problem.strerror or problem}."
        raise LacunaError("file-unreadable", text, "Check its path and rights.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise LacunaError(code, f"{path} is no TOML: {problem}.", "Correct this place (https://toml.io).") from None


class Table:
    """One table of a TOML file, from which keys are taken one by one.

    Args:
        values: the table.
        path: the file, for messages.
        code: code of the errors.
        where: the table's place in the file, such as `modalities.rgb`; "" for the root.
    """

    def __init__(self, values: Mapping[str, Any], path: str, code: str, where: str = "") -> None:
        self.path = path
        self.where = where
        self._code = code
        self._values = dict(values)
        self._known: list[str] = []

    def take(self, key: str, *kinds: type, default: Any = _REQUIRED) -> Any:
        """Return the value of `key`, which must be of one of `kinds` (a whole number is also a float).

        Raises:
            LacunaError: it is absent and has no default, or of another kind.
        """
        self._known.append(key)
        if key not in self._values:
            if default is _REQUIRED:
                found = ", ".join(self) or "none"
                raise self.fault(f"lacks {self.place(key)}", f"Give {_words(kinds)} for it; keys found are {found}.")
            return default
        value = self._values[key]
        if not any(_is(value, kind) for kind in kinds):
            raise self.wrong(key, value, _words(kinds))
        return value

    def table(self, key: str, default: Any = _REQUIRED) -> Table:
        """Return the table `key`."""
        return self._inner(self.take(key, dict, default=default), key)

    def tables(self, key: str) -> list[Table]:
        """Return the list of tables `key`, which is not empty."""
        found = self.take(key, list)
        if not found or not all(isinstance(item, dict) for item in found):
            raise self.wrong(key, found, "a list of tables that is not empty")
        return [self._inner(item, f"{key}[{index}]") for index, item in enumerate(found, start=1)]

    def items(self, key: str, *kinds: type, default: Any = _REQUIRED) -> list[Any]:
        """Return the list `key`, all of whose items are of one of `kinds`."""
        found = self.take(key, list, default=default)
        if not all(any(_is(item, kind) for kind in kinds) for item in found):
            raise self.wrong(key, found, f"a list, each item {_words(kinds)}")
        return found

    def mapping(self, key: str, *kinds: type) -> dict[str, Any]:
        """Return the table `key`, all of whose values are of one of `kinds`."""
        found = self.take(key, dict)
        for name, value in found.items():
            if not any(_is(value, kind) for kind in kinds):
                raise self.wrong(f"{key}.{name}", value, _words(kinds))
        return found

    def choice(self, key: str, choices: Sequence[str], default: Any = _REQUIRED) -> Any:
        """Return the text `key`, one of `choices`."""
        found = self.take(key, str, default=default)
        if found != default and found not in choices:
            raise self.wrong(key, found, f"one of {', '.join(choices)}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        """Raise LacunaError if the table has a key that nobody took."""
        unknown = [key for key in self._values if key not in self._known]
        if unknown:
            known = ", ".join(dict.fromkeys(self._known))
            raise self.fault(f"has an unknown key {self.place(unknown[0])}", f"Known here are {known}.")

    def place(self, key: str) -> str:
        """Return where `key` stands in the file."""
        return f"{self.where}.{key}" if self.where else key

    def wrong(self, key: str, value: Any, expected: str) -> LacunaError:
        """Return the error for a `key` whose `value` is not as `expected`."""
        return self.fault(f"has {self.place(key)} = {repr(value)[:200]}", f"Expected {expected}.")

    def fault(self, what: str, hint: str) -> LacunaError:
        """Return the error that says `what` of the file."""
        return LacunaError(self._code, f"{self.path} {what}.", hint)

    def _inner(self, values: Mapping[str, Any], key: str) -> Table:
        return Table(values, self.path, self._code, self.place(key))


def _is(value: Any, kind: type) -> bool:
    """Return whether a TOML value is of `kind`; numbers must be finite, true and false are no numbers."""
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _words(kinds: Sequence[type]) -> str:
    return " or ".join(_WORDS[kind] for kind in kinds)
