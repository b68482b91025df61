# SPDX-License-Identifier: GPL-2.0-or-later
"""What the dock's charts share: colours told apart by most eyes on light and dark, round ticks, quiet lines."""

from __future__ import annotations

import math

from qgis.PyQt.QtCore import QRectF, Qt
from qgis.PyQt.QtGui import QColor, QPainter, QPen, QTextOption
from qgis.PyQt.QtWidgets import QLabel

from ..engine.palette import SERIES

_STYLES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine, Qt.PenStyle.DashDotLine)


def line_pen(index: int, width: float = 1.8) -> QPen:
    """Return the pen of the line number `index`: when the colours are used up, they return with dashes."""
    pen = QPen(QColor(SERIES[index % len(SERIES)]), width)
    pen.setStyle(_STYLES[index // len(SERIES) % len(_STYLES)])
    return pen


class Chart(QLabel):
    """A widget that is painted. It is a label, as dark themes of QGIS give the colour of their text to labels only."""

    def ink(self, share: float = 1.0) -> QColor:
        """Return the colour of text in the present theme, as faint as `share` (0 to 1) says."""
        color = QColor(self.palette().color(self.foregroundRole()))
        color.setAlphaF(share)
        return color


def draw_text(painter: QPainter, place: QRectF, text: str, side: Qt.AlignmentFlag) -> None:
    """Write one line of text to one side of a place, or in its middle, halfway up."""
    option = QTextOption(side | Qt.AlignmentFlag.AlignVCenter)
    option.setWrapMode(QTextOption.WrapMode.NoWrap)
    painter.drawText(place, text, option)


def round_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return about `wanted` round numbers, the first at or below `low`, the last at or above `high`.

    Their distance is 1, 2 or 5 times a power of ten.
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(number * step, digits) for number in range(first, last + 1)]
