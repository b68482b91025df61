# SPDX-License-Identifier: GPL-2.0-or-later
"""Chooses labels, polygons with a class field or a raster of classes, and what each of their values means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Optional

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsFeatureRequest,
    QgsFieldProxyModel,
    QgsMapLayer,
    QgsMapLayerProxyModel,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
    QgsVectorLayerFeatureSource,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QFileDialog, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card
from ..engine.errors import LacunaError
from ..host.binding import gdal_name
from ..host.exports import Exports
from ..settings import Settings
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .label_values import LabelValues, field_reader, guess_field, raster_reader
from .layer_choice import LayerChoice
from .layer_watch import FEW, LayerWatch
from .outline import OutlineGrid, cover, settle_extent
from .task import WorkTask
from .value_table import ValueTable

_NAMED = 5


class LabelsBox(QWidget):
    """Chooses the labels, and what each of their values means.

    A value that has the name or the value of a class means that class. One that is merely alike is a guess, which the
    analyst must confirm before the labels can be used; so is a new class.

    Args:
        new_classes: whether values may stand for classes that the checkpoint does not have (fine-tuning).

    Attributes:
        fellow: the box of another page; what was chosen there for the same labels is proposed here as a start.

    Signals:
        changed: the labels, or what they mean, or whether they can be used, are different now.
    """

    changed = pyqtSignal()

    def __init__(self, parent: Optional[QWidget] = None, new_classes: bool = False) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.fellow: Optional[LabelsBox] = None
        self._card: Optional[Card] = None
        self._choice = LayerChoice(self.layerCombo)
        self._shown: Optional[QgsMapLayer] = None
        self._watch = LayerWatch(self)
        self._found: Optional[LabelValues] = None
        self._fault = ""
        # None: it was deleted, so that the analyst must choose another.
        self._field: Optional[str] = ""
        self._task: Optional[WorkTask] = None
        # By layer and field, so that a choice is still there when the analyst comes back to them.
        self._choices: dict[tuple[str, str], dict[str, str]] = {}
        self.table = ValueTable(new_classes, self)
        self.labelsLayout.insertWidget(2, self.table)
        self.layerCombo.setFilters(QgsMapLayerProxyModel.Filter.PolygonLayer | QgsMapLayerProxyModel.Filter.RasterLayer)
        self.layerCombo.setAllowEmptyLayer(True, tr("polygons or class raster"))
        self.layerCombo.setCurrentIndex(0)
        self.fieldCombo.setFilters(QgsFieldProxyModel.Filter.String | QgsFieldProxyModel.Filter.Numeric)
        self.fieldCombo.setAllowEmptyFieldName(True)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(100)
        self._later.timeout.connect(self._read)
        self._watch.edited.connect(self._later.start)
        self._watch.selected.connect(self._later.start)
        self.layerCombo.currentIndexChanged.connect(self._choose_layer)
        self.browseButton.clicked.connect(self._browse)
        self.fieldCombo.fieldChanged.connect(self._read)
        self.selectedCheck.toggled.connect(self._read)
        self.table.changed.connect(self._tell)
        self.confirmButton.clicked.connect(self.table.confirm)
        self._choose_layer()

    def shut(self) -> None:
        """Stop reading and let go of the layer."""
        self._later.stop()
        self._drop_task()
        self._watch.follow(None)

    def set_card(self, card: Optional[Card]) -> None:
        """Offer the classes of `card`; choices that are none of them are forgotten."""
        if card is None or self._card is None or card.classes != self._card.classes:
            self._choices.clear()
        self._card = card
        if isinstance(self.layer(), QgsVectorLayer) and not self.field():
            self._guess_field()
        self._show_table()

    def layer(self) -> Optional[QgsMapLayer]:
        """Return the layer that holds the labels, of the project or of a file, or None."""
        return self._choice.layer()

    def set_layer(self, layer: Optional[QgsMapLayer]) -> None:
        """Choose a layer of the project, or none."""
        self._choice.choose(layer)

    def add_file(self, path: str) -> None:
        """Choose a file that is no layer of the project; what of it can be labels joins the list.

        Raises:
            LacunaError: `no-labels`, it holds neither polygons nor a raster.
        """
        if not self._names_of(path):
            self._choice.offer_files({layer.source(): layer for layer in _open_labels(path)})
        self._choice.choose_file(self._names_of(path)[0])

    def _names_of(self, path: str) -> list[str]:
        """Return the names under which layers of a file are in the list."""
        return [name for name in self._choice.files if name == path or name.startswith(f"{path}|")]

    def field(self) -> Optional[str]:
        """Return the field that holds the class of each polygon, or None for a raster or where none is chosen."""
        return self.fieldCombo.currentField() or None if isinstance(self.layer(), QgsVectorLayer) else None

    def set_field(self, name: str) -> None:
        """Choose the field that holds the class of each polygon."""
        self.fieldCombo.setField(name)

    def problem(self, grid: Optional[OutlineGrid] = None) -> str:
        """Return why the labels cannot be used yet, on `grid` if it is given, or an empty string."""
        problem, layer = self._layer_problem() or self._values_problem(), self.layer()
        if not problem and grid is not None and layer is not None and cover(layer, grid) == 0:
            problem = tr("The labels “{}” do not overlap the rasters.").format(layer.name())
        return problem

    def path(
        self, exports: Exports, extent: Optional[tuple[QgsRectangle, Any]] = None, fields: Sequence[str] = ()
    ) -> str:
        """Return the file in which the engine will find the labels; only where `problem` is empty.

        Args:
            exports: takes what must be written to a file first: polygons always, rasters that only QGIS can read.
            extent: rectangle and its CRS to which an exported raster is cut.
            fields: of polygons that are wanted beside the one of the class.

        Raises:
            LacunaError: as for `binding.gdal_name` and `Exports.raster`.
        """
        layer: Any = self.layer()
        if isinstance(layer, QgsRasterLayer):
            return gdal_name(layer) or exports.raster(layer, extent)
        request = None
        if self.selectedCheck.isChecked():
            request = QgsFeatureRequest().setFilterFids(layer.selectedFeatureIds())
        kept = list(dict.fromkeys(name for name in (self.field(), *fields) if name))
        return exports.polygons(QgsVectorLayerFeatureSource(layer), layer.crs(), request, kept, layer.name())

    def class_map(self) -> dict[str, str]:
        """Return the name of the class of each value, as text; "" for values that are ignored."""
        return self.table.class_map()

    def counts(self) -> dict[str, int]:
        """Return how many polygons, or pixels of a raster, have each value, as text."""
        return dict(self._found.counts) if self._found is not None else {}

    def choices(self, key: tuple[str, str], card: Card) -> dict[str, str]:
        """Return a copy of what was chosen for layer and field in `key`, where the classes are those of `card`."""
        same = self._card is not None and self._card.classes == card.classes
        return dict(self._choices.get(key, {})) if same else {}

    def content(self, fields: Sequence[str] = ()) -> str:
        """Return what changes with each edit of the polygons, saved or not, and comes back when it is undone.

        Of many polygons, which would take long to read, it is the number of edits, undone ones included.

        Args:
            fields: that count beside the one of the class.
        """
        return self._watch.content([name for name in (self.field(), *fields) if name])

    def _layer_problem(self) -> str:
        """Return what is wrong with layer and field, or an empty string."""
        layer = self.layer()
        if layer is None:
            return tr("Choose the labels: polygons with a class field, or a raster of classes.")
        if not layer.isValid():
            return tr("The layer “{}” has no readable data source.").format(layer.name())
        if isinstance(layer, QgsRasterLayer):
            try:
                gdal_name(layer)
            except LacunaError as problem:
                return str(problem)
        if not layer.crs().isValid():
            return tr("The layer “{}” has no CRS.").format(layer.name())
        if isinstance(layer, QgsVectorLayer):
            if not self.field():
                return tr("Choose the field that holds the class of each polygon.")
            if self.selectedCheck.isChecked() and not layer.selectedFeatureCount():
                return tr("No polygon of “{}” is selected.").format(layer.name())
        return ""

    def _values_problem(self) -> str:
        """Return what is wrong with the values and their classes, or an empty string."""
        if self._fault:
            return self._fault
        if self._found is None:
            return tr("The values of the labels are being read…")
        layer = self.layer()
        if layer is not None and not self._found.counts:
            return tr("“{}” holds no labels.").format(layer.name())
        if self.table.unknown():
            return tr("Say which class these values mean, or ignore them: {}.").format(_listed(self.table.unknown()))
        known = [item.name for item in self._card.classes] if self._card else []
        guesses = [
            f"{text} → {name}" if name in known else tr("{} → new class").format(text)
            for text, name in self.table.guesses().items()
        ]
        if guesses:
            return tr("Check what was guessed, then confirm it: {}.").format(_listed(guesses))
        return "" if any(self.class_map().values()) else tr("All values are ignored: no label is left.")

    def _choose_layer(self) -> None:
        """Follow the choice of another layer."""
        layer = self.layer()
        if layer is self._shown and layer is not None:
            return
        self._shown = layer
        self._watch.follow(layer)
        vector = isinstance(layer, QgsVectorLayer)
        self.fieldPanel.setVisible(vector)
        self.fieldCombo.blockSignals(True)
        self.fieldCombo.setLayer(layer if vector else None)
        self.fieldCombo.setField("")
        if vector:
            settle_extent(layer)
        self.fieldCombo.blockSignals(False)
        self._found = None
        self._field = ""
        self._read()

    def _follow_field(self) -> None:
        """Choose no field where the chosen one was deleted; guess one where none was, as there may be values now."""
        layer, before = self.layer(), self._field
        if not isinstance(layer, QgsVectorLayer):
            return
        self.fieldCombo.blockSignals(True)
        lost = bool(before) and before != self.field() and layer.fields().lookupField(before) < 0
        if lost:  # the box takes the neighbour of an entry that goes
            self.fieldCombo.setField("")
        elif before == "" and not self.field():
            self._guess_field()
        self.fieldCombo.blockSignals(False)
        self._field = None if lost or (before is None and not self.field()) else self.field() or ""

    def _guess_field(self) -> None:
        """Choose the field that speaks for itself, if one does."""
        layer = self.layer()
        classes = self._card.classes if self._card else ()
        name = guess_field(layer, classes) if layer is not None and layer.isValid() else ""
        if name:
            self.set_field(name)

    def _read(self) -> None:
        """Read the values: at once where they are few, else in the background."""
        self._drop_task()
        self._follow_field()
        self._fault = self._layer_problem()
        if self._fault:
            self._found = None
            self._show_table()
            return
        layer: Any = self.layer()
        if isinstance(layer, QgsRasterLayer):
            reader = raster_reader(layer)
        else:
            reader = field_reader(layer, self.field() or "", self.selectedCheck.isChecked())
            if 0 <= layer.featureCount() <= FEW:
                self._read_directly(reader)
                return
        self._task = WorkTask(tr("Read the labels (Lacuna)"), lambda listen, cancelled: reader(cancelled))
        self._task.done.connect(self._take)
        self._task.failed.connect(self._fail)
        self._task.stopped.connect(self._stop)
        QgsApplication.taskManager().addTask(self._task)
        self._tell()

    def _read_directly(self, reader: Any) -> None:
        """Read the values here and now."""
        try:
            self._take(reader(lambda: False))
        except LacunaError as problem:
            self._fail(problem)

    def _drop_task(self) -> None:
        """Forget what is being read."""
        if self._task is not None:
            task, self._task = self._task, None
            for signal in (task.done, task.failed, task.stopped):
                signal.disconnect()
            task.cancel()

    def _take(self, found: LabelValues) -> None:
        """Show the values that were read."""
        self._task, self._found = None, found
        self._show_table()

    def _fail(self, problem: LacunaError) -> None:
        self._task, self._found, self._fault = None, None, str(problem)
        self._show_table()

    def _stop(self) -> None:
        """Say that reading was cancelled in QGIS's list of tasks."""
        self._fail(LacunaError("cancelled", tr("Reading the labels was cancelled."), tr("Choose the layer again.")))

    def _show_table(self) -> None:
        """Show values, counts and classes, as far as they are known."""
        layer, found, card = self.layer(), self._found, self._card
        self.table.setVisible(found is not None and card is not None)
        counted = tr("Polygons") if isinstance(layer, QgsVectorLayer) else tr("Pixels")
        key = (layer.id() if layer else "", self.field() or "")
        if found is None or card is None:
            found = LabelValues()
        elif key not in self._choices:
            self._choices[key] = self.fellow.choices(key, card) if self.fellow else {}
        choices = self._choices.get(key, {})
        classes = card.classes if card else ()
        self.table.show_values(found, classes, choices, counted)
        self._tell()

    def _tell(self) -> None:
        """Say what the analyst must do, and tell others of the change."""
        problem, layer = self.problem() if self.layer() is not None else "", self.layer()
        note = ""
        if isinstance(layer, QgsRasterLayer) and layer.bandCount() > 1:
            note = tr("Band 1 of {} holds the classes.").format(layer.bandCount())
        waiting = self._task is not None
        say(self.stateLabel, problem or note, WARNING_COLOR if problem and not waiting else MUTED_COLOR)
        self.confirmButton.setVisible(bool(self.table.guesses()))
        self.changed.emit()

    def _browse(self) -> None:
        """Let the analyst choose a file."""
        path, _ = QFileDialog.getOpenFileName(self, tr("Labels"), Settings().folder)
        if not path:
            return
        Settings().folder = os.path.dirname(path)
        try:
            self.add_file(path)
        except LacunaError as problem:
            say(self.stateLabel, str(problem), WARNING_COLOR)


def _open_labels(path: str) -> list[QgsMapLayer]:
    """Return the layers of polygons and the rasters in a file, as layers that belong to no project."""
    flags = Qgis.SublayerQueryFlag.ResolveGeometryType
    found: list[QgsMapLayer] = []
    for item in QgsProviderRegistry.instance().querySublayers(path, flags):
        if item.type() == QgsMapLayer.LayerType.RasterLayer:
            found.append(QgsRasterLayer(item.uri(), os.path.basename(path), item.providerKey()))
        elif QgsWkbTypes.geometryType(item.wkbType()) == QgsWkbTypes.GeometryType.PolygonGeometry:
            found.append(QgsVectorLayer(item.uri(), item.name(), item.providerKey()))
    if not found:
        raise LacunaError(
            "no-labels",
            tr("{} holds neither polygons nor a raster.").format(path),
            tr("Choose polygons with a class field, or a raster of classes."),
        )
    return found


def _listed(items: list[str]) -> str:
    """Return items in a line, the first ones if they are many."""
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (tr(" and {} more").format(more) if more > 0 else "")
