# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads the form (.ui) that lies beside a module, and gives every chip, link and warning the same look."""

from __future__ import annotations

from pathlib import Path

from qgis.PyQt import uic
from qgis.PyQt.QtCore import QEvent, QObject, Qt
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QAbstractSpinBox, QComboBox, QLabel, QWidget

WARNING_COLOR = "#b35900"
MUTED_COLOR = "#707070"


def load_form(widget: QWidget, module: str) -> None:
    """Build the form beside the file `module` into `widget`; its parts become attributes of it."""
    uic.loadUi(str(Path(module).with_suffix(".ui")), widget)
    guard = WheelGuard(widget)
    for kind in (QAbstractSpinBox, QComboBox):
        for part in widget.findChildren(kind):
            part.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            part.installEventFilter(guard)


class WheelGuard(QObject):
    """Leaves the wheel to the page where a box or a number was not clicked into, so that scrolling changes nothing."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Hand a turn of the wheel on to what lies behind."""
        if event.type() != QEvent.Type.Wheel or watched.hasFocus():
            return False
        event.ignore()
        return True


def chip(name: str, color: str) -> str:
    """Return the rich text of a class: its name on its colour, in black or white, whichever reads better."""
    fill = QColor(color)
    light = 0.299 * fill.red() + 0.587 * fill.green() + 0.114 * fill.blue() > 140
    ink = "#000000" if light else "#ffffff"
    return (
        f'<span style="background-color:{fill.name()}; color:{ink};">&nbsp;{name.replace(" ", "&nbsp;")}&nbsp;</span>'
    )


def say(label: QLabel, text: str, color: str = "") -> None:
    """Show `text` in `label`, in `color` if one is given; an empty text takes no room."""
    label.setText(text)
    label.setStyleSheet(f"color: {color};" if color else "")
    label.setVisible(bool(text))
