# SPDX-License-Identifier: GPL-2.0-or-later
"""Train one network from scratch and test it: architectures, baselines and ablations under the same conditions.

All go through the product's own session and loop: the same crops (of one seed), steps, rates, validation after the same
epochs, choice of the epoch, tiles of the test. What is unfinished lies in the working folder and is taken up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lacuna.engine.checkpoint.card import Scenario
from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, open_scenes
from lacuna.engine.data.manifest import Manifest, read_manifest
from lacuna.engine.data.measure import measure_modalities
from lacuna.engine.data.splits import TEST
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import TrainJob
from lacuna.engine.models import registry
from lacuna.engine.models.base import SegmentationModel
from lacuna.engine.models.config import checked
from lacuna.engine.raster.scene import gdal_limits
from lacuna.engine.training.recipe import read_recipe
from lacuna.engine.training.run import Run
from lacuna.engine.training.session import Session
from lacuna.engine.training.state import Progress, part_path, remove_progress
from lacuna.engine.training.strategies import named_strategy, supported
from lacuna.engine.training.validation import Tally

from ..strategies.data import config_text
from . import protocol
from .ablations import Dis2WithoutClasses, Dis2WithoutDistillation, Dis2WithoutHybridFusion, SgmaWithoutFusion
from .baselines import Alone, Averaged, Stacked
from .protocol import NetworkCell

# Variants that no checkpoint can name. `alone` has a network of this kind for each modality.
KINDS: dict[str, type[SegmentationModel]] = {
    "stacked": Stacked,
    "stacked_dropout": Stacked,
    "averaged": Averaged,
    "alone": Stacked,
    "sgma_no_sgf": SgmaWithoutFusion,
    "dis2_no_dlkd": Dis2WithoutDistillation,
    "dis2_no_cflm": Dis2WithoutClasses,
    "dis2_no_hf": Dis2WithoutHybridFusion,
}
CPU = torch.device("cpu")


@dataclass
class Outcome:
    """What became of a variant.

    Attributes:
        model: with the weights of its best epoch.
        tested: what it does in every scenario on the test pixels.
        validation: mean mIoU over the scenarios on validation, at the best epoch. Of `alone`: by modality.
        best_epoch: that epoch, from 1. Of `alone`: by modality.
        parameters: number of weights that are trained.
        seconds: wall time of the training, with what was done before a break.
    """

    model: nn.Module
    tested: dict[Scenario, Tally] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    best_epoch: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0


def measure(
    cell: NetworkCell, manifest: Path, work: Path, reporter: Reporter, changes: Mapping[str, Any] | None = None
) -> Outcome:
    """Train and test the network of a cell.

    Args:
        cell: which.
        manifest: scenes for training, validation and test.
        work: folder for what is unfinished.
        reporter: told what happens.
        changes: of the settings of training, for a trial.

    Raises:
        LacunaError: the data or the settings do not allow it; `no-labels`, the manifest has no test.
    """
    config = protocol.network_config(cell.variant, cell.dataset)
    config["training"] |= changes or {}
    work.mkdir(parents=True, exist_ok=True)
    path = work / (str(cell).replace("/", "-") + "-config.toml")
    path.write_text(config_text(config), encoding="utf-8")
    read = read_manifest(str(manifest))
    with gdal_limits():
        scenes = open_scenes(read, reporter)
        try:
            divide_scenes(scenes, read, reporter)
            modalities = measure_modalities(scenes, read.modalities, reporter)
            for scene in scenes:
                scene.prepare(modalities)
            job = TrainJob(read.path, protocol.architecture_of(cell.variant), "", config=str(path))
            recipe = read_recipe(job, read.names)
            session = Session(scenes, modalities, read.classes, recipe, CPU, cell.seed, reporter)
            return _Bench(cell, session, read, work).run()
        finally:
            close_scenes(scenes)


class _Bench:
    """One cell, its scenes open and prepared."""

    def __init__(self, cell: NetworkCell, session: Session, manifest: Manifest, work: Path) -> None:
        self.cell, self.session, self.manifest, self.work = cell, session, manifest, work
        self.parts: list[str] = []

    def run(self) -> Outcome:
        """Train, test, remove what was unfinished."""
        if not self.session.counts[TEST].any():
            raise LacunaError(
                "no-labels", f"{self.manifest.path} has no labelled test pixel.", 'Give a scene split = "test".'
            )
        outcome = self._each_alone() if self.cell.variant == "alone" else self._one()
        # Tiles of the test overlap as the network, or the one of each modality, wants them.
        first = next(item for item in outcome.model.modules() if isinstance(item, SegmentationModel))
        order = supported(self.session.modalities)
        evaluator = self.session.evaluator(TEST, order, first)
        outcome.tested = evaluator(outcome.model, CPU, self.session.reporter)
        outcome.parameters = sum(item.numel() for item in outcome.model.parameters())
        for part in self.parts:
            remove_progress(part)
        return outcome

    def _one(self) -> Outcome:
        model, progress = self._trained(self.session, "")
        return Outcome(
            model,
            validation={"all": round(progress.best_miou, 4)},
            best_epoch={"all": progress.best_epoch},
            seconds=progress.seconds,
        )

    def _each_alone(self) -> Outcome:
        members, found = {}, {}
        for item in self.session.modalities:
            own = replace(self.session, modalities=[item])
            members[item.name], found[item.name] = self._trained(own, item.name)
        return Outcome(
            Alone(members, {name: progress.best_miou for name, progress in found.items()}),
            validation={name: round(progress.best_miou, 4) for name, progress in found.items()},
            best_epoch={name: progress.best_epoch for name, progress in found.items()},
            seconds=sum(progress.seconds for progress in found.values()),
        )

    def _trained(self, session: Session, member: str) -> tuple[SegmentationModel, Progress]:
        """Return the network over the modalities of `session`, with the weights of its best epoch."""
        strategy = named_strategy(session.recipe.config.strategy, session.modalities)
        output = str(self.work / "-".join(filter(None, [*str(self.cell).split("/"), member])))
        self.parts.append(part_path(output))
        run = Run(session, self._build(session), strategy, strategy.order, output, self._mark(session))
        progress, _ = run.train(resume=True)
        return run.model, progress

    def _build(self, session: Session) -> SegmentationModel:
        """Return the new network, its weights drawn from the seed."""
        torch.manual_seed(self.cell.seed)
        channels = {item.name: len(item.bands) for item in session.modalities}
        kind, model = KINDS.get(self.cell.variant), session.recipe.model
        if kind is None:
            return registry.build(protocol.architecture_of(self.cell.variant), model, channels, len(session.classes))
        return kind(channels, len(session.classes), checked(kind.Config, model, f"variant {self.cell.variant}"))

    def _mark(self, session: Session) -> str:
        """Return a hash of all that decides the weights, but the values of the rasters."""
        found = [self.manifest.sha256, session.recipe.sha256, session.labels_sha256(), torch.__version__]
        text = json.dumps([str(self.cell), [item.name for item in session.modalities], *found])
        return hashlib.sha256(text.encode()).hexdigest()
