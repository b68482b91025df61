# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks before anything is computed: of a job's outputs against its inputs and the disk, of its tiles."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

from ..checkpoint.card import Card
from ..errors import LacunaError, UsageError
from ..events import Reporter
from ..jobs import SegmentJob
from ..raster.sidecars import sidecar_paths
from ..raster.writer import locked


def input_files(job: SegmentJob) -> list[str]:
    """Return the files that the job reads: rasters, masks, polygons, checkpoint."""
    sources = job.modalities.values()
    named = [*(item.path for item in sources), *(item.mask for item in sources), job.area, job.checkpoint]
    return [path for path in named if path]


def check_outputs(job: SegmentJob) -> None:
    """Raise LacunaError unless every output can be written: its folder, its name, what is there already.

    Codes: `output-is-input`, `output-twice`, `output-folder`, `output-exists`, `output-locked`.
    """
    paths = [*job.outputs().values(), job.record_path()]
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("output-twice", f"Two outputs have one name: {', '.join(paths)}.", "Give each its own.")
    inputs = {os.path.realpath(path): path for path in input_files(job)}
    for path in paths:
        if os.path.realpath(path) in inputs:
            raise LacunaError(
                "output-is-input", f"The output {path} is one of the inputs.", "Choose another name for the output."
            )
    for path in paths:
        check_folder(path)
    for path in paths:
        check_existing(path, job.overwrite)


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


def choose_tile(
    tile: Sequence[int] | None, overlap: int | None, card: Card, reporter: Reporter
) -> tuple[tuple[int, int], int]:
    """Return rows and columns of a tile and the overlap: as asked, else those of the card.

    Raises:
        UsageError: `bad-value`, when the overlap is more than half a tile.
    """
    height, width = tile or card.tile
    if tile and (height < card.stride or width < card.stride):
        height, width = max(height, card.stride), max(width, card.stride)
        reporter.warn(f"The tile was raised to {height} x {width}: the model works in steps of {card.stride} pixels.")
    chosen = overlap if overlap is not None else min(2 * card.margin, height // 2, width // 2)
    if 2 * chosen > min(height, width):
        raise UsageError(
            "bad-value",
            f"The overlap of {chosen} pixels is more than half the tile of {height} x {width}.",
            "Give a smaller overlap or a larger tile.",
        )
    return (height, width), chosen
