# SPDX-License-Identifier: GPL-2.0-or-later
"""The card: what a checkpoint says of itself. Readable without torch, on Python 3.9 and the standard library.

In a `.safetensors` file the card is two strings of the header's metadata: `mlm`, a STAC Machine Learning Model item
(https://github.com/stac-extensions/mlm, v1.5), and `lacuna`, for what that standard has no words for.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from typing import Any, Optional

from ..errors import LacunaError
from .header import read_metadata

SCHEMA = 1
MAX_MODALITIES = 16
MAX_CLASSES = 65534
MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
RESAMPLINGS = ("nearest", "bilinear", "cubic")
SCALINGS = {
    "none": (),
    "offset_scale": ("offset", "scale"),
    "min_max": ("minimum", "maximum"),
    "clip": ("minimum", "maximum"),
    "z_score": ("mean", "std"),
}
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")

Scenario = tuple[str, ...]


def scenarios(modalities: list[str]) -> list[Scenario]:
    """Return every non-empty subset of `modalities`: by size, then in their order (100, 010, 001, 110, ..., 111)."""
    return [subset for size in range(1, len(modalities) + 1) for subset in combinations(modalities, size)]


@dataclass
class Modality:
    """One kind of input.

    `scaling` is a chain of steps, each `{"type": ..., parameters}` with a number or one for each band (`docs/manifest.md`).
    `statistics` are those of the training data, in the units of the files: `minimum`, `maximum`, `mean`, `std`, `p01`,
    `p99`, each with one number for each band; values far from them are warned of.
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


@dataclass
class ClassInfo:
    """A class of the map: its value in the raster, its name and its colour (`#rrggbb`)."""

    value: int
    name: str
    color: str = "#808080"


@dataclass
class Card:
    """What a checkpoint says of itself; see `docs/checkpoint.md` for every field.

    `resolution` is the range of ground resolution, in metres, that it was trained on; `tile` (rows, columns), `margin` and
    `stride` are in pixels of the reference grid. `scenarios` lists the subsets of modalities it supports, or is None for
    all of them. `scores` were measured on the data named in `scores_on`. `calibration` holds a temperature for each
    scenario, by which logits are divided before the softmax.
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

        It is `available` itself where supported, else its largest supported subset, by measured mIoU among equals.
        """
        subsets = [item for item in self.supported() if set(item) <= set(available)]
        if not subsets:
            return None
        largest = max(len(item) for item in subsets)
        return max((item for item in subsets if len(item) == largest), key=lambda item: self.miou(item) or 0.0)

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
        """Return the two strings of a safetensors header: `mlm` and `lacuna`."""
        rest = self.to_dict()
        rest["modalities"] = [
            {key: value for key, value in item.items() if key not in ("bands", "resampling")}
            for item in rest["modalities"]
        ]
        del rest["classes"]
        return {"mlm": json.dumps(_to_mlm(self)), "lacuna": json.dumps(rest)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], origin: str) -> Card:
        """Return the card in a safetensors header; LacunaError `not-a-checkpoint` or `bad-card` if there is no good one."""
        if "lacuna" not in metadata or "mlm" not in metadata:
            raise LacunaError(
                "not-a-checkpoint",
                f"{origin} is a safetensors file, but not a checkpoint of Lacuna: its header has no card.",
                "Weights from elsewhere come in through `lacuna import`.",
            )
        try:
            rest, item = json.loads(metadata["lacuna"]), json.loads(metadata["mlm"])
            schema = rest["schema"]
        except (ValueError, KeyError, TypeError) as problem:
            raise _bad(origin, f"its metadata cannot be read ({problem!r})") from None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise LacunaError(
                "newer-schema",
                f"{origin} was written by a newer Lacuna: its card has schema {schema}, this one reads up to {SCHEMA}.",
                "Update Lacuna, or ask for a checkpoint of an older schema.",
            )
        try:
            return cls.from_dict(_merge_mlm(rest, item), origin)
        except (KeyError, TypeError, AttributeError, IndexError) as problem:
            raise _bad(origin, f"its metadata is not as expected ({problem!r})") from None


