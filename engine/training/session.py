# SPDX-License-Identifier: GPL-2.0-or-later
"""Labelled scenes ready to be trained on: their crops, the tiles of validation, what a record says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.card import ClassInfo, Modality, Scenario
from ..data.labelled_scenes import LabelledScene, count_classes
from ..data.splits import TEST, TRAIN, VALIDATION
from ..events import Reporter
from ..models.base import SegmentationModel
from ..models.components import Components
from ..models.detail import DetailConfig
from ..models.world_prior import WorldPrior
from ..runtime.device import describe_device
from ..runtime.versions import library_versions
from .crops import Cutter, Sampler
from .loop import Trainer
from .recipe import Recipe
from .state import Progress
from .strategies import Strategy
from .validation import Evaluator

_LEAST_BATCHES = 8
TILE = 256
SIDES = {"training": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass
class Session:
    """A training whose scenes are open, divided and prepared.

    Attributes:
        scenes: the scenes.
        modalities: with their scaling.
        classes: those to learn.
        recipe: how.
        device: where to compute.
        seed: of all draws.
        reporter: told what happens.
        measured: whether the statistics of `modalities` are those of these scenes, as they lie in the files
            (`measure_modalities`); else they may be a checkpoint's.
        priors: what Dynamic World says of modalities, for the detail path, by name (`priors`).
        detail: settings of the detail path, but the priors.
        components: what stands for the bands of modalities in the detail path, by name.
        counts: labelled pixels by class (K) in each region.
    """

    scenes: Sequence[LabelledScene]
    modalities: Sequence[Modality]
    classes: Sequence[ClassInfo]
    recipe: Recipe
    device: torch.device
    seed: int
    reporter: Reporter
    measured: bool = False
    priors: Mapping[str, WorldPrior] = field(default_factory=dict)
    detail: DetailConfig = field(default_factory=DetailConfig)
    components: Mapping[str, Components] = field(default_factory=dict)
    counts: dict[int, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {region: count_classes(self.scenes, region, len(self.classes)) for region in SIDES.values()}

    def rescaled(self, modalities: Sequence[Modality]) -> Session:
        """Return the session with the scaling of `modalities`, in which its scenes are read from now on."""
        for scene in self.scenes:
            scene.prepare(modalities)
        return replace(self, modalities=modalities)

    def labels_sha256(self) -> str:
        """Return a hash of all labels and of what they are for."""
        found = hashlib.sha256()
        for scene in self.scenes:
            found.update(repr((scene.labels.shape, scene.labels.dtype.str)).encode())
            found.update(scene.labels.tobytes())
            found.update(scene.region.tobytes())
        return found.hexdigest()

    def crop(self, stride: int) -> int:
        """Return the side of a crop: as asked, but no larger than the largest scene, a multiple of `stride`."""
        asked = self.recipe.settings.crop
        largest = max(max(scene.labels.shape) for scene in self.scenes if (scene.region == TRAIN).any())
        fitting = -(-largest // stride) * stride
        if asked > fitting:
            self.reporter.info(f"Crops are {fitting} pixels on a side, not {asked}: no training scene is larger.")
        return min(asked, fitting)

    def crops(self, crop: int) -> int:
        """Return how many crops of side `crop` an epoch has."""
        if self.recipe.config.crops is not None:
            return self.recipe.config.crops
        area = sum(int((scene.region == TRAIN).sum()) for scene in self.scenes)
        return max(-(-area // crop**2), _LEAST_BATCHES * self.recipe.settings.batch)

    def sampler(self, crop: int) -> Sampler:
        """Return what draws crops of side `crop`."""
        config = self.recipe.config
        return Sampler(self.scenes, len(self.classes), crop, (config.scale[0], config.scale[1]), config.balance)

    def trainer(
        self,
        model: SegmentationModel,
        strategy: Strategy,
        evaluator: Evaluator,
    ) -> Trainer:
        """Return what trains `model` with scenarios drawn by `strategy`, measured by `evaluator`."""
        crop = self.crop(model.output_stride)
        return Trainer(
            model,
            self.recipe,
            self.crops(crop),
            self.sampler(crop),
            Cutter(self.scenes, self.modalities, crop, strategy, self.recipe.changes, model.looks_beyond),
            evaluator,
            class_weights(self.counts[TRAIN], self.recipe.config.class_weights),
            self.device,
            self.seed,
            strategy,
        )

    def evaluator(self, region: int, order: Sequence[Scenario], model: SegmentationModel) -> Evaluator:
        """Return what measures the scenarios `order` in a region, with the tiles that the card suggests."""
        tile, margin = self.tile(model)
        overlap = min(2 * margin, tile // 2)
        return Evaluator(self.scenes, region, order, len(self.classes), tile, overlap, model.output_stride)

    def tile(self, model: SegmentationModel) -> tuple[int, int]:
        """Return the side of tiles and the margin that fits into it, as `tile_of`."""
        return tile_of(self.recipe, model)

    def resolution(self) -> list[float] | None:
        """Return the least and the largest pixel size on the ground, in metres, of the training scenes."""
        sizes = [scene.rasters.grid.ground_resolution for scene in self.scenes if (scene.region == TRAIN).any()]
        found = [float(f"{bound:.6g}") for bound in (min(sizes), max(sizes))]
        return found if np.isfinite(found).all() else None

    def record(self, progress: Progress) -> dict[str, Any]:
        """Return what every training record of a card holds."""
        classes = len(self.classes)
        return {
            "scenes": [
                {
                    "name": scene.name,
                    "modalities": list(scene.rasters.names),
                    **{side: int(scene.counts(region, classes).sum()) for side, region in SIDES.items()},
                }
                for scene in self.scenes
            ],
            "pixels": self.pixels(),
            "settings": self.recipe.to_dict(),
            "seed": self.seed,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_miou": round(progress.best_miou, 6),
            "device": describe_device(self.device),
            "versions": library_versions(),
            "seconds": round(progress.seconds, 2),
        }

    def pixels(self) -> dict[str, dict[str, int]]:
        """Return the labelled pixels of each class by its name, for training, validation and test."""
        return {
            side: {item.name: int(count) for item, count in zip(self.classes, self.counts[region])}
            for side, region in SIDES.items()
        }


def tile_of(recipe: Recipe, model: SegmentationModel) -> tuple[int, int]:
    """Return the side of the tiles of `model`, a multiple of the stride, and the margin that fits into it.

    With a modality reduced the stride may be most of the side that is wanted: tiles then are two strides wide, as those
    of one could not overlap.
    """
    stride = model.output_stride
    wanted = recipe.config.tile or max(model.native_size or [TILE])
    if model.coarsest > 1:
        wanted = max(wanted, 2 * stride)
    tile = -(-wanted // stride) * stride
    return tile, min(model.margin, tile // 4)


def class_weights(counts: np.ndarray, rule: str) -> Tensor | None:
    """Return weights for the loss from the number of training pixels of each class (K), or None for equal ones.

    Args:
        counts: pixels by class.
        rule: `none`; `sqrt`, 1 / sqrt(frequency); `inverse`, 1 / frequency.

    Returns:
        float32 (K), with mean 1 over the classes that occur; 1 for those that do not.
    """
    if rule == "none":
        return None
    return torch.from_numpy(rarity_weights(counts, 0.5 if rule == "sqrt" else 1.0).astype(np.float32))


def rarity_weights(counts: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Return 1 / frequency ** `power` for numbers of pixels of each class (K).

    Returns:
        float64 (K), with mean 1 over the classes that occur; 1 for those that do not.
    """
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = (counts[present] / counts.sum()) ** -power
    weights[present] /= weights[present].mean()
    return weights
