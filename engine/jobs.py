# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: plain dataclasses that travel as JSON from whoever asks (panel, Processing, terminal) to the engine process.

Runs on Python 3.9 with the standard library alone, since the QGIS side writes these jobs. What a field means is
said in `docs/commands.md`; each field has the name and meaning of the option of the command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import typing
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Optional, Union

from .errors import UsageError

DEVICES = "auto, cpu, cuda or cuda:N"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
PROBABILITY_TYPES = ("uint8", "float32")
PRESETS = ("default", "paper")
# In place of an encoder file: begin with random weights, even where Lacuna has others.
NO_WEIGHTS = "none"
# What `lacuna import` knows: whole networks, which need a card, and encoders.
NETWORKS = ("dis2", "cmx")
ENCODERS = ("pvt_v2", "mit", "resnet")
PROTOCOLS = ("subsets", "emm", "rmm", "nm")
EVALUATED = ("test", "validation", "train", "all")
STRATEGIES = ("full", "uniform", "weights", "anyseg", "mas", "latent")
METHODS = ("full", "head", "decoder", "lora")


@dataclass
class SourceSpec:
    """A raster bound to a modality.

    `bands` are names or 1-based numbers in the order of the checkpoint's bands, or None to match by name, else by
    order.
    `mask` is a raster whose non-zero pixels are invalid. Values of the file times `scale`, plus `offset`, are those
    that the checkpoint knows; `nodata` is a value of the file.
    """

    path: str
    bands: Optional[list[Union[int, str]]] = None
    nodata: Optional[float] = None
    mask: Optional[str] = None
    offset: Optional[float] = None
    scale: Optional[float] = None


