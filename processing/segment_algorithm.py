# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:segment`: classify a scene from one raster for each modality of a checkpoint."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsRasterLayer,
    QgsRectangle,
)
from qgis.PyQt.QtGui import QIcon

from ..binding import (
    Binding,
    check_modalities,
    gdal_name,
    parse_bands,
    parse_number,
    parse_pairs,
    parse_tile,
    source_specs,
)
from ..compat import tr
from ..engine.checkpoint.card import Card, read_card
from ..engine.errors import CancelledError, LacunaError, UsageError
from ..engine.jobs import PRECISIONS, SegmentJob
from ..exports import Exports
from ..running import DEFAULT_CHECKPOINT, progress_words, run_job
from ..runtime import PLUGIN_FOLDER

MODALITIES = 6


class SegmentAlgorithm(QgsProcessingAlgorithm):
    """The job behind the Segment page, for the toolbox, models, batches, scripts and `qgis_process`."""

    CHECKPOINT = "CHECKPOINT"
    MODALITY = tuple(f"MODALITY_{number}" for number in range(1, MODALITIES + 1))
    BANDS = "BANDS"
    NODATA = "NODATA"
    MASKS = "MASKS"
    EXTENT = "EXTENT"
    RESOLUTION = "RESOLUTION"
    AREA = "AREA"
    DEVICE = "DEVICE"
    TILE = "TILE"
    OVERLAP = "OVERLAP"
    BATCH_SIZE = "BATCH_SIZE"
    PRECISION = "PRECISION"
    OUTPUT = "OUTPUT"
    CONFIDENCE = "CONFIDENCE"
    PROBABILITIES = "PROBABILITIES"
    EVIDENCE = "EVIDENCE"
    RECORD = "RECORD"

    def __init__(self) -> None:
        super().__init__()
        self._job: Optional[SegmentJob] = None
        self._exports = Exports()
        self._problem: Optional[LacunaError] = None
        self._results: dict[str, str] = {}
        self._stylers: list[_Styler] = []

    def createInstance(self) -> SegmentAlgorithm:
        """Return a fresh copy for one run."""
        return SegmentAlgorithm()

    def name(self) -> str:
        """Return the name that scripts use; never changes."""
        return "segment"

    def displayName(self) -> str:
        """Return the name that is shown."""
        return tr("Segment a scene")

    def group(self) -> str:
        """Return the heading in the toolbox."""
        return tr("Segmentation")

    def groupId(self) -> str:
        """Return the name of the heading that scripts use."""
        return "segmentation"

    def tags(self) -> list[str]:
        """Return words by which the algorithm is found."""
        words = tr(
            "classify,classification,land cover,deep learning,multimodal,missing,radar,sar,optical,elevation,dsm"
        )
        return words.split(",")

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(str(PLUGIN_FOLDER / "resources" / "icons" / "lacuna.svg"))

    def helpUrl(self) -> str:
        """Return where the manual is."""
        return "https://github.com/lacuna-qgis/lacuna/blob/main/docs/plugin.md"

    def shortHelpString(self) -> str:
        """Return what the dialog shows beside the parameters."""
        return tr(
            "<p>Classifies a scene with a checkpoint of Lacuna from one raster for each of its modalities (such as "
            "optical, radar, elevation). Any of them may be left empty: each pixel is classified from the modalities "
            "that have data there, and what was used where is written to the evidence raster.</p>"
            "<p><b>Modality 1 to 6</b>: rasters in the order in which the checkpoint's card lists its modalities. "
            "They may differ in CRS, pixel size and extent.</p>"
            "<p><b>Bands</b>, <b>Nodata values</b>, <b>Masks</b>: <i>NAME=value</i>, where NAME is a modality; several "
            "are separated by semicolons or new lines: <code>optical=4,3,2; radar=VV,VH</code>. A mask is a raster "
            "whose pixels other than zero are invalid (clouds, shadow).</p>"
            "<p><b>Extent</b> and <b>Area</b> limit what is classified; <b>Pixel size</b> is in units of the output's "
            "CRS; by default grid and extent are those of the checkpoint's reference modality.</p>"
            "<p>The work is done by an engine in a Python of its own: see Settings &gt; Options &gt; Lacuna.</p>"
        )

    def initAlgorithm(self, configuration: Optional[dict[str, Any]] = None) -> None:
        """Declare the parameters."""
        checkpoint = str(DEFAULT_CHECKPOINT) if DEFAULT_CHECKPOINT.exists() else None
        self.addParameter(
            QgsProcessingParameterFile(
                self.CHECKPOINT, tr("Checkpoint"), extension="safetensors", defaultValue=checkpoint
            )
        )
        for number, name in enumerate(self.MODALITY, 1):
            words = tr("Modality {} of the checkpoint").format(number)
            self.addParameter(QgsProcessingParameterRasterLayer(name, words, optional=True))
        self.addParameter(QgsProcessingParameterExtent(self.EXTENT, tr("Extent"), optional=True))
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        self.addParameter(
            QgsProcessingParameterFeatureSource(self.AREA, tr("Area (polygons)"), polygons, optional=True)
        )
        for parameter in self._advanced():
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
            self.addParameter(parameter)
        self._add_destinations()

    def _advanced(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters that fold away."""
        decimal, whole = QgsProcessingParameterNumber.Type.Double, QgsProcessingParameterNumber.Type.Integer
        bands = tr("Bands (NAME=3,2,1 or NAME=red,green,blue; ...)")
        return [
            QgsProcessingParameterString(self.BANDS, bands, multiLine=True, optional=True),
            QgsProcessingParameterString(self.NODATA, tr("Nodata values (NAME=V; ...)"), multiLine=True, optional=True),
            QgsProcessingParameterString(self.MASKS, tr("Masks (NAME=FILE; ...)"), multiLine=True, optional=True),
            QgsProcessingParameterNumber(self.RESOLUTION, tr("Pixel size"), decimal, optional=True, minValue=0),
            QgsProcessingParameterString(self.DEVICE, tr("Device (auto, cpu, cuda, cuda:N)"), "auto", optional=True),
            QgsProcessingParameterString(self.TILE, tr("Tile (pixels: N or ROWS,COLUMNS)"), optional=True),
            QgsProcessingParameterNumber(self.OVERLAP, tr("Overlap (pixels)"), whole, optional=True, minValue=0),
            QgsProcessingParameterNumber(self.BATCH_SIZE, tr("Tiles in a batch"), whole, optional=True, minValue=1),
            QgsProcessingParameterEnum(
                self.PRECISION,
                tr("Precision"),
                options=list(PRECISIONS),
                defaultValue="auto",
                optional=True,
                usesStaticStrings=True,
            ),
        ]

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

    def checkParameterValues(self, parameters: dict[str, Any], context: QgsProcessingContext) -> tuple[bool, str]:
        """Return whether the parameters make sense, and if not, why: before anything is started."""
        passed, why = super().checkParameterValues(parameters, context)
        if not passed:
            return passed, why
        try:
            card = self._card(parameters, context)
            bindings = self._bindings(parameters, context, card)
            check_modalities(card, bindings)
            for binding in bindings.values():
                gdal_name(binding.layer)
            parse_tile(self.parameterAsString(parameters, self.TILE, context))
        except LacunaError as problem:
            return False, str(problem)
        return True, ""

    def prepareAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> bool:
        """Take from layers and project, on the main thread, all that the run needs.

        What is wrong is raised in `processAlgorithm`: of an error here `processing.run` says only that there was one.
        """
        try:
            self._prepare(parameters, context)
        except LacunaError as problem:
            self._exports.remove()
            self._problem = problem
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the job in an engine process; cancelling ends that process and leaves no file."""

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                feedback.setProgress(100 * event["done"] / max(event["total"], 1))
                feedback.setProgressText(progress_words(event))
            elif event.get("level") == "warning":
                feedback.pushWarning(event["text"])
            else:
                feedback.pushInfo(str(event.get("text", "")))

        try:
            if self._problem is not None:
                raise self._problem
            run_job(self._job, self._exports, listen, feedback.isCanceled)
        except CancelledError:
            feedback.pushInfo(tr("Cancelled: nothing was written."))
            return {}
        except LacunaError as problem:
            raise QgsProcessingException(str(problem)) from None
        return self._results

    def _prepare(self, parameters: dict[str, Any], context: QgsProcessingContext) -> None:
        """Set the job, what must be exported for it, and the results that it will have."""
        card = self._card(parameters, context)
        bindings = self._bindings(parameters, context, card)
        extent, crs = self._extent(parameters, context)
        outputs = self._outputs(parameters, context)
        job = SegmentJob(
            checkpoint=self.parameterAsString(parameters, self.CHECKPOINT, context),
            modalities=source_specs(card, bindings, self._exports, None if extent is None else (extent, crs)),
            output=outputs[self.OUTPUT],
            confidence=outputs.get(self.CONFIDENCE),
            probabilities=outputs.get(self.PROBABILITIES),
            evidence=outputs.get(self.EVIDENCE),
            record=self.parameterAsFileOutput(parameters, self.RECORD, context) or None,
            extent=extent and [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
            extent_crs=extent and (crs.authid() or crs.toWkt()),
            area=self._area(parameters, context),
            resolution=self._number(parameters, self.RESOLUTION, context),
            tile=parse_tile(self.parameterAsString(parameters, self.TILE, context)),
            overlap=self._number(parameters, self.OVERLAP, context, whole=True),
            batch_size=self._number(parameters, self.BATCH_SIZE, context, whole=True),
            device=self.parameterAsString(parameters, self.DEVICE, context) or "auto",
            precision=self.parameterAsEnumString(parameters, self.PRECISION, context) or "auto",
            overwrite=True,
        )
        job.check()
        self._job = job
        self._results = {**outputs, self.RECORD: job.record_path()}

    def _card(self, parameters: dict[str, Any], context: QgsProcessingContext) -> Card:
        """Return the card of the checkpoint, of which only the header is read."""
        return read_card(self.parameterAsString(parameters, self.CHECKPOINT, context))

    def _bindings(self, parameters: dict[str, Any], context: QgsProcessingContext, card: Card) -> dict[str, Binding]:
        """Return the layers by modality, with the bands, nodata values and masks given for them."""
        bindings = {}
        for number, name in enumerate(self.MODALITY):
            layer = self.parameterAsRasterLayer(parameters, name, context)
            if layer is None and parameters.get(name):
                raise LacunaError(
                    "layer-broken",
                    tr("{}: {} cannot be read as a raster.").format(name, parameters[name]),
                    tr("Check the path, or choose another raster."),
                )
            if layer is not None and number >= len(card.modalities):
                raise UsageError(
                    "unknown-modality",
                    tr("{} is given, but the checkpoint has only {} modalities.").format(name, len(card.modalities)),
                    tr("They are, in this order: {}.").format(", ".join(card.names)),
                )
            if layer is not None:
                bindings[card.names[number]] = Binding(layer)
        self._add_details(parameters, context, card, bindings)
        return bindings

    def _add_details(
        self, parameters: dict[str, Any], context: QgsProcessingContext, card: Card, bindings: dict[str, Binding]
    ) -> None:
        """Add to `bindings` what BANDS, NODATA and MASKS say."""
        readers = {
            self.BANDS: ("bands", parse_bands),
            self.NODATA: ("nodata", lambda text: parse_number(text, self.NODATA)),
            self.MASKS: ("mask", str),
        }
        for parameter, (attribute, read) in readers.items():
            text = self.parameterAsString(parameters, parameter, context)
            for name, value in parse_pairs(text, card, parameter).items():
                if name not in bindings:
                    raise UsageError(
                        "bad-value",
                        tr("{} speaks of {}, but no raster is bound to it.").format(parameter, name),
                        tr("Choose a raster for it, or leave it out there."),
                    )
                setattr(bindings[name], attribute, read(value))

    def _extent(
        self, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> tuple[Optional[QgsRectangle], Optional[QgsCoordinateReferenceSystem]]:
        """Return the extent that was asked for and its CRS, or None twice."""
        extent = self.parameterAsExtent(parameters, self.EXTENT, context)
        if extent.isNull() or extent.isEmpty():
            return None, None
        crs = self.parameterAsExtentCrs(parameters, self.EXTENT, context)
        return extent, crs if crs.isValid() else context.project().crs()

    def _area(self, parameters: dict[str, Any], context: QgsProcessingContext) -> Optional[str]:
        """Return the file in which the engine will find the polygons, or None."""
        source = self.parameterAsSource(parameters, self.AREA, context)
        if source is None:
            if parameters.get(self.AREA):
                raise LacunaError("layer-broken", self.invalidSourceError(parameters, self.AREA))
            return None
        return self._exports.polygons(source, source.sourceCrs())

    def _outputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, str]:
        """Return the paths of the rasters that are to be written, by parameter; they get their styles when loaded."""
        outputs = {}
        for name in (self.OUTPUT, self.CONFIDENCE, self.PROBABILITIES, self.EVIDENCE):
            path = self.parameterAsOutputLayer(parameters, name, context)
            if path and not path.lower().endswith((".tif", ".tiff")):
                raise UsageError("bad-value", tr("{}: {} is no GeoTIFF.").format(name, path), tr("End it with .tif."))
            if path:
                outputs[name] = path
            if path and context.willLoadLayerOnCompletion(path):
                self._stylers.append(_Styler())
                context.layerToLoadOnCompletionDetails(path).setPostProcessor(self._stylers[-1])
        _KEPT_STYLERS[:] = self._stylers
        return outputs

    def _number(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext, whole: bool = False
    ) -> Optional[float]:
        """Return a number that may be left empty; a pixel size of 0 counts as empty."""
        if parameters.get(name) in (None, ""):
            return None
        if whole:
            return self.parameterAsInt(parameters, name, context)
        return self.parameterAsDouble(parameters, name, context) or None


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
