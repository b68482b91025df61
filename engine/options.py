# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of options as they are written: one text means one thing on the command line and in Processing.

Runs on Python 3.9 with the standard library alone, since the algorithms of QGIS read their parameters with it. What
cannot be read is a ValueError that says so in words; whoever asks adds the name of the option.
"""

from __future__ import annotations

import re
from typing import Union

Value = Union[int, str]


def names(text: str) -> list[str]:
    """Return the names in `water, trees`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError(f"in {text!r} a value between two commas is empty")
    return parts


def values(text: str) -> list[Value]:
    """Return the values in `0,-1,none`: whole numbers where they are some, else text."""
    return [_value(part) for part in names(text)]


def number(text: str) -> float:
    """Return the number in `-3.4e38`."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def numbers(text: str) -> list[float]:
    """Return the numbers in `0.5,1,2e-3`."""
    return [number(part) for part in names(text)]


def bands(text: str) -> list[Value]:
    """Return the bands in `3,2,nir`: numbers from 1, or names."""
    return [int(band) if band.isascii() and band.isdigit() else band for band in names(text)]


def tile(text: str) -> list[int]:
    """Return rows and columns in `512` or `512,256`."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2):
        raise ValueError(f"{text!r} is neither one side nor rows,columns, in pixels")
    return sizes * 2 if len(sizes) == 1 else sizes


def pairs(text: str) -> dict[str, str]:
    """Return what leads where in `1=water,2=trees,7=`; nothing after the sign is an empty text.

    The last `=` of a pair counts: values of labels may hold the sign, such as `a=b=trees`; names of classes may not.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        key, sign, goal = (piece.strip() for piece in part.rpartition("="))
        if not sign or not key:
            raise ValueError(f"{part!r} is not of the form VALUE=NAME")
        if key in found:
            raise ValueError(f"{key!r} is given twice")
        found[key] = goal
    return found


def goals(text: str) -> dict[str, Value]:
    """Return `pairs(text)` with the values of classes, not their names, where pairs lead to whole numbers."""
    return {key: _value(goal) for key, goal in pairs(text).items()}


def _value(text: str) -> Value:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
