# SPDX-License-Identifier: GPL-2.0-or-later
"""Train a model from scratch on the scenes of a manifest: from the job to the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..checkpoint.card import Card, Scenario
from ..checkpoint.header import sha256
from ..data.division import check_labels, fit_split, warn_of_gap
from ..data.labelled_scenes import LabelledScene, close_scenes, divide_scenes, open_scenes
from ..data.manifest import Manifest, read_manifest
from ..data.measure import measure_modalities
from ..data.splits import TEST, VALIDATION
from ..errors import CancelledError
from ..events import Reporter
from ..imports.encoder_weights import EncoderSource, encoder_source
from ..jobs import TrainJob
from ..models.base import SegmentationModel
from ..models.registry import architecture, build
from ..raster.scene import gdal_limits
from ..report.training import training_page
from ..runtime.device import choose_device
from ..runtime.outputs import check_outputs
from ..runtime.unfinished import Unfinished
from .detail_path import prepare_detail
from .encoder_inputs import fit_encoder
from .forest import load_library
from .joining import REFITTED, join_detail, refit_detail
from .pictures import Gallery, choose_view
from .plan import describe_plan
from .priors import with_credits, world_priors
from .recipe import Recipe, read_recipe
from .reduction_choice import AUTO, choose_reduction
from .rival import Beside, grow_rival, say_who_is_better
from .run import Run, calibration, chosen_by, now, scores_of, write_checkpoint, write_report
from .samples import PixelSamples, gather_samples
from .session import TILE, Session, tile_of
from .state import Progress, part_path, remove_progress, training_fingerprint
from .strategies import named_strategy
from .validation import Tally


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train as `job` asks and write the checkpoint of the best epoch; or, with `plan_only`, return the plan.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The plan (`describe_plan`), or the result: `checkpoint` (its path), `report`, `epochs`, `best_epoch`, `stopped`,
        `miou` (mean over scenarios on validation), `classes`, `scores`, `scores_on`, `network` (the scores without the
        detail path, where that was measured, or None), `forest` (as `grow_rival`, or None), `history`, `plan` and
        `seconds`.

    Raises:
        LacunaError: for anything that makes the training impossible; nothing is left but what is unfinished.
        CancelledError: when asked to stop; nothing is left, unless the best so far was to be kept.
    """
    manifest = read_manifest(job.manifest)
    recipe = read_recipe(job, manifest.names)
    if job.plan_only:
        with gdal_limits():
            return _run(job, manifest, recipe, _encoder_source(job, recipe), reporter)[0]
    inputs = [manifest.path, *(path for entry in manifest.scenes for path in entry.files())]
    source = _encoder_source(job, recipe)
    outputs = [path for path in (job.output, job.report, job.forest_path()) if path]
    check_outputs(outputs, [*inputs, job.config, *source.files.values()], job.overwrite)
    if job.forest:
        load_library()
    path = part_path(job.output)
    with gdal_limits(), Unfinished([path]).locked():
        try:
            result, pictures = _run(job, manifest, recipe, source, reporter)
        except CancelledError:
            remove_progress(path)
            raise
    if job.report is not None:
        page = training_page(result, pictures, reporter.warnings)
        result["report"] = write_report(job.report, page, reporter)
    return result


def _encoder_source(job: TrainJob, recipe: Recipe) -> EncoderSource:
    """Return where the first weights of the encoder come from: the one asked for, else the architecture's own."""
    own = getattr(architecture(job.architecture).Config(), "encoder", None)
    return encoder_source(job.encoder_weights, recipe.model if own is None else {"encoder": own, **recipe.model})


def _run(
    job: TrainJob, manifest: Manifest, recipe: Recipe, source: EncoderSource, reporter: Reporter
) -> tuple[dict[str, Any], str]:
    """Open the scenes, divide them, and plan or train; return the plan or the result, and pictures for the report."""
    opened: list[LabelledScene] = []
    try:
        device = choose_device(job.device, reporter)
        opened = open_scenes(manifest, reporter)
        manifest = _fit(job, manifest, recipe, opened, reporter)
        session = _prepare(job, manifest, recipe, opened, device, reporter)
        training = _Training(job, manifest, session, source)
        return (training.plan(), "") if job.plan_only else training.run()
    finally:
        close_scenes(opened)


