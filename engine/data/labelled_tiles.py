# SPDX-License-Identifier: GPL-2.0-or-later
"""Walk over scenes tile by tile, as a map is made, and hand out the pixels that each tile decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.card import Scenario
from ..raster.scene import Layer
from ..raster.tiles import Axis, Plan, plan_tiles
from .labelled_scenes import LabelledScene


@dataclass(frozen=True)
class LabelledTile:
    """The pixels (h, w) that one tile decides, those on its side of the seams.

    Attributes:
        scene: the scene.
        number: of the tile in the plan of the scene.
        layers: scaled values and validity of the whole tile.
        owned: rows and columns of these pixels in the tile.
        rows: their rows in the scene's grid.
        columns: their columns in it.
        inside: (h, w), where they belong to the region that was asked for.
        labels: (h, w), their class indices, -1 for none and outside the region.
    """

    scene: LabelledScene
    number: int
    layers: Mapping[str, Layer]
    owned: tuple[slice, slice]
    rows: slice
    columns: slice
    inside: np.ndarray
    labels: np.ndarray

    def valid(self, scenario: Scenario) -> np.ndarray:
        """Return where (h, w) all modalities of `scenario` have data, in the region; nowhere if one is not bound."""
        found = self.inside.copy()
        for name in scenario:
            found &= self.layers[name].valid[self.owned] if name in self.layers else False
        return found

    def counted(self, scenario: Scenario) -> np.ndarray:
        """Return the pixels (h, w) that count in `scenario`: elsewhere another scenario decides in use."""
        return self.valid(scenario) & (self.labels >= 0)

    def images(self, scenario: Scenario) -> dict[str, Tensor]:
        """Return the tile's images (C, tile rows, tile columns) of the modalities of `scenario`."""
        return {name: torch.from_numpy(self.layers[name].values) for name in scenario}

    def logits(self, model: nn.Module, images: Mapping[str, Tensor], device: torch.device) -> np.ndarray:
        """Return the logits float32 (K, h, w) that `model` gives for these pixels from `images` of the tile."""
        return forward_tile(model, images, device)[(slice(None), *self.owned)]


class LabelledTiles:
    """The tiles of scenes that have labels in a region; iterating reads them one after the other.

    Args:
        scenes: the scenes.
        region: which of their pixels are wanted (`training.splits`).
        tile: rows and columns of a tile.
        overlap: of neighbouring tiles.
        stride: output stride of the model.
        everywhere: also tiles of the region without a label.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        region: int,
        tile: tuple[int, int],
        overlap: int,
        stride: int,
        everywhere: bool = False,
    ) -> None:
        self._region, self._tile, self._overlap, self._stride = region, tile, overlap, stride
        wanted = [(scene, self._numbers(scene, everywhere)) for scene in scenes]
        self._visits = [(scene, numbers) for scene, numbers in wanted if numbers]

    @property
    def scenes(self) -> list[LabelledScene]:
        """The scenes that have such tiles."""
        return [scene for scene, _ in self._visits]

    def __len__(self) -> int:
        return sum(len(numbers) for _, numbers in self._visits)

    def __iter__(self) -> Iterator[LabelledTile]:
        for scene, numbers in self._visits:
            plan, target = self._plan(scene), scene.target(self._region)
            for number in numbers:
                rows, columns = _decided(plan, number)
                top, left = plan.origin(number)
                owned = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
                layers = scene.read(top, left, *plan.shape)
                labels = cut_window(target, -1, scene.window, rows, columns)
                inside = self._inside(scene, rows, columns)
                yield LabelledTile(scene, number, layers, owned, rows, columns, inside, labels)

    def _plan(self, scene: LabelledScene) -> Plan:
        grid = scene.rasters.grid
        return plan_tiles(grid.height, grid.width, self._tile, self._overlap, self._stride)

    def _numbers(self, scene: LabelledScene, everywhere: bool) -> list[int]:
        """Return the numbers of the tiles to visit in a scene."""
        plan, target = self._plan(scene), scene.target(self._region)

        def wanted(number: int) -> bool:
            rows, columns = _decided(plan, number)
            if everywhere:
                return bool(self._inside(scene, rows, columns).any())
            return bool((cut_window(target, -1, scene.window, rows, columns) >= 0).any())

        return [number for number in range(len(plan)) if wanted(number)]

    def _inside(self, scene: LabelledScene, rows: slice, columns: slice) -> np.ndarray:
        """Return which pixels of a piece of a scene belong to the region."""
        return cut_window(scene.region, self._region + 1, scene.window, rows, columns) == self._region


@torch.inference_mode()
def forward_tile(model: nn.Module, images: Mapping[str, Tensor], device: torch.device) -> np.ndarray:
    """Return the logits float32 (K, h, w) of a tile: one tile a forward, as on a CPU in use."""
    return model({name: image[None].to(device) for name, image in images.items()})[0].float().cpu().numpy()


def _decided(plan: Plan, number: int) -> tuple[slice, slice]:
    """Return the rows and columns of the scene that lie on a tile's side of the seams."""
    row, column = plan.position(number)
    return _side(plan.rows, row), _side(plan.columns, column)


def _side(axis: Axis, index: int) -> slice:
    """Return the pixels along an axis that lie on tile `index`'s side of the seams."""
    ends = [(axis.edges[cell] + axis.edges[cell + 1]) // 2 for cell in range(1, len(axis.edges) - 1, 2)]
    bounds = [0, *ends, axis.size]
    return slice(bounds[index], bounds[index + 1])


def cut_window(
    values: np.ndarray, outside: int, window: tuple[int, int, int, int], rows: slice, columns: slice
) -> np.ndarray:
    """Return a window of the scene's grid, of which `values` cover `window`; `outside` is what stands beyond it."""
    found = np.full((rows.stop - rows.start, columns.stop - columns.start), outside, values.dtype)
    top, bottom = max(rows.start, window[0]), min(rows.stop, window[0] + window[2])
    left, right = max(columns.start, window[1]), min(columns.stop, window[1] + window[3])
    if top < bottom and left < right:
        inside = slice(top - rows.start, bottom - rows.start), slice(left - columns.start, right - columns.start)
        found[inside] = values[top - window[0] : bottom - window[0], left - window[1] : right - window[1]]
    return found
