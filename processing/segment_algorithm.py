# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:segment`: classify a scene from one raster for each modality of a checkpoint."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsRasterLayer,
    QgsRectangle,
)

from ..compat import tr
from ..engine import options
from ..engine.errors import UsageError
from ..engine.jobs import PRECISIONS, SegmentJob
from ..host.binding import source_specs
from ..host.client import Event
from ..host.exports import Exports
from .scene_algorithm import SceneAlgorithm


class SegmentAlgorithm(SceneAlgorithm):
    """The job behind the Segment page, for the toolbox, models, batches, scripts and `qgis_process`."""

    EXTENT = "EXTENT"
    RESOLUTION = "RESOLUTION"
    AREA = "AREA"
    BATCH_SIZE = "BATCH_SIZE"
    PRECISION = "PRECISION"
    OUTPUT = "OUTPUT"
    CONFIDENCE = "CONFIDENCE"
    PROBABILITIES = "PROBABILITIES"
    EVIDENCE = "EVIDENCE"
    RECORD = "RECORD"
    # In lower case the fields of the job.
    RASTERS = (OUTPUT, CONFIDENCE, PROBABILITIES, EVIDENCE)

    def __init__(self) -> None:
        super().__init__()
        self._stylers: list[_Styler] = []

    def name(self) -> str:
        """Return the name that scripts use; never changes."""
        return "segment"

    def displayName(self) -> str:
        """Return the name that is shown."""
        return tr("Segment a scene")

    def tags(self) -> list[str]:
        """Return words by which the algorithm is found."""
        words = tr(
            "classify,classification,land cover,deep learning,multimodal,missing,radar,sar,optical,elevation,dsm"
        )
        return words.split(",")

    def shortHelpString(self) -> str:
        """Return what the dialog shows beside the parameters."""
        what = tr(
            "<p>Classifies a scene with a checkpoint of Lacuna from one raster for each of its modalities (such as "
            "optical, radar, elevation). Any of them may be left empty: each pixel is classified from the modalities "
            "that have data there; the evidence raster shows which were used where.</p>"
        )
        how = tr(
            "<p><b>Extent</b> and <b>Area</b> limit what is classified; <b>Pixel size</b> is in units of the output's "
            "CRS; by default grid and extent are those of the checkpoint's reference modality.</p>"
        )
        return what + self.scene_help() + how

    def initAlgorithm(self, configuration: Optional[dict[str, Any]] = None) -> None:
        """Declare the parameters."""
        self.add_scene()
        self.addParameter(QgsProcessingParameterExtent(self.EXTENT, tr("Extent"), optional=True))
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        self.addParameter(
            QgsProcessingParameterFeatureSource(self.AREA, tr("Area (polygons)"), polygons, optional=True)
        )
        decimal, whole = QgsProcessingParameterNumber.Type.Double, QgsProcessingParameterNumber.Type.Integer
        self.add_advanced(
            (
                QgsProcessingParameterNumber(self.RESOLUTION, tr("Pixel size"), decimal, optional=True, minValue=0),
                *self.tiles(),
                QgsProcessingParameterNumber(self.BATCH_SIZE, tr("Tiles in a batch"), whole, optional=True, minValue=1),
                self.choose(self.PRECISION, tr("Precision"), PRECISIONS, "auto"),
            )
        )
        self._add_destinations()

    def _add_destinations(self) -> None:
        """Declare what is written; all but the class map is optional and not made unless asked for."""
        self.addParameter(QgsProcessingParameterRasterDestination(self.OUTPUT, tr("Classes")))
        for name, words in (
            (self.CONFIDENCE, tr("Confidence")),
            (self.PROBABILITIES, tr("Probabilities")),
            (self.EVIDENCE, tr("Evidence")),
        ):
            self.addParameter(
                QgsProcessingParameterRasterDestination(name, words, optional=True, createByDefault=False)
            )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                self.RECORD, tr("Run record"), "JSON (*.json)", optional=True, createByDefault=False
            )
        )

    def draft(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> SegmentJob:
        """Return the job, without its outputs."""
        card = self.card(parameters, context)
        bindings = self.bindings(parameters, context, card)
        extent, crs = self._extent(parameters, context)
        area = self.polygons(parameters, self.AREA, context)
        return SegmentJob(
            checkpoint=self.parameterAsString(parameters, self.CHECKPOINT, context),
            modalities=source_specs(card, bindings, exports, None if extent is None else (extent, crs)),
            output=self.OUTPUT,
            extent=extent and [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
            extent_crs=None if extent is None or crs is None else crs.authid() or crs.toWkt(),
            area=None if area is None else exports.polygons(area, area.sourceCrs()),
            # A pixel size of 0 counts as empty.
            resolution=self.decimal(parameters, self.RESOLUTION, context) or None,
            tile=self.read(parameters, self.TILE, context, options.tile),
            overlap=self.number(parameters, self.OVERLAP, context),
            batch_size=self.number(parameters, self.BATCH_SIZE, context),
            device=self.device(parameters, context),
            precision=self.choice(parameters, self.PRECISION, context) or "auto",
            overwrite=True,
        )

    def outputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Optional[str]]:
        """Return the paths of the rasters and of the record; the rasters get their styles when they are loaded."""
        paths = {}
        for name in self.RASTERS:
            path = self.parameterAsOutputLayer(parameters, name, context)
            if path and not path.lower().endswith((".tif", ".tiff")):
                raise UsageError("bad-value", tr("{}: {} is no GeoTIFF.").format(name, path), tr("End it with .tif."))
            paths[name.lower()] = path or None
            if path and context.willLoadLayerOnCompletion(path):
                self._stylers.append(_Styler())
                context.layerToLoadOnCompletionDetails(path).setPostProcessor(self._stylers[-1])
        _KEPT_STYLERS[:] = self._stylers
        paths["record"] = self.parameterAsFileOutput(parameters, self.RECORD, context) or None
        return paths

    def results(self, job: SegmentJob, result: Event, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Return the paths of what was written."""
        rasters = {name: getattr(job, name.lower()) for name in self.RASTERS}
        return {**{name: path for name, path in rasters.items() if path}, self.RECORD: job.record_path()}

    def _extent(
        self, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> tuple[Optional[QgsRectangle], Optional[QgsCoordinateReferenceSystem]]:
        """Return the extent that was asked for and its CRS, or None twice."""
        extent = self.parameterAsExtent(parameters, self.EXTENT, context)
        if extent.isNull() or extent.isEmpty():
            return None, None
        crs = self.parameterAsExtentCrs(parameters, self.EXTENT, context)
        return extent, crs if crs.isValid() else context.project().crs()


class _Styler(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer the style that the engine wrote beside it."""

    def postProcessLayer(
        self, layer: QgsRasterLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> None:
        """Load the `.qml` beside the file."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()


# Processing holds no reference to post-processors of Python, and the algorithm is gone before they are called
# (qgis/QGIS#47533): those of the last run are kept here.
_KEPT_STYLERS: list[_Styler] = []
