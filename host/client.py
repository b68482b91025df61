# SPDX-License-Identifier: GPL-2.0-or-later
"""The client of the engine process: starts it with one job, follows its events, ends it when asked, explains its death.

Used by the task of the panel and by the algorithms alike, from a thread that is not QGIS's own. Standard library alone.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Optional

from ..engine.errors import CancelledError, LacunaError
from ..engine.events import parse
from ..engine.jobs import Job, to_json
from .interpreters import NO_WINDOW, PLUGIN_FOLDER, clean_environment

# Seconds after which a cancelled engine is ended by the system, and then without appeal: gone within 3 seconds.
TERMINATE_AFTER = 1.5
KILL_AFTER = 2.5
_POLL = 0.05
_KEPT_LINES = 20

Event = dict[str, Any]
Listener = Callable[[Event], None]


class EngineClient:
    """Runs jobs in an engine process.

    Args:
        python: the interpreter that has torch and rasterio (`interpreters.find`).
        engine: what the interpreter runs; by default the engine of this plugin.

    Attributes:
        process: the engine of the job that runs or ran last.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, python: str, engine: Optional[Sequence[str]] = None) -> None:
        self.command = [python, *(engine or (str(PLUGIN_FOLDER / "engine"), "worker"))]
        self._said: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)

    def run(
        self, job: Job, listen: Listener, cancelled: Callable[[], bool], enough: Optional[Callable[[], bool]] = None
    ) -> Event:
        """Run `job` to its end in the calling thread and return its `result` event.

        Args:
            job: what to do.
            listen: receives every event but the last, in the calling thread.
            cancelled: asked about twenty times a second whether to stop.
            enough: asked as often whether a training shall end early with its best checkpoint so far. That takes as
                long as one batch and the writing need; `cancelled` still stops it at once.

        Raises:
            CancelledError: `cancelled` said so; the process has ended and unfinished outputs are removed.
            LacunaError: the error that the engine told, or `engine-died`, or `engine-missing` if it did not start.
        """
        self._said.clear()
        self.process = self._start()
        lines: queue.Queue[Optional[str]] = queue.Queue()
        readers = [
            threading.Thread(target=_read, args=(self.process.stdout, lines.put), daemon=True),
            threading.Thread(target=_read, args=(self.process.stderr, self._keep), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            self._send(to_json(job))
            ending = self._follow(lines, listen, cancelled, enough or (lambda: False))
            self.process.wait()
            readers[1].join(timeout=1)
        except _CancelRequested:
            remove_unfinished(job)
            raise CancelledError from None
        finally:
            self._end(grace=0)
        return self._conclude(ending)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the engine process."""
        try:
            return subprocess.Popen(  # an argument list, no shell  # nosec B603
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=clean_environment(),
                creationflags=NO_WINDOW,
            )
        except OSError as problem:
            raise LacunaError(
                "engine-missing",
                f"The engine does not start: {self.command[0]}: {problem.strerror or problem}.",
                "Choose another Python in Settings > Options > Lacuna.",
            ) from None

    def _send(self, line: str) -> None:
        """Write one line to the engine; one that is gone is found out by its end."""
        stream = self.process.stdin
        if stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            stream.write(line.encode() + b"\n")
            stream.flush()

    def _follow(
        self,
        lines: queue.Queue[Optional[str]],
        listen: Listener,
        cancelled: Callable[[], bool],
        enough: Callable[[], bool],
    ) -> Optional[Event]:
        """Pass events on until the engine closes its output; return the `result` or `error` event, if there was one."""
        ending, concluding = None, False
        while True:
            if cancelled():
                self._end(grace=TERMINATE_AFTER)
                raise _CancelRequested
            if not concluding and enough():
                concluding = True
                self._send(json.dumps({"cancel": True, "keep_best": True}))
            try:
                line = lines.get(timeout=_POLL)
            except queue.Empty:
                continue
            if line is None:
                return ending
            event = parse(line)
            if event is None:
                self._keep(line)
            elif event["event"] in ("result", "error"):
                ending = event
            else:
                listen(event)

    def _keep(self, line: Optional[str]) -> None:
        """Remember a line that is no event, for the report of a death."""
        if line and line.strip():
            self._said.append(line.rstrip())

    def _end(self, grace: float) -> None:
        """End the process: ask and wait for `grace` seconds, then terminate it, then kill it."""
        process = self.process
        if grace and process.poll() is None:
            self._send(json.dumps({"cancel": True}))
            _wait(process, grace)
        if process.poll() is None:
            process.terminate()
            _wait(process, KILL_AFTER - TERMINATE_AFTER)
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def _conclude(self, ending: Optional[Event]) -> Event:
        """Return the result, or raise what went wrong, once the process has ended."""
        status = self.process.returncode
        if ending is not None and ending["event"] == "error":
            raise LacunaError(
                str(ending.get("code", "unknown")), str(ending.get("text", "")), str(ending.get("hint", ""))
            )
        if ending is not None and status == 0:
            return ending
        if status == CancelledError.exit_status:
            raise CancelledError
        raise self._death(status)

    def _death(self, status: int) -> LacunaError:
        """Return the error that explains an engine which ended without a word."""
        cause, hint = explain_status(status)
        said = "\n".join(self._said)
        text = f"The engine ended without a result ({cause})." + (f" Its last words:\n{said}" if said else "")
        return LacunaError("engine-died", text, hint)


class _CancelRequested(Exception):
    """Raised inside the client when the analyst wants the job to stop."""


def explain_status(status: int) -> tuple[str, str]:
    """Return in words how a process ended with exit `status`, and what to do about it."""
    again = "Run the job again: it goes on where it stopped."
    if status in (-9, 137):
        cause = "killed by the system, most often because memory ran out"
        return cause, f"Take a smaller batch or tile under Advanced, or close other programs. {again}"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        crash = "it crashed" if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE") else "it was ended"
        return f"{crash}, {name}", f"{again} If it ends the same way, choose the device cpu under Advanced."
    if os.name == "nt" and status >= 0xC0000000:
        return (
            f"it crashed, status 0x{status:08X}",
            f"{again} If it crashes again, choose the device cpu under Advanced.",
        )
    return f"exit status {status}", "Check the Python of the engine in Settings > Options > Lacuna."


def remove_unfinished(job: Job) -> None:
    """Remove what a job that ended early has left unfinished beside its outputs."""
    for path in job.unfinished_paths():
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.remove(path)


def _read(stream: IO[bytes], put: Callable[[Optional[str]], None]) -> None:
    """Hand each line of `stream` to `put`, and None at its end."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            put(line.decode("utf-8", "replace"))
    put(None)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until `process` has ended, at most for `seconds`."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(_POLL)
