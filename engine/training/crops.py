# SPDX-License-Identifier: GPL-2.0-or-later
"""Training crops: which to take in an epoch, and how each is cut, augmented and collated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.card import Modality, Scenario
from ..data.labelled_scenes import LabelledScene
from ..data.splits import TRAIN
from ..data.windows import grid_places
from ..raster.scene import Layer
from .augment import (
    Geometry,
    Radiometry,
    change_values,
    draw_geometry,
    resize_labels,
    resize_valid,
    resize_values,
    turn,
)
from .strategies import Strategy

# A modality that covers less of a crop's labelled pixels is left out of it.
_LEAST_COVER = 0.5
# Positions remembered of each class in each scene: crops are placed around them.
_POSITIONS = 100_000


@dataclass(frozen=True)
class Crop:
    """Where a crop is cut, and the seed of its radiometric changes and scenario."""

    scene: int
    row: int
    column: int
    geometry: Geometry
    seed: int


@dataclass(frozen=True)
class Sample:
    """A crop.

    Attributes:
        images: scaled, float32 (C, s, s), of the modalities that are given to the network.
        target: int64 (s, s), -1 for unknown.
        scenario: which of them the network is told to train; None: it draws itself.
    """

    images: dict[str, np.ndarray]
    target: np.ndarray
    scenario: Scenario | None = None


@dataclass(frozen=True)
class Batch:
    """Samples of the same modalities and scenario: `images` float32 (B, C, s, s), `target` int64 (B, s, s)."""

    images: dict[str, Tensor]
    target: Tensor
    scenario: Scenario | None = None


class Sampler:
    """Draws crops around labelled training pixels; half of them (`balance`) around a class drawn evenly.

    Args:
        scenes: all scenes.
        classes: number of classes K.
        crop: side of a crop.
        scale: range of magnification.
        balance: share of crops around a pixel of a class that was drawn first, all classes with the same probability;
            the others are around any labelled pixel.
    """

    def __init__(
        self, scenes: Sequence[LabelledScene], classes: int, crop: int, scale: tuple[float, float], balance: float
    ) -> None:
        self._scenes = scenes
        self._crop, self._scale, self._balance = crop, scale, balance
        self._counts = np.stack([scene.counts(TRAIN, classes) for scene in scenes])
        self._places = [[_positions(scene, index) for index in range(classes)] for scene in scenes]

    def draw(self, count: int, rng: np.random.Generator) -> list[Crop]:
        """Return `count` crops."""
        return [self._one(rng) for _ in range(count)]

    def _one(self, rng: np.random.Generator) -> Crop:
        counts = self._counts
        if rng.random() < self._balance:
            label = int(rng.choice(np.flatnonzero(counts.sum(axis=0))))
            scene = _weighted(counts[:, label], rng)
        else:
            scene, label = divmod(_weighted(counts.ravel(), rng), counts.shape[1])
        places = self._places[scene][label]
        row, column = divmod(int(places[rng.integers(len(places))]), self._scenes[scene].labels.shape[1])
        geometry = draw_geometry(self._crop, self._scale, rng)
        row, column = (
            _place(position, geometry.side, size, rng)
            for position, size in zip((row, column), self._scenes[scene].labels.shape)
        )
        return Crop(scene, row, column, geometry, int(rng.integers(2**32)))


def regular_crops(scenes: Sequence[LabelledScene], crop: int) -> list[Crop]:
    """Return crops of side `crop`, as they are, side by side: all of a grid over each scene that hold training pixels.

    They are spread evenly, and overlap where the side does not divide a scene.
    """
    return [
        Crop(number, row, column, Geometry(crop), 0)
        for number, scene in enumerate(scenes)
        for row, column in grid_places(scene.labels.shape[0], scene.labels.shape[1], crop)
        if (_inner(scene.target(TRAIN), row, column, crop) >= 0).any()
    ]


class Cutter:
    """Makes samples of crops; may be called from several threads.

    A modality that covers less than half of a crop's labelled pixels is left out of it. Where one that stays has no
    data its image is 0, the mean, as in use, and the pixel is not learned from: in use another scenario decides there.

    Args:
        scenes: all scenes, prepared.
        modalities: with their scaling.
        crop: side of a sample.
        strategy: which of the modalities present to train with.
        changes: radiometric changes by modality.
        beyond: whether the network is also given the modalities outside the scenario that it is told
            (`SegmentationModel.looks_beyond`).
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        modalities: Sequence[Modality],
        crop: int,
        strategy: Strategy,
        changes: Mapping[str, Radiometry],
        beyond: bool = False,
    ) -> None:
        self._scenes, self._beyond = scenes, beyond
        self._order = [item.name for item in modalities]
        self._required = {item.name for item in modalities if item.required}
        self._crop, self._strategy, self._changes = crop, strategy, changes

    def __call__(self, crop: Crop) -> Sample:
        """Return the sample of a crop."""
        scene, side = self._scenes[crop.scene], crop.geometry.side
        target, layers = _cut(scene, crop.row, crop.column, side)
        target = resize_labels(turn(target, crop.geometry), self._crop).astype(np.int64)
        values = {name: resize_values(turn(layer.values, crop.geometry), self._crop) for name, layer in layers.items()}
        valid = {name: resize_valid(turn(layer.valid, crop.geometry), self._crop) for name, layer in layers.items()}
        rng = np.random.default_rng(crop.seed)
        held = self._available(valid, target >= 0)
        chosen = self._strategy(held, rng)
        told = None if self._strategy.own_draws else chosen
        given = held if told is not None and self._beyond else chosen
        for name in given:
            target[~valid[name]] = -1
        images = {
            name: change_values(values[name], valid[name], self._changes.get(name, Radiometry()), rng) for name in given
        }
        return Sample(images, target, told)

    def _available(self, valid: Mapping[str, np.ndarray], labelled: np.ndarray) -> Scenario:
        """Return the modalities that cover enough of the labelled pixels; if none does, the one that covers most."""
        total = max(int(labelled.sum()), 1)
        cover = {name: float((valid[name] & labelled).sum()) / total for name in self._order if name in valid}
        enough = [name for name in cover if cover[name] >= _LEAST_COVER or name in self._required]
        return tuple(enough) or (max(cover, key=cover.__getitem__),)


