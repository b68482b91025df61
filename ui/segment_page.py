# SPDX-License-Identifier: GPL-2.0-or-later
"""The Segment page: from a checkpoint and the layers of the project to a classified layer."""

from __future__ import annotations

import os
from typing import Any, Optional

from qgis.core import (
    QgsFeatureRequest,
    QgsMapLayerProxyModel,
    QgsProcessingUtils,
    QgsRasterLayer,
    QgsVectorLayerFeatureSource,
)
from qgis.gui import QgsFileWidget, QgsMapCanvas
from qgis.PyQt.QtWidgets import QWidget

from ..compat import tr
from ..engine.jobs import PRECISIONS, SegmentJob
from ..host.exports import Exports
from ..host.run_job import duration
from ..settings import Settings
from .card_text import score_words
from .forms import MUTED_COLOR, WARNING_COLOR, say
from .job_page import JobPage
from .outline import OutlineGrid, settle_extent, tile_count, transformed
from .results import output_path, output_problem, show_outputs, summary_words
from .score_bars import ScoreBars

EXTRAS = ("confidence", "evidence", "probabilities")


class SegmentPage(JobPage):
    """The page on which an analyst binds layers to modalities and starts the job.

    Args:
        canvas: the map whose extent is the *visible* area.
    """

    def __init__(self, canvas: QgsMapCanvas, parent: Optional[QWidget] = None) -> None:
        super().__init__(canvas, __file__, "segmentButton", tr("Segment a scene (Lacuna)"), parent)
        self._grid: Optional[OutlineGrid] = None
        self.scoreBars = ScoreBars(self.scoresGroup)
        self.scoresLayout.insertWidget(1, self.scoreBars)
        self._fill_choices()
        self._connect()
        self.inputs.list_checkpoints()

    def _fill_choices(self) -> None:
        """Fill what does not depend on the checkpoint."""
        self.polygonsPanel.hide()
        self.polygonsCombo.setFilters(QgsMapLayerProxyModel.Filter.PolygonLayer)
        self.outputWidget.setStorageMode(QgsFileWidget.StorageMode.SaveFile)
        self.outputWidget.setFilter(tr("GeoTIFF (*.tif)"))
        self.outputWidget.setDialogTitle(tr("Save the class map"))
        self.outputWidget.lineEdit().setPlaceholderText(tr("[temporary file]"))
        self.outputWidget.lineEdit().setObjectName("outputEdit")
        for name in PRECISIONS:
            self.precisionCombo.addItem(name, name)

    def _connect(self) -> None:
        """Let every change be followed by a refresh."""
        self.polygonsRadio.toggled.connect(self.polygonsPanel.setVisible)
        for button in (self.wholeRadio, self.visibleRadio, self.polygonsRadio, self.selectedCheck):
            button.toggled.connect(self.refresh_later)
        for combo in (self.polygonsCombo, self.deviceCombo, self.precisionCombo):
            combo.currentIndexChanged.connect(self.refresh_later)
        for spin in (self.tileSpin, self.overlapSpin, self.batchSpin):
            spin.valueChanged.connect(self.refresh_later)
        self.polygonsCombo.layerChanged.connect(settle_extent)
        self.outputWidget.fileChanged.connect(self.refresh_later)
        self.canvas.extentsChanged.connect(self._follow_canvas)
        self.canvas.destinationCrsChanged.connect(self._follow_canvas)

    def shut(self) -> None:
        """Cancel a running job and let go of canvas and project."""
        super().shut()
        self.canvas.extentsChanged.disconnect(self._follow_canvas)
        self.canvas.destinationCrsChanged.disconnect(self._follow_canvas)

    def _follow_canvas(self) -> None:
        if self.visibleRadio.isChecked():
            self._timer.start()

    def refresh(self) -> None:
        """Show what follows from the choices: cover, expected accuracy, grid, estimate, and whether it can start."""
        layers, whole = self.inputs.layers(), self.inputs.grid()
        self._grid = whole and self._cut(whole)
        shares = self.inputs.show_cover(self._grid)
        self._show_scores(list(layers), [name for name, share in shares.items() if share < 0.9995])
        grid = tr("grid {}").format(self._grid.words()) if self._grid else ""
        say(self.gridLabel, grid, MUTED_COLOR)
        self.outputLabel.setVisible(False)
        if self._output() and os.path.exists(self._output()):
            say(self.outputLabel, tr("The file exists and will be replaced."), WARNING_COLOR)
        problem = self._problem(layers, whole)
        self.show_readiness(problem, "" if problem else self._estimate())

    def _cut(self, whole: OutlineGrid) -> Optional[OutlineGrid]:
        """Return the part of the `whole` grid that is asked for; None if there is nothing in it."""
        if self.wholeRadio.isChecked():
            return whole
        if self.visibleRadio.isChecked():
            part, crs = self.canvas.extent(), self.canvas.mapSettings().destinationCrs()
        else:
            layer = self.polygonsCombo.currentLayer()
            if layer is None:
                return None
            part = layer.boundingBoxOfSelected() if self.selectedCheck.isChecked() else layer.extent()
            crs = layer.crs()
        part = transformed(part, crs, whole.crs)
        return whole.cut(part) if part is not None and part.isFinite() else None

    def _show_scores(self, bound: list[str], partial: list[str]) -> None:
        """Show the measured accuracy of the scenario that these layers make, among the others."""
        self.scoresGroup.setVisible(self.card is not None)
        if self.card is None:
            return
        current = self.card.effective(tuple(bound)) if bound else None
        self.scoreBars.set_card(self.card, current)
        miou = self.card.miou(current) if current else None
        measured = current is None or miou is not None
        title = tr("Expected accuracy")
        self.scoresGroup.setTitle(title if miou is None else tr("{}: mIoU {:.2f}").format(title, miou))
        words = score_words(self.card, bound, partial) if bound else tr("Bind a raster to at least one modality.")
        say(self.scoresLabel, words, "" if measured else WARNING_COLOR)
        on = self.card.scores_on
        say(self.scoresNote, tr("Measured on {}; elsewhere it may differ.").format(on) if on else "", MUTED_COLOR)

    def _problem(self, layers: dict[str, QgsRasterLayer], whole: Optional[OutlineGrid]) -> str:
        """Return why the job cannot start, or an empty string."""
        problem = self.inputs.problem()
        if problem:
            return problem
        if self.polygonsRadio.isChecked() and self.polygonsCombo.currentLayer() is None:
            return tr("Choose a layer of polygons.")
        if whole is not None and self._grid is None:
            return tr("The chosen area does not overlap the rasters.")
        sources = (layer.source() for layer in layers.values())
        return output_problem(self._output(), sources) if self._output() else ""

    def _output(self) -> str:
        """Return the path of the class map with its extension, or an empty string for a temporary file."""
        return output_path(self.outputWidget.filePath(), ".tif", ".tiff")

    def _estimate(self) -> str:
        """Return the number of tiles, and time and memory if an earlier run tells them."""
        if self._grid is None or self.card is None:
            return ""
        side = self.tileSpin.value()
        tile = (side, side) if side else (self.card.tile[0], self.card.tile[1])
        overlap = self.overlapSpin.value() if self.overlapSpin.value() >= 0 else min(2 * self.card.margin, *tile)
        count = tile_count(self._grid, tile, min(overlap, min(tile) // 2), self.card.stride)
        words = tr("{} tiles of {} x {}").format(count, *tile) if count > 1 else tr("1 tile")
        pace, memory = Settings().cost(self._cost_key())
        if memory:
            words += tr(", about {:.1f} GB").format(memory / 1e9)
        if pace:
            words += tr(", about {}").format(duration(max(1, pace * count)))
        return words + (tr(" (as in the last run)") if pace or memory else "")

    def _cost_key(self) -> str:
        """Return what decides time and memory: checkpoint, device, precision, tile."""
        asked = (self.deviceCombo.currentData(), self.precisionCombo.currentData(), self.tileSpin.value())
        return "-".join(map(str, (self.inputs.checkpointCombo.currentText(), *asked))).replace("/", "_")

    def _job(self, exports: Exports) -> SegmentJob:
        """Return the job that the page describes."""
        output = self._output() or QgsProcessingUtils.generateTempFilename("classes.tif")
        stem = os.path.splitext(output)[0]
        extras = [name for name in EXTRAS if getattr(self, f"{name}Check").isChecked()]
        wanted: dict[str, Any] = {name: f"{stem}_{name}.tif" for name in extras}
        grid: Any = self._grid  # where a job can start there is one
        part = None if self.wholeRadio.isChecked() else grid.extent
        side = self.tileSpin.value()
        return SegmentJob(
            checkpoint=self.inputs.checkpoint(),
            modalities=self.inputs.specs(exports, None if grid is None else (grid.extent, grid.crs)),
            output=output,
            extent=part and [part.xMinimum(), part.yMinimum(), part.xMaximum(), part.yMaximum()],
            area=self._area(exports),
            tile=[side, side] if side else None,
            overlap=self.overlapSpin.value() if self.overlapSpin.value() >= 0 else None,
            batch_size=self.batchSpin.value() or None,
            device=self.deviceCombo.currentData(),
            precision=self.precisionCombo.currentData(),
            overwrite=True,
            **wanted,
        )

    def _area(self, exports: Exports) -> Optional[str]:
        """Return the file in which the engine will find the polygons, or None."""
        if not self.polygonsRadio.isChecked():
            return None
        layer = self.polygonsCombo.currentLayer()
        request = None
        if self.selectedCheck.isChecked():
            request = QgsFeatureRequest().setFilterFids(layer.selectedFeatureIds())
        return exports.polygons(QgsVectorLayerFeatureSource(layer), layer.crs(), request, name=layer.name())

    def _finish(self, job: SegmentJob, result: dict[str, Any]) -> None:
        """Bring the layers into the project and sum up the run."""
        summary = result.get("summary", {})
        tiles = summary.get("tiles", {}).get("count", 0)
        if tiles:
            memory = summary.get("peak_memory_bytes") or {}
            Settings().set_cost(self._cost_key(), summary["seconds"] / tiles, memory.get("system") or 0.0)
        show_outputs(job)
        say(self.summaryLabel, summary_words(summary, self._warnings))
