# SPDX-License-Identifier: GPL-2.0-or-later
"""What is to be fine-tuned, on what and how: what a job and its files say, read, checked and reported."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..checkpoint.card import Card, Scenario
from ..checkpoint.classes import ClassPlan, plan_classes
from ..checkpoint.store import sha256
from ..data.division import fit_split, warn_of_gap
from ..data.labelled_scenes import LabelledScene
from ..data.manifest import Manifest, SplitRule, read_manifest
from ..data.manifest_fit import fit_manifest, single_scene
from ..events import Reporter
from ..jobs import FinetuneJob
from ..naming import key_of
from .finetune_settings import FinetuneSettings, read_settings


@dataclass(frozen=True)
class Task:
    """One fine-tuning as it was asked for.

    Attributes:
        job: the request.
        card: of the checkpoint.
        sha256: of the checkpoint.
        settings: how to train.
        manifest: the scenes, with the new classes.
        classes: where these come from.
    """

    job: FinetuneJob
    card: Card
    sha256: str
    settings: FinetuneSettings
    manifest: Manifest
    classes: ClassPlan

    @property
    def order(self) -> list[Scenario]:
        """The scenarios that the checkpoint supports, in the order of the contract."""
        return self.card.supported()


def read_task(job: FinetuneJob, card: Card, reporter: Reporter) -> Task:
    """Return what `job` asks to do with the checkpoint of `card`, and warn of what that means for its classes.

    Raises:
        LacunaError: as for `read_settings` and `prepare_manifest`.
    """
    settings = read_settings(job, card)
    manifest, classes = prepare_manifest(job, card, reporter)
    _warn(card, classes, reporter)
    return Task(job, card, sha256(job.checkpoint), settings, manifest, classes)


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
        # What the job says of a value goes before what the manifest says.
        own = {key_of(value) for value in job.class_map}
        given = {value: name for value, name in manifest.class_map.items() if key_of(value) not in own}
        class_map = {**given, **job.class_map}
        classes = plan_classes(card.classes, class_map, job.merge, job.drop, manifest.classes)
    # What the manifest ignores stays so, unless the job itself says which class it is.
    ignored = {key_of(value) for value in manifest.ignore} - {key_of(value) for value in job.class_map}
    class_map = {value: name for value, name in classes.class_map.items() if key_of(value) not in ignored}
    return replace(manifest, classes=classes.classes, class_map=class_map), classes


def choose_split(task: Task, opened: list[LabelledScene], reporter: Reporter) -> SplitRule | None:
    """Return how scenes that name no split are divided: as asked, as the manifest says, or as suits the labels.

    Args:
        task: what was asked for.
        opened: its scenes.
        reporter: told what was chosen.
    """
    job, card, settings, manifest = task.job, task.card, task.settings, task.manifest
    rule = settings.split or (manifest.split if job.manifest is not None else None)
    if settings.fitted or (rule is None and job.manifest is None) or (settings.split is None and manifest.fitted):
        wanted = rule or SplitRule("block", seed=job.seed)
        rule = fit_split(opened, len(manifest.classes), card.margin, wanted, reporter)
    warn_of_gap(rule, card.margin, reporter)
    return rule


def _warn(card: Card, classes: ClassPlan, reporter: Reporter) -> None:
    """Say what happens to the classes, and that a fine-tuned checkpoint forgets."""
    if card.training.get("lineage"):
        reporter.warn(
            f"{card.name or 'The checkpoint'} was itself fine-tuned. Each further fine-tuning forgets more of "
            "what was learned first: where you can, fine-tune its first parent on all labels together."
        )
    if classes.added:
        known = ", ".join(item.name for item, numbers in zip(classes.classes, classes.sources) if numbers)
        reporter.warn(f"Classes that are new to the checkpoint are added: {', '.join(classes.added)} (it has {known}).")
    for name, goal in classes.merged.items():
        reporter.info(f"The class {name} becomes part of {goal}.")
    if classes.dropped:
        reporter.warn(f"Classes that are dropped, and whose labels are ignored: {', '.join(classes.dropped)}.")
