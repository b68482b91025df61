# SPDX-License-Identifier: GPL-2.0-or-later
"""Chooses how labels are divided into those to learn from and those to validate on."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import QgsMapLayer, QgsVectorLayer
from qgis.PyQt.QtCore import pyqtSignal
from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from .forms import MUTED_COLOR, load_form, say

BLOCKS, POLYGONS, GROUPS = "block", "polygon", "group"


class SplitBox(QWidget):
    """Blocks of ground, whole polygons, or all polygons of one group; never single pixels.

    Signals:
        changed: labels will be divided otherwise.
    """

    changed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.fieldCombo.setAllowEmptyFieldName(True)
        self._polygons: Optional[bool] = None
        self.set_labels(None)
        self.methodCombo.currentIndexChanged.connect(self._follow)
        self.fieldCombo.fieldChanged.connect(lambda: self.changed.emit())
        for spin in (self.blockSpin, self.gapSpin, self.shareSpin):
            spin.valueChanged.connect(self._follow)
        self._follow()

    def set_labels(self, layer: Optional[QgsMapLayer]) -> None:
        """Offer what the labels allow: a raster knows no polygons."""
        polygons = isinstance(layer, QgsVectorLayer)
        if polygons == self._polygons and (not polygons or self.fieldCombo.layer() is layer):
            return
        if polygons != self._polygons:
            self._polygons = polygons
            kept = self.method()
            self.methodCombo.blockSignals(True)
            self.methodCombo.clear()
            self.methodCombo.addItem(tr("by blocks of ground"), BLOCKS)
            if polygons:
                self.methodCombo.addItem(tr("by whole polygons"), POLYGONS)
                self.methodCombo.addItem(tr("by groups of polygons"), GROUPS)
            self.methodCombo.setCurrentIndex(max(0, self.methodCombo.findData(kept)))
            self.methodCombo.blockSignals(False)
        self.fieldCombo.setLayer(layer if polygons else None)
        self.fieldCombo.setField("")
        self._follow()

    def method(self) -> str:
        """Return what stays together: a block, a polygon or a group of polygons."""
        return self.methodCombo.currentData() or BLOCKS

    def field(self) -> Optional[str]:
        """Return the field that makes groups, where there are to be groups."""
        return (self.fieldCombo.currentField() or None) if self.method() == GROUPS else None

    def problem(self) -> str:
        """Return why labels cannot be divided so, or an empty string."""
        if self.method() == GROUPS and not self.field():
            return tr("Choose the field whose values make the groups of polygons.")
        return ""

    def table(self) -> dict[str, Any]:
        """Return the table `split` of the configuration; what is automatic is left out."""
        found: dict[str, Any] = {"method": BLOCKS if self.method() == BLOCKS else POLYGONS}
        if self.method() == BLOCKS and self.blockSpin.value():
            found["block"] = self.blockSpin.value()
        if self.gapSpin.isEnabled() and self.gapSpin.value() >= 0:
            found["gap"] = self.gapSpin.value()
        if self.field():
            found["field"] = self.field()
        found["validation"] = self.shareSpin.value() / 100
        return found

    def _follow(self) -> None:
        """Show what the method needs, and say what it does."""
        blocks = self.method() == BLOCKS
        for widget in (self.blockLabel, self.blockSpin):
            widget.setVisible(blocks)
        for widget in (self.fieldLabel, self.fieldCombo):
            widget.setVisible(self.method() == GROUPS)
        fitted = blocks and not self.blockSpin.value()
        self.gapSpin.setEnabled(not fitted)
        self.gapLabel.setEnabled(not fitted)
        words = {
            BLOCKS: tr("Whole blocks of ground go to one side; nothing is learned within the gap around validation."),
            POLYGONS: tr("Each polygon lies on one side as a whole, with a gap around those of validation."),
            GROUPS: tr("All polygons with one value of the field lie on one side, with a gap around validation."),
        }
        say(self.wordsLabel, words[self.method()], MUTED_COLOR)
        self.changed.emit()
