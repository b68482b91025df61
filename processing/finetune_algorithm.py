# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:finetune`: train a checkpoint further, on labels of an area, and say what that was worth."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterString,
)

from ..compat import tr
from ..engine import options
from ..engine.jobs import METHODS, PRESETS, STRATEGIES, FinetuneJob
from ..host.client import Event
from ..host.exports import Exports
from .learning_algorithm import LearningAlgorithm, miou_words


class FinetuneAlgorithm(LearningAlgorithm):
    """The job behind the Fine-tune page, for the toolbox, models, batches, scripts and `qgis_process`."""

    MERGE = "MERGE"
    DROP = "DROP"
    STRATEGY = "STRATEGY"
    WEIGHTS = "WEIGHTS"
    LATENT_PRESET = "LATENT_PRESET"
    METHOD = "METHOD"
    MIOU_BEFORE = "MIOU_BEFORE"

    def name(self) -> str:
        """Return the name that scripts use; never changes."""
        return "finetune"

    def displayName(self) -> str:
        """Return the name that is shown."""
        return tr("Fine-tune a checkpoint")

    def tags(self) -> list[str]:
        """Return words by which the algorithm is found."""
        words = tr("train,training,learn,transfer,adapt,lora,labels,classification,land cover,deep learning,missing")
        return words.split(",")

    def shortHelpString(self) -> str:
        """Return what the dialog shows beside the parameters."""
        what = tr(
            "<p>Trains a checkpoint of Lacuna further, on labels of your area, and writes a new checkpoint; the old "
            "one stays as it is. It ends with the accuracy before and after, by class and by scenario (which "
            "modalities are available), on pixels that it was not trained on.</p>"
        )
        how = tr(
            "<p><b>Merge</b>: <code>pine=conifer,spruce=conifer</code>. <b>Drop</b>: classes to remove, separated by "
            "commas. A name in the class map that the checkpoint does not know becomes a new class.</p>"
            "<p><b>Strategy</b>: how often each scenario is trained; by default all equally often, with "
            "<i>latent</i> by how far they move the latent. <b>Weights</b> are probabilities for the "
            "strategy <i>weights</i>, one for each scenario, ordered by size, then as in the card. <b>Method</b>: what "
            "is trained.</p>"
            "<p>A random forest is grown on the same labels and written beside the new checkpoint: where it is better, "
            "take it instead. It is a checkpoint like any other.</p>"
            "<p><b>Settings</b>: a TOML file as for the command <code>lacuna finetune --config</code>.</p>"
        )
        return what + self.labels_help() + how + self.scene_help()

    def initAlgorithm(self, configuration: Optional[dict[str, Any]] = None) -> None:
        """Declare parameters and outputs."""
        self.add_scene()
        self.add_labels()
        for parameter in (
            self.choose(self.STRATEGY, tr("Strategy: which scenarios are trained"), STRATEGIES, "uniform"),
            self.choose(self.METHOD, tr("Method: what is trained"), METHODS, "full"),
            self.epochs(tr("Epochs at most (default: 30)")),
        ):
            self.addParameter(parameter)
        self.add_advanced(
            (
                QgsProcessingParameterString(self.MERGE, tr("Merge classes (CLASS=CLASS,...)"), optional=True),
                QgsProcessingParameterString(self.DROP, tr("Drop classes (CLASS,...)"), optional=True),
                QgsProcessingParameterString(self.WEIGHTS, tr("Weights of the scenarios (P,...)"), optional=True),
                self.choose(self.LATENT_PRESET, tr("Preset of the strategy latent"), PRESETS, "default"),
                *self.learning(),
            )
        )
        self.add_destinations()
        self.addOutput(QgsProcessingOutputNumber(self.MIOU_BEFORE, tr("Mean mIoU of the scenarios before")))
        self.add_worth()

    def draft(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> FinetuneJob:
        """Return the job, without its outputs."""
        return FinetuneJob(
            checkpoint=self.parameterAsString(parameters, self.CHECKPOINT, context),
            output=self.OUTPUT,
            class_map=self.read(parameters, self.CLASS_MAP, context, options.pairs) or {},
            merge=self.read(parameters, self.MERGE, context, options.pairs) or {},
            drop=self.read(parameters, self.DROP, context, options.names) or [],
            strategy=self.choice(parameters, self.STRATEGY, context) or "uniform",
            weights=self.read(parameters, self.WEIGHTS, context, options.numbers),
            latent_preset=self.choice(parameters, self.LATENT_PRESET, context) or "default",
            method=self.choice(parameters, self.METHOD, context) or "full",
            **self.settings(parameters, context),
            **self.data(parameters, context, exports),
        )

    def results(self, job: FinetuneJob, result: Event, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Return what was written and its worth, and say by scenario what it was before."""
        before = {tuple(item["available"]): item["miou"] for item in result["before"]}
        feedback.pushInfo(tr("mIoU by scenario, on {}:").format(result["scores_on"]))
        for item in result["after"]:
            pair = [miou_words(before.get(tuple(item["available"]))), miou_words(item["miou"])]
            feedback.pushInfo(tr("{}: {} before, {} now").format(" + ".join(item["available"]), *pair))
        pair = [miou_words(result["miou_before"]), miou_words(result["miou"])]
        feedback.pushInfo(tr("Mean: {} before, {} now").format(*pair))
        for item in (result["forest"] or {}).get("scores", ()):
            words = " + ".join(item["available"]), miou_words(item["miou"])
            feedback.pushInfo(tr("{}: random forest {}").format(*words))
        return self.written(result, {self.MIOU_BEFORE: result["miou_before"], self.MIOU: result["miou"]})
