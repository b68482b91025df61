# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fine-tuning has changed: accuracy before and after, by scenario, and by class in the scenario chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QAbstractItemView, QWidget

from ..compat import tr
from ..engine.palette import BLUE, SKY, VERMILION
from .forms import load_form
from .number_table import Cell, NumberTable, fraction

# Blue for better and vermilion for worse are told apart by most eyes; the sign says the same.
BETTER, WORSE = BLUE, VERMILION
_BETTER_ON_DARK, _WORSE_ON_DARK = SKY, "#ff8c42"
# Changes that vanish in three digits are none.
_NOTHING = 0.0005
_CHANGE = 3

Row = tuple[str, Optional[float], Optional[float], Optional[float]]


class ComparisonTable(QWidget):
    """Two tables: mIoU by scenario, and below it IoU by class in the scenario that is selected above.

    Where a random forest was grown on the same labels its figures stand beside those of the network.
    """

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self._classes: list[str] = []
        self._before_known = True
        self._before: list[dict[str, Any]] = []
        self._after: list[dict[str, Any]] = []
        self._forest: list[dict[str, Any]] = []
        self.scenarioTable, self.classTable = (NumberTable(self, most_rows=20) for _ in range(2))
        self.comparisonLayout.insertWidget(0, self.scenarioTable)
        self.comparisonLayout.addWidget(self.classTable)
        self.scenarioTable.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.scenarioTable.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.scenarioTable.itemSelectionChanged.connect(self._show_classes)

    def show_result(self, result: dict[str, Any]) -> None:
        """Show the `before` and `after` of a fine-tuning's result; the last scenario, the full one, is selected.

        Without a `before` only what came out is shown.
        """
        self._before_known = bool(result["before"])
        self._classes = [item["name"] for item in result["classes"]]
        before = {tuple(item["available"]): item for item in result["before"]}
        self._after = result["after"]
        self._before = [before.get(tuple(item["available"]), {}) for item in self._after]
        forest = result.get("forest") or {}
        grown = {tuple(item["available"]): item for item in forest.get("scores", ())}
        self._forest = [grown.get(tuple(item["available"]), {}) for item in self._after] if grown else []
        rows = [
            (" + ".join(new["available"]), old.get("miou"), new.get("miou"), own.get("miou"))
            for old, new, own in zip(self._before, self._after, self._forest or [{}] * len(self._after))
        ]
        rows.append((tr("mean of all"), result["miou_before"], result["miou"], forest.get("miou")))
        self._fill(self.scenarioTable, tr("mIoU by scenario"), rows)
        self.scenarioTable.selectRow(len(self._after) - 1)
        self._show_classes()

    def _show_classes(self) -> None:
        """Show the classes in the selected scenario; the line of the mean has none."""
        rows = {index.row() for index in self.scenarioTable.selectedIndexes()}
        chosen = next(iter(rows), -1)
        if not 0 <= chosen < len(self._after):
            return
        nothing: list[Optional[float]] = [None] * len(self._classes)
        tables = (self._before, self._after, self._forest or [{}] * len(self._after))
        old, new, own = (table[chosen].get("iou") or nothing for table in tables)
        name = " + ".join(self._after[chosen]["available"])
        self.classLabel.setText(tr("With {} (select another line above):").format(name))
        self._fill(self.classTable, tr("IoU by class"), list(zip(self._classes, old, new, own)))

    def _fill(self, table: NumberTable, title: str, rows: Sequence[Row]) -> None:
        """Fill a table with names, figures before and after, and what has changed, in colour."""
        changes = [None if before is None or after is None else after - before for _, before, after, _ in rows]
        cells = [
            [Cell(name), fraction(before), fraction(after), Cell(change, _words(change)), fraction(forest)]
            for (name, before, after, forest), change in zip(rows, changes)
        ]
        head = [title, tr("before"), tr("after"), tr("change"), tr("forest")]
        # Of a new model there is nothing before, and so no change.
        shown = [0, 1, 2, 3] if self._before_known else [0, 2]
        shown += [4] if self._forest else []
        head[2] = head[2] if self._before_known else tr("new model")
        table.show_rows([head[place] for place in shown], [[line[place] for place in shown] for line in cells])
        for row, change in enumerate(changes):
            if self._before_known and change is not None and abs(change) >= _NOTHING:
                table.item(row, _CHANGE).setForeground(self._color(change > 0))

    def _color(self, better: bool) -> QColor:
        """Return the colour of a change that reads in the present theme."""
        dark = self.palette().base().color().lightness() < 128
        names = (_WORSE_ON_DARK, _BETTER_ON_DARK) if dark else (WORSE, BETTER)
        return QColor(names[better])


def _words(change: Optional[float]) -> str:
    """Return a difference with its sign."""
    if change is None:
        return ""
    return f"{change:+.3f}" if abs(change) >= _NOTHING else "0.000"
