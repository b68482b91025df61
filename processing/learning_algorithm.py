# SPDX-License-Identifier: GPL-2.0-or-later
"""What the algorithms that write a checkpoint share: settings of the training, where the outputs go, their worth."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingOutputFile,
    QgsProcessingOutputNumber,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
)

from ..compat import tr
from ..host.client import Event
from .labelled_algorithm import LabelledAlgorithm


class LearningAlgorithm(LabelledAlgorithm):
    """Learns from labels, and writes a checkpoint, a random forest beside it and a report."""

    EPOCHS = "EPOCHS"
    CONFIG = "CONFIG"
    FOREST = "FOREST"
    DETAIL = "DETAIL"
    OUTPUT = "OUTPUT"
    MIOU = "MIOU"
    FOREST_OUTPUT = "FOREST_OUTPUT"
    MIOU_FOREST = "MIOU_FOREST"
    UNIT = "epochs"

    def epochs(self, words: str) -> QgsProcessingParameterNumber:
        """Return the parameter of the number of epochs, called `words`."""
        whole = QgsProcessingParameterNumber.Type.Integer
        return QgsProcessingParameterNumber(self.EPOCHS, words, whole, optional=True, minValue=1)

    def learning(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters of the training that fold away."""
        return [
            self.seed(tr("Seed of all random draws")),
            QgsProcessingParameterFile(self.CONFIG, tr("Settings (TOML)"), extension="toml", optional=True),
            QgsProcessingParameterBoolean(self.FOREST, tr("Grow a random forest to compare with"), True),
            QgsProcessingParameterBoolean(self.DETAIL, tr("Join a detail path that looks at single pixels"), True),
        ]

    def add_destinations(self) -> None:
        """Declare the files that are asked for: the checkpoint and the report."""
        checkpoints = tr("Checkpoints") + " (*.safetensors)"
        self.addParameter(QgsProcessingParameterFileDestination(self.OUTPUT, tr("New checkpoint"), checkpoints))
        self.add_report()

    def add_worth(self) -> None:
        """Declare the outputs that say what checkpoint and forest are worth."""
        self.addOutput(QgsProcessingOutputNumber(self.MIOU, tr("Mean mIoU of the scenarios")))
        self.addOutput(QgsProcessingOutputFile(self.FOREST_OUTPUT, tr("Random forest on the same labels")))
        self.addOutput(QgsProcessingOutputNumber(self.MIOU_FOREST, tr("Mean mIoU of the random forest")))

    def settings(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Any]:
        """Return how is learned, as fields of a job."""
        return {
            "config": self.parameterAsFile(parameters, self.CONFIG, context) or None,
            "seed": self.number(parameters, self.SEED, context) or 0,
            "epochs": self.number(parameters, self.EPOCHS, context),
            "device": self.device(parameters, context),
            "forest": self.parameterAsBool(parameters, self.FOREST, context),
            "detail": self.parameterAsBool(parameters, self.DETAIL, context),
            "overwrite": True,
        }

    def outputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Optional[str]]:
        """Return the paths of the checkpoint and of the report."""
        return {
            "output": self.destination(parameters, self.OUTPUT, context, ".safetensors"),
            **super().outputs(parameters, context),
        }

    def written(self, result: Event, worth: dict[str, Optional[float]]) -> dict[str, Any]:
        """Return the outputs that there are: what was written, `worth`, and that of the forest."""
        forest = result["forest"] or {}
        found = {
            self.OUTPUT: result["checkpoint"],
            self.REPORT: result["report"],
            **worth,
            self.FOREST_OUTPUT: forest.get("checkpoint"),
            self.MIOU_FOREST: forest.get("miou"),
        }
        return {name: value for name, value in found.items() if value is not None}


def miou_words(value: Optional[float]) -> str:
    """Return a score in words."""
    return tr("not measured") if value is None else f"{value:.3f}"
