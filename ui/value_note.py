# SPDX-License-Identifier: GPL-2.0-or-later
"""Says under the row of a modality, before a run, what is wrong with the values of its raster, by the card."""

from __future__ import annotations

from typing import Optional

from qgis.core import QgsApplication, QgsRasterLayer, QgsRectangle
from qgis.PyQt.QtCore import QObject, QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QLabel

from ..compat import tr
from ..engine.checkpoint.card import Modality
from ..engine.errors import LacunaError
from ..engine.offset_tags import ADDED
from ..engine.value_check import changed, check_values, new_offset_weighs
from ..host.layer_values import LayerValues, SampleKey, ValueReader, can_sample, keep_values, known_values, sample_key
from .forms import MUTED_COLOR, WARNING_COLOR, say
from .task import WorkTask

# Milliseconds without a change after which values are read: an area that is dragged changes many times a second.
_CALM = 250


class ValueNote(QObject):
    """Follows the raster of a row, reads a sample of it in the background, and shows what speaks against it.

    Args:
        label: where it is said.
        modality: of the card.

    Signals:
        read: there is more to show than before.
    """

    read = pyqtSignal()

    def __init__(self, label: QLabel, modality: Modality) -> None:
        super().__init__(label)
        self._label, self._modality = label, modality
        self._key: Optional[SampleKey] = None
        self._reader: Optional[ValueReader] = None
        self._task: Optional[WorkTask] = None
        self._problem = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_CALM)
        self._timer.timeout.connect(self._start)
        say(label, "")

    def follow(
        self,
        layer: Optional[QgsRasterLayer],
        bands: list[int],
        nodata: Optional[float] = None,
        mask: Optional[QgsRasterLayer] = None,
        area: Optional[QgsRectangle] = None,
    ) -> None:
        """Read another sample where one is needed; as for `ValueReader`. No layer: say nothing."""
        if layer is None or not can_sample(layer) or (mask is not None and not can_sample(mask)):
            self.drop()
            return
        wanted = (layer, bands, self._modality.nodata if nodata is None else nodata, mask, area)
        key = sample_key(*wanted)
        if key == self._key:
            return
        self.drop()
        self._key = key
        if known_values(key) is None:
            self._reader = ValueReader(*wanted)
            self._timer.start()

    def show(self, scale: Optional[float], offset: Optional[float], proposed: Optional[float]) -> Optional[float]:
        """Show what speaks against the values, once they are changed as asked.

        Args:
            scale: what the values are multiplied by; None where nothing was asked for.
            offset: what is then added; None where nothing was asked for.
            proposed: an offset that is offered already; what it would set right is not told.

        Returns:
            The offset that is to be offered: `proposed`, or what the values tell of themselves.
        """
        found = known_values(self._key)
        if found is None:
            say(self._label, self._problem, MUTED_COLOR)
            return proposed
        asked = scale is not None or offset is not None
        if not asked and proposed is None and new_offset_weighs(self._modality, found.whole):
            proposed = -ADDED
        values = changed(found.part, 1.0 if scale is None else scale, offset or 0.0)
        faults = check_values(self._modality, values, 0.0 if asked else proposed or 0.0)
        say(self._label, "\n".join(fault.text[:1].upper() + fault.text[1:] for fault in faults), WARNING_COLOR)
        return proposed

    def drop(self) -> None:
        """Forget what is being read."""
        self._timer.stop()
        self._key, self._reader, self._problem = None, None, ""
        if self._task is not None:
            task, self._task = self._task, None
            for signal in (task.done, task.failed, task.stopped):
                signal.disconnect()
            task.cancel()

    def _start(self) -> None:
        """Read in the background."""
        reader = self._reader
        if reader is None:
            return
        self._task = WorkTask(tr("Look at the values (Lacuna)"), lambda listen, cancelled: reader.read(cancelled))
        self._task.done.connect(self._take)
        self._task.failed.connect(self._fail)
        self._task.stopped.connect(self._stop)
        QgsApplication.taskManager().addTask(self._task)

    def _take(self, found: LayerValues) -> None:
        """Keep what was read."""
        self._task = None
        if self._key is not None:
            keep_values(self._key, found)
        self.read.emit()

    def _fail(self, problem: LacunaError) -> None:
        self._task = None
        self._problem = tr("The values could not be compared with the card: {}").format(problem.text)
        self.read.emit()

    def _stop(self) -> None:
        """Say that it was cancelled in QGIS's list of tasks."""
        self._fail(LacunaError("cancelled", tr("cancelled."), ""))
