# SPDX-License-Identifier: GPL-2.0-or-later
"""Labelled scenes, opened: their rasters on the reference grid, their labels, and what each pixel is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..checkpoint.card import Modality
from ..errors import LacunaError
from ..events import Reporter
from ..raster.grid import Grid, extent_text
from ..raster.scaling import scale_valid
from ..raster.scene import Layer, Scene
from .labels import Legend, Window, number_of, read_labels, read_objects
from .manifest import Manifest, SceneEntry
from .splits import GAP, REGIONS, TRAIN, VALIDATION, split_blocks, split_groups, split_objects

# Scenes up to this size together (numbers of 4 bytes) stay in memory; larger ones are read window by window.
CACHED = 2**28


@dataclass
class LabelledScene:
    """A scene with labels, or what its extent leaves of it.

    Attributes:
        entry: what the manifest says of it.
        rasters: those of all its modalities, on the reference grid.
        window: what labels are for (row, column, height, width).
        labels: class indices (height, width) of the window, -1 for none.
        region: what each pixel of the window is for (`splits`).
        modalities: how its values are scaled; empty before `prepare`.
    """

    entry: SceneEntry
    rasters: Scene
    window: Window
    labels: np.ndarray
    region: np.ndarray
    modalities: dict[str, Modality] = field(default_factory=dict)
    _cache: dict[str, Layer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The scene's name in the manifest."""
        return self.entry.name

    def counts(self, region: int, classes: int) -> np.ndarray:
        """Return how many labelled pixels of each class (int64, K) lie in a region."""
        known = self.labels[(self.region == region) & (self.labels >= 0)]
        return np.bincount(known, minlength=classes)

    def target(self, region: int) -> np.ndarray:
        """Return the labels of one region, -1 in all others."""
        return np.where(self.region == region, self.labels, -1)

    def read(self, row: int, column: int, height: int, width: int) -> dict[str, Layer]:
        """Return the layers of a window of the scene's grid: scaled once prepared; 0 where invalid or outside."""
        if self._cache:
            return self._scaled({name: _cut(layer, row, column, height, width) for name, layer in self._cache.items()})
        return self._scaled(self.rasters.read(row, column, height, width))

    def keep(self) -> None:
        """Read the whole scene into memory and close its files: systems allow some hundred open ones."""
        self._cache = self.rasters.read(0, 0, self.rasters.grid.height, self.rasters.grid.width)
        self.rasters.close()

    def prepare(self, modalities: Sequence[Modality]) -> None:
        """Set how values are scaled from now on."""
        self.modalities = {item.name: item for item in modalities}

    @property
    def numbers(self) -> int:
        """How many numbers the whole scene has."""
        grid = self.rasters.grid
        return grid.height * grid.width * sum(self.rasters.source(name).count for name in self.rasters.names)

    def _scaled(self, layers: dict[str, Layer]) -> dict[str, Layer]:
        """Return layers as the model wants them; before `prepare` as they are."""
        if not self.modalities:
            return layers
        chains = {name: self.modalities[name].scaling for name in layers}
        return {name: Layer(scale_valid(*layer, chains[name]), layer.valid) for name, layer in layers.items()}


def open_scenes(manifest: Manifest, reporter: Reporter) -> list[LabelledScene]:
    """Open the scenes of a manifest and read their labels; scenes without any label are left out, which is said.

    The first scenes are read into memory, as far as 1 GB of it reaches.

    Raises:
        LacunaError: as for `Scene` and `read_labels`; `required-modality`, a scene lacks one; `no-labels`, none has
            labels; `no-overlap`, an extent lies outside its scene.
    """
    scenes: list[LabelledScene] = []
    left = CACHED
    try:
        for entry in manifest.scenes:
            reporter.check()
            scene = _open(entry, manifest, reporter)
            if not (scene.labels >= 0).any():
                reporter.warn(f"Scene {entry.name} has no labelled pixel and is left out ({entry.labels}).")
                scene.rasters.close()
                continue
            scenes.append(scene)
            left -= keep_small(scene, left)
        if not scenes:
            text = f"No scene of {manifest.path} has a labelled pixel."
            hint = "Check that the labels lie within the rasters, their nodata value, and what is ignored."
            raise LacunaError("no-labels", text, hint)
    except BaseException:
        close_scenes(scenes)
        raise
    _warn_of_overlaps(scenes, reporter)
    return scenes


