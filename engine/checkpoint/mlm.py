# SPDX-License-Identifier: GPL-2.0-or-later
"""The card as a STAC Machine Learning Model item, v1.5, and back. Runs on Python 3.9 with the standard library alone.

Written after the extension's README (https://github.com/stac-extensions/mlm, sections Model Input Object, Value Scaling
Object, Resize Enum, Model Output Object, Model Asset) and JSON schema; bands in the style of STAC 1.1
(https://github.com/radiantearth/stac-spec/blob/v1.1.0/commons/common-metadata.md#bands).
"""

from __future__ import annotations

import re
from typing import Any, Optional

from .card import SCALINGS, Card, Modality

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
_RESIZE = {"nearest": "interpolation-nearest", "bilinear": "interpolation-linear", "cubic": "interpolation-cubic"}
_RESAMPLING = {word: ours for ours, word in _RESIZE.items()}
# Steps that MLM has too, and its words for them and for their parameters.
_STEPS = {"min_max": "min-max", "clip": "clip", "z_score": "z-score"}
_WORDS = {"std": "stddev"}
# MLM has no chains, and its `scale` divides: whatever is not one of its steps is written as an expression of gdal_calc.
_EXPRESSIONS = {
    "offset_scale": "({0}*{scale}+{offset})",
    "min_max": "(({0}-{minimum})/({maximum}-{minimum}))",
    "clip": "clip({0},{minimum},{maximum})",
    "z_score": "(({0}-{mean})/{std})",
    "log": "log({0}*{scale}+1)",
    "logistic": "(1/(1+exp(-({0}*{scale}+{offset}))))",
}


def to_mlm(card: Card) -> dict[str, Any]:
    """Return the STAC item of `card`, as JSON values."""
    identity = _slug(card.name or card.architecture["name"])
    properties = {
        # A model has no date of its own; STAC then asks for a range, and MLM's examples give this one.
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "title": card.name or card.architecture["name"],
        "description": card.description or f"Semantic segmentation into {len(card.classes)} classes",
        "bands": _bands(card),
        "mlm:name": identity,
        "mlm:architecture": card.architecture["name"],
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:accelerator": None,
        "mlm:input": [_input(card, item) for item in card.modalities],
        "mlm:output": [_output(card)],
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM_SCHEMA],
        "id": identity,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {"model": _asset(properties["bands"])},
    }


def from_mlm(rest: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return the card's values, joined from the `lacuna` part (`rest`) and the STAC `item`.

    KeyError, TypeError and the like mean that these are not what `to_mlm` wrote.
    """
    inputs = {entry["name"]: entry for entry in item["properties"]["mlm:input"]}
    merged = dict(rest)
    merged["modalities"] = [
        {
            **modality,
            "bands": [band["name"] for band in inputs[modality["name"]]["bands"]],
            "resampling": _RESAMPLING[inputs[modality["name"]]["resize_type"]],
        }
        for modality in rest["modalities"]
    ]
    merged["classes"] = [
        {"value": entry["value"], "name": entry["description"], "color": "#" + entry["color_hint"].lower()}
        for entry in item["properties"]["mlm:output"][0]["classification:classes"]
    ]
    return merged


def _slug(text: str) -> str:
    """Return `text` as MLM's schema allows a name: letters, digits and hyphens, a letter first."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    return slug if re.match(r"[A-Za-z].{2}", slug) else f"model-{slug or 'unnamed'}"


def _bands(card: Card) -> list[dict[str, Any]]:
    """Return STAC 1.1's list of bands; one that two modalities have stands once, by name alone, as names are unique."""
    bands: dict[str, dict[str, Any]] = {}
    for item in card.modalities:
        for index, name in enumerate(item.bands):
            bands[name] = {"name": name} if name in bands else _band(item, index)
    return list(bands.values())


def _band(item: Modality, index: int) -> dict[str, Any]:
    band: dict[str, Any] = {"name": item.bands[index], "description": f"{item.name}: {item.bands[index]}"}
    if item.units:
        band["unit"] = item.units
    if item.nodata is not None:
        band["nodata"] = item.nodata
    # STAC 1.1 knows these four; the percentiles stay in the `lacuna` part.
    words = {"minimum": "minimum", "maximum": "maximum", "mean": "mean", "std": "stddev"}
    statistics = {word: item.statistics[name][index] for name, word in words.items() if name in item.statistics}
    return {**band, "statistics": statistics} if statistics else band


def _input(card: Card, item: Modality) -> dict[str, Any]:
    """Return MLM's Model Input Object of one modality."""
    return {
        "name": item.name,
        "bands": [{"name": band} for band in item.bands],
        "input": {
            "shape": [-1, len(item.bands), *card.tile],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": _scaling(item),
        "resize_type": _RESIZE[item.resampling],
        "pre_processing_function": None,
    }


def _output(card: Card) -> dict[str, Any]:
    """Return MLM's Model Output Object: the logits, and the classes as the classification extension writes them.

    That extension allows a `name` only letters, digits, - and _ (https://github.com/stac-extensions/classification,
    Class Object); the name as the analyst knows it is the `description`.
    """
    classes = [
        {
            "value": item.value,
            "name": re.sub(r"[^A-Za-z0-9_-]+", "-", item.name).strip("-") or f"class-{item.value}",
            "description": item.name,
            "color_hint": item.color[1:].upper(),
        }
        for item in card.classes
    ]
    return {
        "name": "classes",
        "description": "Logits on the reference grid, one channel a class in this order",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, len(card.classes), *card.tile],
            "dim_order": ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
        "classification:classes": classes,
        "post_processing_function": None,
    }


def _asset(bands: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the required Model Asset: the file that holds this very item, hence the reference `#`.

    STAC 1.1's item schema allows bands in the properties, where MLM looks for them, only if an asset has bands too.
    """
    return {
        "bands": [{"name": band["name"]} for band in bands],
        "href": "#",
        "title": "Weights, in the file that holds this item",
        "type": "application/octet-stream; framework=pytorch",
        "roles": ["mlm:model", "mlm:weights", "mlm:checkpoint"],
        "mlm:artifact_type": "safetensors.torch.save_file",
    }


def _scaling(item: Modality) -> Optional[list[dict[str, Any]]]:
    """Return MLM's Value Scaling Objects: one for all bands, or one for each band in order."""
    chain = [step for step in item.scaling if step["type"] != "none"]
    if not chain:
        return None
    by_band = [[_of_band(step, band) for step in chain] for band in range(len(item.bands))]
    objects = [_scaling_object(steps) for steps in by_band]
    return objects[:1] if all(entry == objects[0] for entry in objects) else objects


def _of_band(step: dict[str, Any], band: int) -> dict[str, Any]:
    """Return `step` with the numbers of one band."""
    numbers = {key: step[key] if isinstance(step[key], list) else [step[key]] for key in SCALINGS[step["type"]]}
    return {"type": step["type"], **{key: values[band % len(values)] for key, values in numbers.items()}}


def _scaling_object(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return MLM's object for the chain `steps` of one band."""
    if len(steps) == 1 and steps[0]["type"] in _STEPS:
        words = {_WORDS.get(key, key): value for key, value in steps[0].items() if key != "type"}
        return {"type": _STEPS[steps[0]["type"]], **words}
    expression = "A"
    for step in steps:
        numbers = {key: f"({value!r})" for key, value in step.items() if key != "type"}
        expression = _EXPRESSIONS[step["type"]].format(expression, **numbers)
    return {"type": "processing", "format": "gdal-calc", "expression": expression}
