# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be wrong with a card, in words. Runs on Python 3.9 with the standard library alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from .card import MAX_CLASSES, MAX_MODALITIES, RESAMPLINGS, SCALINGS, Card, Modality

STATISTICS = ("minimum", "maximum", "mean", "std", "p01", "p99")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\Z")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")


def card_fault(card: Card) -> str:
    """Return the first thing that is wrong with `card`, or an empty string."""
    checks = (_text_fault, _architecture_fault, _modalities_fault, _classes_fault, _sizes_fault, _scenarios_fault)
    return next(filter(None, (check(card) for check in (*checks, _measures_fault))), "")


def chain_fault(chain: list[Any], bands: int) -> str:
    """Return what is wrong with a scaling chain over `bands` bands, or an empty string.

    Right before a `log` must stand a `clip` that keeps its values where a logarithm is defined: a pixel that is valid
    must not become one that is no number.
    """
    for index, step in enumerate(chain):
        fault = scaling_fault(step, bands)
        if not fault and step["type"] == "log":
            fault = _log_fault(step, chain[index - 1] if index else {}, bands)
        if fault:
            return fault
    return ""


def scaling_fault(step: Any, bands: int) -> str:
    """Return what is wrong with one step of a scaling chain over `bands` bands, or an empty string."""
    kind = step.get("type") if isinstance(step, dict) else None
    if not isinstance(kind, str) or kind not in SCALINGS:
        return f"scaling {step!r} is of no known type ({', '.join(SCALINGS)})"
    if set(step) != {"type", *SCALINGS[kind]}:
        found = ", ".join(str(key) for key in step if key != "type") or "none"
        return f"scaling {kind} takes {', '.join(SCALINGS[kind]) or 'no parameters'}; found {found}"
    for name in SCALINGS[kind]:
        numbers = step[name] if isinstance(step[name], list) else [step[name]]
        if len(numbers) not in (1, bands) or not all(map(_is_number, numbers)):
            return f"scaling {kind} needs for {name} one number, or one for each of {bands} bands; found {step[name]}"
        if name == "std" and any(number <= 0 for number in numbers):
            return f"scaling z_score needs std above 0; found {step[name]}"
        if name == "scale" and kind == "log" and any(number <= 0 for number in numbers):
            return f"scaling log needs a scale above 0; found {step[name]}"
        if name == "scale" and 0 in numbers:
            return f"scaling {kind} needs a scale other than 0; found {step[name]}"
    if "minimum" in step and any(low > high for low, high in _by_band(step, bands)):
        return f"scaling {kind} needs a minimum below its maximum; found {step['minimum']} and {step['maximum']}"
    if kind == "min_max" and any(low == high for low, high in _by_band(step, bands)):
        return f"scaling min_max needs a minimum below its maximum; found {step['minimum']} for both"
    return ""


def _log_fault(step: dict[str, Any], before: dict[str, Any], bands: int) -> str:
    """Return what is wrong with a `log` behind the step `before`, or an empty string."""
    if before.get("type") != "clip":
        return "scaling log needs a clip right before it, or it has no result for low values"
    for (low, _), scale in zip(_by_band(before, bands), _each(step["scale"], bands)):
        if low * scale <= -1:
            return f"scaling log with scale {scale} needs a clip above {-1 / scale:g}; found {low}"
    return ""


def _by_band(step: dict[str, Any], bands: int) -> Iterator[tuple[float, float]]:
    """Yield minimum and maximum of each band."""
    return zip(_each(step["minimum"], bands), _each(step["maximum"], bands))