def keep_small(scene: LabelledScene, left: int) -> int:
    """Read a scene into memory unless it has more numbers than `left`; return how many of those it took."""
    if scene.numbers > left:
        return 0
    scene.keep()
    return scene.numbers


def close_scenes(scenes: Sequence[LabelledScene]) -> None:
    """Close the files of all scenes."""
    for scene in scenes:
        scene.rasters.close()


def divide_scenes(scenes: Sequence[LabelledScene], manifest: Manifest, reporter: Reporter) -> None:
    """Set what the pixels of all scenes are for, as `assign_regions` does, and check that training is possible.

    Raises:
        LacunaError: `bad-split`, the rule cannot divide them; `no-labels`, nothing is left for training or validation.
    """
    assign_regions(scenes, manifest, reporter)
    _check_division(scenes, manifest, reporter)


def assign_regions(scenes: Sequence[LabelledScene], manifest: Manifest, reporter: Reporter) -> None:
    """Set what the pixels of all scenes are for, as the manifest says.

    A scene that names no split goes with those of its group that do, else the rule decides.

    Raises:
        LacunaError: `bad-split`, the rule cannot divide them.
    """
    classes = len(manifest.classes)
    sides = {entry.group: entry.split for entry in manifest.scenes if entry.split is not None}
    for scene in scenes:
        scene.region[:] = REGIONS[sides.get(scene.entry.group, "train")]
    free = [scene for scene in scenes if scene.entry.group not in sides]
    rule = manifest.split
    if free and rule is not None and rule.method == "group":
        counts = np.stack([scene.counts(TRAIN, classes) for scene in free])
        for scene, side in zip(free, split_groups([item.entry.group for item in free], counts, rule)):
            scene.region[:] = side
    elif free and rule is not None and rule.method == "polygon":
        objects = [read_objects(scene.entry, scene.rasters.grid, scene.window, rule.field, reporter) for scene in free]
        for scene, region in zip(free, split_objects([item.labels for item in free], objects, classes, rule)):
            scene.region[:] = region
    elif free and rule is not None:
        for scene, region in zip(free, split_blocks([item.labels for item in free], classes, rule)):
            scene.region[:] = region


def count_classes(scenes: Sequence[LabelledScene], region: int, classes: int) -> np.ndarray:
    """Return how many labelled pixels of each class (int64, K) all scenes have in a region."""
    return np.sum([scene.counts(region, classes) for scene in scenes], axis=0)


def _open(entry: SceneEntry, manifest: Manifest, reporter: Reporter) -> LabelledScene:
    missing = [item.name for item in manifest.modalities if item.required and item.name not in entry.sources]
    if missing:
        raise LacunaError(
            "required-modality",
            f"Scene {entry.name} of {manifest.path} lacks {', '.join(missing)}, which the manifest requires.",
            "Give a raster for it, or set required = false.",
        )
    rasters = Scene(manifest.modalities, entry.specs(), reference=manifest.reference, reporter=reporter)
    try:
        window = window_of(entry, rasters.grid)
        legend = Legend(manifest.classes, manifest.ignore, _class_map(entry, manifest))
        labels = read_labels(entry, rasters.grid, window, legend, reporter)
    except BaseException:
        rasters.close()
        raise
    return LabelledScene(entry, rasters, window, labels, np.full(labels.shape, TRAIN, np.uint8))


