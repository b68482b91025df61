# SPDX-License-Identifier: GPL-2.0-or-later
"""What training from scratch and fine-tuning share: crops, tiles of validation, the trainer, records for the card."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.card import Card, ClassInfo, Modality, Scenario
from ..checkpoint.store import save
from ..errors import LacunaError
from ..events import Reporter
from ..inference.checks import check_existing, check_folder
from ..inference.device import describe_device
from ..inference.record import versions
from ..models.base import SegmentationModel
from . import parts as scenes
from .calibration import fit_temperature
from .crops import Cutter, Sampler
from .loop import Trainer
from .parts import Part
from .scenarios import Strategy
from .settings import Recipe
from .splits import TEST, TRAIN, VALIDATION
from .state import Progress, part_path, remove_progress
from .validation import Evaluator, Tally

_LEAST_BATCHES = 8
_TILE = 256
SIDES = {"training": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass
class Session:
    """A training whose scenes are open, divided and prepared.

    Attributes:
        parts: the scenes.
        modalities: with their scaling.
        classes: those to learn.
        recipe: how.
        device: where to compute.
        seed: of all draws.
        reporter: told what happens.
        counts: labelled pixels by class (K) in each region.
    """

    parts: Sequence[Part]
    modalities: Sequence[Modality]
    classes: Sequence[ClassInfo]
    recipe: Recipe
    device: torch.device
    seed: int
    reporter: Reporter
    counts: dict[int, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = {region: scenes.count_classes(self.parts, region, len(self.classes)) for region in SIDES.values()}

    def labels_sha256(self) -> str:
        """Return a hash of all labels and of what they are for."""
        found = hashlib.sha256()
        for part in self.parts:
            found.update(repr((part.labels.shape, part.labels.dtype.str)).encode())
            found.update(part.labels.tobytes())
            found.update(part.region.tobytes())
        return found.hexdigest()

    def crop(self, stride: int) -> int:
        """Return the side of a crop: as asked, but no larger than the largest scene, a multiple of `stride`."""
        asked = self.recipe.settings.crop
        largest = max(max(part.labels.shape) for part in self.parts if (part.region == TRAIN).any())
        fitting = -(-largest // stride) * stride
        if asked > fitting:
            self.reporter.info(f"Crops are {fitting} pixels on a side, not {asked}: no training scene is larger.")
        return min(asked, fitting)

    def crops(self, crop: int) -> int:
        """Return how many crops of side `crop` an epoch has."""
        if self.recipe.config.crops is not None:
            return self.recipe.config.crops
        area = sum(int((part.region == TRAIN).sum()) for part in self.parts)
        return max(-(-area // crop**2), _LEAST_BATCHES * self.recipe.settings.batch)

    def sampler(self, crop: int) -> Sampler:
        """Return what draws crops of side `crop`."""
        config = self.recipe.config
        return Sampler(self.parts, len(self.classes), crop, tuple(config.scale), config.balance)

    def trainer(
        self,
        model: SegmentationModel,
        strategy: Strategy,
        evaluator: Evaluator,
        before_epoch: Callable[[int, Progress], dict[str, Any]] | None = None,
    ) -> Trainer:
        """Return what trains `model` with scenarios drawn by `strategy`; other arguments as for `Trainer`."""
        crop = self.crop(model.output_stride)
        return Trainer(
            model,
            self.recipe,
            self.crops(crop),
            self.sampler(crop),
            Cutter(self.parts, self.modalities, crop, strategy, self.recipe.changes),
            evaluator,
            class_weights(self.counts[TRAIN], self.recipe.config.class_weights),
            self.device,
            self.seed,
            before_epoch,
        )

    def evaluator(self, region: int, order: Sequence[Scenario], model: SegmentationModel) -> Evaluator:
        """Return what measures the scenarios `order` in a region, with the tiles that the card suggests."""
        tile, margin = self.tile(model)
        overlap = min(2 * margin, tile // 2)
        return Evaluator(self.parts, region, order, len(self.classes), tile, overlap, model.output_stride)

    def tile(self, model: SegmentationModel) -> tuple[int, int]:
        """Return the side of tiles, a multiple of the stride, and the margin that fits into it."""
        stride = model.output_stride
        tile = -(-(self.recipe.config.tile or max(model.native_size or [_TILE])) // stride) * stride
        return tile, min(model.margin, tile // 4)

    def resolution(self) -> list[float] | None:
        """Return the least and the largest pixel size on the ground, in metres, of the training scenes."""
        sizes = [part.scene.grid.ground_resolution for part in self.parts if (part.region == TRAIN).any()]
        found = [float(f"{bound:.6g}") for bound in (min(sizes), max(sizes))]
        return found if np.isfinite(found).all() else None

    def record(self, progress: Progress) -> dict[str, Any]:
        """Return what every training record of a card holds."""
        classes = len(self.classes)
        return {
            "scenes": [
                {
                    "name": part.name,
                    "modalities": list(part.scene.names),
                    **{side: int(part.counts(region, classes).sum()) for side, region in SIDES.items()},
                }
                for part in self.parts
            ],
            "pixels": self.pixels(),
            "settings": self.recipe.to_dict(),
            "seed": self.seed,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_miou": round(progress.best_miou, 6),
            "device": describe_device(self.device),
            "versions": versions(),
            "seconds": round(progress.seconds, 2),
        }

    def pixels(self) -> dict[str, dict[str, int]]:
        """Return the labelled pixels of each class by its name, for training, validation and test."""
        return {
            side: {item.name: int(count) for item, count in zip(self.classes, self.counts[region])}
            for side, region in SIDES.items()
        }


def calibration(validated: Mapping[Scenario, Tally]) -> list[dict[str, Any]]:
    """Return the temperature of each scenario, fitted to the logits that were kept."""
    return [
        {"available": list(scenario), "temperature": round(fit_temperature(*tally.kept()), 4)}
        for scenario, tally in validated.items()
    ]


def scores_of(tallies: Mapping[Scenario, Tally]) -> list[dict[str, Any]]:
    """Return the measures of each scenario as a card holds them."""
    return [{"available": list(scenario), **tally.matrix.summary()} for scenario, tally in tallies.items()]


def publish(output: str, model: nn.Module, card: Card, reporter: Reporter) -> None:
    """Write the checkpoint under another name and rename it, so that the unfinished part survives a full disk."""
    new = output + ".new"
    reporter.check()
    save(new, model, card)
    os.replace(new, output)
    remove_progress(part_path(output))
    reporter.info(f"Wrote {output}.")


def now() -> str:
    """Return the time as a card holds it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


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
    present = counts > 0
    power = 0.5 if rule == "sqrt" else 1.0
    weights = np.ones(len(counts))
    weights[present] = (counts[present] / counts.sum()) ** -power
    weights[present] /= weights[present].mean()
    return torch.from_numpy(weights.astype(np.float32))


def check_output(output: str, inputs: Iterable[str | None], overwrite: bool) -> None:
    """Raise LacunaError unless `output` can be written: not over an input, nor over a file without leave."""
    if os.path.realpath(output) in [os.path.realpath(path) for path in inputs if path is not None]:
        raise LacunaError(
            "output-is-input", f"The output {output} is one of the inputs.", "Choose another name for the output."
        )
    check_folder(output)
    check_existing(output, overwrite)