def _each(parameter: Any, bands: int) -> list[float]:
    """Return a parameter as a list with one number for each band."""
    numbers = parameter if isinstance(parameter, list) else [parameter]
    return [numbers[band % len(numbers)] for band in range(bands)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_range(value: Any) -> bool:
    """Return whether `value` is two positive numbers, the smaller first."""
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


def _is_names(value: Any, known: list[str]) -> bool:
    """Return whether `value` is a non-empty list of different names out of `known`."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(item, str) and item in known for item in value) and len(set(value)) == len(value)


def _text_fault(card: Card) -> str:
    for name in ("reference", "name", "description", "scores_on", "licence", "credits", "created"):
        if not isinstance(getattr(card, name), str):
            return f"{name} must be text; found {getattr(card, name)!r}"
    if not isinstance(card.parents, list) or not all(isinstance(item, str) for item in card.parents):
        return f"parents must be a list of SHA-256 sums; found {card.parents!r}"
    return "" if isinstance(card.training, dict) else f"training must be an object; found {card.training!r}"


def _architecture_fault(card: Card) -> str:
    if not isinstance(card.architecture.get("name"), str) or not isinstance(card.architecture["config"], dict):
        return "architecture needs a name and a config"
    return ""


def _modalities_fault(card: Card) -> str:
    names = card.names
    if any(not isinstance(name, str) or not _NAME.match(name) for name in names):
        wrong = next(name for name in names if not isinstance(name, str) or not _NAME.match(name))
        return f"{wrong!r} is no name for a modality: use letters, digits, _ and -, a letter first"
    if len(names) > MAX_MODALITIES or len(set(names)) != len(names):
        return f"modalities must be at most {MAX_MODALITIES}, each with its own name; found {', '.join(names)}"
    if card.reference not in names:
        return f"its reference {card.reference!r} is none of its modalities ({', '.join(names)})"
    return next(filter(None, map(_modality_fault, card.modalities)), "")


def _modality_fault(item: Modality) -> str:
    """Return what is wrong with a modality, or an empty string."""
    bands = item.bands
    if not isinstance(bands, list) or not bands or not all(isinstance(band, str) and band for band in bands):
        return f"modality {item.name} needs the names of its bands"
    if len(set(bands)) != len(bands):
        return f"modality {item.name} names a band twice: {', '.join(bands)}"
    if item.resampling not in RESAMPLINGS:
        return f"modality {item.name} has resampling {item.resampling!r}; known: {', '.join(RESAMPLINGS)}"
    if not isinstance(item.units, str) or type(item.required) is not bool:
        return f"modality {item.name} needs text for units and true or false for required"
    if item.nodata is not None and not _is_number(item.nodata):
        return f"modality {item.name} has nodata {item.nodata!r}, which is no number"
    if item.resolution is not None and not _is_range(item.resolution):
        return f"modality {item.name} has resolution {item.resolution!r}; expected smallest and largest, in metres"
    if not isinstance(item.scaling, list) or not item.scaling:
        return f"modality {item.name} has scaling {item.scaling!r}; expected a list of steps"
    fault = chain_fault(item.scaling, len(bands))
    return f"modality {item.name}: {fault}" if fault else _statistics_fault(item)


def _statistics_fault(item: Modality) -> str:
    if not isinstance(item.statistics, dict) or not set(item.statistics) <= set(STATISTICS):
        return f"modality {item.name} has statistics other than {', '.join(STATISTICS)}"
    for name, numbers in item.statistics.items():
        if not isinstance(numbers, list) or len(numbers) != len(item.bands) or not all(map(_is_number, numbers)):
            return f"modality {item.name} needs for the statistic {name} one number for each of {len(item.bands)} bands"
    return ""


def _classes_fault(card: Card) -> str:
    values = [item.value for item in card.classes]
    if any(type(value) is not int or not 0 <= value <= MAX_CLASSES for value in values):
        return f"class values must be whole numbers from 0 to {MAX_CLASSES}; found {values[:20]}"
    if len(set(values)) != len(values):
        return f"each class needs a value of its own; found {values[:20]}"
    for item in card.classes:
        named = isinstance(item.name, str) and item.name.strip()
        if not named or not isinstance(item.color, str) or not _COLOR.match(item.color):
            return f"class {item.value} needs a name and a colour such as #1b7837; found {item.name!r}, {item.color!r}"
    return ""


def _sizes_fault(card: Card) -> str:
    if not isinstance(card.tile, list) or len(card.tile) != 2:
        return f"tile must be rows and columns; found {card.tile!r}"
    sizes = (*card.tile, card.margin, card.stride)
    if any(type(size) is not int or size < 0 for size in sizes) or not all((*card.tile, card.stride)):
        return f"tile {card.tile}, margin {card.margin} and stride {card.stride} must be positive whole numbers"
    if card.resolution is not None and not _is_range(card.resolution):
        return f"resolution must be the smallest and the largest, in metres; found {card.resolution!r}"
    return ""


def _scenarios_fault(card: Card) -> str:
    if card.scenarios is None:
        return ""
    if not isinstance(card.scenarios, list) or not all(_is_names(item, card.names) for item in card.scenarios):
        return f"scenarios must be lists of its modalities; found {card.scenarios!r}"
    if not any(card.supports(tuple(item)) for item in card.scenarios):
        return "not one of its scenarios has all the modalities that it requires"
    return ""


def _measures_fault(card: Card) -> str:
    """Return what is wrong with scores and calibration, or an empty string."""
    for kind, number, low, high in (("scores", "miou", 0.0, 1.0), ("calibration", "temperature", 1e-3, 1e3)):
        entries = getattr(card, kind)
        if not isinstance(entries, list):
            return f"{kind} must be a list; found {entries!r}"
        for entry in entries:
            if not isinstance(entry, dict) or not _is_names(entry.get("available"), card.names):
                return f"{kind} holds {entry!r}, which is for modalities that are not all its own"
            value: Any = entry.get(number)
            if not _is_number(value) or not low <= value <= high:
                return f"{kind} holds a {number} of {value!r}; expected a number from {low:g} to {high:g}"
    return ""
