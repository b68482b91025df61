# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:evaluate`: measure a checkpoint against labels, with every set of its modalities."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterString,
)

from ..compat import tr
from ..engine import options
from ..engine.jobs import EVALUATED, PROTOCOLS, EvaluateJob
from ..host.client import Event
from ..host.exports import Exports
from .labelled_algorithm import LabelledAlgorithm


class EvaluateAlgorithm(LabelledAlgorithm):
    """The job behind the Evaluate page, for the toolbox, models, batches, scripts and `qgis_process`."""

    SPLIT = "SPLIT"
    IGNORE = "IGNORE"
    PROTOCOL = "PROTOCOL"
    NO_GAUSSIAN = "NO_GAUSSIAN"
    AREA_ESTIMATES = "AREA_ESTIMATES"
    UPDATE_CARD = "UPDATE_CARD"
    RECORD = "RECORD"
    AVERAGE = "AVERAGE"
    BEST = "BEST"
    LAST = "LAST"
    ECE = "ECE"

    def name(self) -> str:
        """Return the name that scripts use; never changes."""
        return "evaluate"

    def displayName(self) -> str:
        """Return the name that is shown."""
        return tr("Evaluate a checkpoint")

    def tags(self) -> list[str]:
        """Return words by which the algorithm is found."""
        words = tr("accuracy,assessment,validation,miou,f1,kappa,confusion matrix,robustness,calibration,area,missing")
        return words.split(",")

    def shortHelpString(self) -> str:
        """Return what the dialog shows beside the parameters."""
        what = tr(
            "<p>Measures a checkpoint of Lacuna against reference labels: mIoU, F1, overall accuracy, kappa, "
            "calibration and IoU by class, for every set of modalities that may be available (a scenario).</p>"
        )
        how = tr(
            "<p><b>Split</b>: which scenes of a manifest; by default those for testing, or all if no scene names a "
            "split. <b>Ignore</b>: label values that stand for no class, separated by commas.</p>"
            "<p><b>Protocol</b>: <i>subsets</i> leaves modalities out; the others damage them: <i>emm</i> sets whole "
            "modalities to zero, <i>rmm</i> sets single values to zero, <i>nm</i> adds noise (the modalities in "
            "<b>No Gaussian noise</b> get no Gaussian noise).</p>"
            "<p><b>Areas of the classes</b>: with 95 % intervals, from the confusion matrix. <b>Write the scores into "
            "the card</b> changes the checkpoint's file, but not its weights.</p>"
            "<p>All figures of the <b>report</b> are also written beside it, as JSON.</p>"
        )
        return what + self.labels_help() + how + self.scene_help()

    def initAlgorithm(self, configuration: Optional[dict[str, Any]] = None) -> None:
        """Declare parameters and outputs."""
        self.add_scene()
        self.add_labels()
        for parameter in (
            self.choose(self.SPLIT, tr("Split: which scenes of the manifest"), EVALUATED),
            QgsProcessingParameterString(self.IGNORE, tr("Ignore label values (V,...)"), optional=True),
            self.choose(self.PROTOCOL, tr("Protocol"), PROTOCOLS, "subsets"),
            QgsProcessingParameterBoolean(self.AREA_ESTIMATES, tr("Areas of the classes"), False),
            QgsProcessingParameterBoolean(self.UPDATE_CARD, tr("Write the scores into the checkpoint's card"), False),
        ):
            self.addParameter(parameter)
        self.add_advanced(
            (
                QgsProcessingParameterString(self.NO_GAUSSIAN, tr("No Gaussian noise (NAME,...)"), optional=True),
                self.seed(tr("Seed of the damage of emm, rmm and nm")),
                *self.tiles(),
            )
        )
        self.add_report()
        self.addOutput(QgsProcessingOutputFile(self.RECORD, tr("Result (JSON)")))
        for name, words in (
            (self.AVERAGE, tr("Mean mIoU of all cases")),
            (self.BEST, tr("Largest mIoU")),
            (self.LAST, tr("Smallest mIoU")),
            (self.ECE, tr("Expected calibration error")),
        ):
            self.addOutput(QgsProcessingOutputNumber(name, words))

    def draft(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> EvaluateJob:
        """Return the job, without its outputs."""
        return EvaluateJob(
            checkpoint=self.parameterAsString(parameters, self.CHECKPOINT, context),
            class_map=self.read(parameters, self.CLASS_MAP, context, options.goals),
            ignore=self.read(parameters, self.IGNORE, context, options.values) or [],
            split=self.choice(parameters, self.SPLIT, context),
            protocol=self.choice(parameters, self.PROTOCOL, context) or "subsets",
            area_estimates=self.parameterAsBool(parameters, self.AREA_ESTIMATES, context),
            update_card=self.parameterAsBool(parameters, self.UPDATE_CARD, context),
            no_gaussian=self.read(parameters, self.NO_GAUSSIAN, context, options.names) or [],
            seed=self.number(parameters, self.SEED, context) or 0,
            tile=self.read(parameters, self.TILE, context, options.tile),
            overlap=self.number(parameters, self.OVERLAP, context),
            device=self.device(parameters, context),
            overwrite=True,
            **self.data(parameters, context, exports),
        )

    def results(self, job: EvaluateJob, result: Event, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Return the figures that models go on with, and say them; the engine has said those of each case."""
        numbers = {name: result[name.lower()] for name in (self.AVERAGE, self.BEST, self.LAST, self.ECE)}
        words = tr("mIoU: average {:.3f}, best {:.3f}, last {:.3f}; expected calibration error {:.3f}")
        feedback.pushInfo(words.format(*numbers.values()))
        if job.report is None:
            return numbers
        return {self.REPORT: job.report, self.RECORD: job.record_path(), **numbers}
