# SPDX-License-Identifier: GPL-2.0-or-later
"""Every name that the plugin takes from Qt is one of PyQt6: classes, enums in full, and what is asked of an event."""

from __future__ import annotations

import ast
import importlib

import pytest
import qt6_names
from qgis.PyQt.QtCore import QObject
from test_forms import ROOT, files

QT_MODULES = ("QtCore", "QtGui", "QtNetwork", "QtWidgets", "QtTest")
TESTS = [path.relative_to(ROOT) for path in sorted((ROOT / "tests" / "plugin").glob("*.py"))]
SOURCES = [*files(".py"), *TESTS]


def qt_class(name):
    """Return the class `name` of PyQt6 as `qgis.PyQt` has it, None if it is of QGIS or nobody's."""
    for module in QT_MODULES:
        found = getattr(importlib.import_module(f"qgis.PyQt.{module}"), name, None)
        if found is not None:
            return found
    return None


def unknown_chains(tree):
    """Yield each dotted name that begins with a class of Qt and that PyQt6 does not have."""
    for chain in qt6_names.chains(tree):
        # QGIS 4 puts the types of QVariant back.
        if chain.parts[0].startswith(("Qgs", "Qgis", "QVariant")):
            continue
        place = qt_class(chain.parts[0])
        for part in chain.parts[1:]:
            place = getattr(place, part, None)
        if place is None:
            yield f"line {chain.line}: {chain}"


def unknown_imports(tree):
    """Yield what is imported from `qgis.PyQt` and is not there."""
    for module, name, _, line in qt6_names.imported(tree):
        if module.startswith("qgis.PyQt.") and not hasattr(importlib.import_module(module), name):
            yield f"line {line}: {module}.{name}"


def unknown_of_arguments(tree):
    """Yield what is asked of an argument annotated with a class of Qt, such as an event, and that it does not have."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        kinds = {
            argument.arg: qt_class(argument.annotation.id)
            for argument in function.args.args
            if isinstance(argument.annotation, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                kind = kinds.get(node.value.id)
                # An object of which no more is said can be of any class.
                if kind not in (None, QObject) and isinstance(node.ctx, ast.Load) and not hasattr(kind, node.attr):
                    yield f"line {node.lineno}: {node.value.id}.{node.attr} of {kind.__name__}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_pyqt6_has_every_name(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert [*unknown_chains(tree), *unknown_imports(tree), *unknown_of_arguments(tree)] == []


@pytest.mark.parametrize(
    "line",
    [
        "flags = Qt.AlignRight",
        "flags = Qt.AlignmentFlag.AlignRihgt",
        "kind = QEvent.Type.MouseMoved",
        "QTimer.singleShoot(1, f)",
        "from qgis.PyQt.QtCore import QRegExp",
        "from qgis.PyQt.QtWidgets import QActionGroup",
        "def wheelEvent(self, event: QWheelEvent) -> None:\n    event.delta()",
        "def mousePressEvent(self, event: QMouseEvent) -> None:\n    place = event.localPos()",
    ],
)
def test_a_name_that_pyqt6_lacks_is_found(line):
    tree = ast.parse(line)
    assert [*unknown_chains(tree), *unknown_imports(tree), *unknown_of_arguments(tree)] != []


def test_the_sources_have_names_to_try():
    trees = [ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in SOURCES]
    assert "Qt.AlignmentFlag.AlignRight" in [str(chain) for tree in trees for chain in qt6_names.chains(tree)]
