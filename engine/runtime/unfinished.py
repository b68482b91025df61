# SPDX-License-Identifier: GPL-2.0-or-later
"""Unfinished work of a job on disk: whose it is, whether it can be taken up again, and its removal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..events import Reporter
from ..locks import only_writer
from ..raster.writer import write_json

_LEDGER = "job.json"
_LOCK = ".lock"


def file_stamp(path: str) -> list[Any]:
    """Return what tells that a file is still the same: its path, size and time."""
    try:
        found = os.stat(path)
    except OSError:  # a GDAL name that is no file of its own
        return [path]
    return [path, found.st_size, found.st_mtime_ns]


class Unfinished:
    """The folders in which a job's outputs grow, the first of which holds the ledger and the lock."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.home = self.folders[0]

    def prepare(self, mark: str, resume: bool, reporter: Reporter) -> bool:
        """Make the folders ready; return whether what is in them is of the same job and stays."""
        same = resume and all(folder.is_dir() for folder in self.folders) and self._mark() == mark
        if not same:
            if self._mark():
                reporter.info("Unfinished work of another or an older job was found beside the output and removed.")
            self.remove()
        for folder in self.folders:
            folder.mkdir(exist_ok=True)
        if not same:
            write_json(str(self.home / _LEDGER), {"fingerprint": mark})
        return same

    def remove(self) -> None:
        """Remove all folders, but not the lock that may be held on them."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _mark(self) -> str:
        """Return the fingerprint of the job that left the folders, or an empty string."""
        try:
            return str(json.loads((self.home / _LEDGER).read_text(encoding="utf-8"))["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other jobs away from these outputs; the system frees the lock when this process ends, however it ends.

        Raises:
            LacunaError: `output-busy`, when another job is writing the same output.
        """
        path = self.home.with_name(self.home.name + _LOCK)
        with only_writer(str(path), str(self.home).removesuffix(".part")):
            yield
