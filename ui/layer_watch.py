# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches a layer while its features are edited, and says what they hold now."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Optional

from qgis.core import QgsFeatureRequest, QgsMapLayer, QgsVectorLayer
from qgis.PyQt import sip
from qgis.PyQt.QtCore import QObject, pyqtSignal

# Up to so many features are read at once, which takes milliseconds.
FEW = 5000
_EDITS = (
    "featureAdded",
    "featureDeleted",
    "attributeValueChanged",
    "geometryChanged",
    "afterRollBack",
    "editingStopped",
    "updatedFields",
    "subsetStringChanged",
    "dataChanged",
)


class LayerWatch(QObject):
    """Follows the edits of one layer, and of another when that is chosen.

    Attributes:
        edits: how often the layer was edited, or another one chosen.

    Signals:
        edited: features, fields or their filter have changed, saved or not.
        selected: other features are selected.
    """

    edited = pyqtSignal()
    selected = pyqtSignal()

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self.edits = 0
        self._layer: Optional[QgsMapLayer] = None

    def follow(self, layer: Optional[QgsMapLayer]) -> None:
        """Follow the edits of `layer`, and no longer those of the one before."""
        self.edits += 1
        before, self._layer = self._layer, layer
        if before is not None and not sip.isdeleted(before):
            for signal, slot in self._signals(before):
                signal.disconnect(slot)
        if layer is not None:
            for signal, slot in self._signals(layer):
                signal.connect(slot)

    def content(self, fields: Sequence[str]) -> str:
        """Return what changes with each edit of the layer's features, and comes back when it is undone; "" for none.

        Of many features, which would take long to read, it is the number of edits, undone ones included.

        Args:
            fields: names of those that count beside the geometry.
        """
        layer = self._layer
        if not isinstance(layer, QgsVectorLayer):
            return ""
        if not 0 <= layer.featureCount() <= FEW:
            return str(self.edits)
        indexes = [layer.fields().lookupField(name) for name in fields]
        # Saving gives new features other numbers and perhaps another place, but changes nothing of what they say.
        features = layer.getFeatures(QgsFeatureRequest().setSubsetOfAttributes(indexes))
        said = sorted(
            f"{item.geometry().asWkb().data().hex()} {[str(item[index]) for index in indexes]}" for item in features
        )
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def _signals(self, layer: QgsMapLayer) -> list[tuple[Any, Any]]:
        """Return the signals of `layer` that tell of a change, each with what it is connected to."""
        pairs = [(getattr(layer, name), self._count) for name in _EDITS if hasattr(layer, name)]
        if isinstance(layer, QgsVectorLayer):
            pairs.append((layer.selectionChanged, self.selected))
        return pairs

    def _count(self, *ignored: Any) -> None:
        self.edits += 1
        self.edited.emit()
