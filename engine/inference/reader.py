# SPDX-License-Identifier: GPL-2.0-or-later
"""Read tiles of a scene as the model wants them: scaled, with the scenario that holds at each pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..checkpoint.card import Card, Scenario
from ..events import Reporter
from ..raster.evidence import evidence_of, scenario_of
from ..raster.scaling import scale_valid
from ..raster.scene import Layer, Scene
from ..raster.tiles import Plan

# Gives, for the first row and column, height and width of a window, True where the scene is to be classified.
AreaMask = Callable[[int, int, int, int], np.ndarray]


@dataclass
class Tile:
    """A tile ready for the model.

    `images` holds for each bound modality float32 (channels, h, w), 0 where it has no data. `evidence` (h, w) has bit i
    set where modality i of the card is to be used, after the fall-back to a supported scenario. `scenarios` are the
    different values of it above 0. A tile in which nothing is to be classified has no images.
    """

    number: int
    images: dict[str, np.ndarray]
    evidence: np.ndarray
    scenarios: list[int]


class TileReader:
    """Reads tiles; may be called from several threads.

    Args:
        scene: the sources on one grid.
        card: the checkpoint's card.
        plan: the tiles.
        area: where to classify; None for everywhere.
        reporter: is told of scenarios that the checkpoint does not support.
    """

    def __init__(self, scene: Scene, card: Card, plan: Plan, area: AreaMask | None, reporter: Reporter) -> None:
        self._scene = scene
        self._card = card
        self._plan = plan
        self._area = area
        self._reporter = reporter
        self._effective: dict[int, int] = {0: 0}

    def __call__(self, number: int) -> Tile:
        """Return tile `number` of the plan."""
        row, column = self._plan.origin(number)
        height, width = self._plan.shape
        area = None if self._area is None else self._area(row, column, height, width)
        if area is not None and not area[self._plan.support(number)].any():
            return self._empty(number)
        layers = self._scene.read(row, column, height, width)
        available = self._available(layers, (height, width))
        if area is not None:
            available[~area] = 0
        evidence = self._fall_back(available)
        scenarios = [int(value) for value in np.unique(evidence[self._plan.support(number)]) if value]
        if not scenarios:
            return self._empty(number)
        images = {name: scale_valid(*layer, self._card.modality(name).scaling) for name, layer in layers.items()}
        return Tile(number, images, evidence, scenarios)

    def modalities(self, evidence: int) -> Scenario:
        """Return the modalities whose bits are set in `evidence`."""
        return scenario_of(evidence, self._card.names)

    def _empty(self, number: int) -> Tile:
        return Tile(number, {}, np.zeros(self._plan.shape, np.uint16), [])

    def _available(self, layers: dict[str, Layer], shape: tuple[int, int]) -> np.ndarray:
        """Return for each pixel the bits of the modalities that have data there."""
        bits = np.zeros(shape, np.uint16)
        for name, layer in layers.items():
            bits |= layer.valid * np.uint16(evidence_of((name,), self._card.names))
        return bits

    def _fall_back(self, available: np.ndarray) -> np.ndarray:
        """Return for each pixel the bits of the scenario that runs there."""
        values, where = np.unique(available, return_inverse=True)
        effective = np.array([self._scenario(int(value)) for value in values], np.uint16)
        return effective[where].reshape(available.shape)

    def _scenario(self, available: int) -> int:
        """Return the bits of the scenario that runs where those of `available` are valid; say it if it is another."""
        if available not in self._effective:
            names = self.modalities(available)
            found = self._card.effective(names)
            if found is None:
                self._reporter.warn(f"The checkpoint does not support {_words(names)} alone: such pixels are nodata.")
            elif found != names:
                self._reporter.warn(f"The checkpoint does not support {_words(names)}: {_words(found)} is used there.")
            self._effective[available] = evidence_of(found or (), self._card.names)
        return self._effective[available]


def _words(names: Scenario) -> str:
    return " + ".join(names)
