# SPDX-License-Identifier: GPL-2.0-or-later
"""Train a model from scratch on the scenes of a manifest: from the job to the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.card import Card
from ..checkpoint.encoder_file import load_encoder
from ..checkpoint.header import sha256
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..inference.device import choose_device
from ..inference.parts import Parts
from ..jobs import TrainJob
from ..models.base import SegmentationModel
from ..models.registry import build
from ..raster.scene import gdal_limits
from . import parts as scenes
from .manifest import Manifest, read_manifest
from .parts import Part
from .scenarios import STRATEGIES, supported
from .session import Session, calibration, check_output, class_weights, now, publish, scores_of
from .settings import Recipe, read_recipe
from .splits import TEST, VALIDATION
from .state import Progress, fingerprint, load_progress, part_path, remove_progress, save_progress
from .validation import Evaluator, Tally

__all__ = ["class_weights", "train"]


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train as `job` asks and write the checkpoint of the best epoch.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The result: `checkpoint` (its path), `epochs`, `best_epoch`, `miou` (mean over scenarios on validation),
        `scores`, `scores_on`, `history` and `seconds`.

    Raises:
        LacunaError: for anything that makes the training impossible; nothing is left but the unfinished part.
        CancelledError: when asked to stop; nothing is left.
    """
    manifest = read_manifest(job.manifest)
    recipe = read_recipe(job, manifest.names)
    inputs = [manifest.path, *(path for entry in manifest.scenes for path in entry.files())]
    check_output(job.output, [*inputs, job.config, job.encoder_weights], job.overwrite)
    part = part_path(job.output)
    with gdal_limits(), Parts([part]).locked():
        opened: list[Part] = []
        try:
            device = choose_device(job.device, reporter)
            opened = scenes.open_parts(manifest, reporter)
            return _Training(job, manifest, recipe, opened, device, reporter).run()
        except CancelledError:
            remove_progress(part)
            raise
        finally:
            scenes.close_parts(opened)


class _Training:
    """One training, its scenes open.

    Args:
        job: the request.
        manifest: what to train on.
        recipe: how.
        opened: the scenes.
        device: where to compute.
        reporter: told what happens.
    """

    def __init__(
        self,
        job: TrainJob,
        manifest: Manifest,
        recipe: Recipe,
        opened: Sequence[Part],
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.job, self.manifest, self.device, self.reporter = job, manifest, device, reporter
        scenes.divide(opened, manifest, reporter)
        modalities = scenes.measure(opened, manifest.modalities, reporter)
        for part in opened:
            part.prepare(modalities)
        self.session = Session(opened, modalities, manifest.classes, recipe, device, job.seed, reporter)
        self.model = self._build()

    def run(self) -> dict[str, Any]:
        """Train, measure and write the checkpoint; return the result."""
        progress, counts = self._train(), self.session.counts
        self.model.load_state_dict(progress.best)
        validated = self._evaluator(VALIDATION)(self.model, self.device, self.reporter, keep_logits=True)
        scored, scores_on = validated, f"validation pixels of {self.manifest.name}, by which the best epoch was chosen"
        if counts[TEST].any():
            tester = self._evaluator(TEST)
            scored = tester(self.model, self.device, self.reporter)
            scores_on = (
                f"{counts[TEST].sum()} labelled pixels of the test scenes of {self.manifest.name} "
                f"({', '.join(tester.names)}), used for nothing else"
            )
        card = self._card(progress, validated)
        card.scores, card.scores_on = scores_of(scored), scores_on
        publish(self.job.output, self.model, card, self.reporter)
        return {
            "checkpoint": self.job.output,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "miou": round(progress.best_miou, 6),
            "scores": card.scores,
            "scores_on": scores_on,
            "history": progress.history,
            "seconds": round(progress.seconds, 2),
        }

    def _build(self) -> SegmentationModel:
        """Return the new network on the device, its weights drawn from the seed."""
        torch.manual_seed(self.job.seed)
        channels = {item.name: len(item.bands) for item in self.session.modalities}
        model = build(self.job.architecture, self.session.recipe.model, channels, len(self.manifest.classes))
        if self.job.encoder_weights is not None:
            model.load_encoder(_read_encoder(self.job.encoder_weights, model.config().get("encoder")))
        return model.to(self.device)

    def _train(self) -> Progress:
        """Train from the beginning, or from where the same job was interrupted."""
        job, recipe = self.job, self.session.recipe
        part, mark = part_path(job.output), self._fingerprint()
        progress = load_progress(part, mark, self.reporter) if job.resume else None
        if progress is not None:
            total = recipe.settings.epochs
            self.reporter.info(f"Taking up an unfinished training: {progress.epoch} of {total} epochs.")
        strategy = STRATEGIES[recipe.config.strategy](self.session.modalities)
        trainer = self.session.trainer(self.model, strategy, self._evaluator(VALIDATION))
        return trainer.run(progress or Progress(), self.reporter, lambda state: save_progress(part, state, mark))

    def _evaluator(self, region: int) -> Evaluator:
        """Return the evaluator of all scenarios in a region."""
        return self.session.evaluator(region, supported(self.session.modalities), self.model)

    def _fingerprint(self) -> str:
        """Return a hash of all that decides the result."""
        inputs = [path for entry in self.manifest.scenes for path in entry.files()]
        if self.job.encoder_weights is not None:
            inputs.append(self.job.encoder_weights)
        return fingerprint(self.job, [self.manifest.sha256, self.session.recipe.sha256], inputs)

    def _card(self, progress: Progress, validated: dict[tuple[str, ...], Tally]) -> Card:
        """Return the card, all but the scores."""
        tile, margin = self.session.tile(self.model)
        weights = self.job.encoder_weights
        return Card(
            architecture={"name": self.job.architecture, "config": self.model.config()},
            modalities=list(self.session.modalities),
            classes=self.manifest.classes,
            reference=self.manifest.reference,
            name=self.manifest.name,
            description=self.manifest.description,
            resolution=self.session.resolution(),
            tile=[tile, tile],
            margin=margin,
            stride=self.model.output_stride,
            calibration=calibration(validated),
            training={
                "manifest": os.path.basename(self.manifest.path),
                "manifest_sha256": self.manifest.sha256,
                "preset": self.job.preset,
                **self.session.record(progress),
            },
            licence=self.manifest.licence,
            credits=self.manifest.credits,
            parents=[] if weights is None else [sha256(weights)],
            created=now(),
        )


def _read_encoder(path: str, encoder: str | None) -> dict[str, Tensor]:
    """Return the tensors of an encoder file, which must be of the model's `encoder` where it says whose they are.

    Raises:
        LacunaError: `bad-encoder-weights`, they are another's; codes of `load_encoder`.
    """
    info, tensors = load_encoder(path)
    if info.name and encoder is not None and info.name != encoder:
        raise LacunaError(
            "bad-encoder-weights",
            f"{path} holds the weights of {info.name}, the model's encoder is {encoder}.",
            f"Choose that encoder (--encoder {info.name}), or give the weights of {encoder}.",
        )
    return tensors
