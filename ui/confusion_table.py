# SPDX-License-Identifier: GPL-2.0-or-later
"""A confusion matrix with colours, and the sums of its rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QTableWidgetItem, QWidget

from ..compat import tr
from .number_table import Cell, NumberTable
from .value_table import swatch

_LEAST_WIDTH = 34
_MARGIN = 4
_MOST_TITLE = 40
_SMALLER = 0.88


class ConfusionTable(NumberTable):
    """A row for each class of the reference, a column for each of the map, and sums at the end."""

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent, most_rows=20, least=66)
        self.setObjectName("confusionTable")
        # Six classes shall fit into a dock of usual width.
        font = self.font()
        if font.pointSizeF() > 0:
            font.setPointSizeF(_SMALLER * font.pointSizeF())
        for widget in (self, self.horizontalHeader()):
            widget.setFont(font)

    def show_counts(
        self, counts: Sequence[Sequence[int]], classes: Sequence[Mapping[str, Any]], per_cent: bool
    ) -> None:
        """Show pixels, or of each row per cent.

        Args:
            counts: (K, K) pixels: row: class in the reference, column: class in the map.
            classes: K, with `name` and `color`.
            per_cent: of the pixels of the reference class; what is copied are pixels all the same.
        """
        names = [item["name"] for item in classes]
        rows: list[list[Cell]] = []
        for name, line in zip(names, counts):
            total = sum(line)
            cells = [_cell(count, total, per_cent, name, other) for count, other in zip(line, names)]
            rows.append([Cell(name, icon=swatch(classes[len(rows)]["color"])), *cells, Cell(total)])
        sums = [sum(column) for column in zip(*counts)]
        rows.append([Cell(tr("Sum")), *map(Cell, (*sums, sum(sums)))])
        self.show_rows(["", *names, tr("Sum")], rows)
        metrics = self.horizontalHeader().fontMetrics()
        for column, name in enumerate(names, start=1):
            wished = min(metrics.horizontalAdvance(name) + 2 * _MARGIN, _MOST_TITLE)
            width = max(_LEAST_WIDTH, self.sizeHintForColumn(column), wished)
            head = QTableWidgetItem(metrics.elidedText(name, Qt.TextElideMode.ElideRight, width - _MARGIN))
            head.setToolTip(name)
            self.setHorizontalHeaderItem(column, head)
            self.setColumnWidth(column, width)
        self.fit()


def _cell(count: int, total: int, per_cent: bool, name: str, other: str) -> Cell:
    """Return the cell of one pair of classes."""
    share = count / total if total else 0.0
    text = str(count)
    if per_cent:
        text = f"{100 * share:.0f}" if count else ""
    hint = tr("{} in the reference, {} in the map: {:,} of {:,} pixels ({:.1f} %)")
    return Cell(count, text, share, hint.format(name, other, count, total, 100 * share))
