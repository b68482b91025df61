# SPDX-License-Identifier: GPL-2.0-or-later
"""Fine-tune a checkpoint on an area: from the job to the new checkpoint, with what it was worth before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..checkpoint.card import Card
from ..checkpoint.store import load
from ..data.division import check_labels
from ..data.labelled_scenes import LabelledScene, close_scenes, divide_scenes, open_scenes
from ..data.splits import TEST, VALIDATION
from ..errors import CancelledError
from ..events import Reporter
from ..jobs import FinetuneJob
from ..models.base import SegmentationModel
from ..models.encoders.inputs import held_modalities
from ..models.joined import Joined
from ..raster.scene import gdal_limits
from ..report.finetuning import finetuning_page
from ..runtime.device import choose_device
from ..runtime.outputs import check_outputs
from ..runtime.unfinished import Unfinished
from ..training.detail_path import prepare_detail
from ..training.forest import load_library
from ..training.joining import refit_detail
from ..training.pictures import Gallery, choose_view
from ..training.priors import with_credits, world_priors
from ..training.rival import Beside, grow_rival, say_who_is_better
from ..training.run import Run, write_checkpoint, write_report
from ..training.samples import PixelSamples, gather_samples
from ..training.session import Session
from ..training.state import part_path, remove_progress, training_fingerprint
from .detail import network_card, network_of, say_what_stays_behind, with_detail
from .lora import adapter_tensors, merge_lora, save_adapters
from .network import Regrouped, adapt_network, whole_tensors
from .outcome import measure_outcome
from .plan import FinetunePlan
from .rescaling import fit_scaling
from .strategy import choose_strategy
from .task import Task, choose_split, read_task

Tensors = Mapping[str, torch.Tensor]


def finetune(job: FinetuneJob, reporter: Reporter) -> dict[str, Any]:
    """Fine-tune as `job` asks and write the checkpoint of the best epoch; or, with `plan_only`, return the plan.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The result or the plan, as `docs/finetune.md` says.

    Raises:
        LacunaError: for anything that makes it impossible; nothing is left but what is unfinished.
        CancelledError: when asked to stop; nothing is left, unless the best so far was to be kept.
    """
    device = choose_device(job.device, reporter)
    card, parent = load(job.checkpoint, device)
    task = read_task(job, network_card(card, parent), reporter)
    say_what_stays_behind(parent, reporter)
    if job.plan_only:
        with gdal_limits():
            return _run(task, parent, device, reporter)[0]
    inputs = [path for entry in task.manifest.scenes for path in entry.files()]
    outputs = [path for path in (job.output, job.report, job.forest_path()) if path]
    check_outputs(outputs, [*inputs, job.checkpoint, job.manifest, job.config], job.overwrite)
    if job.forest:
        load_library()
    with gdal_limits(), Unfinished([part_path(job.output)]).locked():
        try:
            result, pictures = _run(task, parent, device, reporter)
        except CancelledError:
            remove_progress(part_path(job.output))
            raise
    if job.report is not None:
        page = finetuning_page(result, pictures, reporter.warnings)
        result["report"] = write_report(job.report, page, reporter)
    return result


def _run(task: Task, parent: SegmentationModel, device: torch.device, reporter: Reporter) -> tuple[dict[str, Any], str]:
    """Open the scenes, divide them, and plan or train; return the plan or the result, and pictures for the report."""
    opened: list[LabelledScene] = []
    base = network_of(parent)
    try:
        opened = open_scenes(task.manifest, reporter)
        check_labels(opened, task.manifest)
        task = replace(task, manifest=replace(task.manifest, split=choose_split(task, opened, reporter)))
        divide_scenes(opened, task.manifest, reporter)
        held = held_modalities(task.card.architecture["config"])
        fitted = fit_scaling(opened, task.card.modalities, held)
        for scene in opened:
            scene.prepare(task.card.modalities)
        reporter.check()
        session = Session(
            opened, task.card.modalities, task.classes.classes, task.settings.recipe, device, task.job.seed, reporter
        )
        strategy = choose_strategy(task, base, session)
        plan = FinetunePlan.of(task, session, strategy, adapt_network(task, base, device), fitted)
        plan.say()
        return (plan.to_dict(), "") if task.job.plan_only else _train(plan, parent)
    finally:
        close_scenes(opened)


def _train(plan: FinetunePlan, parent: SegmentationModel) -> tuple[dict[str, Any], str]:
    """Measure, train, measure again and write the checkpoint; return the result, and pictures for the report."""
    task, session, model = plan.task, plan.session, plan.model
    # Labels that neither trained nor chose the best epoch, where there are some.
    region = TEST if session.counts[TEST].any() else VALIDATION
    regrouped, gallery = Regrouped(parent, task.classes.sources), _gallery(plan, region)
    run = Run(session, model, plan.strategy, task.order, task.job.output, _fingerprint(plan))
    before = run.measure(region, regrouped)
    if gallery is not None:
        gallery.add("before", regrouped)
    # From here on values are scaled to suit the area; the parent was measured as it is.
    plan = replace(plan, session=session.rescaled(plan.modalities))
    run = replace(run, session=plan.session)
    if task.job.detail:
        # Before the network is trained, so that settings that make no sense are refused at once.
        prepare_detail(plan.session)
        plan.session.priors = world_priors(plan.session)
    progress, stopped = run.train(task.job.resume, task.job.keep_best)
    small, whole = adapter_tensors(model), whole_tensors(task, network_of(parent), model)
    merge_lora(model)
    alone = measure_outcome(plan, run, progress, stopped, region, before)
    samples = gather_samples(plan.session) if task.job.detail or task.job.forest else None
    made, outcome = with_detail(alone, run, samples) if samples and task.job.detail else (model, alone)
    card = outcome.card(made)
    card.credits = with_credits(card.credits, made)
    if task.job.forest and not plan.session.detail.plain:
        samples = gather_samples(plan.session, plain=True)
    forest = _grow(plan, samples, region, card) if samples and task.job.forest else None
    # Adapters are of the network alone; where that is all, merged they give this very checkpoint.
    adapter = _keep_adapters(plan, card if made is model else alone.card(model), small, whole)
    if gallery is not None:
        gallery.add("after", made)
    # From here on nothing is measured any more.
    if isinstance(made, Joined):
        refit_detail(made, run)
    write_checkpoint(task.job.output, made, card, session.reporter)
    result = {**outcome.result(card, adapter), "forest": forest}
    if forest is not None:
        say_who_is_better(card.scores, forest, session.reporter)
    return result, "" if gallery is None else gallery.html()


def _keep_adapters(plan: FinetunePlan, card: Card, small: Tensors, whole: Tensors) -> str | None:
    """Write the adapters of LoRA as a file of their own, if that was asked for; return its path."""
    task = plan.task
    if task.job.method != "lora" or not task.settings.lora.keep_apart:
        return None
    path = os.path.splitext(task.job.output)[0] + ".lora.safetensors"
    save_adapters(path, small, whole, task.settings.lora, task.sha256, card)
    return path


def _grow(plan: FinetunePlan, samples: PixelSamples, region: int, card: Card) -> dict[str, Any] | None:
    """Grow the random forest beside the network, note in the card what it is worth, and return that."""
    task, path = plan.task, plan.task.job.forest_path()
    beside = Beside(plan.session, plan.model, task.card, task.order, task.manifest, "a fine-tuning")
    forest = None if path is None else grow_rival(beside, samples, path, region, card.scores_on)
    if forest is not None:
        card.training["forest"] = {"scores": forest["scores"], "miou": forest["miou"]}
    return forest


def _gallery(plan: FinetunePlan, region: int) -> Gallery | None:
    """Return what draws maps around labels of a region for the report, or None where none is asked for."""
    if plan.task.job.report is None:
        return None
    session, classes = plan.session, plan.session.classes
    measured = [scene for scene in session.scenes if scene.counts(region, len(classes)).any()]
    view = choose_view(measured, region, len(classes), session.tile(plan.model)[0])
    return Gallery(view, session.modalities, classes, plan.task.order, region, session.device)


def _fingerprint(plan: FinetunePlan) -> str:
    """Return a hash of all that decides the result."""
    task = plan.task
    inputs = [path for entry in task.manifest.scenes for path in entry.rasters()]
    texts = [task.sha256, task.manifest.sha256, task.settings.recipe.sha256, plan.session.labels_sha256()]
    return training_fingerprint(task.job, texts, inputs)