def read_card(path: str) -> Card:
    """Return the card of the checkpoint at `path`, reading only its header.

    Raises:
        LacunaError: the file is missing, no safetensors, cut short, without a card, of a newer schema or with a bad card.
    """
    return Card.from_metadata(read_metadata(path), path)


def _bad(origin: str, what: str) -> LacunaError:
    return LacunaError("bad-card", f"{origin} has a card that cannot be used: {what}.", "Get the checkpoint again.")


def _build_card(values: Any, origin: str) -> Card:
    """Return the checked card made of JSON `values`."""
    if not isinstance(values, dict):
        raise _bad(origin, "it is not a JSON object")
    for key in ("architecture", "modalities", "classes"):
        if not values.get(key):
            raise _bad(origin, f"it has no {key}")
    try:
        values = dict(values)
        values["modalities"] = [_build_modality(item) for item in values["modalities"]]
        values["classes"] = [ClassInfo(**item) for item in values["classes"]]
        values["architecture"] = {"config": {}, **values["architecture"]}
        values["reference"] = values.get("reference") or values["modalities"][0].name
        known = {item.name for item in fields(Card)}
        card = Card(**{key: value for key, value in values.items() if key in known})
    except (TypeError, ValueError) as problem:
        raise _bad(origin, str(problem)) from None
    fault = _fault(card)
    if fault:
        raise _bad(origin, fault)
    return card


def _build_modality(values: Any) -> Modality:
    """Return a modality; a scaling that is one step stands for a chain of one."""
    values = dict(values)
    if isinstance(values.get("scaling"), dict):
        values["scaling"] = [values["scaling"]]
    return Modality(**values)


def _fault(card: Card) -> str:
    """Return what is wrong with `card`, or an empty string."""
    names, values = card.names, [item.value for item in card.classes]
    if not isinstance(card.architecture.get("name"), str) or not isinstance(card.architecture["config"], dict):
        return "architecture needs a name and a config"
    if len(names) > MAX_MODALITIES or len(set(names)) != len(names):
        return f"modalities must be at most {MAX_MODALITIES}, each with its own name; found {', '.join(map(str, names))}"
    if card.reference not in names:
        return f"its reference {card.reference!r} is none of its modalities ({', '.join(names)})"
    if any(type(value) is not int or not 0 <= value <= MAX_CLASSES for value in values) or len(set(values)) != len(values):
        return f"class values must be different whole numbers from 0 to {MAX_CLASSES}; found {values}"
    sizes = [*card.tile, card.margin + 1, card.stride]
    if len(card.tile) != 2 or any(type(size) is not int or size < 1 for size in sizes):
        return f"tile {card.tile}, margin {card.margin} and stride {card.stride} must be positive whole numbers"
    for item in card.classes:
        if not isinstance(item.name, str) or not isinstance(item.color, str) or not _COLOR.match(item.color):
            return f"class {item.value} needs a name and a colour such as #1b7837; found {item.name!r}, {item.color!r}"
    for scored in [*card.scores, *card.calibration]:
        if not set(scored["available"]) <= set(names):
            return f"a score is for modalities {scored['available']}, which are not all its own"
    return next(filter(None, map(_modality_fault, card.modalities)), "")


def _modality_fault(item: Modality) -> str:
    """Return what is wrong with a modality, or an empty string."""
    if not isinstance(item.name, str) or not _NAME.match(item.name):
        return f"{item.name!r} is no name for a modality: use letters, digits, _ and -, a letter first"
    if not item.bands or not all(isinstance(band, str) and band for band in item.bands):
        return f"modality {item.name} needs the names of its bands"
    if item.resampling not in RESAMPLINGS:
        return f"modality {item.name} has resampling {item.resampling!r}; known: {', '.join(RESAMPLINGS)}"
    return next((fault for step in item.scaling if (fault := scaling_fault(step, len(item.bands)))), "")


