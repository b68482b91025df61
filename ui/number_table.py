# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of figures: numbers sort as numbers, cells take colours, and what is selected is copied for a spreadsheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QColor, QIcon, QKeySequence
from qgis.PyQt.QtWidgets import QAbstractItemView, QAction, QApplication, QTableWidget, QTableWidgetItem, QWidget

from ..compat import tr

_VALUE = Qt.ItemDataRole.UserRole
_WHITE, _BLUE = (255, 255, 255), (33, 102, 172)
_LIGHT, _DARK = "#ffffff", "#1f2933"
_DARK_FROM = 0.55
_MARGIN = 6


@dataclass(frozen=True)
class Cell:
    """A cell of a `NumberTable`.

    Attributes:
        value: what it is sorted by and what is copied: text, a number, or None for nothing.
        text: what is shown; by default the value.
        share: from 0 to 1, how deep the blue behind it is; None for no colour.
        hint: shown when the mouse rests on it.
        icon: before the text.
    """

    value: Union[str, float, None]
    text: Optional[str] = None
    share: Optional[float] = None
    hint: str = ""
    icon: Optional[QIcon] = None


def fraction(value: Optional[float], shaded: bool = False) -> Cell:
    """Return a cell for a figure from 0 to 1, which may be None."""
    if value is None:
        return Cell(None, "-", hint=tr("occurs neither in the reference nor in the map"))
    return Cell(value, f"{value:.3f}", value if shaded else None)


class _Item(QTableWidgetItem):
    """An item that is sorted by its value; one without a value is least."""

    def __lt__(self, other: QTableWidgetItem) -> bool:
        mine, its = self.data(_VALUE), other.data(_VALUE)
        if mine is None or its is None:
            return mine is None and its is not None
        return mine < its


class NumberTable(QTableWidget):
    """A table of `Cell`, as high as its rows up to a limit; the first column takes the width that the others leave.

    Args:
        sortable: by a click on a column's title.
        most_rows: that are shown without scrolling.
        least: pixels of width that the first column keeps, where the others leave it less.
    """

    def __init__(
        self, parent: Optional[QWidget] = None, sortable: bool = False, most_rows: int = 12, least: int = 80
    ) -> None:
        super().__init__(parent)
        self._sortable, self._most_rows, self._least = sortable, most_rows, least
        self.verticalHeader().hide()
        self.horizontalHeader().setHighlightSections(False)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setTabKeyNavigation(False)
        self.setWordWrap(False)
        action = QAction(tr("Copy"), self)
        action.setShortcut(QKeySequence.StandardKey.Copy)
        action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        action.triggered.connect(self.copy)
        self.addAction(action)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.ActionsContextMenu)

    def show_rows(self, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show `rows` of cells under the titles in `header`."""
        self.setSortingEnabled(False)
        self.clear()
        self.setColumnCount(len(header))
        self.setRowCount(len(rows))
        self.setHorizontalHeaderLabels(list(header))
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                self.setItem(row, column, _item(cell))
        if self._sortable:
            # Without a column to sort by the rows stay as they came until one is clicked.
            self.horizontalHeader().setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
            self.setSortingEnabled(True)
        for column in range(len(header)):
            self.setColumnWidth(column, max(self.sizeHintForColumn(column), self._title_width(header[column])))
        self.resizeRowsToContents()
        self.fit()

    def fit(self) -> None:
        """Give the first column the width that is left, and take the height of the rows, up to the limit."""
        if not self.columnCount():
            return
        others = sum(self.columnWidth(column) for column in range(1, self.columnCount()))
        self.setColumnWidth(0, max(self._least, self.viewport().width() - others))
        shown = sum(self.rowHeight(row) for row in range(min(self.rowCount(), self._most_rows)))
        bar = self.horizontalScrollBar().sizeHint().height()
        wide = self.horizontalHeader().length() > self.viewport().width()
        self.setFixedHeight(self.horizontalHeader().sizeHint().height() + shown + 2 * self.frameWidth() + bar * wide)

    def _title_width(self, title: str) -> int:
        """Return the width of a column's title, which the style would make wider for an arrow."""
        return self.horizontalHeader().fontMetrics().horizontalAdvance(title) + 2 * _MARGIN

    def resizeEvent(self, event: Any) -> None:
        """Follow the width."""
        super().resizeEvent(event)
        self.fit()

    def values(self) -> list[list[Any]]:
        """Return what the cells stand for, row by row as they are sorted now."""
        columns = range(self.columnCount())
        return [[self.item(row, column).data(_VALUE) for column in columns] for row in range(self.rowCount())]

    def copy(self) -> None:
        """Copy the selected rows, or all if there is no more than one cell selected, with the titles, as TSV."""
        chosen = self.selectedIndexes()
        rows = {item.row() for item in chosen} if len(chosen) > 1 else range(self.rowCount())
        values = self.values()
        lines = [[self.horizontalHeaderItem(column).text() for column in range(self.columnCount())]]
        lines += [["" if value is None else str(value) for value in values[row]] for row in sorted(rows)]
        QApplication.clipboard().setText("\n".join("\t".join(line) for line in lines) + "\n")


def _item(cell: Cell) -> QTableWidgetItem:
    """Return the item for a cell."""
    item = _Item(cell.text if cell.text is not None else "" if cell.value is None else str(cell.value))
    item.setData(_VALUE, cell.value)
    number = not isinstance(cell.value, str)
    side = Qt.AlignmentFlag.AlignRight if number else Qt.AlignmentFlag.AlignLeft
    item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
    item.setToolTip(cell.hint or (item.text() if not number else ""))
    if cell.share is not None:
        share = min(max(cell.share, 0.0), 1.0)
        item.setBackground(QColor(*(round(a + (b - a) * share) for a, b in zip(_WHITE, _BLUE))))
        item.setForeground(QColor(_LIGHT if share > _DARK_FROM else _DARK))
    if cell.icon is not None:
        item.setIcon(cell.icon)
    return item
