# SPDX-License-Identifier: GPL-2.0-or-later
"""What a terminal, or a program that reads JSON lines, hears of a job; and the signals by which it asks to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from . import events
from .errors import CancelledError, LacunaError
from .events import Event, Reporter

_BAR = 24
# Without a terminal, progress is said this often at most.
_STEPS = 10


class JsonLines:
    """Writes each event as one line of JSON; an error also as one clear line on standard error.

    Args:
        stream: where the lines go.
        cancelled: set when nobody reads them any more: whoever asked for the job is gone.
    """

    def __init__(self, stream: TextIO, cancelled: threading.Event) -> None:
        self.stream, self.cancelled = stream, cancelled

    def __call__(self, event: Event) -> None:
        """Write `event`."""
        if event["event"] == "error":
            say_error(event)
        try:
            self.stream.write(json.dumps(event) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            abandon(self.stream)
            self.cancelled.set()


class Terminal:
    """Says events in words: a progress bar on a terminal, plain lines elsewhere; warnings and errors on standard error.

    Args:
        cancelled: set when nobody reads standard output any more.
    """

    def __init__(self, cancelled: threading.Event) -> None:
        self.cancelled = cancelled
        self._bar = False
        self._said: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Say `event`."""
        kinds = {"progress": self._progress, "message": self._message, "result": self._result, "error": self._error}
        try:
            if event["event"] in kinds:
                kinds[event["event"]](event)
            sys.stdout.flush()
        except BrokenPipeError:
            abandon(sys.stdout)
            self.cancelled.set()

    def _progress(self, event: Event) -> None:
        done, total = event["done"], event["total"]
        share = done / total if total else 1.0
        text = f"{share:4.0%}  {done} of {total} {event['unit']}{_time_left(event['seconds_left'])}"
        if sys.stdout.isatty():
            filled = round(share * _BAR)
            sys.stdout.write(f"\r[{'#' * filled}{'-' * (_BAR - filled)}] {text}\x1b[K")
            self._bar = True
            return
        step = int(share * _STEPS)
        if self._said.get(event["unit"]) != step:
            self._said[event["unit"]] = step
            print(text.strip())

    def _message(self, event: Event) -> None:
        self._end_bar()
        if event["level"] == "warning":
            print(f"Warning: {event['text']}", file=sys.stderr, flush=True)
        else:
            print(event["text"])

    def _result(self, event: Event) -> None:
        self._end_bar()
        for name, value in event.items():
            if name != "event" and isinstance(value, (str, int, float)):
                print(f"{name}: {value}")

    def _error(self, event: Event) -> None:
        self._end_bar()
        sys.stdout.flush()
        say_error(event)

    def _end_bar(self) -> None:
        if self._bar:
            print()
            self._bar = False


def say_error(event: Event) -> None:
    """Write the text and the hint of an `error` event as one line on standard error."""
    line = " ".join(f"{event['text']} {event['hint']}".split())
    with contextlib.suppress(OSError):
        print(f"lacuna: {line}", file=sys.stderr, flush=True)


def abandon(stream: TextIO) -> None:
    """Point `stream`, which nobody reads any more, to nowhere, so that later writing fails no more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def conclude(work: Callable[[], Event], reporter: Reporter) -> int:
    """Do `work`, say its result, or its error or its end, and return the exit status: 0, 1, 2 or 130."""
    try:
        reporter.emit(work())
        return 0
    except LacunaError as problem:
        reporter.emit(events.error(problem))
        return problem.exit_status
    except (CancelledError, KeyboardInterrupt):
        reporter.info("Cancelled.")
        return CancelledError.exit_status


@contextlib.contextmanager
def obey_signals(cancelled: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask the running job to stop; a second one stops it where it stands."""

    def ask(number: int, frame: FrameType | None) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _time_left(seconds: int | None) -> str:
    """Return the time left in words, with a comma before it."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f", {seconds} s left"
    return f", {seconds // 60} min left" if seconds < 3600 else f", {seconds // 3600} h {seconds % 3600 // 60} min left"
