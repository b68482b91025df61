# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures for the report of a training: inputs, labels, and maps before and after, of one piece of a scene."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from torch import nn

from ..checkpoint.card import ClassInfo, Modality, Scenario
from ..data.labelled_scenes import LabelledScene
from ..data.labelled_tiles import cut_window, forward_tile
from ..raster.encodings import rgb
from ..raster.scene import Layer
from ..report import page

# Scenarios whose maps are shown: all of three modalities.
_MOST = 7
_NOTHING = (225, 225, 225)
# Names of bands that make true colours, of which some files hold these and some those.
_TRUE = (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))


class View(NamedTuple):
    """A square piece of a scene: the `scene`, its first `row` and `column` in the scene's grid, and its `side`."""

    scene: LabelledScene
    row: int
    column: int
    side: int


def choose_view(scenes: Sequence[LabelledScene], region: int, classes: int, side: int) -> View:
    """Return the piece with labels of the most classes in a region, and of these the one with most labelled pixels.

    Args:
        scenes: the scenes; at least one has labels there.
        region: whose labels count (`splits`).
        classes: number of classes.
        side: of the piece in pixels; it may reach beyond the scene.
    """
    found: list[tuple[int, int, View]] = []
    for scene in scenes:
        (top, left, height, width), grid = scene.window, scene.rasters.grid
        for row in _starts(top, height, grid.height, side):
            for column in _starts(left, width, grid.width, side):
                view = View(scene, row, column, side)
                labels = labels_of(view, region)
                counts = np.bincount(labels[labels >= 0], minlength=classes)
                found.append((int((counts > 0).sum()), int(counts.sum()), view))
    return max(found, key=lambda item: item[:2])[2]


def labels_of(view: View, region: int) -> np.ndarray:
    """Return the class indices (side, side) of a region's labels in a view, -1 for none."""
    rows, columns = slice(view.row, view.row + view.side), slice(view.column, view.column + view.side)
    return cut_window(view.scene.target(region), -1, view.scene.window, rows, columns)


def _starts(first: int, size: int, limit: int, side: int) -> list[int]:
    """Return where pieces begin that cover `size` pixels from `first` on: at every quarter of one, the last at the end.

    One piece that is larger has them in its middle, as far as the scene of `limit` pixels lets it.
    """
    if size <= side:
        return [min(max(first - (side - size) // 2, 0), max(limit - side, 0))]
    last = first + size - side
    return [*range(first, last, max(side // 4, 1)), last]


class Gallery:
    """Collects pictures of one piece of a scene.

    Args:
        view: the piece.
        modalities: those of the card, for the names of bands.
        classes: the classes, for their colours.
        scenarios: those that are measured.
        region: whose labels are shown (`splits`).
        device: where to compute.
    """

    def __init__(
        self,
        view: View,
        modalities: Sequence[Modality],
        classes: Sequence[ClassInfo],
        scenarios: Sequence[Scenario],
        region: int,
        device: torch.device,
    ) -> None:
        self._classes, self._device = classes, device
        self._layers = view.scene.read(view.row, view.column, view.side, view.side)
        here = [scenario for scenario in scenarios if set(scenario) <= set(self._layers)]
        self._scenarios = sorted(here, key=len, reverse=True)[:_MOST]
        self._name, grid = view.scene.name, view.scene.rasters.grid
        self._shown = slice(0, grid.height - view.row), slice(0, grid.width - view.column)
        self._maps: dict[str, list[np.ndarray]] = {}
        self._inputs = {
            item.name: picture(self._layers[item.name], item) for item in modalities if item.name in self._layers
        }
        self._labels = self._paint(labels_of(view, region))

    def add(self, title: str, model: nn.Module) -> None:
        """Draw the maps that `model` makes in every scenario, in a column under `title`."""
        model.eval()
        self._maps[title] = [self._map(model, scenario) for scenario in self._scenarios]

    def html(self) -> str:
        """Return the pictures as rich text that needs no other file."""
        inputs = [*self._inputs.items(), ("these labels", self._labels)]
        rows = [
            [page.cell(" + ".join(scenario)), *map(self._cell, maps)]
            for scenario, *maps in zip(self._scenarios, *self._maps.values())
        ]
        keys = page.key([item.name for item in self._classes], [item.color for item in self._classes])
        return (
            f"<p>Around labels of {escape(self._name)} that the accuracy was measured on.</p>"
            f"<p>{''.join(self._figure(*item) for item in inputs)}</p>{keys}"
            f"{page.table(['map with', *self._maps], rows)}"
        )

    def _map(self, model: nn.Module, scenario: Scenario) -> np.ndarray:
        """Return the map of one scenario as uint8 (3, h, w), grey where another scenario decides in use."""
        images = {name: torch.from_numpy(self._layers[name].values) for name in scenario}
        found = forward_tile(model, images, self._device).argmax(axis=0)
        valid = np.all([self._layers[name].valid for name in scenario], axis=0)
        return self._paint(np.where(valid, found, -1))

    def _figure(self, title: str, pixels: np.ndarray) -> str:
        return f"<figure>{self._image(pixels)}<figcaption>{escape(title)}</figcaption></figure>"

    def _cell(self, pixels: np.ndarray) -> str:
        return f"<td>{self._image(pixels)}</td>"

    def _image(self, pixels: np.ndarray) -> str:
        """Return an image of HTML of uint8 (3, h, w), without what lies beyond the scene."""
        data = base64.b64encode(_png(pixels[(slice(None), *self._shown)])).decode("ascii")
        return f'<img alt="" src="data:image/png;base64,{data}">'

    def _paint(self, indices: np.ndarray) -> np.ndarray:
        """Return class indices (h, w) as colours, uint8 (3, h, w); grey for -1."""
        table = np.array([*(rgb(item.color) for item in self._classes), _NOTHING], np.uint8)
        return table[indices].transpose(2, 0, 1)


def picture(layer: Layer, modality: Modality) -> np.ndarray:
    """Return a layer for the eye, uint8 (3, h, w): true colours or else its first bands, from its 2nd to 98th centile.

    Where it has no data it is grey.
    """
    names = [name.casefold() for name in modality.bands]
    true = next((bands for bands in _TRUE if set(bands) <= set(names)), None)
    first = (0, 1, 2) if len(names) > 2 else (0, 0, 0)
    chosen = layer.values[list(first if true is None else map(names.index, true))]
    shown = np.full(chosen.shape, _NOTHING[0], np.uint8)
    if layer.valid.any():
        known = chosen[:, layer.valid]
        low, high = np.percentile(known, [2, 98], axis=1)[..., None]
        shown[:, layer.valid] = np.rint(255 * np.clip((known - low) / np.maximum(high - low, 1e-6), 0, 1))
    return shown


def _png(pixels: np.ndarray) -> bytes:
    """Return uint8 (3, h, w) as PNG."""
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        profile = {"driver": "PNG", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
        with memory.open(**profile) as dataset:
            dataset.write(pixels)
        return bytes(memory.read())
