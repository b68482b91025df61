# SPDX-License-Identifier: GPL-2.0-or-later
"""Which names mean the same: of bands, of classes, of values of labels. Python 3.9 with the standard library alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Optional

_NUMBERED = re.compile(r"([a-z]+)[ _-]?0*([0-9]+)([a-z]?)\Z")


def band_key(name: str) -> str:
    """Return what names of bands are compared by: no case, no blanks around, no leading zeros: B02 and b2 are one."""
    folded = name.strip().casefold()
    numbered = _NUMBERED.match(folded)
    return "".join(numbered.groups()) if numbered else folded


def find_band(wanted: str, names: Sequence[str]) -> Optional[int]:
    """Return the 1-based number of the band called `wanted` in `names`, or None where none or several are."""
    found = [number for number, name in enumerate(names, start=1) if band_key(name) == band_key(wanted)]
    return found[0] if len(found) == 1 else None


def key_of(value: Any) -> str:
    """Return what classes and values of labels are compared by.

    It is text without case and blanks around, a number as it is written shortest (true is 1), and "" for no value.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, (bool, float)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip().casefold()
