# SPDX-License-Identifier: GPL-2.0-or-later
"""The probabilities of the scenarios as bars that can be dragged, typed over and set back; they always sum to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from qgis.PyQt.QtCore import QEvent, QPointF, QRectF, QSize, Qt, pyqtSignal
from qgis.PyQt.QtGui import QColor, QFocusEvent, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qgis.PyQt.QtWidgets import QDoubleSpinBox, QSizePolicy, QToolTip, QWidget

from ..compat import tr
from ..engine.palette import SERIES
from .chart import Chart, draw_text

STEP = 0.01
# Full lengths of a bar; the one taken leaves room to drag the longest bar further.
_SCALES = (0.2, 0.5, 1.0)


class ProbabilityBars(Chart):
    """One line a scenario: its modalities, a bar, the probability. A tick marks what was proposed.

    Signals:
        edited: the analyst has changed a probability, or set all back.
    """

    edited = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("probabilityBars")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self._names: list[str] = []
        self._proposed: list[float] = []
        self._notes: list[str] = []
        self._current, self._scale, self._dragged = 0, 1.0, False
        self.probabilities: list[float] = []
        self.editor = QDoubleSpinBox(self)
        self.editor.setObjectName("probabilityEdit")
        self.editor.setRange(0.0, 1.0)
        self.editor.setDecimals(3)
        self.editor.setSingleStep(STEP)
        self.editor.setKeyboardTracking(False)
        self.editor.editingFinished.connect(self._take_typed)
        self.editor.hide()

    def propose(
        self, scenarios: Sequence[Sequence[str]], probabilities: Sequence[float], notes: Sequence[str] = ()
    ) -> None:
        """Show what is proposed; what was edited stays as long as the same is proposed for the same scenarios.

        Args:
            scenarios: names of modalities, in the order of the contract.
            probabilities: of each; they sum to 1.
            notes: what the tooltip adds for each, such as a distortion with its error.
        """
        names, proposed = [" + ".join(item) for item in scenarios], [float(value) for value in probabilities]
        self._notes = [*notes, *[""] * (len(names) - len(notes))]
        if (names, proposed) == (self._names, self._proposed):
            return
        self.editor.hide()
        self._names, self._proposed = names, proposed
        self.probabilities = list(proposed)
        self._current = 0
        self._settle()

    def is_edited(self) -> bool:
        """Return whether the probabilities are no longer those proposed."""
        return self.probabilities != self._proposed

    def reset(self) -> None:
        """Go back to what was proposed."""
        self.probabilities = list(self._proposed)
        self._settle()
        self.edited.emit()

    def set_probability(self, index: int, value: float) -> None:
        """Set one probability and rescale the others, so that all sum to 1."""
        self.probabilities = rescaled(self.probabilities, index, value)
        self.update()
        self.edited.emit()

    def _settle(self) -> None:
        """Choose the scale by the longest bar, and tell screen readers what is shown."""
        longest = max(self.probabilities, default=1.0)
        self._scale = next((scale for scale in _SCALES if scale >= 1.25 * longest), 1.0)
        pairs = zip(self._names, self.probabilities)
        self.setAccessibleDescription("; ".join(f"{name}: {value:.3f}" for name, value in pairs))
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """Return a height of one line a scenario."""
        return QSize(240, self._line() * len(self._names))

    def minimumSizeHint(self) -> QSize:
        """Return the same height; bars may be short but not cut off."""
        return QSize(160, self._line() * len(self._names))

    def _line(self) -> int:
        return self.fontMetrics().height() + 6

    def bar(self, index: int) -> QRectF:
        """Return where a bar may lie, at its full length."""
        names = max(map(self.fontMetrics().horizontalAdvance, self._names), default=0) + 10
        left = min(names, self.width() * 0.55)
        numbers = self.fontMetrics().horizontalAdvance("0.000") + 8
        line = self._line()
        return QRectF(left, index * line + 3, max(1.0, self.width() - left - numbers), line - 6)

    def length_of(self, probability: float) -> float:
        """Return the length of the bar of a probability, in pixels."""
        return self.bar(0).width() * min(probability / self._scale, 1.0)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint the lines."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for index, value in enumerate(self.probabilities):
            self._paint_row(painter, index, value)
        painter.end()

    def _paint_row(self, painter: QPainter, index: int, value: float) -> None:
        """Paint the name, the bar, the number and the tick of one scenario."""
        place, line = self.bar(index), self._line()
        focused = index == self._current and self.hasFocus()
        painter.setPen(self.ink())
        metrics = QFontMetrics(self.font())
        name = metrics.elidedText(self._names[index], Qt.TextElideMode.ElideMiddle, int(place.left()) - 6)
        draw_text(painter, QRectF(0, index * line, place.left(), line), name, Qt.AlignmentFlag.AlignLeft)
        numbers = QRectF(place.right(), index * line, self.width() - place.right(), line)
        draw_text(painter, numbers, f"{value:.3f}", Qt.AlignmentFlag.AlignRight)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self.ink(0.08))
        painter.drawRoundedRect(place, 2, 2)
        fill = QColor(SERIES[1] if self.is_edited() else SERIES[0])
        fill.setAlphaF(1.0 if self.isEnabled() else 0.4)
        painter.setBrush(fill)
        painter.drawRoundedRect(
            QRectF(place.topLeft(), QPointF(place.left(), place.bottom())).adjusted(0, 0, self.length_of(value), 0),
            2,
            2,
        )
        if self.is_edited():
            x = place.left() + self.length_of(self._proposed[index])
            painter.setPen(QPen(self.ink(), 1.5))
            painter.drawLine(QPointF(x, place.top() - 1), QPointF(x, place.bottom() + 1))
        if focused:
            painter.setPen(QPen(self.ink(0.6), 1, Qt.PenStyle.DotLine))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(QRectF(0.5, index * line + 0.5, self.width() - 1, line - 1))

    def _row(self, y: float) -> Optional[int]:
        index = int(y // self._line())
        return index if 0 <= index < len(self._names) else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Begin to drag a bar."""
        index = self._row(event.pos().y())
        if index is None or event.button() != Qt.MouseButton.LeftButton:
            return
        self._current = index
        self._dragged = event.pos().x() >= self.bar(index).left() - 4
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Drag a bar, or say what the one under the mouse means."""
        index = self._row(event.pos().y())
        if self._dragged and event.buttons() & Qt.MouseButton.LeftButton:
            place = self.bar(self._current)
            share = min(max((event.pos().x() - place.left()) / place.width(), 0.0), 1.0)
            self.set_probability(self._current, round(share * self._scale, 3))
        elif index is not None:
            QToolTip.showText(self.mapToGlobal(event.pos()), self.words(index), self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """End a drag; the scale fits the longest bar again."""
        self._dragged = False
        self._settle()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Let the number be typed."""
        index = self._row(event.pos().y())
        if index is not None:
            self._dragged = False
            self._type(index)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Choose a bar with up and down, change it with left and right, type with F2."""
        moves = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}
        steps = {Qt.Key.Key_Left: -STEP, Qt.Key.Key_Right: STEP}
        if event.key() in moves and self._names:
            self._current = min(max(self._current + moves[event.key()], 0), len(self._names) - 1)
            self.update()
        elif event.key() in steps and self._names:
            self.set_probability(self._current, self.probabilities[self._current] + steps[event.key()])
            self._settle()
        elif event.key() == Qt.Key.Key_F2 and self._names:
            self._type(self._current)
        else:
            super().keyPressEvent(event)

    def changeEvent(self, event: QEvent) -> None:
        """Fit the lines to another font or theme."""
        super().changeEvent(event)
        self.updateGeometry()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show which bar the keys change."""
        super().focusInEvent(event)
        self.update()

    def _type(self, index: int) -> None:
        """Open the editor over the number of a scenario."""
        self._current = index
        wide = max(self.editor.sizeHint().width(), 80)
        self.editor.setValue(self.probabilities[index])
        self.editor.setGeometry(self.width() - wide, index * self._line() - 1, wide, self._line() + 2)
        self.editor.show()
        self.editor.selectAll()
        self.editor.setFocus()

    def _take_typed(self) -> None:
        """Take over what was typed."""
        if not self.editor.isVisible():
            return
        self.editor.hide()
        if abs(self.editor.value() - self.probabilities[self._current]) >= 0.0005:
            self.set_probability(self._current, self.editor.value())
        self._settle()
        self.setFocus()

    def words(self, index: int) -> str:
        """Return what the tooltip says of a scenario."""
        found = tr("{}: trained with probability {:.3f}").format(self._names[index], self.probabilities[index])
        if self.is_edited():
            found += tr(" (proposed: {:.3f})").format(self._proposed[index])
        hint = tr("Drag the bar, or double-click to type; arrow keys change it by 0.01. The others are rescaled.")
        return "\n".join(filter(None, (found, self._notes[index], hint)))


def rescaled(probabilities: Sequence[float], index: int, value: float) -> list[float]:
    """Return `probabilities` with that of `index` set to `value` (clamped to 0..1) and the others in proportion.

    Others that are all 0 share what is left alike; one alone stays 1.
    """
    if len(probabilities) == 1:
        return [1.0]
    value = min(max(value, 0.0), 1.0)
    rest = sum(item for number, item in enumerate(probabilities) if number != index)
    others = len(probabilities) - 1
    return [
        value if number == index else (1 - value) * (item / rest if rest > 0 else 1 / others)
        for number, item in enumerate(probabilities)
    ]
