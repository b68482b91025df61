# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Fine-tune page starts from, a checkpoint or nothing: what is missing, what decides the plan, and the job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from qgis.core import QgsRasterLayer, QgsVectorLayer

from ..compat import tr
from ..engine.errors import UsageError
from ..engine.jobs import FinetuneJob, TrainJob
from ..host.binding import Binding
from ..host.exports import Exports
from ..host.new_model import NewModel, encoder_tables, new_classes
from ..host.toml_text import toml_words
from .class_plan_box import ClassPlanBox
from .finetune_words import result_words, training_words
from .inputs import ModelInputs
from .labels_box import LabelsBox
from .new_inputs import NewInputs
from .plan_view import PlanView
from .split_box import BLOCKS, SplitBox
from .training_box import TrainingBox


@dataclass(frozen=True)
class TrainingForm:
    """The parts of the page that say how to train, whatever it starts from."""

    labels: LabelsBox
    classes: ClassPlanBox
    split: SplitBox
    training: TrainingBox
    plan_view: PlanView

    def fields(self) -> list[str]:
        """Return the fields of polygons that are wanted beside that of the class."""
        return list(filter(None, [self.split.field()]))

    def key(self) -> list[Any]:
        """Return what decides the plan."""
        layer, edits = self.labels.layer(), [self.labels.content(self.fields())]
        if isinstance(layer, QgsVectorLayer) and self.labels.selectedCheck.isChecked():
            edits += sorted(layer.selectedFeatureIds())
        labels = (layer.id() if layer else "", self.labels.field(), self.labels.class_map(), self.labels.counts())
        return [labels, edits, self.training.fields(), self.tables()]

    def tables(self) -> dict[str, dict[str, Any]]:
        """Return the configuration of the job by table."""
        return {**self.training.tables(), "split": self.split.table()}


def bound_key(bindings: Mapping[str, Binding]) -> dict[str, Any]:
    """Return what decides how rasters are read, by name of modality, as JSON values."""
    return {
        name: (
            item.layer.id(),
            item.bands,
            item.nodata,
            item.mask.id() if isinstance(item.mask, QgsRasterLayer) else item.mask or "",
            item.offset,
            item.scale,
        )
        for name, item in bindings.items()
    }


class CheckpointStart:
    """A checkpoint is trained on."""

    def __init__(self, inputs: ModelInputs, form: TrainingForm) -> None:
        self.inputs, self.form = inputs, form

    def titles(self) -> tuple[str, str]:
        """Return what the task manager shows: while a plan is made, and while it trains."""
        return tr("Plan a fine-tuning (Lacuna)"), tr("Fine-tune a checkpoint (Lacuna)")

    def begun_words(self) -> str:
        """Return what is shown until the first epoch."""
        return tr("Starting, and measuring the checkpoint as it is…")

    def class_problem(self) -> str:
        """Show what becomes of the classes, and return why that cannot be, or an empty string."""
        return self.form.classes.check(self.form.labels.class_map())

    def beside(self, stem: str) -> list[str]:
        """Return what is written beside checkpoint, report and forest."""
        return [stem + ".lora.safetensors"] if self.form.training.keeps_apart() else []

    def key(self) -> list[Any]:
        """Return what decides the plan, beside the form."""
        classes = (self.form.classes.merge(), self.form.classes.drop())
        return [self.inputs.checkpoint(), bound_key(self.inputs.bindings()), classes]

    def job(self, exports: Exports, output: str, device: str, plan_only: bool) -> FinetuneJob:
        """Return the job; what must be written to files first is put down in `exports`."""
        grid, form = self.inputs.grid(), self.form
        extent = None if grid is None else (grid.extent, grid.crs)
        job = FinetuneJob(
            checkpoint=self.inputs.checkpoint(),
            output=output,
            modalities=self.inputs.specs(exports, extent),
            labels=form.labels.path(exports, extent, form.fields()),
            field=form.labels.field(),
            class_map=form.labels.class_map(),
            merge=form.classes.merge(),
            drop=form.classes.drop(),
            config=exports.text("toml", toml_words(form.tables())),
            report=os.path.splitext(output)[0] + ".html" if output else None,
            device=device,
            plan_only=plan_only,
            overwrite=True,
            **form.training.fields(),
        )
        weights = None if plan_only else form.plan_view.weights()
        return job if weights is None else replace(job, strategy="weights", weights=weights)

    def words(self, job: Any, result: dict[str, Any]) -> str:
        """Return what has come of it."""
        return result_words(result, job.checkpoint)


class NewStart:
    """A new model is trained from scratch."""

    def __init__(self, inputs: NewInputs, form: TrainingForm) -> None:
        self.inputs, self.form = inputs, form

    def titles(self) -> tuple[str, str]:
        """Return what the task manager shows: while a plan is made, and while it trains."""
        return tr("Plan a training (Lacuna)"), tr("Train a new model (Lacuna)")

    def begun_words(self) -> str:
        """Return what is shown until the first epoch."""
        return tr("Starting…")

    def class_problem(self) -> str:
        """Return why the labels' classes cannot be learned, or an empty string."""
        try:
            new_classes(self.form.labels.class_map())
        except UsageError as problem:
            return str(problem)
        return ""

    def beside(self, stem: str) -> list[str]:
        """Return what is written beside checkpoint, report and forest: nothing."""
        return []

    def key(self) -> list[Any]:
        """Return what decides the plan, beside the form."""
        card, encoder = self.inputs.card, self.inputs.encoder()
        bands = [(item.name, item.bands) for item in card.modalities]
        network = (self.inputs.architecture(), None if encoder is None else (encoder.name, encoder.options))
        return [bound_key(self.inputs.bindings()), bands, network]

    def job(self, exports: Exports, output: str, device: str, plan_only: bool) -> TrainJob:
        """Return the job; what must be written to files first, the manifest too, is put down in `exports`."""
        grid, form, encoder = self.inputs.grid(), self.form, self.inputs.encoder()
        extent = None if grid is None else (grid.extent, grid.crs)
        layer: Any = form.labels.layer()
        model = NewModel(
            card=self.inputs.card,
            sources=self.inputs.specs(exports, extent),
            labels=form.labels.path(exports, extent, form.fields()),
            field=form.labels.field(),
            class_map=form.labels.class_map(),
            split=fitted_split(form.split.table(), form.training.fields()["seed"]),
            name=layer.name(),
        )
        tables = form.training.tables()
        if encoder is not None:
            tables = {**encoder_tables(encoder.name, encoder.options), **tables}
        return TrainJob(
            manifest=exports.text("toml", model.manifest()),
            architecture=self.inputs.architecture(),
            output=output,
            config=exports.text("toml", toml_words(tables)),
            encoder=None if encoder is None else encoder.name,
            report=os.path.splitext(output)[0] + ".html" if output else None,
            device=device,
            plan_only=plan_only,
            forest=True,
            overwrite=True,
            **form.training.fields(),
        )

    def words(self, job: Any, result: dict[str, Any]) -> str:
        """Return what has come of it."""
        return training_words(result)


def fitted_split(table: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the table `split` of a manifest: blocks and gap suit the labels where `table` names neither."""
    fitted = table["method"] == BLOCKS and not {"block", "gap"} & set(table)
    return {**table, "seed": seed, **({"fit": True} if fitted else {})}


Start = Union[CheckpointStart, NewStart]
