# SPDX-License-Identifier: GPL-2.0-or-later
"""What the training pixels of labelled scenes say of each modality: statistics, scaling, range of resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..checkpoint.card import Modality
from ..errors import LacunaError
from ..events import Reporter
from .labelled_scenes import LabelledScene
from .splits import TRAIN
from .statistics import BandStatistics, Level, pooled_level, standard_chain

_BLOCK = 1024
# A scene whose median is so many deviations away from that of the others is named.
_FAR = 5.0


def measure_modalities(
    scenes: Sequence[LabelledScene], modalities: Sequence[Modality], reporter: Reporter
) -> list[Modality]:
    """Return the modalities with the statistics, scaling and resolution range of the training pixels.

    Statistics are over all valid pixels of training regions, labelled or not. Scaling is set by what most scenes have
    (`statistics.pooled_level`).

    Raises:
        LacunaError: `no-valid-pixels`, a modality has none in any training region.
    """
    measured = []
    for modality in modalities:
        holders = _holders(scenes, modality)
        whole, levels = gather(scenes, modality)
        if whole.count == 0:
            text = f"Modality {modality.name} has no valid pixel in any training scene."
            raise LacunaError("no-valid-pixels", text, "Give it in a scene for training, or leave it out.")
        measured.append(_complete(modality, whole.result(), levels, holders, reporter))
    return measured


def gather(scenes: Sequence[LabelledScene], modality: Modality) -> tuple[BandStatistics, dict[str, Level]]:
    """Return the statistics of the valid training pixels of a modality, and where those of each scene lie, by its name.

    Values are taken as the scenes give them: scaled once they are prepared.
    """
    holders = _holders(scenes, modality)
    whole, levels = BandStatistics(len(modality.bands), sum(scene.region.size for scene in holders)), {}
    for scene in holders:
        own = BandStatistics(len(modality.bands), scene.region.size)
        for values in _training_values(scene, modality.name):
            whole.update(values)
            own.update(values)
        if own.count:
            levels[scene.name] = own.level()
    return whole, levels


def _holders(scenes: Sequence[LabelledScene], modality: Modality) -> list[LabelledScene]:
    """Return the scenes that have training pixels and the modality."""
    return [scene for scene in scenes if (scene.region == TRAIN).any() and modality.name in scene.rasters.names]


def _training_values(scene: LabelledScene, name: str) -> Iterator[np.ndarray]:
    """Yield the values (C, n) of a modality's valid training pixels, block by block."""
    top, left, height, width = scene.window
    for row in range(0, height, _BLOCK):
        for column in range(0, width, _BLOCK):
            wanted = scene.region[row : row + _BLOCK, column : column + _BLOCK] == TRAIN
            if wanted.any():
                layer = scene.read(top + row, left + column, *wanted.shape)[name]
                yield layer.values[:, layer.valid & wanted]


def _complete(
    modality: Modality,
    statistics: dict[str, list[float]],
    levels: dict[str, Level],
    holders: Sequence[LabelledScene],
    reporter: Reporter,
) -> Modality:
    """Return `modality` with what was measured: `statistics` of all pixels, `levels` of each scene by its name."""
    chain = modality.scaling
    if not chain:
        flat = [band for band, value in zip(modality.bands, statistics["std"]) if value == 0]
        if flat:
            reporter.warn(f"Modality {modality.name}: {', '.join(flat)} has one value in all training scenes.")
        level = pooled_level(list(levels.values()))
        # A band of which most is one value has no spread but that of the rest.
        level = replace(level, spread=np.where(level.spread > 0, level.spread, statistics["std"]))
        _warn_of_odd_scenes(modality, level, levels, reporter)
        chain = standard_chain(level)
    return replace(modality, scaling=chain, statistics=statistics, resolution=_ground_range(modality.name, holders))


def _warn_of_odd_scenes(modality: Modality, level: Level, levels: dict[str, Level], reporter: Reporter) -> None:
    """Warn of scenes whose values lie far from those of the others."""
    spread = np.where(level.spread > 0, level.spread, 1.0)
    for name, own in levels.items():
        away = np.abs(own.centre - level.centre) / spread
        band = int(away.argmax())
        if away[band] > _FAR:
            reporter.warn(
                f"Scene {name} lies far from the other training scenes in {modality.name}: the median of "
                f"{modality.bands[band]} is {own.centre[band]:.4g}, in the others about {level.centre[band]:.4g} with "
                f"a deviation of {spread[band]:.4g}. Values are scaled to suit the others. Check the scene's units and "
                "offset."
            )


def _ground_range(name: str, holders: Sequence[LabelledScene]) -> list[float] | None:
    """Return the range of pixel sizes, in metres, of the rasters of a modality."""
    sizes = [float(f"{scene.rasters.source(name).grid.ground_resolution:.6g}") for scene in holders]
    return [min(sizes), max(sizes)] if np.isfinite(sizes).all() else None
