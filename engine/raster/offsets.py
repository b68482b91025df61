# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the values of a source carry an offset that a checkpoint does not know; proposed, never applied.

Since processing baseline 04.00 (January 2022) Sentinel-2's values are reflectance x 10,000 plus 1,000, so that dark
pixels do not fall below zero. Half of all archives have taken that off again, and files seldom say which it is.
https://sentinels.copernicus.eu/web/sentinel/-/copernicus-sentinel-2-major-products-upgrade-upcoming
"""

from __future__ import annotations

from ..events import Reporter
from ..offset_tags import ADDED, OffsetTag, learned_with_offset
from ..value_check import carries_new_offset, new_offset_weighs
from .source import Source

# Dark pixels with the offset lie well above this.
_TAKEN_OFF = 500.0


def check_offset(source: Source, reporter: Reporter) -> None:
    """Say what the values of `source` are changed by; where nothing was asked for, what its metadata or values tell.

    What is proposed goes with the message, as `offset`: by modality, what is to be added.
    """
    name = source.modality.name
    if (source.scale, source.offset) != (1.0, 0.0):
        reporter.info(
            f"{source}: values are multiplied by {source.scale:g}, then {source.offset:g} is added, as asked."
        )
    elif source.stated is not None:
        _report_stated(source, source.stated, reporter)
    elif seems_moved(source):
        say = reporter.warn if new_offset_weighs(source.modality, source.quantiles()) else reporter.info
        say(
            f"{source}: every band begins near {ADDED:g} or above, where the training data begin lower. Sentinel-2 "
            f"carries an offset of {ADDED:g} since processing baseline 04.00. If that is so here, and the checkpoint "
            f"learned values without it, give the offset {-ADDED:g} (--offset {name}={-ADDED:g}).",
            offset={name: -ADDED},
        )


def _report_stated(source: Source, tag: OffsetTag, reporter: Reporter) -> None:
    """Say what the metadata of `source` say is to be added, whether its values bear that out, and what can be done."""
    if tag.value is None:
        reporter.warn(
            f"{source}: its metadata ({tag.name}) do not say one offset for all bands, and its values are taken as "
            f"they are. If the checkpoint learned values without offsets, take them off in a copy of the raster."
        )
        return
    name, text = source.modality.name, f"{source}: its metadata ({tag.name}) say that {-tag.value:g} has been added"
    advice = (
        f"If the checkpoint learned values without it, give the offset {tag.value:g} (--offset {name}={tag.value:g})."
    )
    if tag.value == -ADDED and learned_with_offset(source.modality.statistics):
        reporter.info(f"{text} to its values, as it has to those that the checkpoint learned.")
    elif tag.value == -ADDED and _lowest(source) < _TAKEN_OFF:
        reporter.warn(
            f"{text}, but its values begin near {_lowest(source):.4g}, as if it had been taken off again. They are "
            f"taken as they are. Only if it has not been taken off: {advice}"
        )
    else:
        reporter.warn(f"{text} to its values, which are taken as they are. {advice}", offset={name: tag.value})


def _lowest(source: Source) -> float:
    """Return the least of the bands' first percentiles, infinity where no pixel of a sample is valid."""
    return min((values[1] for values in source.quantiles()), default=float("inf"))


def seems_moved(source: Source) -> bool:
    """Return whether the values look like reflectance x 10,000 with an offset that the training data do not have."""
    return carries_new_offset(source.modality, source.quantiles())
