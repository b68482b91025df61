# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps two processes from writing one output. Runs on Python 3.9 with the standard library alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from .errors import LacunaError


@contextlib.contextmanager
def only_writer(path: str, output: str) -> Iterator[None]:
    """Hold the lock file `path`, which belongs to `output`; the system frees it when this process ends, however.

    Raises:
        LacunaError: `output-busy`, when another job is writing the same output.
    """
    try:
        with open(path, "a", encoding="utf-8") as stream:
            try:
                _lock(stream)
            except OSError:
                raise LacunaError(
                    "output-busy",
                    f"Another job is writing {output} at this moment.",
                    "Wait for it, cancel it, or choose another output.",
                ) from None
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.remove(path)
    finally:
        # Windows removes no file that is open, be it here or in the process that holds the lock.
        if os.name == "nt":
            with contextlib.suppress(OSError):
                os.remove(path)


def _lock(stream: Any) -> None:
    """Lock an open file, or raise OSError if another process has."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
