# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for the sources of the QGIS side: what they may import, old syntax only, forms that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = [ROOT / "engine" / name for name in ("jobs.py", "events.py", "errors.py", "options.py", "version.py")]
SHARED += [ROOT / "engine" / "offset_tags.py"]
SHARED += [ROOT / "engine" / "checkpoint" / name for name in ("card.py", "header.py")]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("host/*.py"), *ROOT.glob("ui/*.py"), *ROOT.glob("processing/*.py"), *SHARED]

# The first group lives in the engine's Python alone; Qt comes through qgis.PyQt.
FOREIGN = {"torch", "rasterio", "safetensors", "pyogrio", "shapely", "numpy"} | {"PyQt5", "PyQt6", "sip", "osgeo"}


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_and_syntax(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    tops = {name.split(".")[0] for name in imported(tree)}
    assert not tops & FOREIGN
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]


@pytest.mark.parametrize("path", sorted(ROOT.glob("ui/*.ui")), ids=lambda path: path.name)
def test_every_form_lies_beside_its_module(path):
    assert path.with_suffix(".py").exists()


ALONE = [ROOT / "host" / name for name in ("interpreters.py", "client.py", "environment.py")]


@pytest.mark.parametrize("path", [*SHARED, *ALONE], ids=str)
def test_what_the_engine_or_a_terminal_may_share_does_not_need_qgis(path):
    assert "qgis" not in {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
