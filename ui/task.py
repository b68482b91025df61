# SPDX-License-Identifier: GPL-2.0-or-later
"""Background tasks of the dock: segmenting, and asking the engine's Python what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from qgis.core import QgsTask
from qgis.PyQt.QtCore import pyqtSignal

from ..compat import tr
from ..engine.errors import CancelledError, LacunaError
from ..engine.jobs import SegmentJob
from ..exports import Exports
from ..segmentation import run_segment


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

    def __init__(self, description: str, work: Callable[[Callable[[dict], None], Callable[[], bool]], Any]) -> None:
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


class SegmentTask(WorkTask):
    """Segments a scene.

    Args:
        job: what to do.
        exports: what must be written to files first.
    """

    def __init__(self, job: SegmentJob, exports: Exports) -> None:
        super().__init__(
            tr("Segment a scene (Lacuna)"),
            lambda listen, cancelled: run_segment(job, exports, listen, cancelled),
        )
        self.job = job
