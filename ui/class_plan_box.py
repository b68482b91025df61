# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of the checkpoint's classes: kept, dropped, or merged into one of them or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QTableWidgetItem, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card
from ..engine.checkpoint.classes import plan_classes
from ..engine.errors import UsageError
from ..engine.naming import key_of
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .value_table import ClassCombo, swatch

_KEEP, _DROP = ("keep",), ("drop",)


class ClassPlanBox(QWidget):
    """One row for each class of the checkpoint, with what becomes of it.

    Signals:
        changed: the classes of the new checkpoint are others.
    """

    changed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self._card: Optional[Card] = None
        self.table.setColumnCount(2)
        self.table.setHorizontalHeaderLabels([tr("Class"), tr("becomes")])
        self.table.verticalHeader().hide()
        self.table.setWordWrap(False)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        say(self.stateLabel, "")

    def set_card(self, card: Optional[Card]) -> None:
        """Show the classes of another checkpoint, all kept."""
        if card is not None and self._card is not None and card.classes == self._card.classes:
            self._card = card
            return
        self._card = card
        classes = card.classes if card else []
        self.table.setRowCount(len(classes))
        for row, item in enumerate(classes):
            self.table.setItem(row, 0, QTableWidgetItem(swatch(item.color), item.name))
            self.table.setCellWidget(row, 1, self._combo(row))
        self.table.resizeRowsToContents()
        rows = self.table.verticalHeader().length()
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + min(rows, 260) + 4)

    def combo(self, name: str) -> QComboBox:
        """Return the combo box of the class called `name`."""
        return self.table.cellWidget(self._names().index(name), 1)

    def merge(self) -> dict[str, str]:
        """Return, for classes that become part of another, the name of that one."""
        found = {name: self._goal(name) for name in self._names()}
        return {name: goal for name, goal in found.items() if isinstance(goal, str)}

    def drop(self) -> list[str]:
        """Return the classes that go."""
        return [name for name in self._names() if self._goal(name) == _DROP]

    def words(self) -> str:
        """Return in a few words what becomes of the classes, or an empty string where all are kept."""
        parts = [tr("{} dropped").format(name) for name in self.drop()]
        return ", ".join(parts + [f"{name} → {goal}" for name, goal in self.merge().items()])

    def check(self, class_map: Mapping[str, str]) -> str:
        """Show what the new checkpoint will know, with labels that mean `class_map`; return why that cannot be."""
        if self._card is None:
            return ""
        try:
            plan = plan_classes(self._card.classes, class_map, self.merge(), self.drop())
        except UsageError as problem:
            say(self.stateLabel, str(problem), WARNING_COLOR)
            return str(problem)
        new = {key_of(name) for name in plan.added}
        names = [tr("{} (new)").format(item.name) if key_of(item.name) in new else item.name for item in plan.classes]
        say(self.stateLabel, tr("The new checkpoint knows {}.").format(", ".join(names)), MUTED_COLOR)
        return ""

    def _names(self) -> list[str]:
        return [item.name for item in self._card.classes] if self._card else []

    def _goal(self, name: str) -> object:
        """Return what was chosen for a class: `_KEEP`, `_DROP`, or the name of another."""
        combo = self.combo(name)
        typed = combo.currentText().strip()
        index = combo.findText(typed)
        chosen = combo.itemData(index) if index >= 0 else typed
        return _KEEP if not chosen or key_of(chosen) == key_of(name) else chosen

    def _combo(self, row: int) -> ClassCombo:
        """Return a new combo box for the class in a row."""
        classes = self._card.classes if self._card else []
        combo = ClassCombo(self.table)
        combo.setObjectName(f"becomes_{classes[row].name}")
        combo.setEditable(True)
        combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        combo.addItem(tr("kept"), _KEEP)
        combo.addItem(tr("dropped"), _DROP)
        for item in (item for index, item in enumerate(classes) if index != row):
            combo.addItem(swatch(item.color), item.name, item.name)
        combo.activated.connect(lambda: self.changed.emit())
        combo.lineEdit().editingFinished.connect(self.changed)
        return combo