@dataclass
class SegmentJob:
    """Classify a scene: the request behind `lacuna segment`, `lacuna:segment` and the Segment page.

    `extent` is (xmin, ymin, xmax, ymax), `union`, `intersection`, or None for that of the reference. `tile` is
    (rows, columns) in pixels; None for any of `tile`, `overlap`, `batch_size` takes what the card or the device
    suggests.
    """

    checkpoint: str
    modalities: dict[str, SourceSpec]
    output: str
    confidence: Optional[str] = None
    probabilities: Optional[str] = None
    probabilities_dtype: str = "uint8"
    evidence: Optional[str] = None
    record: Optional[str] = None
    extent: Union[list[float], str, None] = None
    extent_crs: Optional[str] = None
    crs: Optional[str] = None
    resolution: Optional[float] = None
    reference: Optional[str] = None
    area: Optional[str] = None
    tile: Optional[list[int]] = None
    overlap: Optional[int] = None
    batch_size: Optional[int] = None
    device: str = "auto"
    precision: str = "auto"
    overwrite: bool = False
    resume: bool = True

    kind: typing.ClassVar[str] = "segment"

    def outputs(self) -> dict[str, str]:
        """Return the rasters that this job writes, by kind: classes, confidence, probabilities, evidence."""
        named = {
            "classes": self.output,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "evidence": self.evidence,
        }
        return {kind: path for kind, path in named.items() if path}

    def unfinished_paths(self) -> list[str]:
        """Return the files or folders in which unfinished work lies; whoever kills the engine removes them."""
        paths = [*self.outputs().values(), self.record_path()]
        return [*(path + ".part" for path in paths), self.output + ".part.lock"]

    def record_path(self) -> str:
        """Return where the run record goes: as asked, else beside the class map."""
        return self.record or self.output + ".json"

    def check(self) -> None:
        """Raise UsageError for values that no scene and no checkpoint could make right."""
        if not self.modalities:
            raise UsageError(
                "no-modality", "No modality was given.", "Bind a raster to at least one modality of the checkpoint."
            )
        _check_choice("probabilities_dtype", self.probabilities_dtype, PROBABILITY_TYPES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_device(self.device)
        if isinstance(self.extent, str):
            _check_choice("extent", self.extent, ("union", "intersection"))
        elif self.extent is not None:
            _check_extent(self.extent)
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise UsageError("bad-value", f"resolution is {self.resolution}.", "Give a pixel size above 0.")
        _check_tile(self.tile, self.overlap)
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError("bad-value", f"batch_size is {self.batch_size}.", "Give a whole number of at least 1.")


@dataclass
class TrainJob:
    """Train a model from scratch on the scenes of a manifest: the request behind `lacuna train`.

    `encoder_weights` is an encoder file, or `none` for random weights; without it they are those that come with Lacuna,
    if it has any for this encoder. With `detail` the network is joined with a detail path, which looks at single
    pixels; not under the preset `paper`.
    With `forest` a random forest is grown on the same labels, measured on the same pixels and written beside the
    checkpoint. With `plan_only` nothing is trained or written: the result is the plan.
    """

    manifest: str
    architecture: str
    output: str
    config: Optional[str] = None
    encoder: Optional[str] = None
    encoder_weights: Optional[str] = None
    preset: str = "default"
    seed: int = 0
    epochs: Optional[int] = None
    device: str = "auto"
    overwrite: bool = False
    resume: bool = True
    detail: bool = True
    forest: bool = False
    report: Optional[str] = None
    plan_only: bool = False

    kind: typing.ClassVar[str] = "train"

    def forest_path(self) -> Optional[str]:
        """Return where the random forest goes that is grown for comparison, or None where none is."""
        return _forest_beside(self.output) if self.forest and self.output else None

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        return [] if self.plan_only else _unfinished(self.output, self.report, self.forest_path())

    def check(self) -> None:
        """Raise UsageError for values that no manifest could make right."""
        if not self.output and not self.plan_only:
            raise UsageError("bad-value", "No output was given.", "Name the new checkpoint.")
        if self.report is not None and self.report == self.output:
            raise UsageError("output-twice", f"Two outputs have one name: {self.output}.", "Give each its own.")
        _check_choice("preset", self.preset, PRESETS)
        _check_device(self.device)
        if self.epochs is not None and self.epochs < 1:
            raise UsageError("bad-value", f"epochs is {self.epochs}.", "Give a whole number of at least 1.")
        if self.seed < 0:
            raise UsageError("bad-value", f"seed is {self.seed}.", "Give a whole number of at least 0.")


@dataclass
class ImportJob:
    """Turn published weights into a checkpoint, or into an encoder file: the request behind `lacuna import`.

    `network` says what the weights are of: one of `NETWORKS`, which take a `card`, or of `ENCODERS`.
    """

    network: str
    weights: str
    output: str
    card: Optional[str] = None
    overwrite: bool = False

    kind: typing.ClassVar[str] = "import"

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        return [self.output + ".part"]

    def check(self) -> None:
        """Raise UsageError for values that no weights could make right."""
        _check_choice("network", self.network, (*NETWORKS, *ENCODERS))
        if self.network in NETWORKS and self.card is None:
            raise UsageError(
                "no-card",
                f"Weights of {self.network} do not say what their inputs and classes are, and no card was given.",
                "Describe them in a JSON file (modalities, bands, scaling, classes) and give it with --card.",
            )


@dataclass
class EvaluateJob:
    """Measure a checkpoint against reference labels: the request behind `lacuna evaluate` and the Evaluate page.

    The reference is either `labels` of the scene that `modalities` show, a raster of class values or, with `field`,
    polygons; or the scenes of a `manifest`, those of `split` (None: test, or all where no scene names a split).
    `class_map` goes from values of labels to names or values of the checkpoint's classes, `ignore` lists values without
    a class. `seed` is that of the damage of the protocols emm, rmm and nm; `no_gaussian` names modalities that get no
    Gaussian noise in nm. `soft_jaccard` adds a measure of the probabilities, tile by tile. `report` is an HTML file,
    beside which the result is written as JSON.
    """

    checkpoint: str
    # Below, `field` is a field of the job, so the function of this name goes by its module.
    modalities: dict[str, SourceSpec] = dataclasses.field(default_factory=dict)
    labels: Optional[str] = None
    field: Optional[str] = None
    class_map: Optional[dict[str, Union[int, str]]] = None
    ignore: list[Union[int, str]] = dataclasses.field(default_factory=list)
    manifest: Optional[str] = None
    split: Optional[str] = None
    protocol: str = "subsets"
    area_estimates: bool = False
    soft_jaccard: bool = False
    report: Optional[str] = None
    update_card: bool = False
    no_gaussian: list[str] = dataclasses.field(default_factory=list)
    seed: int = 0
    tile: Optional[list[int]] = None
    overlap: Optional[int] = None
    device: str = "auto"
    overwrite: bool = False

    kind: typing.ClassVar[str] = "evaluate"

    def record_path(self) -> Optional[str]:
        """Return where the result goes as JSON, or None where no report is asked for."""
        return None if self.report is None else self.report + ".json"

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        card = os.path.realpath(self.checkpoint) if self.update_card else None
        written = [self.report, self.record_path(), card]
        return [path + ".part" for path in written if path is not None]

    def check(self) -> None:
        """Raise UsageError for values that no data and no checkpoint could make right."""
        self._check_reference()
        _check_choice("protocol", self.protocol, PROTOCOLS)
        for name in ("area_estimates", "update_card"):
            if getattr(self, name) and self.protocol != "subsets":
                text = f"{name} was asked for with the protocol {self.protocol}, which damages the inputs."
                raise UsageError("bad-value", text, "Ask for it with the protocol subsets.")
        if self.no_gaussian and self.protocol != "nm":
            text = f"no_gaussian was given with the protocol {self.protocol}."
            raise UsageError("bad-value", text, "Gaussian noise is part of the protocol nm only.")
        if self.seed < 0:
            raise UsageError("bad-value", f"seed is {self.seed}.", "Give a whole number of at least 0.")
        _check_tile(self.tile, self.overlap)
        _check_device(self.device)

    def _check_reference(self) -> None:
        """Raise UsageError unless there is one reference: a manifest, or rasters and their labels."""
        if self.manifest is None:
            if not self.modalities:
                text = "Neither a modality nor a manifest was given."
                raise UsageError("no-modality", text, "Bind rasters to modalities and give labels, or give a manifest.")
            if self.labels is None:
                text = "No reference labels were given."
                raise UsageError("no-labels", text, "Give a raster of class values, or polygons and their field.")
            if self.split is not None:
                text = f"The split {self.split} was asked for, but no manifest was given."
                raise UsageError("bad-value", text, "Leave it out: only scenes of a manifest have splits.")
            return
        given = [name for name in ("modalities", "labels", "field") if getattr(self, name)]
        if given:
            text = f"A manifest was given together with {', '.join(given)}."
            raise UsageError("bad-value", text, "Leave one of the two out: a manifest names its rasters and labels.")
        if self.split is not None:
            _check_choice("split", self.split, EVALUATED)


@dataclass
class FinetuneJob:
    """Train a checkpoint on: the request behind `lacuna finetune`, `lacuna:finetune` and the Fine-tune page.

    The data are either `modalities` with `labels` (polygons with their `field`, or a raster of classes) or a
    `manifest`. `class_map` leads from values of the labels to names of classes, which are added where the checkpoint
    has none of that name; an empty name ignores the value. `merge` leads from the checkpoint's classes to those that
    they become part of, `drop` names those that go. `weights` are probabilities of the scenarios for the strategy
    `weights`, in the order of the contract. With the strategy `latent`, `latent_preset` `paper` asks for the published
    fine-tuning as a whole, not for its probabilities alone. With `plan_only` nothing is trained or written: the result
    is the plan. With `keep_best` a job that is cancelled writes the best checkpoint so far. With `forest` a random
    forest is grown on the same labels, measured on the same pixels and written beside the checkpoint. With `detail` the
    network is joined with a detail path, which looks at single pixels.
    """

    checkpoint: str
    output: str = ""
    modalities: dict[str, SourceSpec] = dataclasses.field(default_factory=dict)
    labels: Optional[str] = None
    field: Optional[str] = None
    manifest: Optional[str] = None
    class_map: dict[str, str] = dataclasses.field(default_factory=dict)
    merge: dict[str, str] = dataclasses.field(default_factory=dict)
    drop: list[str] = dataclasses.field(default_factory=list)
    # None of the others beat it reliably where they were compared: docs/strategies.md.
    strategy: str = "uniform"
    weights: Optional[list[float]] = None
    latent_preset: str = "default"
    method: str = "full"
    report: Optional[str] = None
    config: Optional[str] = None
    seed: int = 0
    epochs: Optional[int] = None
    device: str = "auto"
    plan_only: bool = False
    keep_best: bool = False
    overwrite: bool = False
    resume: bool = True
    forest: bool = True
    detail: bool = True

    kind: typing.ClassVar[str] = "finetune"

    def forest_path(self) -> Optional[str]:
        """Return where the random forest goes that is grown for comparison, or None where none is."""
        return _forest_beside(self.output) if self.forest and self.output else None

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        return [] if self.plan_only else _unfinished(self.output, self.report, self.forest_path())

    def check(self) -> None:
        """Raise UsageError for values that no checkpoint and no labels could make right."""
        _check_data(self.modalities, self.manifest)
        if self.manifest is None and not self.labels:
            raise UsageError("no-labels", "No labels were given.", "Give polygons with a field, or a class raster.")
        if self.manifest is not None and (self.labels or self.field):
            raise UsageError("bad-value", "Labels and a manifest were both given.", "The manifest names its labels.")
        if not self.output and not self.plan_only:
            raise UsageError("bad-value", "No output was given.", "Name the new checkpoint.")
        if self.report is not None and self.report == self.output:
            raise UsageError("output-twice", f"Two outputs have one name: {self.output}.", "Give each its own.")
        _check_choice("strategy", self.strategy, STRATEGIES)
        _check_choice("latent_preset", self.latent_preset, PRESETS)
        _check_choice("method", self.method, METHODS)
        _check_device(self.device)
        if (self.strategy == "weights") != (self.weights is not None):
            hint = "Give weights with the strategy weights, and only with it."
            raise UsageError("bad-value", f"The strategy is {self.strategy}, the weights {self.weights}.", hint)
        if self.epochs is not None and self.epochs < 1:
            raise UsageError("bad-value", f"epochs is {self.epochs}.", "Give a whole number of at least 1.")
        if self.seed < 0:
            raise UsageError("bad-value", f"seed is {self.seed}.", "Give a whole number of at least 0.")


@dataclass
class ScenariosJob:
    """Say how far each scenario moves a checkpoint's latent, and how often each would be trained for that."""

    checkpoint: str
    modalities: dict[str, SourceSpec] = dataclasses.field(default_factory=dict)
    manifest: Optional[str] = None
    preset: str = "default"
    device: str = "auto"

    kind: typing.ClassVar[str] = "scenarios"
    output: typing.ClassVar[str] = ""

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies: none."""
        return []

    def check(self) -> None:
        """Raise UsageError for values that no checkpoint could make right."""
        _check_data(self.modalities, self.manifest)
        _check_choice("preset", self.preset, PRESETS)
        _check_device(self.device)


@dataclass
class MergeJob:
    """Make a checkpoint of its parent and an adapter file: the request behind `lacuna merge`."""

    checkpoint: str
    adapters: str
    output: str
    overwrite: bool = False

    kind: typing.ClassVar[str] = "merge"

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        return [self.output + ".part"]

    def check(self) -> None:
        """Accept whatever the fields are: only the files can tell whether they fit."""


@dataclass
class FetchJob:
    """Fetch a checkpoint from a catalogue, or list what it has: the request behind `lacuna fetch`.

    `name` is that of a checkpoint in the `catalogue` (empty: the project's own), or the address of a catalogue with one
    checkpoint, or one named after `#`. `output` is a folder (empty: the user's own for checkpoints).
    """

    name: str = ""
    catalogue: str = ""
    output: str = ""
    accept_licence: bool = False
    list_only: bool = False
    overwrite: bool = False

    kind: typing.ClassVar[str] = "fetch"

    def unfinished_paths(self) -> list[str]:
        """Return the files that whoever kills the engine removes: none, as a download goes on where it stopped."""
        return []

    def check(self) -> None:
        """Raise UsageError if nothing is named that could be fetched."""
        if not self.name and not self.list_only:
            raise UsageError("usage", "No checkpoint was named.", "Name one, or list what there is with --list.")


@dataclass
class CatalogueJob:
    """Write a catalogue of the checkpoints in a folder: the request behind `lacuna catalogue`.

    `output` is the file (empty: `catalogue.json` in the folder); `base` the address under which the checkpoints will
    lie, where that is not beside the catalogue.
    """

    folder: str
    output: str = ""
    base: str = ""
    overwrite: bool = False

    kind: typing.ClassVar[str] = "catalogue"

    def unfinished_paths(self) -> list[str]:
        """Return the files in which unfinished work lies; whoever kills the engine removes them."""
        return [self.output + ".part"] if self.output else []

    def check(self) -> None:
        """Accept whatever the fields are: only the files can tell whether they fit."""


Job = Union[SegmentJob, TrainJob, FinetuneJob, EvaluateJob, ScenariosJob, ImportJob, MergeJob, FetchJob, CatalogueJob]
KINDS: dict[str, type] = {job.kind: job for job in typing.get_args(Job)}


def to_json(job: Job) -> str:
    """Return `job` as one line of JSON."""
    return json.dumps({"job": job.kind, **asdict(job)})


def from_json(text: str) -> Job:
    """Return the job that `text` holds.

    Raises:
        UsageError: it is no JSON, names no known job, lacks a field, has one too many or one of the wrong type.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise UsageError("bad-job", f"The job is not JSON: {problem}.", "Send one JSON object on one line.") from None
    found = values.get("job") if isinstance(values, dict) else type(values).__name__
    if not isinstance(values, dict) or not isinstance(found, str) or found not in KINDS:
        raise UsageError("bad-job", f"The job is of kind {found!r}.", f"Known kinds: {', '.join(KINDS)}.")
    kind = values.pop("job")
    job = _build(KINDS[kind], values, kind)
    job.check()
    return job


def _build(cls: type, values: Any, where: str) -> Any:
    """Return a `cls` made of the JSON object `values`, every field checked against its annotation."""
    if not isinstance(values, dict):
        raise UsageError("bad-job", f"{where} is {values!r}.", "A JSON object was expected.")
    hints = typing.get_type_hints(cls)
    known = {entry.name: entry for entry in fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError("bad-job", f"{where} has unknown fields: {', '.join(unknown)}.", f"Known: {', '.join(known)}.")
    required = [name for name, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise UsageError("bad-job", f"{where} lacks {', '.join(missing)}.", "Give these fields.")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return the JSON `value` as the type `hint`, or raise UsageError naming the field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return _convert_union(arguments, value, where)
    if origin is list and isinstance(value, (list, tuple)):
        return [_convert(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if hint is SourceSpec:
        return _build(SourceSpec, value, where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    if hint is type(None) and value is None:
        return None
    raise UsageError("bad-job", f"{where} is {value!r}.", f"Expected {getattr(hint, '__name__', hint)}.")


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return `value` as the first type of a union that takes it."""
    for argument in arguments:
        try:
            return _convert(argument, value, where)
        except UsageError:
            continue
    names = " or ".join(str(getattr(argument, "__name__", argument)) for argument in arguments)
    raise UsageError("bad-job", f"{where} is {value!r}.", f"Expected {names}.")


def _forest_beside(output: str) -> str:
    """Return the file of the random forest that stands beside the checkpoint `output`."""
    return os.path.splitext(output)[0] + ".forest.safetensors"


def _unfinished(output: str, *beside: Optional[str]) -> list[str]:
    """Return the files in which unfinished work of a training lies; `beside` are its other outputs."""
    own = [output + end for end in (".part", ".part.new", ".part.lock", ".new", ".new.part")]
    return [path + ".part" for path in beside if path] + own


def _check_data(modalities: dict[str, SourceSpec], manifest: Optional[str]) -> None:
    """Raise UsageError unless either rasters or a manifest are given."""
    if manifest is not None and modalities:
        raise UsageError(
            "bad-value", "Rasters and a manifest were both given.", "Give --modality, or --manifest, but not both."
        )
    if manifest is None and not modalities:
        raise UsageError(
            "no-modality", "No modality was given.", "Bind a raster to at least one modality, or give a manifest."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError("bad-value", f"{name} is {value!r}.", f"Choose one of {', '.join(choices)}.")


def _check_device(value: str) -> None:
    if value not in ("auto", "cpu", "cuda") and not (value.startswith("cuda:") and value[5:].isdecimal()):
        raise UsageError("bad-value", f"device is {value!r}.", f"Choose {DEVICES}.")


def _check_tile(tile: Optional[list[int]], overlap: Optional[int]) -> None:
    if tile is not None and (len(tile) != 2 or min(tile) < 1):
        raise UsageError("bad-value", f"tile is {tile}.", "Give one side, or rows and columns, in pixels.")
    if overlap is not None and overlap < 0:
        raise UsageError("bad-value", f"overlap is {overlap}.", "Give a whole number of at least 0.")
    if overlap is not None and tile is not None and 2 * overlap > min(tile):
        raise UsageError(
            "bad-value",
            f"overlap is {overlap} pixels, more than half the tile of {tile[0]} x {tile[1]}.",
            "Give a smaller overlap or a larger tile.",
        )


def _check_extent(extent: list[float]) -> None:
    finite = all(math.isfinite(number) for number in extent)
    if len(extent) != 4 or not finite or not (extent[0] < extent[2] and extent[1] < extent[3]):
        hint = "Give xmin, ymin, xmax, ymax with xmin < xmax and ymin < ymax."
        raise UsageError("bad-value", f"extent is {extent}.", hint)
