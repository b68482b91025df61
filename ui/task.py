# SPDX-License-Identifier: GPL-2.0-or-later
"""Background tasks of the dock: jobs of the engine, and asking its Python what it has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Optional

from qgis.core import QgsTask
from qgis.PyQt.QtCore import pyqtSignal

from ..compat import tr
from ..engine.errors import CancelledError, LacunaError
from ..engine.jobs import Job
from ..host.exports import Exports
from ..host.run_job import run_job


class WorkTask(QgsTask):
    """Runs a function in QGIS's thread pool; the outcome comes as a signal in the main thread, an error included.

    Args:
        description: what the task manager shows.
        work: called with a function that takes events and one that says whether to stop; returns the outcome.
    """

    said = pyqtSignal(dict)
    done = pyqtSignal(object)
    failed = pyqtSignal(object)
    stopped = pyqtSignal()

    def __init__(
        self, description: str, work: Callable[[Callable[[dict[str, Any]], None], Callable[[], bool]], Any]
    ) -> None:
        super().__init__(description, QgsTask.Flag.CanCancel)
        self._work = work
        self._outcome: Any = None
        self._problem: Optional[LacunaError] = None

    def run(self) -> bool:
        """Do the work; nothing may be raised here, for that would end QGIS."""
        try:
            self._outcome = self._work(self._listen, self.isCanceled)
        except CancelledError:
            return False
        except LacunaError as problem:
            self._problem = problem
            return False
        except Exception as problem:  # kept and shown: nothing may leave this thread
            self._problem = LacunaError(
                "unexpected", f"{type(problem).__name__}: {problem}", tr("This is a fault of Lacuna: please report it.")
            )
            return False
        return True

    def finished(self, result: bool) -> None:
        """Tell the outcome, in the main thread."""
        if result:
            self.done.emit(self._outcome)
        elif self._problem is not None:
            self.failed.emit(self._problem)
        else:
            self.stopped.emit()

    def _listen(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            self.setProgress(100 * event["done"] / max(event["total"], 1))
        self.said.emit(event)


class JobTask(WorkTask):
    """Runs a job in an engine process.

    Args:
        description: what the task manager shows.
        job: what to do.
        exports: what must be written to files first.
    """

    def __init__(self, description: str, job: Job, exports: Exports) -> None:
        super().__init__(
            description,
            lambda listen, cancelled: run_job(job, exports, listen, cancelled, self._enough.is_set),
        )
        self.job = job
        self._enough = threading.Event()

    def conclude(self) -> None:
        """Let a training end now with the best checkpoint so far; `done` follows, with the result."""
        self._enough.set()