def _fit(
    job: TrainJob, manifest: Manifest, recipe: Recipe, opened: Sequence[LabelledScene], reporter: Reporter
) -> Manifest:
    """Return the manifest with blocks and gap that suit the labels, where it leaves them to Lacuna."""
    if manifest.split is None or not manifest.fitted:
        return manifest
    check_labels(opened, manifest)
    # A reduction that is to be chosen waits for the division; it widens the margin only for what it reduces.
    settings = {key: value for key, value in recipe.model.items() if (key, value) != ("reduce", AUTO)}
    channels = {item.name: len(item.bands) for item in manifest.modalities}
    margin = tile_of(recipe, build(job.architecture, settings, channels, len(manifest.classes)))[1]
    rule = fit_split(opened, len(manifest.classes), margin, manifest.split, reporter)
    warn_of_gap(rule, margin, reporter)
    return replace(manifest, split=rule)


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
    return Session(opened, modalities, manifest.classes, recipe, device, job.seed, reporter, measured=True)


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
        self._strategy = named_strategy(session.recipe.config.strategy, session.modalities)
        self._model = self._build()
        # Labels that neither train nor choose the best epoch, where there are some.
        self._region = TEST if session.counts[TEST].any() else VALIDATION

    def plan(self) -> dict[str, Any]:
        """Return what is going to be done."""
        return describe_plan(self.manifest, self.session, self._model, self._strategy)

    def run(self) -> tuple[dict[str, Any], str]:
        """Train, measure and write the checkpoint; return the result, and pictures for the report."""
        plan = self.plan()
        strategy = self._strategy
        run = Run(self.session, self._model, strategy, strategy.order, self.job.output, self._fingerprint())
        if self._joins():
            # Before the network is trained, so that settings that make no sense are refused at once.
            prepare_detail(self.session)
            self.session.priors = world_priors(self.session)
        progress, stopped = run.train(self.job.resume)
        validated, model = run.measure(VALIDATION, keep_logits=True), run.model
        alone = validated
        samples = gather_samples(self.session) if self._joins() or self.job.forest else None
        joined = join_detail(run, validated, samples) if samples is not None and self._joins() else None
        if self.job.forest and not self.session.detail.plain:
            samples = gather_samples(self.session, plain=True)
        if joined is not None:
            model, validated = joined, run.measure(VALIDATION, joined, keep_logits=True)
        scored, scores_on = validated, f"validation pixels of {self.manifest.name}, {chosen_by(self.session)}"
        if joined is not None:
            scores_on += REFITTED
        if self._region == TEST:
            scored, scores_on = run.measure(TEST, model), self._tested_on()
        card = self._card(model, progress, validated)
        card.credits = with_credits(card.credits, model)
        card.scores, card.scores_on = scores_of(scored), scores_on
        forest = None if samples is None else self._grow(card, samples)
        pictures = self._pictures(model)
        if joined is not None:
            refit_detail(joined, run)
            card.training["refitted"] = True
        write_checkpoint(self.job.output, model, card, self.session.reporter)
        if forest is not None:
            say_who_is_better(card.scores, forest, self.session.reporter)
        result = {
            "checkpoint": self.job.output,
            "report": self.job.report,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "stopped": stopped,
            "miou": round(progress.best_miou, 6),
            "classes": [{"value": item.value, "name": item.name, "color": item.color} for item in card.classes],
            "scores": card.scores,
            "scores_on": scores_on,
            "network": scores_of(alone) if joined is not None and self._region == VALIDATION else None,
            "forest": forest,
            "history": progress.history,
            "plan": plan,
            "seconds": round(progress.seconds, 2),
        }
        return result, pictures

    def _grow(self, card: Card, samples: PixelSamples) -> dict[str, Any] | None:
        """Grow the random forest beside the network, note in the card what it is worth, and return that."""
        path = self.job.forest_path()
        if path is None:
            return None
        beside = Beside(self.session, self._model, card, self._strategy.order, self.manifest, "a training")
        forest = grow_rival(beside, samples, path, self._region, card.scores_on.removesuffix(REFITTED))
        if forest is not None:
            card.training["forest"] = {"scores": forest["scores"], "miou": forest["miou"]}
        return forest

    def _pictures(self, model: nn.Module) -> str:
        """Return maps around labels for the report, as HTML; nothing where no report is asked for."""
        if self.job.report is None:
            return ""
        session, region, count = self.session, self._region, len(self.session.classes)
        measured = [scene for scene in session.scenes if scene.counts(region, count).any()]
        view = choose_view(measured, region, count, session.tile(self._model)[0])
        gallery = Gallery(view, session.modalities, session.classes, self._strategy.order, region, session.device)
        gallery.add("map", model)
        return gallery.html()

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
        inputs = [path for entry in self.manifest.scenes for path in entry.rasters()]
        inputs += self.source.files.values()
        texts = [self.manifest.content(), self.session.recipe.sha256, self.session.labels_sha256()]
        return training_fingerprint(self.job, texts, inputs)

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
