# SPDX-License-Identifier: GPL-2.0-or-later
"""The Processing provider of Lacuna."""

from __future__ import annotations

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from ..host.interpreters import PLUGIN_FOLDER
from .evaluate_algorithm import EvaluateAlgorithm
from .finetune_algorithm import FinetuneAlgorithm
from .segment_algorithm import SegmentAlgorithm
from .train_algorithm import TrainAlgorithm


class LacunaProvider(QgsProcessingProvider):
    """Offers Lacuna's algorithms to the toolbox, models, scripts and `qgis_process`."""

    def id(self) -> str:
        """Return the name by which scripts call the provider."""
        return "lacuna"

    def name(self) -> str:
        """Return the name that is shown."""
        return "Lacuna"

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(str(PLUGIN_FOLDER / "resources" / "icons" / "lacuna.svg"))

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """Return what the engine writes: GeoTIFF."""
        return ["tif"]

    def supportsNonFileBasedOutput(self) -> bool:
        """Return that every output is a file."""
        return False

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        for algorithm in (SegmentAlgorithm, FinetuneAlgorithm, TrainAlgorithm, EvaluateAlgorithm):
            self.addAlgorithm(algorithm())
