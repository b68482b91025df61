# SPDX-License-Identifier: GPL-2.0-or-later
"""Live curves of a training: the loss, and the validation mIoU of every scenario, by epoch."""

from __future__ import annotations

from typing import Any, Optional

from qgis.PyQt.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qgis.PyQt.QtGui import QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF, QResizeEvent
from qgis.PyQt.QtWidgets import QSizePolicy, QToolTip, QWidget

from ..compat import tr
from .chart import Chart, draw_text, line_pen, round_ticks

LOSS_HEIGHT = 110
MIOU_HEIGHT = 170
_EDGE = 8
_SWATCH = 18


class Curves(Chart):
    """Two frames above each other with one axis of epochs: the loss, and a line of mIoU for each scenario.

    Attributes:
        loss: (epoch, value) of every epoch so far.
        lines: by scenario, as `optical + radar`, its (epoch, mIoU).
        mean: (epoch, mean mIoU over the scenarios).
    """

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        self.setObjectName("curves")
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setMouseTracking(True)
        self.clear()

    def clear(self) -> None:
        """Forget all epochs."""
        self.loss: list[tuple[int, float]] = []
        self.mean: list[tuple[int, float]] = []
        self.lines: dict[str, list[tuple[int, float]]] = {}
        self.epochs, self.best_epoch = 0, 0
        self._hovered: Optional[int] = None
        self.setAccessibleDescription("")
        self._fit()

    def add(self, event: dict[str, Any]) -> None:
        """Add the epoch that a `metrics` event of the engine tells."""
        epoch = int(event["epoch"])
        self.epochs = max(int(event.get("epochs", epoch)), epoch)
        self.best_epoch = int(event.get("best_epoch", 0))
        self.loss.append((epoch, float(event["loss"])))
        if event.get("miou") is not None:
            self.mean.append((epoch, float(event["miou"])))
        for item in event.get("scenarios", ()):
            if item.get("miou") is not None:
                line = self.lines.setdefault(" + ".join(item["available"]), [])
                line.append((epoch, float(item["miou"])))
        self.setAccessibleDescription(self.words(epoch))
        self._fit()

    def words(self, epoch: int) -> str:
        """Return what is known of an epoch, a line for each number."""
        found = [tr("Epoch {} of {}").format(epoch, self.epochs)]
        found[0] += tr(", the best so far") if epoch == self.best_epoch else ""
        named = [(tr("loss"), self.loss), (tr("mean mIoU"), self.mean), *self.lines.items()]
        for name, points in named:
            found += [f"{name}: {value:.3f}" for number, value in points if number == epoch]
        return "\n".join(found)

    def hasHeightForWidth(self) -> bool:
        """Return True: the legend takes as many lines as its names need."""
        return True

    def heightForWidth(self, width: int) -> int:
        """Return the height with a legend that is broken at `width`."""
        return LOSS_HEIGHT + MIOU_HEIGHT + round(self._legend(width)[1]) + _EDGE

    def sizeHint(self) -> QSize:
        """Return the size at the present width."""
        return QSize(300, self.heightForWidth(max(self.width(), 200)))

    def minimumSizeHint(self) -> QSize:
        """Return the same height; curves may be narrow but not cut off."""
        return QSize(200, self.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Break the legend anew."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(self.heightForWidth(max(self.width(), 200)))
        self.updateGeometry()
        self.update()

    def _legend(self, width: float) -> tuple[list[tuple[str, QPointF]], float]:
        """Return names with the places of their entries, row by row, and the height of all rows."""
        line, left, top = self.fontMetrics().height() + 2, 0.0, 0.0
        places = []
        for name in self.lines:
            wide = _SWATCH + 6 + self.fontMetrics().horizontalAdvance(name) + 12
            if left and left + wide > width:
                left, top = 0.0, top + line
            places.append((name, QPointF(left, top)))
            left += wide
        return places, top + line if places else 0.0

    def _frames(self) -> tuple[QRectF, QRectF]:
        """Return the inner frames of the loss and of the mIoU."""
        left = self.fontMetrics().horizontalAdvance("0.000") + _EDGE
        width, line = self.width() - left - _EDGE, self.fontMetrics().height()
        upper = QRectF(left, line + 4, width, LOSS_HEIGHT - line - 12)
        return upper, QRectF(left, LOSS_HEIGHT + line + 4, width, MIOU_HEIGHT - 2 * line - 12)

    def _x(self, epoch: float, frame: QRectF) -> float:
        """Return where an epoch lies; the first and the last stand a little inside the frame."""
        return frame.left() + frame.width() * (epoch - 0.5) / max(self.epochs, 1)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint both frames and the legend."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        upper, lower = self._frames()
        values = [value for _, value in self.loss] or [0.0, 1.0]
        self._paint_frame(painter, upper, tr("Loss"), round_ticks(min(values), max(values), 3))
        top = max((value for points in self.lines.values() for _, value in points), default=1.0)
        ticks = round_ticks(0.0, max(top, 0.1), 4)
        self._paint_frame(painter, lower, tr("Validation mIoU of each scenario"), ticks)
        self._paint_epochs(painter, upper, lower)
        loss_ticks = round_ticks(min(values), max(values), 3)
        self._paint_line(painter, upper, loss_ticks, self.loss, QPen(self.ink(), 1.8))
        for index, points in enumerate(self.lines.values()):
            self._paint_line(painter, lower, ticks, points, line_pen(index))
        self._paint_legend(painter)
        painter.end()

    def _paint_frame(self, painter: QPainter, frame: QRectF, title: str, ticks: list[float]) -> None:
        """Paint the title, and a quiet line with its number for each tick."""
        line = self.fontMetrics().height()
        painter.setPen(self.ink())
        draw_text(painter, QRectF(0, frame.top() - line - 4, self.width(), line), title, Qt.AlignmentFlag.AlignLeft)
        for tick in ticks:
            y = _y(tick, frame, ticks)
            painter.setPen(QPen(self.ink(0.2), 1))
            painter.drawLine(QPointF(frame.left(), y), QPointF(frame.right(), y))
            painter.setPen(self.ink(0.7))
            place = QRectF(0, y - line / 2, frame.left() - 5, line)
            draw_text(painter, place, f"{tick:g}", Qt.AlignmentFlag.AlignRight)

    def _paint_epochs(self, painter: QPainter, upper: QRectF, lower: QRectF) -> None:
        """Paint the numbers of epochs, the best one and the one under the mouse."""
        line = self.fontMetrics().height()
        ticks = sorted({1, *(int(item) for item in round_ticks(0, max(self.epochs, 1), 6) if item == int(item))})
        painter.setPen(self.ink(0.7))
        for epoch in (item for item in ticks if 1 <= item <= self.epochs):
            place = QRectF(self._x(epoch, lower) - 30, lower.bottom() + 3, 60, line)
            draw_text(painter, place, str(epoch), Qt.AlignmentFlag.AlignHCenter)
        marked = [(self._hovered, Qt.PenStyle.DotLine)] if self._hovered else []
        if self.best_epoch:
            marked.append((self.best_epoch, Qt.PenStyle.DashLine))
            best = tr("best")
            wide = self.fontMetrics().horizontalAdvance(best)
            right = self._x(self.best_epoch, lower) + wide + 4 > lower.right()
            left = self._x(self.best_epoch, lower) - wide - 4 if right else self._x(self.best_epoch, lower) + 4
            painter.drawText(QPointF(left, lower.top() + self.fontMetrics().ascent()), best)
        for epoch, style in marked:
            painter.setPen(QPen(self.ink(0.6), 1, style))
            for frame in (upper, lower):
                x = self._x(epoch, frame)
                painter.drawLine(QPointF(x, frame.top()), QPointF(x, frame.bottom()))

    def _paint_line(
        self, painter: QPainter, frame: QRectF, ticks: list[float], points: list[tuple[int, float]], pen: QPen
    ) -> None:
        """Paint points joined by a line; while there are few, with dots."""
        places = [QPointF(self._x(epoch, frame), _y(value, frame, ticks)) for epoch, value in points]
        painter.setPen(pen)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawPolyline(QPolygonF(places))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(pen.color())
        for place in places[-1:] if len(places) > 12 else places:
            painter.drawEllipse(place, 2.5, 2.5)

    def _paint_legend(self, painter: QPainter) -> None:
        """Paint the scenarios' names below, each after a piece of its line."""
        line, top = self.fontMetrics().height(), LOSS_HEIGHT + MIOU_HEIGHT
        for index, (name, place) in enumerate(self._legend(self.width())[0]):
            y = top + place.y() + line / 2
            painter.setPen(line_pen(index, 2.5))
            painter.drawLine(QPointF(place.x(), y), QPointF(place.x() + _SWATCH, y))
            painter.setPen(self.ink())
            painter.drawText(QPointF(place.x() + _SWATCH + 6, top + place.y() + self.fontMetrics().ascent()), name)

    def epoch_at(self, x: float) -> Optional[int]:
        """Return the measured epoch nearest to a place, in pixels from the left; None where none is known yet."""
        frame = self._frames()[0]
        known = [epoch for epoch, _ in self.loss]
        return min(known, key=lambda epoch: abs(self._x(epoch, frame) - x), default=None)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Show the values of the nearest epoch."""
        self._hovered = self.epoch_at(event.pos().x())
        if self._hovered is not None:
            QToolTip.showText(self.mapToGlobal(event.pos()), self.words(self._hovered), self)
        self.update()

    def leaveEvent(self, event: QEvent) -> None:
        """Forget the mouse."""
        self._hovered = None
        self.update()


def _y(value: float, frame: QRectF, ticks: list[float]) -> float:
    """Return where a value lies in a frame that spans `ticks`."""
    return frame.bottom() - frame.height() * (value - ticks[0]) / (ticks[-1] - ticks[0])