def _class_map(entry: SceneEntry, manifest: Manifest) -> dict[str, str]:
    """Return the class map as far as it is for a scene's labels: it may name texts, which a raster cannot hold."""
    if entry.field is not None:
        return manifest.class_map
    return {value: name for value, name in manifest.class_map.items() if number_of(value) is not None}


def window_of(entry: SceneEntry, grid: Grid) -> Window:
    """Return the window of the grid that the scene's extent leaves: snapped outwards, within the grid."""
    if entry.extent is None:
        return 0, 0, grid.height, grid.width
    inner = grid.outward(entry.extent)
    columns, rows = grid.to_pixels(np.array([inner.transform.c]), np.array([inner.transform.f]))
    row, column = round(float(rows[0])), round(float(columns[0]))
    top, left = max(row, 0), max(column, 0)
    height = min(row + inner.height, grid.height) - top
    width = min(column + inner.width, grid.width) - left
    if height < 1 or width < 1:
        found = f"Scene {entry.name} has the extent {list(entry.extent)}, but covers {extent_text(grid)}."
        raise LacunaError("no-overlap", found, "Give an extent inside it, in the CRS of its reference modality.")
    return top, left, height, width


def _cut(layer: Layer, row: int, column: int, height: int, width: int) -> Layer:
    """Return a window of a layer, which may stick out of it: it is invalid there."""
    values, valid = np.zeros((len(layer.values), height, width), np.float32), np.zeros((height, width), bool)
    top, bottom = max(row, 0), min(row + height, layer.valid.shape[0])
    left, right = max(column, 0), min(column + width, layer.valid.shape[1])
    if top < bottom and left < right:
        inside = slice(top - row, bottom - row), slice(left - column, right - column)
        values[(slice(None), *inside)] = layer.values[:, top:bottom, left:right]
        valid[inside] = layer.valid[top:bottom, left:right]
    return Layer(values, valid)


def _check_division(scenes: Sequence[LabelledScene], manifest: Manifest, reporter: Reporter) -> None:
    """Raise LacunaError for a side without labels; warn of classes that are missing on a side."""
    for region, side, split in ((TRAIN, "training", "train"), (VALIDATION, "validation", "validation")):
        counts = count_classes(scenes, region, len(manifest.classes))
        if not counts.any():
            raise LacunaError(
                "no-labels",
                f"{manifest.path} leaves no labelled pixel for {side}.",
                f'Give a scene split = "{split}", or change the table split (validation, block, gap).',
            )
        absent = [item.name for item, count in zip(manifest.classes, counts) if count == 0]
        if absent:
            reporter.warn(f"No labels for {side} of: {', '.join(absent)}.")
    gap = sum(int(((scene.region == GAP) & (scene.labels >= 0)).sum()) for scene in scenes)
    if gap:
        reporter.info(f"{gap} labelled pixels lie in the gap around validation blocks and are not used.")


def _warn_of_overlaps(scenes: Sequence[LabelledScene], reporter: Reporter) -> None:
    """Warn of scenes that show the same ground on different sides, or that may come to lie on different sides."""
    for index, first in enumerate(scenes):
        for second in scenes[index + 1 :]:
            apart = first.entry.split is None or first.entry.split != second.entry.split
            if apart and first.entry.group != second.entry.group and _overlap(first, second):
                reporter.warn(
                    f"Scenes {first.name} and {second.name} overlap on the ground: if one trains and the other "
                    "validates or tests, the measured accuracy is too high. Give them one group or extents apart."
                )


def _overlap(first: LabelledScene, second: LabelledScene) -> bool:
    """Return whether the windows of two scenes in one CRS overlap."""
    if first.rasters.grid.crs != second.rasters.grid.crs:
        return False
    a, b = (scene.rasters.grid.window_bounds(*scene.window) for scene in (first, second))
    step = 0.5 * min(first.rasters.grid.resolution)
    return min(a[2], b[2]) - max(a[0], b[0]) > step and min(a[3], b[3]) - max(a[1], b[1]) > step
