# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML as the engine reads it: settings, and manifests. Written here, as Python reads TOML but does not write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml_words(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables of texts, numbers, booleans, and lists and tables of them as TOML; empty tables are left out."""
    return "\n".join(f"[{_path(name)}]\n{toml_lines(table)}" for name, table in tables.items() if table)


def toml_lines(values: Mapping[str, Any]) -> str:
    """Return keys and their values, one a line; those that are None are left out, as TOML has no word for it."""
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in values.items() if value is not None)


def _path(name: str) -> str:
    """Return the head of a table: `modalities.rgb` is one within another."""
    return ".".join(_key(part) for part in name.split("."))


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _text(key)


def _value(value: Any) -> str:
    """Return a value in a line; what JSON writes for texts, numbers and booleans is what TOML reads."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    # The one sign that JSON leaves as it is and TOML forbids.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
