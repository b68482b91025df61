# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs of a job, checked before anything is computed: against each other, its inputs, the disk and what is there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence

from ..errors import LacunaError, UsageError, disk_error
from ..raster.sidecars import sidecar_paths
from ..raster.writer import locked


def check_outputs(outputs: Sequence[str], inputs: Iterable[str | None], overwrite: bool) -> None:
    """Raise LacunaError unless every output can be written.

    Args:
        outputs: the files to write.
        inputs: the files that the job reads; None for one that it does not have.
        overwrite: whether files that are there may be replaced.

    Raises:
        UsageError: `output-twice`.
        LacunaError: `output-is-input`, `output-folder`, `output-exists`, `output-locked`.
    """
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise UsageError("output-twice", f"Two outputs have one name: {', '.join(outputs)}.", "Give each its own.")
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if os.path.realpath(path) in taken:
            raise LacunaError(
                "output-is-input", f"The output {path} is one of the inputs.", "Choose another name for the output."
            )
    for path in outputs:
        check_folder(path)
    for path in outputs:
        check_existing(path, overwrite)


def check_folder(path: str) -> None:
    """Raise LacunaError unless files can be made beside `path`."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise LacunaError("output-folder", f"The output {path} is a folder.", "Give the name of a file.")
    if not os.path.isdir(folder):
        raise LacunaError(
            "output-folder", f"The folder {folder} of the output does not exist.", "Make it, or choose another."
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as problem:
        raise LacunaError(
            "output-folder",
            f"Nothing can be written into the folder {folder}: {problem.strerror}.",
            "Choose a folder where you may write, or free some space.",
        ) from None


def check_existing(path: str, overwrite: bool) -> None:
    """Raise LacunaError if `path`, or a sidecar of it, is there and must not or cannot be replaced."""
    found = [item for item in (path, *sidecar_paths(path)) if os.path.exists(item)]
    if found and not overwrite:
        raise LacunaError(
            "output-exists",
            f"{', '.join(found)} exists already.",
            "Choose another name, or allow overwriting (--overwrite).",
        )
    for item in found:
        try:
            with open(item, "r+b"):
                continue
        except OSError:
            raise locked(item) from None


def write_text(path: str, text: str) -> None:
    """Write `text` to `path`, which is whole or as it was.

    Raises:
        LacunaError: `disk-full`, `not-permitted` or `file-error`.
    """
    staged = stage_text(path, text)
    try:
        os.replace(staged, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.remove(staged)
        raise disk_error(problem, path) from None


def stage_text(path: str, text: str) -> str:
    """Write `text` beside `path` and return the name of that file, to be renamed; errors as for `write_text`."""
    staged = path + ".part"
    try:
        with open(staged, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.remove(staged)
        raise disk_error(problem, path) from None
    return staged
