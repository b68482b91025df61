# SPDX-License-Identifier: GPL-2.0-or-later
"""Train a model from scratch on the scenes of a manifest: from the job to the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..checkpoint.card import Card, Scenario
from ..checkpoint.header import sha256
from ..data.labelled_scenes import LabelledScene, close_scenes, divide_scenes, open_scenes
from ..data.manifest import Manifest, read_manifest
from ..data.measure import measure_modalities
from ..data.splits import TEST, VALIDATION
from ..errors import CancelledError
from ..events import Reporter
from ..imports.encoder_weights import EncoderSource, encoder_source
from ..jobs import TrainJob
from ..models.base import SegmentationModel
from ..models.registry import build
from ..raster.scene import gdal_limits
from ..runtime.device import choose_device
from ..runtime.outputs import check_outputs
from ..runtime.unfinished import Unfinished
from .encoder_inputs import fit_encoder
from .joining import REFITTED, join_detail, refit_detail
from .recipe import Recipe, read_recipe
from .reduction_choice import choose_reduction
from .run import Run, calibration, chosen_by, now, scores_of, write_checkpoint
from .samples import gather_samples
from .session import TILE, Session
from .state import Progress, part_path, remove_progress, training_fingerprint
from .strategies import named_strategy
from .validation import Tally


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train as `job` asks and write the checkpoint of the best epoch.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The result: `checkpoint` (its path), `epochs`, `best_epoch`, `miou` (mean over scenarios on validation),
        `scores`, `scores_on`, `history` and `seconds`.

    Raises:
        LacunaError: for anything that makes the training impossible; nothing is left but what is unfinished.
        CancelledError: when asked to stop; nothing is left.
    """
    manifest = read_manifest(job.manifest)
    recipe = read_recipe(job, manifest.names)
    inputs = [manifest.path, *(path for entry in manifest.scenes for path in entry.files())]
    source = encoder_source(job.encoder_weights, recipe.model)
    check_outputs([job.output], [*inputs, job.config, *source.files.values()], job.overwrite)
    path = part_path(job.output)
    with gdal_limits(), Unfinished([path]).locked():
        opened: list[LabelledScene] = []
        try:
            device = choose_device(job.device, reporter)
            opened = open_scenes(manifest, reporter)
            session = _prepare(job, manifest, recipe, opened, device, reporter)
            return _Training(job, manifest, session, source).run()
        except CancelledError:
            remove_progress(path)
            raise
        finally:
            close_scenes(opened)


def _prepare(
    job: TrainJob,
    manifest: Manifest,
    recipe: Recipe,
    opened: Sequence[LabelledScene],
    device: torch.device,
    reporter: Reporter,
) -> Session:
    """Divide the opened scenes, choose what is reduced, measure modalities and set how values are scaled."""
    divide_scenes(opened, manifest, reporter)
    recipe = choose_reduction(recipe, opened, recipe.config.tile or TILE, reporter)
    modalities = measure_modalities(opened, manifest.modalities, reporter)
    recipe, modalities = fit_encoder(recipe, manifest, modalities, reporter)
    for scene in opened:
        scene.prepare(modalities)
    return Session(opened, modalities, manifest.classes, recipe, device, job.seed, reporter)


class _Training:
    """One training, its scenes open.

    Args:
        job: the request.
        manifest: what to train on.
        session: its scenes, divided and prepared.
        source: where the encoder's first weights come from.
    """

    def __init__(self, job: TrainJob, manifest: Manifest, session: Session, source: EncoderSource) -> None:
        self.job, self.manifest, self.session, self.source = job, manifest, session, source

    def run(self) -> dict[str, Any]:
        """Train, measure and write the checkpoint; return the result."""
        strategy = named_strategy(self.session.recipe.config.strategy, self.session.modalities)
        run = Run(self.session, self._build(), strategy, strategy.order, self.job.output, self._fingerprint())
        progress, stopped = run.train(self.job.resume)
        validated, model = run.measure(VALIDATION, keep_logits=True), run.model
        joined = join_detail(run, validated, gather_samples(self.session)) if self._joins() else None
        if joined is not None:
            model, validated = joined, run.measure(VALIDATION, joined, keep_logits=True)
        scored, scores_on = validated, f"validation pixels of {self.manifest.name}, {chosen_by(self.session)}"
        if joined is not None:
            scores_on += REFITTED
        if self.session.counts[TEST].any():
            scored, scores_on = run.measure(TEST, model), self._tested_on()
        card = self._card(model, progress, validated)
        card.scores, card.scores_on = scores_of(scored), scores_on
        if joined is not None:
            refit_detail(joined, run)
            card.training["refitted"] = True
        write_checkpoint(self.job.output, model, card, self.session.reporter)
        return {
            "checkpoint": self.job.output,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "stopped": stopped,
            "miou": round(progress.best_miou, 6),
            "scores": card.scores,
            "scores_on": scores_on,
            "history": progress.history,
            "seconds": round(progress.seconds, 2),
        }

    def _joins(self) -> bool:
        """Return whether a detail path is wanted; the papers know none."""
        return self.job.detail and self.job.preset != "paper"

    def _build(self) -> SegmentationModel:
        """Return the new network on the device, its weights drawn from the seed."""
        torch.manual_seed(self.job.seed)
        channels = {item.name: len(item.bands) for item in self.session.modalities}
        model = build(self.job.architecture, self.session.recipe.model, channels, len(self.manifest.classes))
        if self.source.files:
            model.load_encoder(self.source.tensors())
        return model.to(self.session.device)

    def _tested_on(self) -> str:
        """Return what the scores of the test scenes were measured on, in words."""
        counts, classes = self.session.counts[TEST], len(self.session.classes)
        names = [scene.name for scene in self.session.scenes if scene.counts(TEST, classes).any()]
        return (
            f"{counts.sum()} labelled pixels of the test scenes of {self.manifest.name} ({', '.join(names)}), used for "
            "nothing else"
        )

    def _fingerprint(self) -> str:
        """Return a hash of all that decides the result."""
        inputs = [path for entry in self.manifest.scenes for path in entry.files()]
        inputs += self.source.files.values()
        return training_fingerprint(self.job, [self.manifest.sha256, self.session.recipe.sha256], inputs)

    def _card(self, model: SegmentationModel, progress: Progress, validated: Mapping[Scenario, Tally]) -> Card:
        """Return the card, all but the scores."""
        tile, margin = self.session.tile(model)
        return Card(
            architecture={"name": model.architecture, "config": model.config()},
            modalities=list(self.session.modalities),
            classes=self.manifest.classes,
            reference=self.manifest.reference,
            name=self.manifest.name,
            description=self.manifest.description,
            resolution=self.session.resolution(),
            tile=[tile, tile],
            margin=margin,
            stride=model.output_stride,
            calibration=calibration(validated),
            training={
                "manifest": os.path.basename(self.manifest.path),
                "manifest_sha256": self.manifest.sha256,
                "preset": self.job.preset,
                **self.session.record(progress),
            },
            licence=self.manifest.licence,
            credits=" ".join(filter(None, [self.manifest.credits, self.source.credits])),
            parents=[sha256(path) for path in self.source.files.values()],
            created=now(),
        )
