# SPDX-License-Identifier: GPL-2.0-or-later
"""A plugin of pytest for tests under PyQt6: `qgis.PyQt` as QGIS 4 has it, and stand-ins for QGIS itself.

There is no QGIS 4 in the package index. Its `qgis.PyQt` is PyQt6 with a few names put back (QGIS, python/PyQt/PyQt);
here it is the same. Widgets of QGIS are stood in for by the class of Qt that they extend, everything else of QGIS by
classes that say nothing: what is tried here is the plugin's use of Qt.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest
from PyQt6 import QtCore, QtGui, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("QtCore", "QtGui", "QtNetwork", "QtWidgets", "QtTest", "sip", "uic")
PUT_BACK = {"QtWidgets": {"QAction": QtGui.QAction, "QShortcut": QtGui.QShortcut}}
_links = tempfile.TemporaryDirectory(prefix="lacuna-qt6-")


class Anything(type):
    """A class of which every attribute that is asked for is such a class again."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("_"):
            raise AttributeError(name)
        made = Anything(name, (), {"__init__": lambda self, *values, **named: None})
        setattr(cls, name, made)
        return made


class Signal:
    """A signal of QGIS that is never sent."""

    def connect(self, slot):
        assert callable(slot)


class QgsProject(QtCore.QObject):
    """The one project, in which there are no layers."""

    layersWillBeRemoved = Signal()
    _one = None

    @classmethod
    def instance(cls):
        cls._one = cls._one or cls()
        return cls._one


class QgsSettings(QtCore.QSettings):
    """Settings in a file that goes with the tests."""

    def __init__(self):
        super().__init__(str(Path(_links.name) / "settings.ini"), QtCore.QSettings.Format.IniFormat)


def widget(name, base, *methods):
    """Return a class with `methods` that do nothing, those by which forms set the properties of QGIS's own."""
    return type(name, (base,), {method: lambda self, *values: None for method in methods})


WIDGETS = {
    "QgsCollapsibleGroupBox": widget(
        "QgsCollapsibleGroupBox", QtWidgets.QGroupBox, "setCollapsed", "setSaveCollapsedState"
    ),
    "QgsDockWidget": widget("QgsDockWidget", QtWidgets.QDockWidget),
    "QgsFieldComboBox": widget("QgsFieldComboBox", QtWidgets.QComboBox),
    "QgsFileWidget": widget("QgsFileWidget", QtWidgets.QWidget),
    "QgsMapLayerComboBox": widget("QgsMapLayerComboBox", QtWidgets.QComboBox),
    "QgsMessageBar": widget("QgsMessageBar", QtWidgets.QFrame),
}


def put(name, contents=(), otherwise=False):
    """Make `name` a module with `contents`; with `otherwise`, every other class of QGIS can be imported from it."""
    module = types.ModuleType(name)
    module.__path__ = []
    vars(module).update(contents)
    if otherwise:
        module.__getattr__ = lambda asked: Anything(asked, (), {}) if asked.startswith("Q") else _missing(name, asked)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _missing(module, name):
    raise AttributeError(f"module {module} has no attribute {name}")


def pytest_configure():
    """Put the modules in place, and the checkout as `lacuna` on the path, before any test is read."""
    put("qgis")
    put("qgis.PyQt")
    for name in MODULES:
        real = importlib.import_module(f"PyQt6.{name}")
        put(f"qgis.PyQt.{name}", {**vars(real), **PUT_BACK.get(name, {})})
    put("qgis.core", {"NULL": None, "QgsProject": QgsProject, "QgsSettings": QgsSettings}, otherwise=True)
    put("qgis.gui", WIDGETS, otherwise=True)
    put("qgis.utils", {"iface": None})
    (Path(_links.name) / "lacuna").symlink_to(ROOT, target_is_directory=True)
    # The checkout itself must not be on the path: its `processing` is not that of QGIS.
    sys.path[:] = [_links.name, *(entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT)]


@pytest.fixture
def qgis_app(qapp):
    """Return the application; the plugin's tests know it by this name."""
    return qapp
