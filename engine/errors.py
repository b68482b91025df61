# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors that Lacuna means to raise: each says what was found, what was expected and what to do.

Runs on Python 3.9 with the standard library alone, since the QGIS side uses it too.
"""

from __future__ import annotations

import errno
import os

# Codes of a full disk: no space left, quota used up; the second is not known everywhere.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class LacunaError(Exception):
    """A job that cannot go on, told in words for an analyst.

    Args:
        code: short stable name of the kind of error, such as `file-missing`; scripts may rely on it.
        text: what was found and what was expected, with the name of the file.
        hint: what to do about it.
    """

    exit_status = 1

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.text} {self.hint}".strip()


class UsageError(LacunaError):
    """The request itself is wrong: an unknown option, modality or value (exit status 2)."""

    exit_status = 2


class CancelledError(Exception):
    """Someone asked the running job to stop (exit status 130)."""

    exit_status = 130


def disk_error(problem: OSError, path: str) -> LacunaError:
    """Return what an analyst is told when reading or writing `path` has failed with `problem`.

    Codes: `disk-full`, `not-permitted`, else `file-error`.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if problem.errno in _FULL or "No space left" in str(problem):
        text = f"The disk is full: {path} could not be written into {folder}."
        return LacunaError("disk-full", text, "Free some space there, or choose another folder.")
    reason = problem.strerror or str(problem)
    if isinstance(problem, PermissionError):
        return LacunaError(
            "not-permitted",
            f"{path} could not be read or written: {reason}.",
            f"Check your rights in {folder}, and close any program that holds the file open.",
        )
    return LacunaError(
        "file-error",
        f"{path} could not be read or written: {reason}.",
        f"Check that {folder} exists and can be reached.",
    )
