# SPDX-License-Identifier: GPL-2.0-or-later
"""What Lacuna's algorithms share: a checkpoint, rasters for its modalities, and a job that runs in the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Optional, TypeVar

from qgis.core import (
    QgsFeatureRequest,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeatureSource,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsRasterLayer,
)
from qgis.PyQt.QtGui import QIcon

from ..compat import tr
from ..engine import options
from ..engine.checkpoint.card import Card
from ..engine.checkpoint.card_file import read_card
from ..engine.errors import CancelledError, LacunaError, UsageError
from ..engine.jobs import Job
from ..host.binding import Binding, gdal_name, parse_pairs
from ..host.client import Event
from ..host.exports import Exports, NoExports
from ..host.interpreters import PLUGIN_FOLDER
from ..host.run_job import DEFAULT_CHECKPOINT, progress_words, run_job

T = TypeVar("T")
MODALITIES = 6


class SceneAlgorithm(QgsProcessingAlgorithm):
    """Reads parameters into a job, runs it, passes on what it says; a subclass says which job, outputs and results."""

    CHECKPOINT = "CHECKPOINT"
    MODALITY = tuple(f"MODALITY_{number}" for number in range(1, MODALITIES + 1))
    BANDS = "BANDS"
    NODATA = "NODATA"
    MASKS = "MASKS"
    OFFSETS = "OFFSETS"
    SCALES = "SCALES"
    DEVICE = "DEVICE"
    TILE = "TILE"
    OVERLAP = "OVERLAP"
    # The unit of progress that moves the bar, None for any; of others only the words are shown.
    UNIT: Optional[str] = None

    # Once it is prepared without a problem.
    _job: Job

    def __init__(self) -> None:
        super().__init__()
        self._exports = Exports()
        self._problem: Optional[LacunaError] = None
        self._step: Optional[tuple[str, int]] = None

    def draft(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> Job:
        """Return the job that the parameters ask for, with the name of a parameter for the path of an output.

        Args:
            parameters: as given.
            context: to read them in.
            exports: takes the layers that the engine cannot open.

        Raises:
            LacunaError: parameters that make no sense.
        """
        raise NotImplementedError

    def outputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Optional[str]]:
        """Return the paths of the outputs, by field of the job; LacunaError for one that cannot be.

        Asked once for each run, as Processing names temporary outputs anew each time.
        """
        raise NotImplementedError

    def results(self, job: Any, result: Event, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Return what Processing hears of the `result` of `job`, by output; and say what is worth reading."""
        raise NotImplementedError

    def createInstance(self) -> SceneAlgorithm:
        """Return a fresh copy for one run."""
        return type(self)()

    def group(self) -> str:
        """Return the heading in the toolbox."""
        return tr("Segmentation")

    def groupId(self) -> str:
        """Return the name of the heading that scripts use."""
        return "segmentation"

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(str(PLUGIN_FOLDER / "resources" / "icons" / "lacuna.svg"))

    def helpUrl(self) -> str:
        """Return where the manual is."""
        return "https://github.com/lacuna-qgis/lacuna/blob/main/docs/plugin.md"

    def scene_help(self) -> str:
        """Return what the dialog says of the parameters that all algorithms have."""
        return tr(
            "<p><b>Modality 1 to 6</b>: rasters in the order in which the checkpoint's card lists its modalities. "
            "They may differ in CRS, pixel size and extent; leave out those that you do not have.</p>"
            "<p><b>Bands</b>, <b>Nodata values</b>, <b>Masks</b>: <i>NAME=value</i>, where NAME is a modality; several "
            "are separated by semicolons or new lines: <code>optical=4,3,2; radar=VV,VH</code>. A mask is a raster "
            "whose pixels other than zero are invalid (clouds, shadow).</p>"
            "<p>The work is done by an engine in a Python of its own: see Settings &gt; Options &gt; Lacuna.</p>"
        )

    def add_scene(self) -> None:
        """Declare the checkpoint and its rasters."""
        checkpoint = str(DEFAULT_CHECKPOINT) if DEFAULT_CHECKPOINT.exists() else None
        self.addParameter(
            QgsProcessingParameterFile(
                self.CHECKPOINT, tr("Checkpoint"), extension="safetensors", defaultValue=checkpoint
            )
        )
        for number, name in enumerate(self.MODALITY, 1):
            words = tr("Modality {} of the checkpoint").format(number)
            self.addParameter(QgsProcessingParameterRasterLayer(name, words, optional=True))

    def add_advanced(self, parameters: Iterable[QgsProcessingParameterDefinition]) -> None:
        """Declare parameters that fold away: those of the rasters, and `parameters`."""
        bands = tr("Bands (NAME=3,2,1 or NAME=red,green,blue; ...)")
        for parameter in (
            QgsProcessingParameterString(self.BANDS, bands, multiLine=True, optional=True),
            QgsProcessingParameterString(self.NODATA, tr("Nodata values (NAME=V; ...)"), multiLine=True, optional=True),
            QgsProcessingParameterString(self.MASKS, tr("Masks (NAME=FILE; ...)"), multiLine=True, optional=True),
            QgsProcessingParameterString(self.OFFSETS, tr("Added to values (NAME=V; ...)"), optional=True),
            QgsProcessingParameterString(self.SCALES, tr("Values multiplied by (NAME=V; ...)"), optional=True),
            *parameters,
            QgsProcessingParameterString(self.DEVICE, tr("Device (auto, cpu, cuda, cuda:N)"), "auto", optional=True),
        ):
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
            self.addParameter(parameter)

    def choose(
        self, name: str, words: str, choices: Sequence[str], default: Optional[str] = None
    ) -> QgsProcessingParameterEnum:
        """Return a parameter with one of some words, which scripts give as they stand."""
        return QgsProcessingParameterEnum(
            name, words, options=list(choices), defaultValue=default, optional=True, usesStaticStrings=True
        )

    def tiles(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters of the tiles that a scene is classified in."""
        whole = QgsProcessingParameterNumber.Type.Integer
        return [
            QgsProcessingParameterString(self.TILE, tr("Tile (pixels: N or ROWS,COLUMNS)"), optional=True),
            QgsProcessingParameterNumber(self.OVERLAP, tr("Overlap (pixels)"), whole, optional=True, minValue=0),
        ]

    def checkParameterValues(self, parameters: dict[str, Any], context: QgsProcessingContext) -> tuple[bool, str]:
        """Return whether the parameters make sense, and if not, why: before anything is started."""
        passed, why = super().checkParameterValues(parameters, context)
        if not passed:
            return passed, why
        try:
            self.draft(parameters, context, NoExports()).check()
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
            job: Any = self.draft(parameters, context, self._exports)
            self._job = dataclasses.replace(job, **self.outputs(parameters, context))
            self._job.check()
        except LacunaError as problem:
            self._exports.remove()
            self._problem = problem
        return True

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Run the job in an engine process; cancelling ends that process and leaves no file."""
        try:
            if self._problem is not None:
                raise self._problem
            result = run_job(self._job, self._exports, lambda event: self._say(event, feedback), feedback.isCanceled)
        except CancelledError:
            feedback.pushInfo(tr("Cancelled: nothing was written."))
            return {}
        except LacunaError as problem:
            raise QgsProcessingException(str(problem)) from None
        return self.results(self._job, result, feedback)

    def _say(self, event: Event, feedback: QgsProcessingFeedback) -> None:
        """Pass an event of the engine on; of an epoch the engine itself says in words how it did, if it validated."""
        if event["event"] == "progress":
            if self.UNIT in (None, event["unit"]):
                feedback.setProgress(100 * event["done"] / max(event["total"], 1))
            # Dialogs keep each text as a line of their log: one for every tenth of the way is enough.
            step = (event["unit"], 10 * event["done"] // max(event["total"], 1))
            if step != self._step:
                self._step = step
                feedback.setProgressText(progress_words(event))
        elif event["event"] == "metrics":
            if "miou" not in event:
                words = tr("Epoch {} of {}: loss {:.4f}.")
                feedback.pushInfo(words.format(event["epoch"], event["epochs"], event["loss"]))
        elif event.get("level") == "warning":
            feedback.pushWarning(event["text"])
        else:
            feedback.pushInfo(str(event.get("text", "")))

    def card(self, parameters: dict[str, Any], context: QgsProcessingContext) -> Card:
        """Return the card of the checkpoint, of which only the header is read."""
        return read_card(self.parameterAsString(parameters, self.CHECKPOINT, context))

    def bindings(
        self, parameters: dict[str, Any], context: QgsProcessingContext, card: Card, needed: bool = True
    ) -> dict[str, Binding]:
        """Return the layers by modality, with the bands, nodata values and masks given for them.

        Raises:
            LacunaError: a raster that cannot serve, or details of one that is not given; where rasters are `needed`,
                also if the checkpoint cannot do with those that are given.
        """
        bindings = {}
        for number, name in enumerate(self.MODALITY):
            layer = self.raster(parameters, name, context)
            if layer is not None and number >= len(card.modalities):
                raise UsageError(
                    "unknown-modality",
                    tr("{} is given, but the checkpoint has only {} modalities.").format(name, len(card.modalities)),
                    tr("They are, in this order: {}.").format(", ".join(card.names)),
                )
            if layer is not None:
                bindings[card.names[number]] = Binding(layer)
        self._add_details(parameters, context, card, bindings)
        if needed:
            card.check_request(bindings)
        return bindings

    def _add_details(
        self, parameters: dict[str, Any], context: QgsProcessingContext, card: Card, bindings: dict[str, Binding]
    ) -> None:
        """Add to `bindings` what BANDS, NODATA, MASKS, OFFSETS and SCALES say."""
        readers: dict[str, tuple[str, Callable[[str], Any]]] = {
            self.BANDS: ("bands", options.bands),
            self.NODATA: ("nodata", options.number),
            self.MASKS: ("mask", str),
            self.OFFSETS: ("offset", options.number),
            self.SCALES: ("scale", options.number),
        }
        for parameter, (attribute, read) in readers.items():
            text = self.parameterAsString(parameters, parameter, context)
            for name, value in parse_pairs(text, card, parameter).items():
                if name not in bindings:
                    raise UsageError(
                        "bad-value",
                        tr("{} names {}, but no raster is bound to it.").format(parameter, name),
                        tr("Choose a raster for it, or remove it from that parameter."),
                    )
                setattr(bindings[name], attribute, _read(parameter, value, read))

    def raster(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> Optional[QgsRasterLayer]:
        """Return a raster layer that holds data, or None where none is given; LacunaError if it cannot serve."""
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is not None:
            gdal_name(layer)
        elif parameters.get(name):
            raise LacunaError(
                "layer-broken",
                tr("{}: {} cannot be read as a raster.").format(name, parameters[name]),
                tr("Check the path, or choose another raster."),
            )
        return layer

    def polygons(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext
    ) -> Optional[QgsProcessingFeatureSource]:
        """Return the features of a vector layer, or None where none is given; LacunaError if it cannot be read.

        Invalid ones are let pass, whatever Processing's settings say: the engine repairs them and says so.
        """
        source = self.parameterAsSource(parameters, name, context)
        if source is not None:
            source.setInvalidGeometryCheck(QgsFeatureRequest.InvalidGeometryCheck.GeometryNoCheck)
        elif parameters.get(name):
            raise LacunaError("layer-broken", self.invalidSourceError(parameters, name))
        return source

    def read(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext, read: Callable[[str], T]
    ) -> Optional[T]:
        """Return a text as one of `engine.options` reads it, None where it is empty; UsageError if it cannot."""
        text = self.parameterAsString(parameters, name, context).strip()
        return _read(name, text, read) if text else None

    def number(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> Optional[int]:
        """Return a whole number, or None where it is left empty."""
        return None if parameters.get(name) in (None, "") else self.parameterAsInt(parameters, name, context)

    def decimal(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> Optional[float]:
        """Return a number, or None where it is left empty."""
        return None if parameters.get(name) in (None, "") else self.parameterAsDouble(parameters, name, context)

    def choice(self, parameters: dict[str, Any], name: str, context: QgsProcessingContext) -> Optional[str]:
        """Return the word of a choice, its default where it is left empty, None without one."""
        return self.parameterAsEnumString(parameters, name, context) or None

    def device(self, parameters: dict[str, Any], context: QgsProcessingContext) -> str:
        """Return where to compute."""
        return self.parameterAsString(parameters, self.DEVICE, context) or "auto"

    def destination(
        self, parameters: dict[str, Any], name: str, context: QgsProcessingContext, ending: str
    ) -> Optional[str]:
        """Return the path of an output file, or None where none is wanted; UsageError unless it has that `ending`."""
        path = self.parameterAsFileOutput(parameters, name, context)
        if path and not path.lower().endswith(ending):
            raise UsageError(
                "bad-value", tr("{}: {} does not end with {}.").format(name, path, ending), tr("Choose another name.")
            )
        return path or None


def _read(parameter: str, text: str, read: Callable[[str], T]) -> T:
    """Return `read(text)`, its ValueError as a UsageError that names the parameter."""
    try:
        return read(text)
    except ValueError as problem:
        raise UsageError("bad-value", f"{parameter}: {problem}.", tr("Write it as on the command line.")) from None
