# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running job says: progress, message, metrics, result, error; as dictionaries, one JSON object a line.

Runs on Python 3.9 with the standard library alone, since the QGIS side reads these lines.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Optional

from .errors import CancelledError, LacunaError

Event = dict[str, Any]


def progress(done: int, total: int, unit: str, seconds_left: Optional[float] = None) -> Event:
    """Return the event for `done` of `total` pieces of work, named by `unit` (tiles, epochs)."""
    left = None if seconds_left is None else round(seconds_left)
    return {"event": "progress", "done": done, "total": total, "unit": unit, "seconds_left": left}


def message(level: str, text: str, **more: Any) -> Event:
    """Return the event for a line of text; `level` is `info` or `warning`, `more` what a program may act upon."""
    return {"event": "message", "level": level, "text": text, **more}


def metrics(**values: Any) -> Event:
    """Return the event for what was measured after an epoch of training, for live curves; see `docs/commands.md`."""
    return {"event": "metrics", **values}


def result(**values: Any) -> Event:
    """Return the event for what a job has produced."""
    return {"event": "result", **values}


def error(problem: LacunaError) -> Event:
    """Return the event for an error that ends the job."""
    return {"event": "error", "code": problem.code, "text": problem.text, "hint": problem.hint}


def parse(line: str) -> Optional[Event]:
    """Return the event that `line` holds, or None when it is something else (a library that prints)."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None


class Reporter:
    """Where a running job says what it does, and asks whether it should go on.

    Args:
        emit: receives each event, from any thread, one at a time.
        cancelled: set by whoever wants the job to stop.

    Attributes:
        keep_best: set beforehand by whoever wants a training that stops to write the best checkpoint so far.
    """

    def __init__(self, emit: Callable[[Event], None], cancelled: Optional[threading.Event] = None) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._started: dict[str, tuple[float, int, int]] = {}
        self.cancelled = cancelled or threading.Event()
        self.keep_best = threading.Event()
        self.warnings: list[str] = []

    def emit(self, event: Event) -> None:
        """Say one event."""
        with self._lock:
            self._emit(event)

    def info(self, text: str, **more: Any) -> None:
        """Say something worth knowing; `more` as for `message`."""
        self.emit(message("info", text, **more))

    def warn(self, text: str, **more: Any) -> None:
        """Say something the analyst must know; said once, and kept in `warnings` for the record."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.emit(message("warning", text, **more))

    def progress(self, done: int, total: int, unit: str) -> None:
        """Say how far the work is; the time left is estimated from the pace since the unit began."""
        now = time.monotonic()
        start, first, last = self._started.get(unit, (now, done, done))
        if done < last:  # the unit counts from the start again
            start, first = now, done
        self._started[unit] = (start, first, done)
        pace = (now - start) / (done - first) if done > first else None
        self.emit(progress(done, total, unit, None if pace is None else pace * (total - done)))

    def check(self) -> None:
        """Raise CancelledError if the job should stop."""
        if self.cancelled.is_set():
            raise CancelledError


def silent() -> Reporter:
    """Return a reporter that nobody listens to."""
    return Reporter(lambda event: None)
