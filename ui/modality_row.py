# SPDX-License-Identifier: GPL-2.0-or-later
"""One row of the dock: the raster bound to one modality, its bands, its mask and its nodata value."""

from __future__ import annotations

from typing import Optional, Union

from qgis.core import QgsMapLayerProxyModel, QgsRasterLayer
from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtWidgets import QComboBox, QFileDialog, QLabel, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Modality
from ..engine.errors import LacunaError
from ..host.binding import Binding, band_names, gdal_name, match_bands
from ..settings import Settings
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .layer_choice import LayerChoice
from .results import percent


class ModalityRow(QWidget):
    """Chooses the raster for `modality`, or that there is none.

    Attributes:
        touched: the analyst has chosen here; guesses must not overrule that.

    Signals:
        changed: anything that decides the result is different now.
    """

    changed = pyqtSignal()

    def __init__(self, modality: Modality, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.modality = modality
        self._choice = LayerChoice(self.layerCombo)
        self._shown: Optional[QgsRasterLayer] = None
        self.touched = False
        self.setObjectName(f"modality_{modality.name}")
        self.nameLabel.setText(modality.name + (" *" if modality.required else ""))
        self.nameLabel.setToolTip(
            tr("{} (bands {})").format(modality.units or modality.name, ", ".join(modality.bands))
        )
        for combo, empty in ((self.layerCombo, tr("not available")), (self.maskCombo, tr("none"))):
            combo.setFilters(QgsMapLayerProxyModel.Filter.RasterLayer)
            combo.setAllowEmptyLayer(True, empty)
            combo.setCurrentIndex(0)
        self.band_combos = [self._add_band(number, band) for number, band in enumerate(modality.bands)]
        self.details.hide()
        self.browseButton.clicked.connect(self._browse)
        self.detailsButton.toggled.connect(self._fold)
        self.layerCombo.activated.connect(self._touch)
        self.layerCombo.currentIndexChanged.connect(self._choose)
        self.maskCombo.currentIndexChanged.connect(self.changed)
        self.nodataEdit.textChanged.connect(self.changed)
        self._choose()

    def layer(self) -> Optional[QgsRasterLayer]:
        """Return the chosen raster, or None for *not available*."""
        return self._choice.layer()

    def offer(self, layer: Optional[QgsRasterLayer]) -> None:
        """Choose a layer that was guessed, or *not available*."""
        self._choice.choose(layer)

    def set_layer(self, layer: Optional[QgsRasterLayer]) -> None:
        """Choose a layer of the project, or *not available*, for good: no guess overrules it."""
        self.touched = True
        self.offer(layer)

    def add_file(self, path: str) -> None:
        """Choose a raster file that is no layer of the project."""
        self.touched = True
        if path not in self._choice.files:
            self._choice.offer_files({path: QgsRasterLayer(path, path)})
        self._choice.choose_file(path)

    def binding(self) -> Optional[Binding]:
        """Return what the row says, or None for *not available*; only where `problem` is empty."""
        layer = self.layer()
        if layer is None:
            return None
        text = self.nodataEdit.text().strip()
        return Binding(layer, self._bands(), float(text) if text else None, self.maskCombo.currentLayer())

    def problem(self) -> str:
        """Return why the row cannot be used, or an empty string."""
        layer = self.layer()
        if layer is None:
            return tr("{} is required by this checkpoint").format(self.modality.name) if self.modality.required else ""
        try:
            gdal_name(layer)
        except LacunaError as problem:
            return str(problem)
        if not layer.crs().isValid():
            return tr("The layer “{}” has no CRS.").format(layer.name())
        if self._bands() is None and layer.bandCount() < len(self.modality.bands):
            return tr("“{}” has {} of the {} bands that {} needs.").format(
                layer.name(), layer.bandCount(), len(self.modality.bands), self.modality.name
            )
        try:
            float(self.nodataEdit.text().strip() or 0)
        except ValueError:
            return tr("The nodata value “{}” is no number.").format(self.nodataEdit.text())
        return ""

    def set_cover(self, share: Optional[float]) -> None:
        """Show how much of the area (0 to 1) the raster covers, or what is wrong with it; None if that is not known."""
        problem = self.problem()
        if problem:
            say(self.coverLabel, problem, WARNING_COLOR)
        elif self.layer() is None:
            say(self.coverLabel, "")
        elif share is None:
            say(self.coverLabel, " ")
        elif share == 0:
            say(self.coverLabel, tr("does not overlap the area"), WARNING_COLOR)
        elif share > 0.9995:
            say(self.coverLabel, tr("full cover"), MUTED_COLOR)
        else:
            say(self.coverLabel, tr("covers {} of the area").format(percent(share)), WARNING_COLOR)

    def _touch(self) -> None:
        self.touched = True

    def _add_band(self, number: int, band: str) -> QComboBox:
        """Return a new chooser for one band of the modality, in two columns."""
        row, column = number // 2, number % 2 * 2
        combo = QComboBox(self.details)
        combo.setObjectName(f"band_{band}")
        combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        combo.setMinimumContentsLength(6)
        combo.currentIndexChanged.connect(self._bands_changed)
        self.bandsLayout.addWidget(QLabel(band, self.details), row, column)
        self.bandsLayout.addWidget(combo, row, column + 1)
        self.bandsLayout.setColumnStretch(column + 1, 1)
        return combo

    def _choose(self) -> None:
        """Follow the choice of another raster: offer its bands, take over its own nodata value."""
        layer = self.layer()
        if layer is self._shown and layer is not None:
            return
        self._shown = layer
        count = layer.bandCount() if layer is not None and layer.isValid() else 0
        names = [layer.bandName(number) for number in range(1, count + 1)] if layer is not None else []
        for combo in self.band_combos:
            combo.blockSignals(True)
            combo.clear()
            combo.addItem(tr("automatic"), None)
            for number, name in enumerate(names, start=1):
                combo.addItem(name, number)
            combo.blockSignals(False)
        self.detailsButton.setVisible(layer is not None)
        if layer is None:
            self.detailsButton.setChecked(False)
        self.nodataEdit.setText(_user_nodata(layer))
        self._bands_changed()

    def _bands(self) -> Optional[list[Union[int, str]]]:
        """Return the bands that were chosen by hand, the others found as they would be; None if all are automatic."""
        chosen = [combo.currentData() for combo in self.band_combos]
        if not any(chosen):
            return None
        found = match_bands(self.modality.bands, band_names(self.layer())) or range(1, len(chosen) + 1)
        return [number or automatic for number, automatic in zip(chosen, found)]

    def _bands_changed(self) -> None:
        """Say on the button how the bands are found."""
        layer = self.layer()
        if layer is None or not layer.isValid():
            words = tr("bands")
        elif self._bands() is not None:
            words = tr("bands: chosen")
        elif match_bands(self.modality.bands, band_names(layer)) is not None:
            words = tr("bands: by name")
        else:
            words = tr("bands: by order")
        self.detailsButton.setText(words)
        self.changed.emit()

    def _fold(self, opened: bool) -> None:
        """Show or hide bands, mask and nodata value."""
        self.details.setVisible(opened)
        self.detailsButton.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)

    def _browse(self) -> None:
        """Let the analyst choose a file."""
        title = tr("Raster for {}").format(self.modality.name)
        path, _ = QFileDialog.getOpenFileName(self, title, Settings().folder)
        if path:
            self.add_file(path)


def _user_nodata(layer: Optional[QgsRasterLayer]) -> str:
    """Return the value that the layer's properties add as nodata, if it is a single one."""
    if layer is None or not layer.isValid():
        return ""
    ranges = layer.dataProvider().userNoDataValues(1)
    if len(ranges) == 1 and ranges[0].min() == ranges[0].max():
        return f"{ranges[0].min():.12g}"
    return ""
