# SPDX-License-Identifier: GPL-2.0-or-later
"""The dock: its pages, the message bar they share, and the state of the engine's Python."""

from __future__ import annotations

from html import escape
from typing import Any, Optional

from qgis.core import Qgis, QgsApplication, QgsMessageLog
from qgis.gui import QgsDockWidget, QgsMessageBarItem
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget

from ..compat import tr
from ..engine.errors import LacunaError
from ..host import interpreters
from ..host.interpreters import Report
from ..host.run_job import find_interpreter
from ..stub import LOG_TAG
from .evaluate_page import EvaluatePage
from .finetune_page import FinetunePage
from .forms import load_form
from .job_page import JobPage
from .options_page import PAGE
from .segment_page import SegmentPage
from .task import WorkTask

# What icon and cross, and a button, take of the width of a message.
MESSAGE_MARGIN = 110
BUTTON_WIDTH = 100


class LacunaDock(QgsDockWidget):
    """Lacuna's dock.

    Args:
        iface: the interface of QGIS.
    """

    def __init__(self, iface: Any, parent: Optional[QWidget] = None) -> None:
        super().__init__(parent)
        load_form(self, __file__)
        self.iface = iface
        self.segment_page = self._add_page(SegmentPage(iface.mapCanvas(), self), tr("Segment"))
        self.finetune_page = self._add_page(FinetunePage(iface.mapCanvas(), self), tr("Fine-tune"))
        self.evaluate_page = self._add_page(EvaluatePage(iface.mapCanvas(), self), tr("Evaluate"))
        self.finetune_page.checkpoint_made.connect(self._use_checkpoint)
        self.finetune_page.finished.connect(lambda result: self._follow_checkpoint(result["checkpoint"]))
        for page in self._job_pages():
            if page is not self.evaluate_page:
                self.evaluate_page.card_updated.connect(page.inputs.refresh_card)
        labels = (self.finetune_page.labels, self.evaluate_page.labels)
        labels[0].fellow, labels[1].fellow = labels[1], labels[0]
        self._check_task: Optional[WorkTask] = None
        self.check_runtime()

    def _add_page(self, page: JobPage, title: str) -> JobPage:
        """Add a page whose messages show in the bar that all share; return it."""
        page.failed.connect(lambda problem: self.show_error(problem, title))
        page.started.connect(self.messageBar.clearWidgets)
        page.warned.connect(lambda text: self._show_warning(text, title))
        page.inputs.card_changed.connect(lambda: self._offer_checkpoint(page))
        self.pages.addTab(page, title)
        return page

    def _job_pages(self) -> list[JobPage]:
        """Return the pages."""
        return [self.pages.widget(index) for index in range(self.pages.count())]

    def _offer_checkpoint(self, page: JobPage) -> None:
        """Let the checkpoint that was chosen on `page` join the lists of the others."""
        if page.card is not None:
            for other in self._job_pages():
                other.inputs.offer_checkpoint(page.inputs.checkpoint())

    def _follow_checkpoint(self, path: str) -> None:
        """Let a checkpoint that was just made join all lists; where its file was chosen before, it is read again."""
        for page in self._job_pages():
            page.inputs.offer_checkpoint(path)
            page.inputs.refresh_card(path)

    def _use_checkpoint(self, path: str) -> None:
        """Choose a checkpoint that was just made on the Segment page, and go there."""
        self.segment_page.set_checkpoint(path)
        self.pages.setCurrentWidget(self.segment_page)

    def check_runtime(self) -> None:
        """Ask the engine's Python in the background what it has: its devices are offered, its faults are shown."""
        self._check_task = WorkTask(
            tr("Check the engine's Python (Lacuna)"), lambda listen, cancelled: interpreters.check(find_interpreter())
        )
        self._check_task.done.connect(self._show_runtime)
        self._check_task.failed.connect(self.show_error)
        for signal in (self._check_task.done, self._check_task.failed, self._check_task.stopped):
            signal.connect(self._forget_check)
        QgsApplication.taskManager().addTask(self._check_task)

    def _forget_check(self) -> None:
        # QGIS deletes a task that has ended.
        self._check_task = None

    def show_error(self, problem: LacunaError, title: str = "") -> None:
        """Show an error with its hint until it is closed; one of the engine's Python leads to the options.

        Args:
            problem: what is wrong.
            title: of the page that it comes from, as another page may be shown by now.
        """
        QgsMessageLog.logMessage(str(problem), LOG_TAG, Qgis.MessageLevel.Critical, False)
        about_engine = problem.code in ("engine-missing", "engine-incomplete")
        text = _told_by(title, f"{escape(problem.text)}<br><b>{escape(problem.hint)}</b>")
        item = self._push(text, Qgis.MessageLevel.Critical, MESSAGE_MARGIN + BUTTON_WIDTH * about_engine)
        if about_engine:
            button = QPushButton(tr("Options…"), item)
            button.clicked.connect(lambda: self.iface.showOptionsDialog(self.iface.mainWindow(), PAGE))
            item.layout().addWidget(button, 0, Qt.AlignmentFlag.AlignTop)

    def _show_warning(self, text: str, title: str) -> None:
        self._push(_told_by(title, escape(text)), Qgis.MessageLevel.Warning, MESSAGE_MARGIN)

    def _push(self, text: str, level: Any, margin: int) -> QgsMessageBarItem:
        """Show rich text in the message bar, whole: a message bar of its own makes room for one line only."""
        label = QLabel(text.replace("\n", "<br>"), self.messageBar)
        label.setObjectName("messageText")
        label.setTextFormat(Qt.TextFormat.RichText)
        label.setWordWrap(True)
        label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        label.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        label.setMinimumHeight(label.heightForWidth(max(180, self.width() - margin)))
        item = QgsMessageBarItem(label, level, 0, self.messageBar)
        self.messageBar.pushItem(item)
        return item

    def _show_runtime(self, report: Report) -> None:
        """Offer the devices of an engine that can run, or say why it cannot."""
        try:
            report.raise_faults()
        except LacunaError as problem:
            self.show_error(problem)
        else:
            for page in self._job_pages():
                page.set_devices(report.devices)

    def shut(self) -> None:
        """Cancel what is running and let go of the canvas: the plugin is being unloaded."""
        if self._check_task is not None:
            self._check_task.cancel()
        for page in self._job_pages():
            page.shut()


def _told_by(title: str, text: str) -> str:
    """Return rich `text` with the title of the page that says it, if there is one."""
    return f"<i>{escape(title)}:</i> {text}" if title else text
