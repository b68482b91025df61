# SPDX-License-Identifier: GPL-2.0-or-later
"""Horizontal bars of figures from 0 to 1, a line each, one of them highlighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from qgis.PyQt.QtCore import QRectF, QSize, Qt, pyqtSignal
from qgis.PyQt.QtGui import QColor, QFontMetrics, QMouseEvent, QPainter, QPaintEvent, QTextOption
from qgis.PyQt.QtWidgets import QSizePolicy, QWidget

from .chart import Chart

BAR = QColor("#b9c4cc")
CURRENT = QColor("#2c7fb8")


class Bars(Chart):
    """One line a figure: its name, a bar as long as it, the number.

    Args:
        digits: behind the point of the numbers.

    Signals:
        clicked: a line was clicked (its index).
    """

    clicked = pyqtSignal(int)

    def __init__(self, parent: Optional[QWidget] = None, digits: int = 2) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._digits = digits
        self._rows: list[tuple[str, Optional[float]]] = []
        self._current: Optional[int] = None

    def set_rows(self, rows: Sequence[tuple[str, Optional[float]]], current: Optional[int] = None) -> None:
        """Show names and figures, None for one that was not measured, with line `current` highlighted."""
        self._rows, self._current = list(rows), current
        self.setAccessibleDescription("; ".join(f"{name}: {self._number(value)}" for name, value in rows))
        self.updateGeometry()
        self.update()

    def set_current(self, current: Optional[int]) -> None:
        """Highlight another line."""
        self._current = current
        self.update()

    def line_height(self) -> int:
        """Return the height of a line in pixels."""
        return self.fontMetrics().height() + 3

    def sizeHint(self) -> QSize:
        """Return a height of one line a figure."""
        return QSize(200, self.line_height() * len(self._rows))

    def minimumSizeHint(self) -> QSize:
        """Return the same height; bars may be short but not cut off."""
        return QSize(120, self.line_height() * len(self._rows))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Tell which line was clicked."""
        row = event.pos().y() // self.line_height()
        if 0 <= row < len(self._rows):
            self.clicked.emit(row)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        line, font = self.line_height(), self.font()
        font.setBold(True)
        widths = [QFontMetrics(font).horizontalAdvance(name) for name, _ in self._rows]
        names = min(max(widths, default=0) + 10, self.width() * 0.6)
        numbers = self.fontMetrics().horizontalAdvance(self._number(0.0)) + 8
        for row, (name, value) in enumerate(self._rows):
            top = row * line
            font.setBold(row == self._current)
            painter.setFont(font)
            painter.setPen(self.ink())
            short = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, int(names) - 6)
            painter.drawText(QRectF(0, top, names, line), short, QTextOption(Qt.AlignmentFlag.AlignLeft))
            place = QRectF(self.width() - numbers, top, numbers, line)
            painter.drawText(place, self._number(value), QTextOption(Qt.AlignmentFlag.AlignRight))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(CURRENT if row == self._current else BAR)
            length = max(0.0, self.width() - names - numbers)
            painter.drawRoundedRect(QRectF(names, top + 4, length * (value or 0.0), line - 8), 2, 2)
        painter.end()

    def _number(self, value: Optional[float]) -> str:
        """Return a figure as text, or a question mark where none was measured."""
        return "?" if value is None else f"{value:.{self._digits}f}"
