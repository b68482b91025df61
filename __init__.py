# SPDX-License-Identifier: GPL-2.0-or-later
"""Lacuna: classify a scene from several rasters at once, and keep working where one of them is missing.

The same folder is a QGIS plugin and a Python package: nothing of QGIS is imported before `classFactory` is called.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin for QGIS, or a stand-in that says why the plugin could not be loaded."""
    try:
        from .plugin import LacunaPlugin
    except Exception as problem:  # any fault at import must reach the analyst as words
        from .stub import StubPlugin

        return StubPlugin(iface, problem)
    return LacunaPlugin(iface)
