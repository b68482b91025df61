# SPDX-License-Identifier: GPL-2.0-or-later
"""Fine-tune a checkpoint on an area: from the job to the new checkpoint, with what it was worth before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..checkpoint.card import Card
from ..checkpoint.classes import ClassPlan, key_of, plan_classes
from ..checkpoint.store import load, sha256
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..inference.device import choose_device
from ..inference.parts import Parts
from ..jobs import FinetuneJob
from ..models.base import SegmentationModel
from ..raster.scene import gdal_limits
from . import parts as scenes
from .finetune_settings import FinetuneSettings, read_settings
from .manifest import Manifest, SplitRule, read_manifest
from .manifest_fit import fit_manifest, single_scene
from .parts import Part
from .report import write_report
from .session import check_output
from .splits import TRAIN, choose_blocks
from .state import part_path, remove_progress
from .tuning import Tuning

LEAST_PIXELS = 100
LEAST_CLASSES = 2


def finetune(job: FinetuneJob, reporter: Reporter) -> dict[str, Any]:
    """Fine-tune as `job` asks and write the checkpoint of the best epoch; or, with `plan_only`, return the plan.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The result or the plan, as `docs/finetune.md` says.

    Raises:
        LacunaError: for anything that makes it impossible; nothing is left but the unfinished part.
        CancelledError: when asked to stop; nothing is left, unless the best so far was to be kept.
    """
    device = choose_device(job.device, reporter)
    card, model = load(job.checkpoint, device)
    settings = read_settings(job, card)
    manifest, classes = prepare_manifest(job, card, reporter)
    _warn(card, classes, reporter)
    if job.plan_only:
        with gdal_limits():
            return _run(job, card, model, settings, manifest, classes, device, reporter)[0]
    inputs = [path for entry in manifest.scenes for path in entry.files()]
    for output in filter(None, (job.output, job.report)):
        check_output(output, [*inputs, job.checkpoint, job.manifest, job.config], job.overwrite)
    with gdal_limits(), Parts([part_path(job.output)]).locked():
        try:
            result, pictures = _run(job, card, model, settings, manifest, classes, device, reporter)
        except CancelledError:
            remove_progress(part_path(job.output))
            raise
    if job.report is not None:
        try:
            write_report(job.report, result, pictures, reporter)
        except LacunaError as problem:  # the checkpoint is there, and worth more
            reporter.warn(f"{problem.text} The checkpoint is whole.")
            result["report"] = None
    return result


def prepare_manifest(job: FinetuneJob, card: Card, reporter: Reporter) -> tuple[Manifest, ClassPlan]:
    """Return the scenes of a job, their labels leading to the new checkpoint's classes, and these classes.

    Raises:
        LacunaError: as for `read_manifest`, `fit_manifest`, `single_scene` and `plan_classes`.
    """
    if job.manifest is None:
        manifest = single_scene(card, job.modalities, job.labels or "", job.field)
        classes = plan_classes(card.classes, job.class_map, job.merge, job.drop)
    else:
        manifest = fit_manifest(read_manifest(job.manifest), card, reporter)
        classes = plan_classes(card.classes, job.class_map, job.merge, job.drop, manifest.classes)
    # What the manifest ignores stays so, unless the job itself says which class it is.
    ignored = {key_of(value) for value in manifest.ignore} - {key_of(value) for value in job.class_map}
    class_map = {value: name for value, name in classes.class_map.items() if key_of(value) not in ignored}
    return replace(manifest, classes=classes.classes, class_map=class_map), classes


def check_labels(parts: list[Part], manifest: Manifest) -> None:
    """Raise LacunaError `too-few-labels` unless the scenes, not yet divided, have enough labels, of two classes."""
    counts = scenes.count_classes(parts, TRAIN, len(manifest.classes))
    found = {item.name: int(count) for item, count in zip(manifest.classes, counts) if count}
    total = int(counts.sum())
    if total >= LEAST_PIXELS and len(found) >= LEAST_CLASSES:
        return
    listed = ", ".join(f"{name} {pixels}" for name, pixels in found.items())
    raise LacunaError(
        "too-few-labels",
        f"The labels {manifest.path} give {total} labelled pixels of {len(found)} classes ({listed}); at least "
        f"{LEAST_PIXELS} pixels of {LEAST_CLASSES} classes are needed.",
        "Label more places, of every class that you want to tell apart.",
    )


def _run(
    job: FinetuneJob,
    card: Card,
    model: SegmentationModel,
    settings: FinetuneSettings,
    manifest: Manifest,
    classes: ClassPlan,
    device: torch.device,
    reporter: Reporter,
) -> tuple[dict[str, Any], str]:
    """Open the scenes, divide them, and plan or train; return the plan or the result, and pictures for the report."""
    opened: list[Part] = []
    try:
        opened = scenes.open_parts(manifest, reporter)
        check_labels(opened, manifest)
        manifest = replace(manifest, split=_split(job, card, settings, manifest, opened, reporter))
        scenes.divide(opened, manifest, reporter)
        for part in opened:
            part.prepare(card.modalities)
        reporter.check()
        tuning = Tuning(job, card, model, sha256(job.checkpoint), settings, manifest, classes, opened, device, reporter)
        tuning.say_plan()
        return (tuning.plan(), "") if job.plan_only else (tuning.run(), tuning.pictures)
    finally:
        scenes.close_parts(opened)


def _split(
    job: FinetuneJob,
    card: Card,
    settings: FinetuneSettings,
    manifest: Manifest,
    opened: list[Part],
    reporter: Reporter,
) -> SplitRule | None:
    """Return how scenes that name no split are divided: as asked, as the manifest says, or as suits the labels."""
    rule = settings.split or (manifest.split if job.manifest is not None else None)
    if settings.fitted or (rule is None and job.manifest is None):
        labels = [part.labels for part in opened]
        wanted = rule or SplitRule("block", seed=job.seed)
        rule = choose_blocks(labels, len(manifest.classes), card.margin, wanted)
        reporter.info(f"Validation: blocks of {rule.block} pixels, with a gap of {rule.gap} around them.")
    if rule is not None and rule.method != "group" and rule.gap < card.margin:
        reporter.warn(
            f"The gap between training and validation is {rule.gap} pixels; the network looks {card.margin} around it, "
            "so that the measured accuracy may be too high."
        )
    return rule


def _warn(card: Card, classes: ClassPlan, reporter: Reporter) -> None:
    """Say what happens to the classes, and that a fine-tuned checkpoint forgets."""
    if card.training.get("lineage"):
        reporter.warn(
            f"{card.name or 'The checkpoint'} was itself fine-tuned. With each time more is forgotten of what it "
            "learned first: where you can, fine-tune its first parent on all labels together."
        )
    if classes.added:
        known = ", ".join(item.name for item, numbers in zip(classes.classes, classes.sources) if numbers)
        reporter.warn(f"Classes that the checkpoint has not are added: {', '.join(classes.added)} (it has {known}).")
    for name, goal in classes.merged.items():
        reporter.info(f"The class {name} becomes part of {goal}.")
    if classes.dropped:
        reporter.warn(f"Classes that go, and whose labels are ignored: {', '.join(classes.dropped)}.")