def scaling_fault(step: Any, bands: int) -> str:
    """Return what is wrong with one step of a scaling chain over `bands` bands, or an empty string."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind not in SCALINGS:
        return f"scaling {step!r} is of no known type ({', '.join(SCALINGS)})"
    if set(step) != {"type", *SCALINGS[kind]}:
        return f"scaling {kind} takes {', '.join(SCALINGS[kind]) or 'no parameters'}; found {', '.join(step)}"
    for name in SCALINGS[kind]:
        numbers = step[name] if isinstance(step[name], list) else [step[name]]
        if len(numbers) not in (1, bands) or any(type(number) not in (int, float) for number in numbers):
            return f"scaling {kind} needs for {name} one number, or one for each of {bands} bands; found {step[name]}"
        if name == "std" and any(number <= 0 for number in numbers):
            return f"scaling z_score needs std above 0; found {step[name]}"
    return ""


def _to_mlm(card: Card) -> dict[str, Any]:
    """Return the STAC MLM item of `card`."""
    shape = [-1, len(card.classes), *card.tile]
    order = ["batch", "bands", "height", "width"]
    output = {
        "name": "classes",
        "tasks": ["semantic-segmentation"],
        "result": {"shape": shape, "dim_order": ["batch", "class", "height", "width"], "data_type": "float32"},
        "classification:classes": [
            {"value": item.value, "name": item.name, "color_hint": item.color[1:].upper()} for item in card.classes
        ],
    }
    inputs = [
        {
            "name": item.name,
            "bands": [{"name": band} for band in item.bands],
            "input": {"shape": [-1, len(item.bands), *card.tile], "dim_order": order, "data_type": "float32"},
            "value_scaling": _mlm_scaling(item),
            "resize_type": item.resampling,
        }
        for item in card.modalities
    ]
    properties = {
        "datetime": card.created or "2026-01-01T00:00:00Z",
        "mlm:name": card.name or card.architecture["name"],
        "mlm:architecture": card.architecture["name"],
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "pytorch",
        "mlm:input": inputs,
        "mlm:output": [output],
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA],
        "id": card.name or card.architecture["name"],
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {},
    }


# MLM names the steps with hyphens and gives each band an object of its own; "none" is our word for no scaling.
_MLM_STEPS = {"offset_scale": "offset-scale", "min_max": "min-max", "clip": "clip", "z_score": "z-score"}
_MLM_KEYS = {"std": "stddev", "offset": "value_offset", "scale": "value_scale"}


def _mlm_scaling(item: Modality) -> Optional[list[dict[str, Any]]]:
    """Return the chain of `item` as MLM writes it: for each step one object, or one for each band."""
    steps = []
    for step in item.scaling:
        if step["type"] == "none":
            continue
        lengths = [len(step[key]) for key in SCALINGS[step["type"]] if isinstance(step[key], list)]
        for band in range(max(lengths, default=1)):
            numbers = {
                _mlm_key(step["type"], key): step[key][band % len(step[key])] if isinstance(step[key], list) else step[key]
                for key in SCALINGS[step["type"]]
            }
            steps.append({"type": _MLM_STEPS[step["type"]], **numbers})
    return steps or None


def _mlm_key(kind: str, key: str) -> str:
    """Return MLM's word for a parameter of a step."""
    return _MLM_KEYS.get(key, key) if kind == "z_score" else key


def _merge_mlm(rest: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return the card's values from the `lacuna` part and the MLM item."""
    inputs = {entry["name"]: entry for entry in item["properties"]["mlm:input"]}
    merged = dict(rest)
    merged["modalities"] = [
        {
            **modality,
            "bands": [band["name"] for band in inputs[modality["name"]]["bands"]],
            "resampling": inputs[modality["name"]]["resize_type"],
        }
        for modality in rest["modalities"]
    ]
    merged["classes"] = [
        {"value": entry["value"], "name": entry["name"], "color": "#" + entry["color_hint"].lower()}
        for entry in item["properties"]["mlm:output"][0]["classification:classes"]
    ]
    return merged
