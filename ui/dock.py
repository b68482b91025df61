# SPDX-License-Identifier: GPL-2.0-or-later
"""The dock: its pages, the message bar they share, and the state of the engine's Python."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import Qgis, QgsApplication
from qgis.gui import QgsDockWidget
from qgis.PyQt.QtWidgets import QPushButton, QWidget

from .. import runtime
from ..compat import tr
from ..engine.errors import LacunaError
from ..runtime import Report
from ..segmentation import find_interpreter
from .forms import load_form
from .options_page import PAGE
from .segment_page import SegmentPage
from .task import WorkTask


class LacunaDock(QgsDockWidget):
    """Lacuna's dock.

    Args:
        iface: the interface of QGIS.
    """

    def __init__(self, iface: Any, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.iface = iface
        self.segment_page = SegmentPage(iface.mapCanvas(), self)
        self.segment_page.failed.connect(self.show_error)
        self.segment_page.started.connect(self.messageBar.clearWidgets)
        self.segment_page.warned.connect(self._show_warning)
        self.pages.addTab(self.segment_page, tr("Segment"))
        self._check_task: Optional[WorkTask] = None
        self.check_runtime()

    def check_runtime(self) -> None:
        """Ask the engine's Python in the background what it has: its devices are offered, its faults are shown."""
        self._check_task = WorkTask(
            tr("Check the engine's Python (Lacuna)"), lambda listen, cancelled: runtime.check(find_interpreter())
        )
        self._check_task.done.connect(self._show_runtime)
        self._check_task.failed.connect(self.show_error)
        QgsApplication.taskManager().addTask(self._check_task)

    def show_error(self, problem: LacunaError) -> None:
        """Show an error with its hint until it is closed; one of the engine's Python leads to the options."""
        item = self.messageBar.createMessage(problem.text, problem.hint)
        if problem.code in ("engine-missing", "engine-incomplete"):
            button = QPushButton(tr("Options…"), item)
            button.clicked.connect(lambda: self.iface.showOptionsDialog(self.iface.mainWindow(), PAGE))
            item.layout().addWidget(button)
        self.messageBar.pushWidget(item, Qgis.MessageLevel.Critical, 0)

    def _show_warning(self, text: str) -> None:
        self.messageBar.pushMessage(text, Qgis.MessageLevel.Warning, 0)

    def _show_runtime(self, report: Report) -> None:
        """Offer the devices of an engine that can run, or say why it cannot."""
        try:
            report.raise_faults()
        except LacunaError as problem:
            self.show_error(problem)
        else:
            self.segment_page.set_devices(report.devices)

    def shut(self) -> None:
        """Cancel what is running and let go of the canvas: the plugin is being unloaded."""
        if self._check_task is not None:
            for signal in (self._check_task.done, self._check_task.failed):
                signal.disconnect()
        self.segment_page.shut()
