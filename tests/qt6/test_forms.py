# SPDX-License-Identifier: GPL-2.0-or-later
"""Every form loads under PyQt6 and can be shown, and every module of the plugin can be imported."""

from __future__ import annotations

import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from qgis.PyQt import uic
from qgis.PyQt.QtWidgets import QWidget

ROOT = Path(__file__).resolve().parents[2]
# Not the plugin's: the engine knows no Qt, the rest is for developers.
LEFT_OUT = {"engine", "tests", "tools", "build", "dist", "docs", "resources"}


def files(suffix):
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in LEFT_OUT]
    found = list(ROOT.glob(f"*{suffix}"))
    for folder in folders:
        found += [] if folder.name.startswith(".") else folder.rglob(f"*{suffix}")
    return sorted(path.relative_to(ROOT) for path in found)


def base_of(path):
    """Return the class of the widget that the form in `path` is."""
    kind = ElementTree.parse(path).find("widget").get("class")
    for module in ("qgis.gui", "qgis.PyQt.QtWidgets"):
        if kind in vars(importlib.import_module(module)):
            return vars(importlib.import_module(module))[kind]
    raise AssertionError(f"{path} is a {kind}, which is not known here")


def test_there_are_forms_and_modules():
    assert Path("ui/dock.ui") in files(".ui")
    assert Path("plugin.py") in files(".py")


@pytest.mark.parametrize("form", files(".ui"), ids=str)
def test_a_form_loads(form, qtbot):
    widget = base_of(ROOT / form)()
    qtbot.addWidget(widget)
    uic.loadUi(str(ROOT / form), widget)
    names = [node.get("name") for node in ElementTree.parse(ROOT / form).iter("widget")]
    for name in names[1:]:
        assert isinstance(getattr(widget, name), QWidget), name
    widget.show()
    assert not widget.grab().isNull()


@pytest.mark.parametrize("module", files(".py"), ids=str)
def test_a_module_can_be_imported(module):
    dotted = ".".join(module.with_suffix("").parts)
    importlib.import_module(f"lacuna.{dotted}".removesuffix(".__init__"))
