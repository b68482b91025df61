# SPDX-License-Identifier: GPL-2.0-or-later
"""The Segment page: from a checkpoint and the layers of the project to a classified layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsFeatureRequest,
    QgsMapLayerProxyModel,
    QgsMessageLog,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayerFeatureSource,
)
from qgis.gui import QgsFileWidget, QgsMapCanvas
from qgis.PyQt.QtCore import QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QFileDialog, QWidget

from ..binding import check_modalities, guess, source_specs
from ..compat import tr
from ..engine.checkpoint.card import Card, read_card
from ..engine.errors import LacunaError
from ..engine.jobs import PRECISIONS, SegmentJob
from ..exports import Exports
from ..running import BUNDLED_CHECKPOINTS, duration, progress_words
from ..settings import Settings
from ..stub import LOG_TAG
from .card_text import card_html, classes_html
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .modality_row import ModalityRow
from .outline import Grid, cover, reference_grid, tile_count, transformed
from .results import same_file, show_outputs, summary_words
from .score_bars import ScoreBars, score_words
from .task import JobTask

EXTRAS = ("confidence", "evidence", "probabilities")


class SegmentPage(QWidget):
    """The page on which an analyst binds layers to modalities and starts the job.

    Args:
        canvas: the map whose extent is the *visible* area.

    Signals:
        started: a job has started.
        failed: a job has ended with a LacunaError, or a checkpoint cannot be read.
        warned: the engine warns of something (text).
        finished: a job is done and its layers are in the project (its result event).
        stopped: a job was cancelled.
    """

    started = pyqtSignal()
    failed = pyqtSignal(object)
    warned = pyqtSignal(str)
    finished = pyqtSignal(dict)
    stopped = pyqtSignal()

    def __init__(self, canvas: QgsMapCanvas, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.canvas = canvas
        self.card: Optional[Card] = None
        self.rows: list[ModalityRow] = []
        self.task: Optional[JobTask] = None
        self._grid: Optional[Grid] = None
        self._warnings = 0
        self.scoreBars = ScoreBars(self.scoresGroup)
        self.scoresLayout.insertWidget(1, self.scoreBars)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(30)
        self._timer.timeout.connect(self.refresh)
        # The combo boxes learn of new layers by the same signal as this page, and perhaps after it.
        self._guesser = QTimer(self)
        self._guesser.setSingleShot(True)
        self._guesser.timeout.connect(self._guess_layers)
        self._fill_choices()
        self._connect()
        self._list_checkpoints()

    def _fill_choices(self) -> None:
        """Fill what does not depend on the checkpoint."""
        self.cardText.hide()
        self.progressPanel.hide()
        self.polygonsPanel.hide()
        say(self.summaryLabel, "")
        self.polygonsCombo.setFilters(QgsMapLayerProxyModel.Filter.PolygonLayer)
        self.outputWidget.setStorageMode(QgsFileWidget.StorageMode.SaveFile)
        self.outputWidget.setFilter(tr("GeoTIFF (*.tif)"))
        self.outputWidget.setDialogTitle(tr("Save the class map"))
        self.outputWidget.lineEdit().setPlaceholderText(tr("[temporary file]"))
        self.outputWidget.lineEdit().setObjectName("outputEdit")
        for name in PRECISIONS:
            self.precisionCombo.addItem(name, name)
        self.set_devices([])

    def _connect(self) -> None:
        """Let every change be followed by a refresh."""
        later = self._timer.start
        self.checkpointCombo.currentIndexChanged.connect(self._load_card)
        self.checkpointButton.clicked.connect(self._browse_checkpoint)
        self.cardButton.toggled.connect(self.cardText.setVisible)
        self.polygonsRadio.toggled.connect(self.polygonsPanel.setVisible)
        for button in (self.wholeRadio, self.visibleRadio, self.polygonsRadio, self.selectedCheck):
            button.toggled.connect(lambda: later())
        for combo in (self.polygonsCombo, self.deviceCombo, self.precisionCombo):
            combo.currentIndexChanged.connect(lambda: later())
        for spin in (self.tileSpin, self.overlapSpin, self.batchSpin):
            spin.valueChanged.connect(lambda: later())
        self.outputWidget.fileChanged.connect(lambda: later())
        self.segmentButton.clicked.connect(self.start)
        self.cancelButton.clicked.connect(self.cancel)
        self.canvas.extentsChanged.connect(self._follow_canvas)
        self.canvas.destinationCrsChanged.connect(self._follow_canvas)
        QgsProject.instance().layersAdded.connect(self._follow_layers)
        QgsProject.instance().layersRemoved.connect(self._follow_project)

    def shut(self) -> None:
        """Cancel a running job and let go of canvas and project."""
        self.cancel()
        self._timer.stop()
        self._guesser.stop()
        self.canvas.extentsChanged.disconnect(self._follow_canvas)
        self.canvas.destinationCrsChanged.disconnect(self._follow_canvas)
        QgsProject.instance().layersAdded.disconnect(self._follow_layers)
        QgsProject.instance().layersRemoved.disconnect(self._follow_project)

    def _follow_canvas(self) -> None:
        if self.visibleRadio.isChecked():
            self._timer.start()

    def _follow_layers(self) -> None:
        self._guesser.start()

    def _follow_project(self) -> None:
        self._timer.start()

    def _list_checkpoints(self) -> None:
        """Offer the bundled checkpoints and those used before."""
        paths = [str(path) for path in sorted(BUNDLED_CHECKPOINTS.glob("*.safetensors"))]
        paths += [path for path in Settings().recent_checkpoints if path not in paths and os.path.exists(path)]
        for path in paths:
            self.checkpointCombo.addItem(Path(path).stem, path)
        if not paths:
            self._load_card()

    def set_checkpoint(self, path: str) -> None:
        """Choose the checkpoint at `path`, which joins the list if it is new."""
        index = self.checkpointCombo.findData(path)
        if index < 0:
            self.checkpointCombo.insertItem(0, Path(path).stem, path)
            index = 0
        self.checkpointCombo.setCurrentIndex(index)

    def _browse_checkpoint(self) -> None:
        """Let the analyst choose a checkpoint."""
        title, kinds = tr("Checkpoint"), tr("Checkpoints of Lacuna (*.safetensors)")
        path, _ = QFileDialog.getOpenFileName(self, title, Settings().folder, kinds)
        if path:
            Settings().folder = os.path.dirname(path)
            self.set_checkpoint(path)

    def _load_card(self) -> None:
        """Read the chosen checkpoint's header and make the rows for its modalities."""
        path, kept = self.checkpointCombo.currentData(), {row.modality.name: row.layer() for row in self.rows}
        self.card = None
        try:
            self.card = read_card(path) if path else None
        except LacunaError as problem:
            self.failed.emit(problem)
        for row in self.rows:
            self.rowsLayout.removeWidget(row)
            row.deleteLater()
        self.rows = [ModalityRow(item, self.modalitiesGroup) for item in self.card.modalities] if self.card else []
        for row in self.rows:
            self.rowsLayout.addWidget(row)
            row.offer(kept.get(row.modality.name))
            row.changed.connect(self._timer.start)
        say(self.classesLabel, classes_html(self.card) if self.card else tr("Choose a checkpoint."))
        self.cardText.setHtml(card_html(self.card, path) if self.card else "")
        self._guess_layers()
        self.refresh()

    def _guess_layers(self) -> None:
        """Bind layers of the project to rows that have none and that the analyst has not touched."""
        taken = [row.layer() for row in self.rows if row.layer() is not None]
        layers = [item for item in QgsProject.instance().mapLayers().values() if isinstance(item, QgsRasterLayer)]
        for row in self.rows:
            if row.layer() is None and not row.touched:
                row.offer(guess(row.modality, [item for item in layers if item.isValid() and item not in taken]))
                taken.append(row.layer())
        self._timer.start()

    def set_devices(self, devices: list[tuple[str, int]]) -> None:
        """Offer the CPU and the CUDA `devices`, of which name and bytes of memory are given."""
        self.deviceCombo.clear()
        first = devices[0][0] if devices else tr("CPU")
        self.deviceCombo.addItem(tr("automatic ({})").format(first), "auto")
        self.deviceCombo.addItem(tr("CPU"), "cpu")
        for number, (name, memory) in enumerate(devices):
            self.deviceCombo.addItem(f"{name} ({memory / 2**30:.0f} GB)", f"cuda:{number}")
        self.deviceCombo.setCurrentIndex(max(0, self.deviceCombo.findData(Settings().device)))

    def refresh(self) -> None:
        """Show what follows from the choices: cover, expected accuracy, grid, estimate, and whether it can start."""
        layers = {row.modality.name: row.layer() for row in self.rows if row.layer() is not None and not row.problem()}
        whole = reference_grid(self.card, layers) if self.card else None
        self._grid = whole and self._cut(whole)
        shares = {name: cover(layer, self._grid) for name, layer in layers.items()} if self._grid else {}
        for row in self.rows:
            row.set_cover(shares.get(row.modality.name))
        self._show_scores(list(layers), [name for name, share in shares.items() if share < 0.9995])
        grid = tr("grid {}").format(self._grid.words()) if self._grid else ""
        say(self.gridLabel, grid, MUTED_COLOR)
        self.outputLabel.setVisible(False)
        if self._output() and os.path.exists(self._output()):
            say(self.outputLabel, tr("The file exists and will be replaced."), WARNING_COLOR)
        problem = self._problem(layers, whole)
        self.segmentButton.setEnabled(not problem and self.task is None)
        self.segmentButton.setToolTip(problem)
        say(self.estimateLabel, problem or self._estimate(), WARNING_COLOR if problem else MUTED_COLOR)

    def _cut(self, whole: Grid) -> Optional[Grid]:
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
        self.modalitiesGroup.setVisible(self.card is not None)
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

    def _problem(self, layers: dict[str, QgsRasterLayer], whole: Optional[Grid]) -> str:
        """Return why the job cannot start, or an empty string."""
        if self.card is None:
            return tr("Choose a checkpoint.")
        for row in self.rows:
            if row.problem():
                return row.problem()
        try:
            check_modalities(self.card, layers)
        except LacunaError as problem:
            return str(problem)
        if self.polygonsRadio.isChecked() and self.polygonsCombo.currentLayer() is None:
            return tr("Choose a layer of polygons.")
        if whole is not None and self._grid is None:
            return tr("The chosen area does not overlap the rasters.")
        return self._output_problem(layers)

    def _output_problem(self, layers: dict[str, QgsRasterLayer]) -> str:
        """Return why the output cannot be written, or an empty string."""
        path = self._output()
        if not path:
            return ""
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            return tr("The folder {} does not exist.").format(folder)
        if not os.access(folder, os.W_OK):
            return tr("The folder {} is not writable.").format(folder)
        if any(same_file(layer.source(), path) for layer in layers.values()):
            return tr("The output is one of the inputs: choose another file.")
        return ""

    def _output(self) -> str:
        """Return the path of the class map with its extension, or an empty string for a temporary file."""
        text = self.outputWidget.filePath().strip()
        if not text:
            return ""
        path = os.path.abspath(os.path.expanduser(text))
        return path if path.lower().endswith((".tif", ".tiff")) else path + ".tif"

    def _estimate(self) -> str:
        """Return the number of tiles, and time and memory if an earlier run tells them."""
        if self._grid is None:
            return ""
        side = self.tileSpin.value()
        tile = (side, side) if side else tuple(self.card.tile)
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
        return "-".join(map(str, (self.checkpointCombo.currentText(), *asked))).replace("/", "_")

    def start(self) -> None:
        """Start the job; everything that touches layers is done here, the rest in the task."""
        exports = Exports()
        try:
            job = self._job(exports)
            job.check()
        except LacunaError as problem:
            exports.remove()
            self.failed.emit(problem)
            return
        Settings().device = job.device
        Settings().add_recent_checkpoint(job.checkpoint)
        self._warnings = 0
        self.task = JobTask(tr("Segment a scene (Lacuna)"), job, exports)
        self.task.said.connect(self._show_event)
        self.task.done.connect(self._finish)
        self.task.failed.connect(self._fail)
        self.task.stopped.connect(self._stop)
        self._show_running(True)
        self.started.emit()
        QgsApplication.taskManager().addTask(self.task)

    def _job(self, exports: Exports) -> SegmentJob:
        """Return the job that the page describes."""
        bindings = {row.modality.name: row.binding() for row in self.rows if row.layer() is not None}
        output = self._output() or QgsProcessingUtils.generateTempFilename("classes.tif")
        stem = os.path.splitext(output)[0]
        wanted = {name: f"{stem}_{name}.tif" for name in EXTRAS if getattr(self, f"{name}Check").isChecked()}
        part = None if self.wholeRadio.isChecked() else self._grid.extent
        side = self.tileSpin.value()
        return SegmentJob(
            checkpoint=self.checkpointCombo.currentData(),
            modalities=source_specs(self.card, bindings, exports, self._grid and (self._grid.extent, self._grid.crs)),
            output=output,
            extent=part and _numbers(part),
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
        return exports.polygons(QgsVectorLayerFeatureSource(layer), layer.crs(), request)

    def cancel(self) -> None:
        """Ask the running job to stop; it has ended within three seconds."""
        if self.task is not None:
            self.cancelButton.setEnabled(False)
            self.progressLabel.setText(tr("Cancelling…"))
            self.task.cancel()

    def _show_running(self, running: bool) -> None:
        """Show the progress and close the form while a job runs."""
        self.scrollContents.setEnabled(not running)
        self.segmentButton.setVisible(not running)
        self.estimateLabel.setVisible(not running)
        self.progressPanel.setVisible(running)
        self.cancelButton.setEnabled(running)
        self.progressBar.setRange(0, 0 if running else 1)
        self.progressLabel.setText(tr("Starting the engine…"))
        if running:
            say(self.summaryLabel, "")

    def _show_event(self, event: dict[str, Any]) -> None:
        """Show what the engine says."""
        if event["event"] == "progress":
            self.progressBar.setRange(0, max(event["total"], 1))
            self.progressBar.setValue(event["done"])
            self.progressLabel.setText(progress_words(event))
            return
        text, warning = str(event.get("text", "")), event.get("level") == "warning"
        QgsMessageLog.logMessage(text, LOG_TAG, Qgis.MessageLevel.Warning if warning else Qgis.MessageLevel.Info, False)
        if warning:
            self._warnings += 1
            self.warned.emit(text)

    def _finish(self, result: dict[str, Any]) -> None:
        """Bring the layers into the project and sum up the run."""
        job, summary = self.task.job, result.get("summary", {})
        tiles = summary.get("tiles", {}).get("count", 0)
        if tiles:
            memory = summary.get("peak_memory_bytes") or {}
            Settings().set_cost(self._cost_key(), summary["seconds"] / tiles, memory.get("system") or 0.0)
        self._end_task()
        show_outputs(job)
        say(self.summaryLabel, summary_words(summary, self._warnings))
        self.finished.emit(result)

    def _fail(self, problem: LacunaError) -> None:
        self._end_task()
        self.failed.emit(problem)

    def _stop(self) -> None:
        self._end_task()
        say(self.summaryLabel, tr("Cancelled: nothing was written."))
        self.stopped.emit()

    def _end_task(self) -> None:
        """Open the form again."""
        self.task = None
        self._show_running(False)
        self.refresh()


def _numbers(extent: QgsRectangle) -> list[float]:
    """Return an extent as xmin, ymin, xmax, ymax."""
    return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
