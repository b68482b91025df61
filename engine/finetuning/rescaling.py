# SPDX-License-Identifier: GPL-2.0-or-later
"""Set a checkpoint's scaling anew where the values of an area lie outside what it was made for.

A network that was trained between 100 and 250 m gets heights of 1,200 m as values that it has never met: it learns next
to nothing from them, nor from bands of which its scaling leaves hardly any spread.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from ..checkpoint.card import CURVED, Modality
from ..data.labelled_scenes import LabelledScene
from ..data.measure import gather
from ..data.statistics import pooled_level, standard_chain
from ..raster.scaling import scale

# A band fits that is centred within so many units of its scaling, and has a deviation between these.
FARTHEST_CENTRE = 2.5
SPREADS = (0.25, 4.0)


def fit_scaling(
    scenes: Sequence[LabelledScene], modalities: Sequence[Modality], held: Collection[str] = ()
) -> list[Modality]:
    """Return `modalities`, each as it is or, where a band of it does not fit, scaled by the scenes' training pixels.

    Args:
        scenes: divided, not yet prepared: as they lie in the files.
        modalities: of the checkpoint.
        held: names of those whose scaling a pretrained encoder relies on (`inputs.held_modalities`), which stays.
    """
    return [modality if modality.name in held else _fitted(scenes, modality) for modality in modalities]


def changed_scaling(before: Sequence[Modality], after: Sequence[Modality]) -> list[str]:
    """Return the names of the modalities whose scaling differs."""
    return [new.name for old, new in zip(before, after) if old.scaling != new.scaling]


def _fitted(scenes: Sequence[LabelledScene], modality: Modality) -> Modality:
    """Return one modality, scaled anew where it does not fit.

    Behind a curve the weights know values by their place on it, and no values lie far away: such a scaling is kept.
    """
    if any(step["type"] in CURVED for step in modality.scaling):
        return modality
    whole, levels = gather(scenes, modality)
    if not levels:
        return modality
    level = pooled_level(list(levels.values()))
    ends = np.stack([level.centre, level.centre + level.spread], axis=1)
    chain = [step for step in modality.scaling if step["type"] != "clip"]
    scaled = scale(ends, chain)
    centre, spread = np.abs(scaled[:, 0]), np.abs(scaled[:, 1] - scaled[:, 0])
    # A band that is the same everywhere has no spread to be set right.
    narrow = (spread < SPREADS[0]) & (level.spread > 0)
    if not (narrow | (spread > SPREADS[1]) | (centre > FARTHEST_CENTRE)).any():
        return modality
    return replace(modality, scaling=standard_chain(level), statistics=whole.result())
