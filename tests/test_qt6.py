# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin is written for Qt 5 and Qt 6 at once: enums in full, no name that PyQt6 or QGIS 4 lost; and the finder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import qt6_names

ROOT = Path(__file__).resolve().parent.parent


def files(suffix):
    """Return the files of the checkout that tell of Qt, wherever the plugin's modules lie."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ("engine", "build", "dist")]
    found = list(ROOT.glob(f"*{suffix}"))
    for folder in folders:
        # Environments and chroots begin with a dot.
        found += [] if folder.name.startswith(".") else folder.rglob(f"*{suffix}")
    return sorted(found)


FORMS = files(".ui")
SOURCES = [path for path in files(".py") if b"qgis" in path.read_bytes() or b"Qt" in path.read_bytes()]
# Those under PyQt6 alone import it by its own name.
SOURCES = [path for path in SOURCES if path.parent != ROOT / "tests" / "qt6"]


def name(path):
    return str(path.relative_to(ROOT))


def test_there_is_something_to_read():
    assert {"plugin.py", "ui/dock.py", "processing/provider.py", "tests/plugin/conftest.py"} <= set(map(name, SOURCES))
    assert "ui/dock.ui" in map(name, FORMS)
    chains = [str(chain) for path in SOURCES for chain in qt6_names.chains(ast.parse(path.read_text("utf-8")))]
    assert "Qt.AlignmentFlag.AlignRight" in chains


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_source_is_written_for_qt_6(path):
    assert qt6_names.faults_of_source(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FORMS, ids=name)
def test_a_form_is_written_for_both_readers(path):
    assert qt6_names.faults_of_form(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "flags = Qt.AlignRight | Qt.AlignVCenter",
        "pen.setColor(Qt.red)",
        "pen.setColor(Qt.darkGray)",
        "row.setData(Qt.UserRole, 1)",
        "box.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)",
        "box.setShape(QFrame.StyledPanel)",
        "box.setShape(self.StyledPanel)",
        "if event.type() == event.MouseMove: pass",
        "QMessageBox.question(self, 'a', 'b', QMessageBox.Yes)",
        "QtCore.Qt.AlignRight",
        "from qgis.PyQt.QtCore import Qt as Q\nside = Q.RightDockWidgetArea",
        "log(Qgis.Warning)",
        "box.setFilters(QgsMapLayerProxyModel.RasterLayer)",
        "qgis.core.Qgis.Critical",
        "from qgis.core import QgsRasterMinMaxOrigin as Origin\norigin = Origin.MinMax",
        "kind = QgsWkbTypes.PolygonGeometry",
        "kind = QVariant.Type.Int",
        "dialog.exec_()",
        "app.exec_()",
        "class Dialog:\n    def exec_(self): pass",
        "rule = QRegExp('a')",
        "from qgis.PyQt.QtCore import QRegExp",
        "QtCore.QRegExp('a')",
        "size = QDesktopWidget().size()",
        "size = app.desktop().size()",
        "qApp.processEvents()",
        "from PyQt5.QtCore import Qt",
        "import PyQt5.QtCore",
        "import sip",
        "from qgis.PyQt.QtWebKitWidgets import QWebView",
        "from qgis.PyQt.QtWidgets import QActionGroup",
        "from qgis.PyQt.QtGui import QAction",
        "from . import a\nimport resources_rc",
        "if event.button() == Qt.MouseButton.MidButton: pass",
        "place = event.localPos()",
        "wide = metrics.width(text)",
        "wide = self.fontMetrics().width('a')",
        "box.activated[str].connect(self.taken)",
        "number = int(Qt.AlignmentFlag.AlignRight)",
    ],
)
def test_the_finder_finds_what_qt_6_lost(line):
    assert len(qt6_names.faults_of_source(line)) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter",
        "pen.setColor(Qt.GlobalColor.red)",
        "def align(flags: Qt.AlignmentFlag) -> Qt.Alignment: ...",
        "flags = Qt.AlignmentFlag(130)",
        "if hasattr(Qgis, 'GeometryType') and hasattr(Qgis.GeometryType, 'Polygon'): pass",
        "entry = QgsPalettedRasterRenderer.Class(1, color, 'a')",
        "field = QgsField('a', QVariant.Int)",
        "dialog.exec()",
        "from qgis.PyQt.QtWidgets import QAction, QShortcut",
        "from qgis.PyQt import sip, uic",
        "wide = box.width()",
        "version = Qgis.QGIS_VERSION_INT",
        "import subprocess as process\nprocess.Popen([])\nkind = process.CalledProcessError",
        "from .protocol import client\nkind = client.Event",
        "number = int(Qt.ItemDataRole.UserRole.value)",
        "box.activated[int].connect(self.taken)",
    ],
)
def test_the_finder_leaves_alone_what_both_know(line):
    assert qt6_names.faults_of_source(line) == []


def test_a_fault_names_its_line():
    (fault,) = qt6_names.faults_of_source("a = 1\nb = Qt.AlignRight")
    assert fault.startswith("line 2: Qt.AlignRight:")


FORM = """<ui version="4.0"><class>A</class><widget class="{kind}" name="a">
<property name="orientation"><enum>{enum}</enum></property><property name="b"><set>{flags}</set></property>
</widget>{end}</ui>"""


@pytest.mark.parametrize(
    ("kind", "enum", "flags", "end", "fault"),
    [
        ("QSlider", "Qt::Orientation::Horizontal", "Qt::AlignLeft", "", "Qt::Orientation::Horizontal"),
        ("QSlider", "Qt::Horizontal", "Qt::AlignLeft|Qt::AlignmentFlag::AlignTop", "", "AlignTop"),
        ("QSlider", "Horizontal", "Qt::AlignLeft", "", "Horizontal"),
        ("QSlider", "Qt::MidButton", "Qt::AlignLeft", "", "MidButton"),
        ("QWebView", "Qt::Horizontal", "Qt::AlignLeft", "", "QWebView"),
        ("QSlider", "Qt::Horizontal", "Qt::AlignLeft", '<resources><include location="a.qrc"/></resources>', "a.qrc"),
    ],
)
def test_the_finder_reads_forms(kind, enum, flags, end, fault):
    faults = qt6_names.faults_of_form(FORM.format(kind=kind, enum=enum, flags=flags, end=end))
    assert len(faults) == 1 and fault in faults[0]


def test_a_form_with_plain_enums_is_left_alone():
    text = FORM.format(kind="QSlider", enum="Qt::Horizontal", flags="Qt::AlignLeft|Qt::AlignTop", end="")
    assert qt6_names.faults_of_form(text) == []
