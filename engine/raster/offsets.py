# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the values of a source carry an offset that a checkpoint does not know; proposed, never applied.

Since processing baseline 04.00 (January 2022) Sentinel-2's values are reflectance x 10,000 plus 1,000, so that dark
pixels do not fall below zero. Half of all archives have taken that off again, and files seldom say which it is.
https://sentinels.copernicus.eu/web/sentinel/-/copernicus-sentinel-2-major-products-upgrade-upcoming
"""

from __future__ import annotations

import numpy as np

from ..events import Reporter
from .source import Source
from .units import expected_range

ADDED = 1000.0
# Dark water or shadow is found in every scene, in one of the bands at least; of less bands than this nothing is told.
_BANDS = 4
# With the offset no band's first percentile is below the first; without it some of the training data begin below the
# second, in reflectance x 10,000, which reaches beyond the third.
_LEAST, _USUAL, _REACHED = 950.0, 700.0, 1000.0


def check_offset(source: Source, reporter: Reporter) -> None:
    """Say what the values of `source` are changed by; where nothing was asked for, what its metadata or values tell."""
    name = source.modality.name
    if (source.scale, source.offset) != (1.0, 0.0):
        reporter.info(
            f"{source}: values are multiplied by {source.scale:g}, then {source.offset:g} is added, as asked."
        )
        return
    stated = stated_offset(source)
    if stated is not None:
        reporter.warn(
            f"{source}: its metadata say that {-stated:g} has been added to its values, which are taken as they are. "
            f"If the checkpoint learned values without it, give the offset {stated:g} (--offset {name}={stated:g})."
        )
    elif seems_moved(source):
        reporter.info(
            f"{source}: every band begins near {ADDED:g} or above, where the training data begin lower. Sentinel-2 "
            f"carries an offset of {ADDED:g} since processing baseline 04.00. If that is so here, and the checkpoint "
            f"learned values without it, give the offset {-ADDED:g} (--offset {name}={-ADDED:g})."
        )


def stated_offset(source: Source) -> float | None:
    """Return what is to be added to the values of `source`, in their own units, by its metadata; None for nothing."""
    found = {
        round(offset / scale, 6) for scale, offset in source.stated if scale and np.isfinite([scale, offset]).all()
    }
    return found.pop() if len(found) == 1 and found != {0.0} else None


def seems_moved(source: Source) -> bool:
    """Return whether the values look like reflectance x 10,000 with an offset that the training data do not have."""
    expected = expected_range(source.modality)
    if expected is None or source.count < _BANDS or expected[:, 1].max() < _REACHED:
        return False
    if (expected[:, 0] < _USUAL).sum() <= source.count / 2:
        return False
    sample = source.sample()
    return sample.shape[1] > 0 and bool((np.percentile(sample, 1, axis=1) >= _LEAST).all())
