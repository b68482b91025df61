# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:train`: train a new model from scratch, for inputs that no checkpoint knows."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsRasterLayer,
)

from ..compat import tr
from ..engine import options
from ..engine.checkpoint.card import Card, Modality
from ..engine.errors import UsageError
from ..engine.jobs import PRESETS, TrainJob
from ..engine.models.names import ENCODERS, MIXED, MODULES, WITHOUT_ENCODER
from ..engine.naming import key_of
from ..engine.proposals import KINDS, NAMES, PLAIN, Proposal, choose_encoder, propose_modality, scaling_words
from ..host.binding import Binding, parse_pairs
from ..host.client import Event
from ..host.exports import Exports
from ..host.new_model import (
    ARCHITECTURE,
    NewModel,
    band_numbers,
    bands_as_known,
    check_draft,
    draft_card,
    encoder_tables,
    free_name,
)
from ..host.raster_facts import raster_facts
from ..host.toml_text import toml_words
from .learning_algorithm import LearningAlgorithm, miou_words

_SPLITS = ("block", "polygon")
_PROPOSED = "proposed"


class TrainAlgorithm(LearningAlgorithm):
    """What the Fine-tune page does with a new model, for the toolbox, models, batches, scripts and `qgis_process`."""

    NAMES = "NAMES"
    KINDS = "KINDS"
    UNITS = "UNITS"
    ARCHITECTURE = "ARCHITECTURE"
    ENCODER = "ENCODER"
    PRESET = "PRESET"
    SPLIT = "SPLIT"
    VALIDATION = "VALIDATION"

    def __init__(self) -> None:
        super().__init__()
        self._proposed: dict[str, Proposal] = {}

    def name(self) -> str:
        """Return the name that scripts use; never changes."""
        return "train"

    def displayName(self) -> str:
        """Return the name that is shown."""
        return tr("Train a new model")

    def tags(self) -> list[str]:
        """Return words by which the algorithm is found."""
        words = tr("train,training,learn,scratch,new,labels,classification,land cover,deep learning,missing,multimodal")
        return words.split(",")

    def shortHelpString(self) -> str:
        """Return what the dialog shows beside the parameters."""
        what = tr(
            "<p>Trains a new model from scratch, for inputs that no checkpoint of Lacuna knows, and writes it as a "
            "checkpoint. Where a checkpoint knows your inputs, fine-tune that one: it needs fewer labels.</p>"
            "<p><b>Modality 1 to 6</b>: a raster for each input. They may differ in CRS, pixel size and extent; the "
            "labels follow the finest.</p>"
            "<p><b>Names</b>: <code>image,height</code>, in the order of the rasters. <b>Kinds</b>: what they are, "
            "<code>image=image; height=height</code>: image, sentinel2, radar, height or other. Both are proposed "
            "where they are left out; the log says what was found. <b>Units</b>: <code>radar=dB</code>.</p>"
        )
        how = tr(
            "<p><b>Class map</b>: without it each text of the field is a class, and the number 3 becomes “class 3”. "
            "For a raster of class values it is needed.</p>"
            "<p><b>Encoder</b>: <i>proposed</i> takes what suits the inputs. A random forest is grown on the same "
            "labels and written beside the checkpoint: where it is better, take it instead.</p>"
            "<p><b>Settings</b>: a TOML file as for the command <code>lacuna train --config</code>.</p>"
            "<p><b>Bands</b>, <b>Nodata values</b>, <b>Masks</b>: <i>NAME=value</i>, several separated by semicolons: "
            "<code>image=1,2,3; radar=VV,VH</code>.</p>"
        )
        return what + self.labels_help() + how

    def initAlgorithm(self, configuration: Optional[dict[str, Any]] = None) -> None:
        """Declare parameters and outputs."""
        whole = QgsProcessingParameterNumber.Type.Integer
        for number, name in enumerate(self.MODALITY, 1):
            self.addParameter(QgsProcessingParameterRasterLayer(name, tr("Modality {}").format(number), optional=True))
        names = tr("Names of the modalities (NAME,...; default: by kind)")
        self.addParameter(QgsProcessingParameterString(self.NAMES, names, optional=True))
        self.add_labels()
        # That of several encoders needs settings, which only a proposal or a file of settings has.
        encoders = [_PROPOSED, *(name for name in ENCODERS if name != MIXED)]
        for parameter in (
            self.choose(self.ARCHITECTURE, tr("Architecture"), list(MODULES), ARCHITECTURE),
            self.choose(self.ENCODER, tr("Encoder"), encoders, _PROPOSED),
            self.epochs(tr("Epochs (default: 60)")),
        ):
            self.addParameter(parameter)
        share = tr("Share of the labels for validation (per cent)")
        self.add_advanced(
            (
                QgsProcessingParameterString(self.KINDS, tr("Kinds (NAME=KIND; ...)"), optional=True),
                QgsProcessingParameterString(self.UNITS, tr("Units (NAME=TEXT; ...)"), optional=True),
                self.choose(self.SPLIT, tr("What stays together in the split"), _SPLITS, _SPLITS[0]),
                QgsProcessingParameterNumber(self.VALIDATION, share, whole, 20, minValue=1, maxValue=99),
                self.choose(self.PRESET, tr("Preset of the training"), PRESETS, PRESETS[0]),
                *self.learning(),
            )
        )
        self.add_destinations()
        self.add_worth()

    def draft(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> TrainJob:
        """Return the job, without its outputs."""
        data = self.data(parameters, context, exports)
        architecture = self.choice(parameters, self.ARCHITECTURE, context) or ARCHITECTURE
        settings = self.settings(parameters, context)
        encoder, settings["config"] = self._encoder(parameters, context, exports, architecture, settings["config"])
        return TrainJob(
            manifest=data.get("manifest") or exports.text("toml", self._manifest(parameters, context, data)),
            architecture=architecture,
            output=self.OUTPUT,
            encoder=encoder,
            preset=self.choice(parameters, self.PRESET, context) or PRESETS[0],
            **settings,
        )

    def data(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> dict[str, Any]:
        """Return rasters and labels, or the manifest; as `LabelledAlgorithm.data`, with a card made of the rasters."""
        found = super().data(parameters, context, exports)
        if "manifest" in found and self.parameterAsString(parameters, self.CLASS_MAP, context).strip():
            text = tr("CLASS_MAP is given together with MANIFEST.")
            raise UsageError("bad-value", text, tr("Leave it out: a manifest has a class map of its own."))
        return found

    def card(self, parameters: dict[str, Any], context: QgsProcessingContext) -> Card:
        """Return the card of the new model, as far as it is known: what is proposed for its rasters, or asked for."""
        layers = self._layers(parameters, context)
        names = self._names(parameters, context, layers)
        blank = draft_card([Modality(name, []) for name in names], "")
        kinds = parse_pairs(self.parameterAsString(parameters, self.KINDS, context), blank, self.KINDS)
        units = parse_pairs(self.parameterAsString(parameters, self.UNITS, context), blank, self.UNITS)
        bands = parse_pairs(self.parameterAsString(parameters, self.BANDS, context), blank, self.BANDS)
        wrong = [kind for kind in kinds.values() if kind not in KINDS]
        if wrong:
            text = tr("KINDS: there is no kind {}.").format(wrong[0])
            raise UsageError("bad-value", text, tr("Choose from {}.").format(", ".join(KINDS)))
        modalities = []
        for name, layer in zip(names, layers):
            proposal = propose_modality(raster_facts(layer), kinds.get(name))
            self._proposed[name] = proposal
            numbers = list(proposal.numbers)
            if name in bands:
                numbers = _numbers(layer, bands[name], self.BANDS)
            said = units.get(name, proposal.units)
            modalities.append(Modality(name, bands_as_known(layer, proposal, numbers), units=said))
        finest = min(zip(names, layers), key=lambda pair: raster_facts(pair[1]).pixel or 0.0, default=("", None))[0]
        card = draft_card(modalities, finest)
        check_draft(card)
        return card

    def bindings(
        self, parameters: dict[str, Any], context: QgsProcessingContext, card: Card, needed: bool = True
    ) -> dict[str, Binding]:
        """Return the layers by modality, with the bands that the model is to learn from."""
        found = {name: Binding(layer) for name, layer in zip(card.names, self._layers(parameters, context))}
        self._add_details(parameters, context, card, found)
        for name, bound in found.items():
            wanted = bound.bands if bound.bands is not None else list(self._proposed[name].numbers)
            bound.bands = [*band_numbers(bound.layer, wanted)]
        if needed and not found:
            text, hint = tr("No raster is given."), tr("Choose at least one as MODALITY_1, or a manifest.")
            raise UsageError("no-modality", text, hint)
        return found

    def _layers(self, parameters: dict[str, Any], context: QgsProcessingContext) -> list[QgsRasterLayer]:
        """Return the rasters that are given, in order."""
        found = (self.raster(parameters, name, context) for name in self.MODALITY)
        return [layer for layer in found if layer is not None]

    def _names(
        self, parameters: dict[str, Any], context: QgsProcessingContext, layers: list[QgsRasterLayer]
    ) -> list[str]:
        """Return a name for each raster: as given, else that of its kind."""
        given = self.read(parameters, self.NAMES, context, options.names)
        if given is None:
            names: list[str] = []
            for layer in layers:
                names.append(free_name(NAMES[propose_modality(raster_facts(layer)).kind], names))
            return names
        if len(given) != len(layers):
            text = tr("NAMES has {} names for {} rasters.").format(len(given), len(layers))
            raise UsageError("bad-value", text, tr("Give one for each raster, in their order, or none."))
        return given

    def _encoder(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        exports: Exports,
        architecture: str,
        config: Optional[str],
    ) -> tuple[Optional[str], Optional[str]]:
        """Return the encoder, None where the architecture or the settings decide, and the file of the settings."""
        asked = self.choice(parameters, self.ENCODER, context) or _PROPOSED
        if asked != _PROPOSED:
            return asked, config
        # A manifest's rasters are not looked at here, and a file of settings may name its own encoder.
        if architecture in WITHOUT_ENCODER or config is not None or not self._proposed:
            return None, config
        choice = choose_encoder(self._proposed)
        tables = encoder_tables(choice.name, choice.options)
        return choice.name, exports.text("toml", toml_words(tables)) if tables else None

    def _manifest(self, parameters: dict[str, Any], context: QgsProcessingContext, data: dict[str, Any]) -> str:
        """Return the manifest of rasters and labels."""
        split = self.choice(parameters, self.SPLIT, context) or _SPLITS[0]
        share = self.number(parameters, self.VALIDATION, context) or 20
        table: dict[str, Any] = {"method": split, "validation": share / 100}
        table["seed"] = self.number(parameters, self.SEED, context) or 0
        return NewModel(
            card=self.card(parameters, context),
            sources=data["modalities"],
            labels=data["labels"],
            field=data.get("field"),
            class_map=self._class_map(parameters, context, data.get("field")),
            split={**table, "fit": True} if split == _SPLITS[0] else table,
            name=self._labels_name(parameters, context),
        ).manifest()

    def _labels_name(self, parameters: dict[str, Any], context: QgsProcessingContext) -> str:
        polygons = self.polygons(parameters, self.LABELS, context)
        layer = self.raster(parameters, self.LABELS_RASTER, context)
        return polygons.sourceName() if polygons is not None else layer.name() if layer is not None else ""

    def _class_map(
        self, parameters: dict[str, Any], context: QgsProcessingContext, field: Optional[str]
    ) -> dict[str, str]:
        """Return the class of each value: as given, else for polygons each value is a class of its own.

        Raises:
            UsageError: `bad-classes`, a raster of classes without a class map.
        """
        given = self.read(parameters, self.CLASS_MAP, context, options.pairs) or {}
        polygons = self.polygons(parameters, self.LABELS, context)
        if polygons is None or field is None:
            if not given:
                hint = tr("Give one, such as 1=water,2=trees; 3= ignores a value.")
                raise UsageError("bad-classes", tr("Labels from a raster need a CLASS_MAP."), hint)
            return given
        known = {key_of(value) for value in given}
        own = {}
        for value in polygons.uniqueValues(polygons.fields().lookupField(field)):
            key = key_of(value) if isinstance(value, (str, int, float)) else ""
            if key and key not in known:
                text = value.strip() if isinstance(value, str) else key
                own[text] = text if isinstance(value, str) else tr("class {}").format(key)
        return {**dict(sorted(own.items())), **given}

    def processAlgorithm(
        self, parameters: dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> dict[str, Any]:
        """Say what the rasters were taken for, then run the job."""
        for name, proposal in self._proposed.items():
            feedback.pushInfo(f"{name}: {proposal.why}")
        if self._proposed and self._problem is None:
            job: Any = self._job
            feedback.pushInfo(scaling_words(job.encoder or PLAIN))
        return super().processAlgorithm(parameters, context, feedback)

    def results(self, job: TrainJob, result: Event, feedback: QgsProcessingFeedback) -> dict[str, Any]:
        """Return what was written and its worth, and say it by scenario."""
        feedback.pushInfo(tr("mIoU by scenario, on {}:").format(result["scores_on"]))
        forest = result["forest"] or {}
        for called, scores in ((tr("new model"), result["scores"]), (tr("random forest"), forest.get("scores", ()))):
            for item in scores:
                feedback.pushInfo(f"{' + '.join(item['available'])}: {called} {miou_words(item['miou'])}")
        known = [item["miou"] for item in result["scores"] if item["miou"] is not None]
        return self.written(result, {self.MIOU: sum(known) / len(known) if known else None})


def _numbers(layer: QgsRasterLayer, text: str, parameter: str) -> list[int]:
    """Return the numbers of the bands in `text`; UsageError that names the parameter."""
    try:
        return band_numbers(layer, options.bands(text))
    except ValueError as problem:
        hint = tr("Give names or numbers of bands of “{}”.").format(layer.name())
        raise UsageError("bad-value", f"{parameter}: {problem}.", hint) from None
