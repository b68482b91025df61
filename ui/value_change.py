# SPDX-License-Identifier: GPL-2.0-or-later
"""Scale and offset of the raster of a row: what is asked for, and an offset that is proposed and waits for a click."""

from __future__ import annotations

import math
from typing import Optional

from qgis.PyQt.QtCore import QObject, pyqtSignal
from qgis.PyQt.QtWidgets import QAbstractButton, QLabel, QLineEdit

from ..compat import tr
from ..engine import options
from .forms import MUTED_COLOR, WARNING_COLOR, say


class ValueChange(QObject):
    """Reads two lines, says below them what they do, and offers an offset.

    Args:
        scale: the line of what values are multiplied by.
        offset: the line of what is then added.
        button: takes what is proposed.
        label: says it.

    Attributes:
        proposed: the offset that is offered, None for none; something in the lines declines it.

    Signals:
        changed: something else is asked for.
    """

    changed = pyqtSignal()

    def __init__(self, scale: QLineEdit, offset: QLineEdit, button: QAbstractButton, label: QLabel) -> None:
        super().__init__(label)
        self._scale, self._offset, self._button, self._label = scale, offset, button, label
        self._words = ""
        self.proposed: Optional[float] = None
        for edit in (scale, offset):
            edit.textChanged.connect(self._show)
            edit.textChanged.connect(self.changed)
        button.clicked.connect(self._take)

    def scale(self) -> Optional[float]:
        """Return what values are multiplied by, None where nothing is asked for; ValueError if it is no number."""
        return number_in(self._scale)

    def offset(self) -> Optional[float]:
        """Return what is then added, None where nothing is asked for; ValueError if it is no number."""
        return number_in(self._offset)

    def clear(self) -> None:
        """Ask for nothing."""
        self._scale.clear()
        self._offset.clear()

    def problem(self) -> str:
        """Return which of the numbers cannot be used, or an empty string."""
        for edit, zero, words in (
            (self._scale, False, tr("The scale “{}” is no finite number other than 0.")),
            (self._offset, True, tr("The offset “{}” is no finite number.")),
        ):
            try:
                number = number_in(edit)
            except ValueError:
                return words.format(edit.text())
            if number is not None and (not math.isfinite(number) or (number == 0 and not zero)):
                return words.format(edit.text())
        return ""

    def propose(self, value: Optional[float], words: str = "", why: str = "") -> None:
        """Offer to add `value`, None for nothing; `words` are shown, `why` is told by the tooltip."""
        self.proposed, self._words = value, words
        hint = tr("Add it if the checkpoint learned values without it; an offset of 0 leaves the values as they are.")
        self._label.setToolTip(f"{why} {hint}".strip())
        self._show()

    def _show(self) -> None:
        """Say what the values are changed by; where nothing was asked for, what is proposed."""
        asked = self._scale.text().strip() or self._offset.text().strip()
        proposed = None if asked else self.proposed
        self._button.setVisible(proposed is not None)
        if proposed is not None:
            self._button.setText(tr("Add {}").format(number_words(proposed)))
            say(self._label, self._words, WARNING_COLOR)
        elif self.problem():
            say(self._label, "")
        else:
            say(self._label, self._change_words(), MUTED_COLOR)

    def _change_words(self) -> str:
        """Return in words what the values are changed by, or an empty string."""
        scale, offset = self.scale() or 1.0, self.offset() or 0.0
        parts = [tr("values times {}").format(number_words(scale))] if scale != 1 else []
        if offset:
            parts.append((tr("then {} added") if parts else tr("{} added to values")).format(number_words(offset)))
        return ", ".join(parts)

    def _take(self) -> None:
        """Do what is proposed."""
        if self.proposed is not None:
            self._offset.setText(number_words(self.proposed))


def number_in(edit: QLineEdit) -> Optional[float]:
    """Return the number in `edit`, None where it is empty; ValueError if it is none."""
    text = edit.text().strip()
    return options.number(text) if text else None


def number_words(value: float) -> str:
    """Return a number as it is written."""
    return f"{value:.12g}"
