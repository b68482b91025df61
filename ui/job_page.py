# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pages share: the checkpoint and its rows, one running job, its progress and its end."""

from __future__ import annotations

from typing import Any, Optional, Union

from qgis.core import Qgis, QgsApplication, QgsMessageLog
from qgis.gui import QgsMapCanvas
from qgis.PyQt.QtCore import QTimer, pyqtSignal
from qgis.PyQt.QtWidgets import QPushButton, QWidget

from ..compat import tr
from ..engine.checkpoint.card import Card
from ..engine.errors import LacunaError
from ..engine.jobs import EvaluateJob, FinetuneJob, Job, SegmentJob, TrainJob
from ..host.exports import Exports
from ..host.run_job import progress_words
from ..settings import Settings
from ..stub import LOG_TAG
from .forms import MUTED_COLOR, WARNING_COLOR, load_form, say
from .inputs import ModelInputs
from .modality_row import ModalityRow
from .task import JobTask

PageJob = Union[SegmentJob, FinetuneJob, EvaluateJob, TrainJob]


class JobPage(QWidget):
    """A page of the dock. A subclass says what its job is, when it can start, and what to do with the result.

    Its form has a `scrollContents` with the layout `formLayout`, a `deviceCombo`, a `summaryLabel`, an `estimateLabel`,
    and the `progressPanel` with `progressBar`, `progressLabel` and `cancelButton`; and the button that starts the job.

    Args:
        canvas: the map.
        module: the file of the subclass, beside which its form lies.
        start_button: the name of the button that starts the job.
        title: what the task manager shows while it runs.

    Signals:
        started: a job has started.
        failed: a job has ended with a LacunaError, or a checkpoint cannot be read.
        warned: the engine warns of something (text).
        finished: a job is done and its result is shown (its result event).
        stopped: a job was cancelled.
    """

    started = pyqtSignal()
    failed = pyqtSignal(object)
    warned = pyqtSignal(str)
    finished = pyqtSignal(dict)
    stopped = pyqtSignal()

    def __init__(
        self, canvas: QgsMapCanvas, module: str, start_button: str, title: str, parent: Optional[QWidget] = None
    ) -> None:
        super().__init__(parent)
        load_form(self, module)
        self.canvas = canvas
        self.task: Optional[JobTask] = None
        self.start_button: QPushButton = getattr(self, start_button)
        self._title = title
        self._warnings = 0
        self.inputs = ModelInputs(self.scrollContents)
        self.formLayout.insertWidget(0, self.inputs)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(30)
        self._timer.timeout.connect(self.refresh)
        self.progressPanel.hide()
        say(self.summaryLabel, "")
        self.set_devices([])
        self.inputs.changed.connect(self.refresh_later)
        self.inputs.card_changed.connect(lambda: self.refresh())
        self.inputs.failed.connect(self.failed)
        self.start_button.clicked.connect(self.start)
        self.cancelButton.clicked.connect(self.cancel)

    @property
    def card(self) -> Optional[Card]:
        """The card of the chosen checkpoint."""
        return self.inputs.card

    @property
    def rows(self) -> list[ModalityRow]:
        """The rows of the modalities."""
        return self.inputs.rows

    def set_checkpoint(self, path: str) -> None:
        """Choose the checkpoint at `path`."""
        self.inputs.set_checkpoint(path)

    def shut(self) -> None:
        """Cancel a running job and let go of the project; a subclass that holds more lets go of that too."""
        self.cancel()
        self._timer.stop()
        self.inputs.shut()

    def set_devices(self, devices: list[tuple[str, int]]) -> None:
        """Offer the CPU and the CUDA `devices`, of which name and bytes of memory are given."""
        self.deviceCombo.clear()
        first = devices[0][0] if devices else tr("CPU")
        self.deviceCombo.addItem(tr("automatic ({})").format(first), "auto")
        self.deviceCombo.addItem(tr("CPU"), "cpu")
        for number, (name, memory) in enumerate(devices):
            self.deviceCombo.addItem(f"{name} ({memory / 2**30:.0f} GB)", f"cuda:{number}")
        self.deviceCombo.setCurrentIndex(max(0, self.deviceCombo.findData(Settings().device)))

    def refresh_later(self, *ignored: Any) -> None:
        """Refresh once, soon, however many changes come until then."""
        self._timer.start()

    def refresh(self) -> None:
        """Show what follows from the choices, and whether the job can start."""
        raise NotImplementedError

    def show_readiness(self, problem: str, estimate: str) -> None:
        """Open or close the button, and say why, or what the job will take."""
        self.start_button.setEnabled(not problem and self.task is None)
        self.start_button.setToolTip(problem)
        say(self.estimateLabel, problem or estimate, WARNING_COLOR if problem else MUTED_COLOR)
        self.estimateLabel.setVisible(self.task is None and bool(problem or estimate))

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
        if not isinstance(job, TrainJob):
            Settings().add_recent_checkpoint(job.checkpoint)
        self.launch(job, exports)

    def launch(self, job: Job, exports: Exports) -> None:
        """Run `job` in the background, with the form closed."""
        self._warnings = 0
        self.task = JobTask(self._title, job, exports)
        self.task.said.connect(self._show_event)
        self.task.done.connect(self._conclude)
        self.task.failed.connect(self._fail)
        self.task.stopped.connect(self._stop)
        self._show_running(True)
        self.started.emit()
        QgsApplication.taskManager().addTask(self.task)

    def _job(self, exports: Exports) -> PageJob:
        """Return the job that the page describes; what must be written to files first is put down in `exports`."""
        raise NotImplementedError

    def _finish(self, job: Any, result: dict[str, Any]) -> None:
        """Show the `result` of `job`."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Ask the running job to stop; it has ended within three seconds."""
        if self.task is not None:
            self.cancelButton.setEnabled(False)
            self.progressLabel.setText(tr("Cancelling…"))
            self.task.cancel()

    def _show_running(self, running: bool) -> None:
        """Show the progress and close the form while a job runs."""
        self.scrollContents.setEnabled(not running)
        self.start_button.setVisible(not running)
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
        elif event["event"] == "message":
            text, warning = str(event.get("text", "")), event.get("level") == "warning"
            level = Qgis.MessageLevel.Warning if warning else Qgis.MessageLevel.Info
            QgsMessageLog.logMessage(text, LOG_TAG, level, False)
            self.propose_offsets(event.get("offset", {}), text)
            if warning:
                self._warn(text)

    def propose_offsets(self, offsets: dict[str, float], why: str) -> None:
        """Offer in the rows what a run has found is to be added, by name of modality, with the engine's reason."""
        self.inputs.propose_offsets(offsets, why)

    def _warn(self, text: str) -> None:
        """Tell a warning of the engine."""
        self._warnings += 1
        self.warned.emit(text)

    def _conclude(self, result: dict[str, Any]) -> None:
        """Show the result and open the form again."""
        try:
            if self.task is not None:
                self._finish(self.task.job, result)
        finally:
            self._end_task()
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
