# SPDX-License-Identifier: GPL-2.0-or-later
"""The card: what a checkpoint says of itself. Readable without torch, on Python 3.9 and the standard library.

In a `.safetensors` file the card is two strings of the header's metadata: `mlm`, a STAC Machine Learning Model item
(https://github.com/stac-extensions/mlm, v1.5), and `lacuna`, for what that standard has no words for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, Optional

from ..errors import LacunaError, UsageError
from .faults import MAX_CLASSES, MAX_MODALITIES, RESAMPLINGS, SCALINGS, card_fault, scaling_fault
from .header import metadata_of, parse_json, read_header
from .mlm import from_mlm, to_mlm

__all__ = [
    "MAX_CLASSES",
    "MAX_MODALITIES",
    "RESAMPLINGS",
    "SCALINGS",
    "SCHEMA",
    "Card",
    "ClassInfo",
    "Modality",
    "Scenario",
    "read_card",
    "scaling_fault",
    "scenarios",
]

SCHEMA = 1
# Metadata key of an encoder file: weights of an encoder alone, for `lacuna train --encoder-weights`.
ENCODER_KEY = "lacuna_encoder"
# Of an adapter file: what a fine-tuning by LoRA adds to a checkpoint.
ADAPTER_KEY = "lacuna_adapter"

Scenario = tuple[str, ...]


def scenarios(modalities: list[str]) -> list[Scenario]:
    """Return every non-empty subset of `modalities`: by size, then in their order (100, 010, 001, 110, ..., 111)."""
    return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]


@dataclass
class Modality:
    """One kind of input.

    `scaling` is a chain of steps, each `{"type": ..., parameters}` with a number or one for each band
    (`docs/checkpoint.md`). `statistics` are those of the training data, in the units of the files: `minimum`,
    `maximum`, `mean`, `std`, `p01`, `p99`, each with one number for each band; values far from them are warned of.
    `resolution` is the range of pixel sizes, in metres, of the rasters it was trained on.
    """

    name: str
    bands: list[str]
    units: str = ""
    scaling: list[dict[str, Any]] = field(default_factory=lambda: [{"type": "none"}])
    resampling: str = "bilinear"
    nodata: Optional[float] = None
    required: bool = False
    statistics: dict[str, list[float]] = field(default_factory=dict)
    resolution: Optional[list[float]] = None

    def __post_init__(self) -> None:
        # NaN is never data, so it needs no saying; and JSON has no word for it.
        if isinstance(self.nodata, float) and self.nodata != self.nodata:
            self.nodata = None


@dataclass
class ClassInfo:
    """A class of the map: its value in the raster, its name and its colour (`#rrggbb`)."""

    value: int
    name: str
    color: str = "#808080"


@dataclass
class Card:
    """What a checkpoint says of itself; see `docs/checkpoint.md` for every field.

    `resolution` is the range of ground resolution, in metres, that it was trained on; `tile` (rows, columns), `margin`
    and `stride` are in pixels of the reference grid. `scenarios` lists the subsets of modalities it supports, or is
    None for all of them. `scores` were measured on the data named in `scores_on`. `calibration` holds a temperature
    for each scenario, by which logits are divided before the softmax.
    """

    architecture: dict[str, Any]
    modalities: list[Modality]
    classes: list[ClassInfo]
    reference: str = ""
    name: str = ""
    description: str = ""
    resolution: Optional[list[float]] = None
    tile: list[int] = field(default_factory=lambda: [512, 512])
    margin: int = 32
    stride: int = 32
    scenarios: Optional[list[list[str]]] = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    scores_on: str = ""
    calibration: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    credits: str = ""
    parents: list[str] = field(default_factory=list)
    created: str = ""
    schema: int = SCHEMA

    @property
    def names(self) -> list[str]:
        """The modalities' names, in the card's order."""
        return [modality.name for modality in self.modalities]

    def modality(self, name: str) -> Modality:
        """Return the modality called `name`; KeyError if there is none."""
        for modality in self.modalities:
            if modality.name == name:
                return modality
        raise KeyError(name)

    def supports(self, scenario: Scenario) -> bool:
        """Return whether the model can run with just the modalities of `scenario`."""
        if not scenario or any(item.required and item.name not in scenario for item in self.modalities):
            return False
        return self.scenarios is None or set(scenario) in [set(item) for item in self.scenarios]

    def supported(self) -> list[Scenario]:
        """Return the scenarios that the model can run, in the order of `scenarios`."""
        return [scenario for scenario in scenarios(self.names) if self.supports(scenario)]

    def effective(self, available: Scenario) -> Optional[Scenario]:
        """Return the scenario that runs where `available` modalities are valid, or None where nothing can.

        It is `available` itself where supported, else its largest supported subset, by measured mIoU among equals;
        in the card's order of modalities.
        """
        present = [name for name in self.names if name in available]
        for size in range(len(present), 0, -1):
            equals = [subset for subset in combinations(present, size) if self.supports(subset)]
            if equals:
                return max(equals, key=lambda item: self.miou(item) or 0.0)
        return None

    def check_request(self, given: Iterable[str], reference: Optional[str] = None) -> None:
        """Check the modalities that a job binds, and the one among them whose grid it asks for.

        Raises:
            UsageError: `no-modality`, `unknown-modality`, `required-modality` or `unsupported-scenario`.
        """
        given = list(given)
        known = f"It knows {', '.join(item.name + ' (required)' * item.required for item in self.modalities)}."
        unknown = [name for name in given if name not in self.names]
        if unknown:
            raise UsageError("unknown-modality", f"The checkpoint knows no modality {', '.join(unknown)}.", known)
        if not given:
            raise UsageError("no-modality", "No modality was given.", f"Bind a raster to at least one. {known}")
        lacking = [item.name for item in self.modalities if item.required and item.name not in given]
        if lacking:
            raise UsageError(
                "required-modality",
                f"The checkpoint cannot do without {', '.join(lacking)}, which was not given.",
                f"Bind a raster to it. {known}",
            )
        if self.effective(tuple(given)) is None:
            raise UsageError(
                "unsupported-scenario",
                f"The checkpoint does not support {' + '.join(given)} alone.",
                f"It supports: {'; '.join(' + '.join(item) for item in self.supported())}.",
            )
        if reference is not None and reference not in given:
            raise UsageError(
                "unknown-modality",
                f"The reference {reference} is none of the modalities given.",
                f"Choose one of {', '.join(given)}.",
            )

    def score(self, scenario: Scenario) -> Optional[dict[str, Any]]:
        """Return what was measured with just the modalities of `scenario`, or None."""
        return next((item for item in self.scores if set(item["available"]) == set(scenario)), None)

    def miou(self, scenario: Scenario) -> Optional[float]:
        """Return the measured mIoU (a fraction) of `scenario`, or None."""
        found = self.score(scenario)
        return None if found is None else found.get("miou")

    def temperature(self, scenario: Scenario) -> float:
        """Return the temperature that calibrates the probabilities of `scenario` (1 where none was fitted)."""
        for item in self.calibration:
            if set(item["available"]) == set(scenario):
                return float(item["temperature"])
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON values: what `lacuna describe --json` prints and an import's `CARD.json` holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, origin: str = "the card") -> Card:
        """Return the card that JSON `values` hold, checked; keys that are absent take their defaults.

        Raises:
            LacunaError: `bad-card`, saying where in `origin` the fault is.
        """
        return _build_card(values, origin)

    def to_metadata(self) -> dict[str, str]:
        """Return the two strings of a safetensors header: `mlm` and `lacuna`; LacunaError `bad-card` if it is none."""
        try:
            values = json.loads(json.dumps(self.to_dict(), allow_nan=False))
        except (TypeError, ValueError) as problem:
            raise _bad("the new checkpoint", f"it holds what JSON cannot ({problem})") from None
        checked = Card.from_dict(values, "the new checkpoint")
        rest = checked.to_dict()
        for item in rest["modalities"]:
            del item["bands"], item["resampling"]
        del rest["classes"]
        return {"mlm": json.dumps(to_mlm(checked), allow_nan=False), "lacuna": json.dumps(rest)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], origin: str) -> Card:
        """Return the card in a safetensors header.

        Raises:
            LacunaError: `encoder-file`, `adapter-file`, `not-a-checkpoint`, `newer-schema` or `bad-card`.
        """
        _check_kind(metadata, origin)
        try:
            rest, item = parse_json(metadata["lacuna"]), parse_json(metadata["mlm"])
            schema = rest["schema"]
        except (ValueError, KeyError, TypeError) as problem:
            raise _bad(origin, f"its metadata cannot be read ({problem!r})") from None
        if type(schema) is not int or schema < 1:
            raise _bad(origin, f"its schema is {schema!r}, which is no version")
        if schema > SCHEMA:
            raise LacunaError(
                "newer-schema",
                f"{origin} was written by a newer Lacuna: its card has schema {schema}, this one reads up to {SCHEMA}.",
                "Update Lacuna, or ask for a checkpoint of an older schema.",
            )
        try:
            values = from_mlm(rest, item)
        except (KeyError, TypeError, AttributeError, IndexError) as problem:
            raise _bad(origin, f"its metadata is not as expected ({problem!r})") from None
        return cls.from_dict(values, origin)


def read_card(path: str) -> Card:
    """Return the card of the checkpoint at `path`, reading only its header.

    Raises:
        LacunaError: the file is missing, no safetensors, cut short, without a card, of a newer schema or with a bad
            card.
    """
    return Card.from_metadata(metadata_of(read_header(path), path), path)


def _check_kind(metadata: dict[str, str], origin: str) -> None:
    """Raise LacunaError if `metadata` is that of something other than a checkpoint."""
    if ENCODER_KEY in metadata:
        raise LacunaError(
            "encoder-file",
            f"{origin} holds the weights of an encoder alone, not a model with classes.",
            "Train with it (`lacuna train --encoder-weights`), or choose a whole checkpoint.",
        )
    if ADAPTER_KEY in metadata:
        raise LacunaError(
            "adapter-file",
            f"{origin} holds adapters alone, which are of use only together with the checkpoint they belong to.",
            "Choose the checkpoint that was written beside it, in which they are merged.",
        )
    if "lacuna" not in metadata or "mlm" not in metadata:
        raise LacunaError(
            "not-a-checkpoint",
            f"{origin} is a safetensors file, but not a checkpoint of Lacuna: its header has no card.",
            "Choose a checkpoint that Lacuna has written.",
        )


def _bad(origin: str, what: str) -> LacunaError:
    return LacunaError("bad-card", f"{origin} has a card that cannot be used: {what}.", "Get the checkpoint again.")


def _build_card(values: Any, origin: str) -> Card:
    """Return the checked card made of JSON `values`."""
    if not isinstance(values, dict):
        raise _bad(origin, "it is not a JSON object")
    for key, kind in (("architecture", dict), ("modalities", list), ("classes", list)):
        if not values.get(key):
            raise _bad(origin, f"it has no {key}")
        if not isinstance(values[key], kind):
            raise _bad(origin, f"its {key} are of the wrong kind: {str(values[key])[:80]}")
    try:
        values = dict(values)
        values["modalities"] = [_build_modality(item) for item in values["modalities"]]
        values["classes"] = [ClassInfo(**item) for item in values["classes"]]
        values["architecture"] = {"config": {}, **values["architecture"]}
        values["reference"] = values.get("reference") or values["modalities"][0].name
        known = {item.name for item in fields(Card)}
        card = Card(**{key: value for key, value in values.items() if key in known})
        fault = card_fault(card)
    except (TypeError, ValueError, KeyError, AttributeError) as problem:
        raise _bad(origin, str(problem)) from None
    if fault:
        raise _bad(origin, fault)
    return card


def _build_modality(values: Any) -> Modality:
    """Return a modality; a scaling that is one step stands for a chain of one."""
    values = dict(values)
    if isinstance(values.get("scaling"), dict):
        values["scaling"] = [values["scaling"]]
    return Modality(**values)