def collate(samples: Sequence[Sample]) -> list[Batch]:
    """Return `samples` grouped by their modalities and scenarios: those of one group share a forward."""
    groups: dict[tuple[tuple[str, ...], Scenario | None], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((tuple(sample.images), sample.scenario), []).append(sample)
    return [
        Batch(
            {name: torch.from_numpy(np.stack([item.images[name] for item in group])) for name in names},
            torch.from_numpy(np.stack([item.target for item in group])),
            scenario,
        )
        for (names, scenario), group in sorted(groups.items(), key=_group_order)
    ]


def _group_order(item: tuple[tuple[tuple[str, ...], Scenario | None], list[Sample]]) -> tuple[tuple[str, ...], ...]:
    """Return what groups are sorted by."""
    (names, scenario), _ = item
    return names, scenario or ()


def chunks(crops: Sequence[Crop], size: int) -> Iterator[Sequence[Crop]]:
    """Yield the crops of each step; the last may be fewer."""
    return (crops[first : first + size] for first in range(0, len(crops), size))


def _cut(scene: LabelledScene, row: int, column: int, side: int) -> tuple[np.ndarray, dict[str, Layer]]:
    """Return labels and layers of a square of a part's window, with nothing known of what lies beyond the window."""
    top, left, height, width = scene.window
    target = np.full((side, side), -1, scene.labels.dtype)
    rows, columns = (slice(max(first, 0), min(first + side, size)) for first, size in ((row, height), (column, width)))
    inside = slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column)
    target[inside] = np.where(scene.region[rows, columns] == TRAIN, scene.labels[rows, columns], -1)
    layers = scene.read(top + row, left + column, side, side)
    within = np.zeros((side, side), bool)
    within[inside] = True
    if not within.all():
        layers = {
            name: layer._replace(values=np.where(within, layer.values, np.float32(0)), valid=layer.valid & within)
            for name, layer in layers.items()
        }
    return target, layers


def _inner(values: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    """Return the part of `values` (h, w) that a square shows."""
    return values[max(row, 0) : row + side, max(column, 0) : column + side]


def _positions(scene: LabelledScene, label: int) -> np.ndarray:
    """Return flat positions in the window of training pixels of a class: all, or evenly spread ones of many."""
    found = np.flatnonzero((scene.labels == label) & (scene.region == TRAIN))
    return found[:: max(1, -(-len(found) // _POSITIONS))]


def _weighted(weights: np.ndarray, rng: np.random.Generator) -> int:
    """Return an index drawn with probability in proportion to whole-number `weights`."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))


def _place(position: int, side: int, size: int, rng: np.random.Generator) -> int:
    """Return where a crop of `side` that shows `position` begins: within 0 to `size`, or around it if it is larger."""
    first = position - int(rng.integers(side))
    low, high = sorted((0, size - side))
    return min(max(first, low), high)
