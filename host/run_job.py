# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a job of the engine for QGIS, from the task of a page and from an algorithm alike, in their thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

from qgis.core import QgsApplication

from ..engine.jobs import Job
from ..settings import Settings
from . import interpreters
from .client import EngineClient, Event, Listener
from .exports import Exports
from .interpreters import Interpreter

BUNDLED_CHECKPOINTS = interpreters.PLUGIN_FOLDER / "resources" / "checkpoints"
DEFAULT_CHECKPOINT = BUNDLED_CHECKPOINTS / "landcover-s2-s1-dem.safetensors"


def find_interpreter() -> Interpreter:
    """Return the interpreter for the engine by the settings and the profile of this QGIS; LacunaError without one."""
    return interpreters.find(Settings().interpreter, QgsApplication.qgisSettingsDirPath())


def run_job(
    job: Job,
    exports: Exports,
    listen: Listener,
    cancelled: Callable[[], bool],
    enough: Optional[Callable[[], bool]] = None,
) -> Event:
    """Write the `exports`, run `job` in an engine process and return its result event.

    Args:
        job: what to do.
        exports: what must be written to files first; removed in the end.
        listen: receives the engine's events, in the calling thread.
        cancelled: asked whether to stop, which leaves nothing.
        enough: asked whether a training shall end with the best checkpoint so far.

    Raises:
        LacunaError, CancelledError: as `EngineClient.run`; or there is no interpreter that can run the engine.
    """
    try:
        interpreter = find_interpreter()
        interpreters.require(interpreter)
        exports.write(cancelled)
        return EngineClient(interpreter.path).run(job, listen, cancelled, enough)
    finally:
        exports.remove()


def progress_words(event: dict[str, Any]) -> str:
    """Return a `progress` event in words: `52 of 121 tiles, 1 min left`."""
    words = f"{event['done']} of {event['total']} {event['unit']}"
    left = event.get("seconds_left")
    return words if left is None else f"{words}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a time in words, as coarse as it is long: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
