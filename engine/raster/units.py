# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the values of a source fit what a checkpoint was trained on, told from a sample of the part to be classified.

What counts as a fault is decided in `value_check`, for the engine and the panel alike.
"""

from __future__ import annotations

from ..events import Reporter
from ..offset_tags import ADDED, learned_with_offset
from ..value_check import carries_new_offset, check_values
from .grid import Grid
from .source import Source


def check_units(source: Source, reporter: Reporter, grid: Grid | None = None) -> None:
    """Warn where the values of `source` contradict the units or the statistics of its modality.

    One warning for each kind of fault: bands that are zero throughout, values that seem to be in another unit, and
    values far outside those of the training data. Says nothing where the sample holds no valid pixel, nor of what
    an offset explains that `offsets.check_offset` proposes.

    Args:
        source: the raster.
        reporter: told of faults.
        grid: of the output; values that lie elsewhere do not count.
    """
    for fault in check_values(source.modality, source.quantiles(grid), _told(source)):
        reporter.warn(f"{source}: {fault.text}")


def _told(source: Source) -> float:
    """Return the offset that `offsets.check_offset` proposes to add, 0 for none."""
    if (source.scale, source.offset) != (1.0, 0.0):
        return 0.0
    if source.stated is None:
        return -ADDED if carries_new_offset(source.modality, source.quantiles()) else 0.0
    if source.stated.value == -ADDED and learned_with_offset(source.modality.statistics):
        return 0.0
    return source.stated.value or 0.0
