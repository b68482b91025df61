# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna worker`: one job as a line of JSON on standard input, its events as lines of JSON on standard output.

A later line `{"cancel": true}` cancels; `{"cancel": true, "keep_best": true}` lets a training write the best checkpoint
so far, which a second line still cancels. Standard output belongs to the events: whatever libraries print goes to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from . import events
from .console import JsonLines, conclude, obey_signals
from .errors import UsageError
from .events import Event, Reporter
from .jobs import from_json
from .run import run

# Seconds between two looks at whether the process that sent the job still lives.
_WATCH = 0.5


def main() -> int:
    """Run the job on standard input and return the exit status: 0, 1, 2, or 130 when cancelled."""
    parent = os.getppid()
    lines, stream = _read_lines(_take_input()), _take_output()
    cancelled = threading.Event()
    reporter = Reporter(JsonLines(stream, cancelled), cancelled)

    def work() -> Event:
        line = next(lines, None)
        if line is None:
            raise UsageError("bad-job", "Standard input ended before a job.", "Send one JSON object on one line.")
        job = from_json(line)
        threading.Thread(target=_listen, args=(lines, parent, reporter), daemon=True).start()
        return events.result(**run(job, reporter))

    with obey_signals(cancelled):
        return conclude(work, reporter)


def _take_input() -> int:
    """Return a descriptor of standard input, which itself becomes empty.

    A thread waits on it for the whole job; on Windows a library that then looks at standard input would wait as well.
    """
    descriptor = os.dup(0)
    _point(0, os.open(os.devnull, os.O_RDONLY))
    return descriptor


def _take_output() -> TextIO:
    """Return a stream to standard output, which itself becomes standard error, for C libraries too."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return stream


def _point(target: int, descriptor: int) -> None:
    """Make `target` stand for what `descriptor` stands for, and close the latter."""
    os.dup2(descriptor, target)
    os.close(descriptor)


def _read_lines(descriptor: int) -> Iterator[str]:
    """Yield the lines of `descriptor`; read from the system, as a buffered reader's lock would hang the exit."""
    rest = b""
    while block := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole if line.strip())
    if rest.strip():
        yield rest.decode("utf-8", "replace")


def _listen(lines: Iterator[str], parent: int, reporter: Reporter) -> None:
    """Cancel when a line says so, or when the process that sent the job has died."""
    for line in lines:
        order = _cancel_order(line)
        if order is None:
            continue
        if order.get("keep_best") is True and not reporter.keep_best.is_set():
            reporter.keep_best.set()
            reporter.cancelled.set()
            continue
        reporter.keep_best.clear()
        reporter.cancelled.set()
        return
    # The end of the input may be a dead parent, or merely `lacuna worker < job.json`. A process whose parent has died
    # gets another one, except on Windows.
    while os.name != "nt" and os.getppid() == parent:
        time.sleep(_WATCH)
    reporter.keep_best.clear()
    reporter.cancelled.set()


def _cancel_order(line: str) -> dict[str, Any] | None:
    """Return the object on a line that orders to cancel, or None for any other line."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("cancel") is True else None
