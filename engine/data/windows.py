# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows of scenes in which all modalities have data, some or all: on them the latents are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.card import Modality, Scenario
from ..events import Reporter
from ..raster.scaling import scale_valid
from ..raster.scene import Scene

# Less of a window than this without data of a modality, filled with the mean as in use.
_LEAST_COVER = 0.5
# Windows looked at for each that is wanted, since some lack a modality.
_TRIES = 4


def collect_batches(
    scenes: Sequence[Scene],
    modalities: Sequence[Modality],
    names: Scenario,
    side: int,
    count: int,
    batch: int,
    reporter: Reporter,
) -> list[dict[str, Tensor]]:
    """Return up to `count` windows in batches of up to `batch`, each image float32 (B, C, side, side), scaled.

    A window counts where each of the modalities `names` covers half of it at least; what they lack there is 0. The
    scenes take turns, and the windows of a scene are spread evenly over it.

    Args:
        scenes: those without one of `names` are passed over.
        modalities: with their scaling.
        names: the modalities that are wanted.
        side: of a window, in pixels; it sticks out of a scene that is smaller.
        count: windows wanted.
        batch: windows in a batch.
        reporter: asked between windows whether to go on.
    """
    holders = [scene for scene in scenes if set(names) <= set(scene.names)]
    found: list[dict[str, np.ndarray]] = []
    turns = [_windows(scene, side, -(-_TRIES * count // max(len(holders), 1))) for scene in holders]
    chains = {item.name: item.scaling for item in modalities}
    while turns and len(found) < count:
        for scene, windows in list(zip(holders, turns)):
            place = next(windows, None)
            if place is None:
                turns.remove(windows)
                holders.remove(scene)
                continue
            reporter.check()
            layers = scene.read(*place, side, side)
            if all(layers[name].valid.mean() >= _LEAST_COVER for name in names) and len(found) < count:
                found.append({name: scale_valid(*layers[name], chains[name]) for name in names})
    return [_stacked(found[first : first + batch], names) for first in range(0, len(found), batch)]


def every_batch(
    scenes: Sequence[Scene],
    modalities: Sequence[Modality],
    names: Scenario,
    side: int,
    batch: int,
    reporter: Reporter,
) -> Iterator[dict[str, Tensor]]:
    """Yield all windows, side by side over each scene, in batches of up to `batch`; only one batch is held.

    Args:
        scenes: those without one of `names` are passed over.
        modalities: with their scaling.
        names: the modalities that are wanted: windows of which one covers less than half are left out.
        side: of a window, in pixels.
        batch: windows in a batch.
        reporter: asked between windows whether to go on, and told how far it is.
    """
    chains = {item.name: item.scaling for item in modalities}
    holders = [scene for scene in scenes if set(names) <= set(scene.names)]
    places = [(scene, place) for scene in holders for place in grid_places(scene.grid.height, scene.grid.width, side)]
    found: list[dict[str, np.ndarray]] = []
    for done, (scene, place) in enumerate(places):
        reporter.check()
        reporter.progress(done + 1, len(places), "windows")
        layers = scene.read(*place, side, side)
        if all(layers[name].valid.mean() >= _LEAST_COVER for name in names):
            found.append({name: scale_valid(*layers[name], chains[name]) for name in names})
        if len(found) == batch:
            yield _stacked(found, names)
            found = []
    if found:
        yield _stacked(found, names)


def grid_places(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """Return rows and columns of the fewest windows of `side` that cover an area; they overlap where they must."""
    return [(row, column) for row in _starts(height, side, height) for column in _starts(width, side, width)]


def _stacked(windows: Sequence[dict[str, np.ndarray]], names: Scenario) -> dict[str, Tensor]:
    """Return the batch of some windows."""
    return {name: torch.from_numpy(np.stack([item[name] for item in windows])) for name in names}


def _windows(scene: Scene, side: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield rows and columns of up to `count` windows over a scene, evenly spread; always the same ones."""
    rows, columns = (_starts(size, side, count) for size in (scene.grid.height, scene.grid.width))
    places = [(row, column) for row in rows for column in columns]
    if len(places) > count:
        places = [places[index] for index in np.linspace(0, len(places) - 1, count).round().astype(int)]
    # Any first few of them are spread over the scene too.
    yield from (places[index] for index in np.random.default_rng(0).permutation(len(places)))


def _starts(size: int, side: int, count: int) -> list[int]:
    """Return where windows begin along an axis: next to each other where there is room, centred in a small scene."""
    if size <= side:
        return [(size - side) // 2]
    number = min(-(-size // side), count)
    return np.linspace(0, size - side, max(number, 2)).round().astype(int).tolist()
