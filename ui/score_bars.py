# SPDX-License-Identifier: GPL-2.0-or-later
"""Small bars of the measured accuracy of a checkpoint, one for each scenario, the present one highlighted."""

from __future__ import annotations

from typing import Optional

from qgis.PyQt.QtCore import QRectF, QSize, Qt
from qgis.PyQt.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPalette, QTextOption
from qgis.PyQt.QtWidgets import QSizePolicy, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card, Scenario

BAR = QColor("#b9c4cc")
CURRENT = QColor("#2c7fb8")
# Up to four modalities; beyond that the bars would fill the dock, and the words above them must do.
MAX_BARS = 15


class ScoreBars(QWidget):
    """One line a scenario: its modalities, a bar as long as its mIoU, the number."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("scoreBars")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._rows: list[tuple[str, Optional[float], bool]] = []

    def set_card(self, card: Optional[Card], current: Optional[Scenario]) -> None:
        """Show the scenarios that `card` supports, with `current` highlighted."""
        supported = card.supported() if card else []
        if len(supported) > MAX_BARS:
            supported = [item for item in supported if current is not None and set(item) == set(current)]
        self._rows = [
            (" + ".join(item), card.miou(item), current is not None and set(item) == set(current)) for item in supported
        ]
        self.setAccessibleDescription("; ".join(f"{name}: {_number(miou)}" for name, miou, _ in self._rows))
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """Return a height of one line a scenario."""
        return QSize(200, self._line() * len(self._rows))

    def minimumSizeHint(self) -> QSize:
        """Return the same height; bars may be short but not cut off."""
        return QSize(120, self._line() * len(self._rows))

    def _line(self) -> int:
        return self.fontMetrics().height() + 3

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        line, font = self._line(), self.font()
        font.setBold(True)
        widths = [QFontMetrics(font).horizontalAdvance(name) for name, _, _ in self._rows]
        names = min(max(widths, default=0) + 10, self.width() * 0.6)
        numbers = self.fontMetrics().horizontalAdvance("0.000") + 8
        ink = self.palette().color(QPalette.ColorRole.WindowText)
        for row, (name, miou, current) in enumerate(self._rows):
            top = row * line
            font.setBold(current)
            painter.setFont(font)
            painter.setPen(ink)
            short = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, int(names) - 6)
            painter.drawText(QRectF(0, top, names, line), short, QTextOption(Qt.AlignmentFlag.AlignLeft))
            place = QRectF(self.width() - numbers, top, numbers, line)
            painter.drawText(place, _number(miou), QTextOption(Qt.AlignmentFlag.AlignRight))
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(CURRENT if current else BAR)
            length = max(0.0, self.width() - names - numbers)
            painter.drawRoundedRect(QRectF(names, top + 4, length * (miou or 0.0), line - 8), 2, 2)
        painter.end()


def _number(miou: Optional[float]) -> str:
    """Return an mIoU in two digits, or a question mark where none was measured."""
    return "?" if miou is None else f"{miou:.2f}"


def score_words(card: Card, bound: list[str], partial: list[str]) -> str:
    """Return the expected mIoU in words.

    Args:
        card: of the checkpoint.
        bound: modalities with a raster.
        partial: those of them that cover only a part of the area.
    """
    current = card.effective(tuple(bound))
    if current is None:
        return tr("This checkpoint cannot run with these modalities alone.")
    miou = card.miou(current)
    if miou is None:
        return tr("The accuracy with {} was not measured.").format(" + ".join(current))
    words = [tr("mIoU {} with these").format(_number(miou))]
    for name in (item for item in card.names if item not in bound):
        more = card.miou(card.effective((*bound, name)) or ())
        if more is not None:
            words.append(tr("{} with {}").format(_number(more), name))
    for name in partial:
        less = card.miou(card.effective(tuple(item for item in bound if item != name)) or ())
        if less is not None:
            words.append(tr("{} where {} is missing").format(_number(less), name))
    return ", ".join(words) + "."
