# SPDX-License-Identifier: GPL-2.0-or-later
"""What is chosen in a box of layers that also offers files which are no layers of the project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from qgis.core import QgsMapLayer
from qgis.gui import QgsMapLayerComboBox


class LayerChoice:
    """Keeps the files of a box whose first entry stands for none.

    Args:
        combo: the box.
    """

    def __init__(self, combo: QgsMapLayerComboBox) -> None:
        self._combo = combo
        self._files: dict[str, QgsMapLayer] = {}

    @property
    def files(self) -> list[str]:
        """Names of the files that the box offers."""
        return list(self._files)

    def layer(self) -> Optional[QgsMapLayer]:
        """Return the layer that is chosen, of the project or of a file, or None."""
        return self._combo.currentLayer() or self._files.get(self._combo.currentText())

    def choose(self, layer: Optional[QgsMapLayer]) -> None:
        """Choose a layer of the project, or none."""
        if layer is None:
            self._combo.setCurrentIndex(0)
        else:
            self._combo.setLayer(layer)

    def offer_files(self, layers: Mapping[str, QgsMapLayer]) -> None:
        """Let layers that belong to no project join the list, by name."""
        self._files.update(layers)
        self._combo.setAdditionalItems(list(self._files))

    def choose_file(self, name: str) -> None:
        """Choose one of `files`."""
        self._combo.setCurrentIndex(self._combo.findText(name))
