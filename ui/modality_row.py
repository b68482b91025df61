# SPDX-License-Identifier: GPL-2.0-or-later
"""One row of the dock: the raster bound to one modality, its bands, mask, nodata value, scale and offset."""

from __future__ import annotations

from typing import Optional, Union

from qgis.core import QgsMapLayerProxyModel, QgsRasterLayer, QgsRectangle
from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtWidgets import QComboBox, QFileDialog, QLabel, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Modality
from ..engine.errors import LacunaError
from ..engine.offset_tags import ADDED, learned_with_offset
from ..host.binding import Binding, band_names, gdal_name, match_bands
from ..host.layer_tags import layer_offset
from ..settings import Settings
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .layer_choice import LayerChoice
from .outline import OutlineGrid, transformed
from .results import percent
from .value_change import ValueChange, number_in, number_words
from .value_note import ValueNote


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
        self._area: Optional[OutlineGrid] = None
        self._note = ValueNote(self.valueLabel, modality)
        self._change = ValueChange(self.scaleEdit, self.offsetEdit, self.offsetButton, self.offsetLabel)
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
        self._change.changed.connect(self.changed)
        self.changed.connect(self._follow_values)
        self._note.read.connect(self._show_values)
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
        nodata, change = number_in(self.nodataEdit), self._change
        return Binding(layer, self._bands(), nodata, self.maskCombo.currentLayer(), change.offset(), change.scale())

    def propose_offset(self, value: float, why: str) -> None:
        """Offer to add `value` to the values of the present layer, with the engine's reason; a click takes it."""
        self._change.propose(value, tr("The last run found an offset of {}.").format(number_words(-value)), why)

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
        return self._wrong_number()

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

    def set_area(self, area: Optional[OutlineGrid]) -> None:
        """Let the values in `area` count, which is what will be classified; None for all of the raster."""
        self._area = area
        self._follow_values()

    def shut(self) -> None:
        """Stop looking at values, for good."""
        self.changed.disconnect(self._follow_values)
        self._note.drop()

    def _follow_values(self) -> None:
        """Have the values of the raster looked at, where it can be used at all."""
        layer = self.layer()
        if layer is None or self.problem():
            self._note.drop()
        else:
            area: Optional[QgsRectangle] = None
            if self._area is not None:
                area = transformed(self._area.extent, self._area.crs, layer.crs())
            nodata, mask = number_in(self.nodataEdit), self.maskCombo.currentLayer()
            self._note.follow(layer, self._used_bands(), nodata, mask, area)
        self._show_values()

    def _show_values(self) -> None:
        """Say what speaks against the values, and offer the offset that they tell of."""
        if self._wrong_number():
            return
        change = self._change
        offset = self._note.show(change.scale(), change.offset(), change.proposed)
        if offset != change.proposed and offset is not None:
            words = tr("Its values look as if {} had been added to them.").format(number_words(-offset))
            change.propose(offset, words)

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
        self._change.clear()
        self._bands_changed()

    def _bands(self) -> Optional[list[Union[int, str]]]:
        """Return the bands that were chosen by hand, the others found as they would be; None if all are automatic."""
        return [*self._used_bands()] if any(combo.currentData() for combo in self.band_combos) else None

    def _used_bands(self) -> list[int]:
        """Return the number of the band that is used for each band of the modality."""
        chosen = [combo.currentData() for combo in self.band_combos]
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
        self._propose_stated()
        self.changed.emit()

    def _wrong_number(self) -> str:
        """Return which of the numbers cannot be used, or an empty string."""
        try:
            number_in(self.nodataEdit)
        except ValueError:
            return tr("The nodata value “{}” is no number.").format(self.nodataEdit.text())
        return self._change.problem()

    def _propose_stated(self) -> None:
        """Propose what the file's metadata say is to be added, unless the checkpoint learned values with it."""
        layer, stated = self.layer(), None
        if layer is not None and layer.isValid() and layer.bandCount() >= len(self.modality.bands):
            stated = layer_offset(layer, self._used_bands())
        value = None if stated is None else stated.value
        if stated is None or value is None or (value == -ADDED and learned_with_offset(self.modality.statistics)):
            self._change.propose(None)
            return
        words = tr("Its metadata tell of an offset of {} ({}).").format(number_words(-value), stated.name)
        self._change.propose(value, words)

    def _fold(self, opened: bool) -> None:
        """Show or hide bands, mask, nodata value, scale and offset."""
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
        return number_words(ranges[0].min())
    return ""
