# SPDX-License-Identifier: GPL-2.0-or-later
"""Every enum and function that the plugin takes from a class of QGIS is there in the QGIS that runs these tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import qgis.core
import qgis.gui
import qt6_names

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))]
# In this one file what differs between versions is asked for first.
SOURCES = sorted(path for path in SOURCES if path.name != "compat.py" and b"from qgis" in path.read_bytes())


def unknown(text):
    """Yield each dotted name in `text` that begins with a class of QGIS and that this QGIS does not have."""
    for chain in qt6_names.chains(ast.parse(text)):
        place = getattr(qgis.core, chain.parts[0], None) or getattr(qgis.gui, chain.parts[0], None)
        if not chain.parts[0].startswith(("Qgs", "Qgis")):
            continue
        for part in chain.parts[1:]:
            place = getattr(place, part, None)
        if place is None:
            yield f"line {chain.line}: {chain}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_this_qgis_has_every_name(path):
    assert list(unknown(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("line", ["Qgis.MessageLevel.Loud", "from qgis.core import QgsTask as T\nT.Flag.No", "QgsNo.a"])
def test_a_name_that_qgis_lacks_is_found(line):
    assert len(list(unknown(line))) == 1
