# SPDX-License-Identifier: GPL-2.0-or-later
"""The table in which the analyst says what each value of the labels means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtGui import QColor, QIcon, QPixmap, QWheelEvent
from qgis.PyQt.QtWidgets import QAbstractItemView, QComboBox, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from ..compat import tr
from ..engine.checkpoint.card import ClassInfo
from ..engine.naming import key_of
from .forms import WARNING_COLOR
from .label_values import LabelValues, Meaning, propose

_MOST_ROWS = 8
_ICON = 12


class ClassCombo(QComboBox):
    """A combo box that leaves the wheel to the page, so that scrolling changes no class."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Pass the event on."""
        event.ignore()


class ValueTable(QTableWidget):
    """One row a value: the value, how often it occurs, its class.

    Args:
        new_classes: whether a class that the checkpoint has not may be typed.

    Signals:
        changed: the analyst has chosen something.
    """

    changed = pyqtSignal()

    def __init__(self, new_classes: bool, parent: Optional[QWidget] = None) -> None:
        super().__init__(0, 4, parent)
        self.setObjectName("valueTable")
        self._new_classes = new_classes
        self._classes: Sequence[ClassInfo] = ()
        self._found = LabelValues()
        self._meanings: dict[str, Meaning] = {}
        self._choices: dict[str, str] = {}
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.horizontalHeader()
        for column in (0, 1, 3):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        header.setMaximumSectionSize(220)

    def show_values(
        self, found: LabelValues, classes: Sequence[ClassInfo], choices: dict[str, str], counted: str
    ) -> None:
        """Show the values that were `found`.

        Args:
            found: in the labels.
            classes: those of the checkpoint.
            choices: what the analyst has chosen before, by key of the value; what is chosen here is put down in it.
            counted: the title of the column with the counts.
        """
        self._found, self._classes, self._choices = found, classes, choices
        self._meanings = propose(found, classes, self._new_classes)
        for text in self._meanings:
            chosen = choices.get(key_of(text))
            if chosen is not None and (self._new_classes or chosen == "" or chosen in self._names()):
                self._meanings[text] = Meaning(chosen)
        self.setHorizontalHeaderLabels([tr("Value"), counted, tr("Class"), ""])
        self.clearContents()
        self.setRowCount(len(found.counts) + bool(found.empty))
        for row, (text, count) in enumerate(found.counts.items()):
            label = found.names.get(text)
            self._fill_row(row, f"{text} {label}" if label else text, count)
            self.setCellWidget(row, 2, self._combo(text))
            self._show_meaning(row, text)
        if found.empty:
            self._fill_row(self.rowCount() - 1, tr("no class"), found.empty)
            self.setItem(self.rowCount() - 1, 2, QTableWidgetItem(tr("ignored")))
        self._fit()

    def class_map(self) -> dict[str, str]:
        """Return the class of each value that has one, guesses included; "" for those that are ignored."""
        return {text: meaning.name for text, meaning in self._meanings.items() if meaning.name is not None}

    def unknown(self) -> list[str]:
        """Return the values of which it is not known what they mean."""
        return [text for text, meaning in self._meanings.items() if meaning.name is None]

    def guesses(self) -> dict[str, str]:
        """Return the values whose class was guessed and is not confirmed yet, with that class."""
        return {text: item.name for text, item in self._meanings.items() if item.name is not None and not item.sure}

    def confirm(self) -> None:
        """Take all guesses for right."""
        for text, name in self.guesses().items():
            self._set(text, name)
        self.changed.emit()

    def choose(self, text: str, name: str) -> None:
        """Say that the value `text` means the class `name`, or "" for none, as the analyst does by a click."""
        self._set(text, name)
        self.changed.emit()

    def combo(self, text: str) -> ClassCombo:
        """Return the combo box of the value `text`."""
        return self.cellWidget(list(self._found.counts).index(text), 2)

    def _names(self) -> list[str]:
        return [item.name for item in self._classes]

    def _fill_row(self, row: int, text: str, count: int) -> None:
        """Fill the columns that are not chosen."""
        first, second = QTableWidgetItem(text), QTableWidgetItem(f"{count:,}")
        first.setToolTip(text)
        second.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        for column, item in enumerate((first, second)):
            self.setItem(row, column, item)
        self.setItem(row, 3, QTableWidgetItem(""))

    def _combo(self, text: str) -> ClassCombo:
        """Return a new combo box for the value `text`."""
        combo = ClassCombo(self)
        combo.setObjectName(f"class_{text}")
        combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        for item in self._classes:
            combo.addItem(swatch(item.color), item.name, item.name)
        combo.addItem(swatch(""), tr("ignore"), "")
        combo.activated.connect(lambda: self.choose(text, combo.currentData()))
        if self._new_classes:
            combo.setEditable(True)
            combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
            combo.lineEdit().setPlaceholderText(tr("choose, or type a new class"))
            combo.lineEdit().editingFinished.connect(lambda: self._take_text(text, combo.currentText().strip()))
        else:
            combo.insertItem(0, tr("choose…"), None)
        return combo

    def _take_text(self, text: str, typed: str) -> None:
        """Follow what was typed into the combo box of the value `text`."""
        names = {key_of(name): name for name in self._names()}
        name = "" if typed == tr("ignore") else names.get(key_of(typed), typed)
        meaning = self._meanings[text]
        if not typed or (name == meaning.name and meaning.sure):
            self._show_meaning(list(self._found.counts).index(text), text)
        elif name != meaning.name:
            self.choose(text, name)

    def _set(self, text: str, name: str) -> None:
        """Put down a choice and show it."""
        self._meanings[text] = Meaning(name)
        self._choices[key_of(text)] = name
        self._show_meaning(list(self._found.counts).index(text), text)

    def _show_meaning(self, row: int, text: str) -> None:
        """Show the class of a value: in italics with a mark while it is guessed."""
        combo, meaning = self.cellWidget(row, 2), self._meanings[text]
        index = combo.findData(meaning.name)
        if index < 0 and meaning.name:
            combo.addItem(swatch(""), meaning.name, meaning.name)
            index = combo.count() - 1
        combo.setCurrentIndex(index)
        guessed = meaning.name is not None and not meaning.sure
        font = combo.font()
        font.setItalic(guessed)
        combo.setFont(font)
        # Where there is no class yet all are new, which need not be said of each.
        new = bool(meaning.name) and bool(self._classes) and meaning.name not in self._names()
        mark = self.item(row, 3)
        mark.setText((tr("new") if new else "") + ("?" if guessed or meaning.name is None else ""))
        mark.setForeground(QColor(WARNING_COLOR))
        hint = tr("Guessed: choose it to confirm, or choose another.") if guessed else ""
        if meaning.name is None:
            hint = tr("No class has this name: choose one, or ignore the value.")
        for item in (mark, combo):
            item.setToolTip(hint)

    def _fit(self) -> None:
        """Take the height of the rows, up to a few; the others are scrolled to."""
        self.resizeRowsToContents()
        rows = sum(self.rowHeight(row) for row in range(min(self.rowCount(), _MOST_ROWS)))
        self.setFixedHeight(self.horizontalHeader().sizeHint().height() + rows + 2 * self.frameWidth())


def swatch(color: str) -> QIcon:
    """Return a small square of a colour; an empty one for no colour."""
    picture = QPixmap(_ICON, _ICON)
    picture.fill(QColor(color) if color else QColor(Qt.GlobalColor.transparent))
    return QIcon(picture)
