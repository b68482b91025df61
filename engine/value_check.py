# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether values of a scene are such as a checkpoint has learned from: by its card, before anything is computed.

A scene is known by the percentiles 0 to 100 of a sample of each band, after scale and offset. Three kinds of fault are
told apart: a band without content, values in another unit, and values far outside those of the training data.

Runs on Python 3.9 with the standard library alone, since the panel tells by the same rule as the engine.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Optional

from .checkpoint.card import Modality
from .offset_tags import ADDED, carry_offset

# Of each band: the percentiles 0, 1, ..., 100, ascending.
Quantiles = Sequence[Sequence[float]]
PERCENTS = tuple(range(101))

# A band is outside where its median lies so many deviations of the training data beyond their percentile 1 or 99: half
# of the scene is then beyond what one in a hundred training pixels was. A single scene is narrower than a collection of
# scenes, and its median inside theirs; the quarter of a deviation allows for what a sample and rounding may add.
_FAR = 0.25
# ... or where so large a part of it is as far beyond the least or largest value of all: a fifth is more than scattered
# clouds, or a river in a scene of land, and enough to spoil a map.
_MANY = 0.2
# From the range of the percentiles 1 to 99 to the deviation of a normal distribution.
_WIDTHS = 4.65
# An offset of Sentinel-2 weighs where it is as large as half a deviation; below, the training data vary so much that it
# is nothing new to the checkpoint.
_WEIGHS = 0.5
# Without the offset some of the training data begin below the first, in reflectance x 10,000, which reaches beyond the
# second.
_USUAL, _REACHED = 700.0, 1000.0
# Between scenes of one sensor brightness differs by less than this; between scales of one quantity by more.
_FACTOR = 50.0
# Power ratios in use stay below; what is larger is no linear backscatter.
_MAX_POWER = 100.0
# Nothing on Earth is as high, in metres.
_HIGHEST = 9000.0
_NAMED = 3
_DECIBEL = re.compile(r"\bdb\b|decibel", re.IGNORECASE)
_TEN_THOUSAND = re.compile(r"10[ ,_]?000\b|\b1e\+?4\b", re.IGNORECASE)
_FRACTION = re.compile(r"\b0 ?(?:to|-|\.\.) ?1\b(?![.,]?\d)", re.IGNORECASE)
_METRES = re.compile(r"m|met(?:re|er)s?", re.IGNORECASE)
# What is an amount of light or of an echo is bright or dark; anything else is high or low.
_BRIGHT = re.compile(
    r"reflect|radian|digital number|\bdn\b|backscatter|\bdb\b|decibel|optical|sentinel|landsat|spectral|radar"
    r"|\b(?:s1|s2|sar|rgb|rgbi|rgbn|bgrn|irc|nir|hsi|ortho|image)\b",
    re.IGNORECASE,
)


class ValueFault(NamedTuple):
    """What is wrong with some bands: `kind` is zero, unit or range; `text` begins with the bands, without a name."""

    kind: str
    bands: tuple[str, ...]
    text: str


class _Gap(NamedTuple):
    """How far a band is outside: its median beyond all training values and beyond nearly all, in deviations; 0 if not.

    `share` of its pixels is beyond all of them; `above` says on which side.
    """

    band: str
    above: bool
    beyond_all: float
    beyond: float
    share: float


def check_values(modality: Modality, found: Quantiles, told: float = 0.0) -> list[ValueFault]:
    """Return what is wrong with the values of a scene, the worst bands first; empty where all is well.

    Args:
        modality: of the card; without statistics only its units can be contradicted.
        found: percentiles of each band of the scene; empty where no pixel is valid.
        told: an offset that is proposed to be added: what it would set right is not told a second time.
    """
    if len(found) != len(modality.bands):
        return []
    expected = expected_range(modality)
    by_fault: dict[str, list[int]] = {}
    for band, values in enumerate(found):
        usual = None if expected is None else expected[band]
        text = _contradiction(values, usual, modality)
        if not text and usual is not None and _deviation(modality, band) <= 0:
            text = _change_of_one_value(values, usual)
        if text:
            by_fault.setdefault(text, []).append(band)
    blamed = {band for bands in by_fault.values() for band in bands}
    if expected is not None:
        by_fault.update(_scale_fault(modality, found, expected, blamed))
    faults = [_contradicted(modality, text, bands, found, expected) for text, bands in by_fault.items()]
    blamed = {band for bands in by_fault.values() for band in bands}
    gaps = _gaps(modality, found, blamed)
    if gaps and not (told and not _gaps(modality, changed(found, offset=told), blamed)):
        faults.append(ValueFault("range", tuple(gap.band for gap in gaps), _range_text(modality, gaps)))
    return faults


def changed(found: Quantiles, scale: float = 1.0, offset: float = 0.0) -> list[list[float]]:
    """Return the percentiles of values that are multiplied by `scale`, with `offset` then added."""
    step = -1 if scale < 0 else 1
    return [[value * scale + offset for value in values[::step]] for values in found]


def expected_range(modality: Modality) -> Optional[list[tuple[float, float]]]:
    """Return the percentiles 1 and 99 of the training data for each band, or None where the card does not say."""
    known = modality.statistics
    for low, high in (("p01", "p99"), ("minimum", "maximum")):
        if low in known and high in known:
            return list(zip(known[low], known[high]))
    return None


def carries_new_offset(modality: Modality, found: Quantiles) -> bool:
    """Return whether values look like reflectance x 10,000 with an offset that not all of the training data have."""
    expected = expected_range(modality)
    if expected is None or not found or max(high for _, high in expected) < _REACHED:
        return False
    if sum(low < _USUAL for low, _ in expected) <= len(expected) / 2:
        return False
    return carry_offset([values[1] for values in found])


def new_offset_weighs(modality: Modality, found: Quantiles) -> bool:
    """Return whether values carry an offset that is something new to the checkpoint, which it will not bear.

    That is so where the offset is large beside the spread of what was learned, or takes the values beyond it.
    """
    if not carries_new_offset(modality, found):
        return False
    if _gaps(modality, found, set()) and not _gaps(modality, changed(found, offset=-ADDED), set()):
        return True
    ratios = sorted(ADDED / width for band in range(len(modality.bands)) if (width := _deviation(modality, band)) > 0)
    return bool(ratios) and ratios[len(ratios) // 2] >= _WEIGHS


def _contradiction(values: Sequence[float], expected: Optional[tuple[float, float]], modality: Modality) -> str:
    """Return what a band contradicts for certain, or an empty string."""
    low, high, units = values[1], values[99], modality.units
    if values[0] == values[-1] == 0:
        return "" if expected == (0, 0) else "is zero throughout"
    if _METRES.fullmatch(units.strip()) and high > _HIGHEST:
        return "is higher than anything on Earth in metres: it seems to be in another unit, such as centimetres"
    if expected is None:
        return _contradiction_of_units(low, high, units)
    least, most = expected
    decibels = bool(_DECIBEL.search(units)) or (least < 0 and most <= 10 and least + most < 0)
    if decibels and low >= 0 and high < _MAX_POWER:
        return "looks like linear power, not dB: convert it with 10 log10(x)"
    if not decibels and least >= 0 and most < _MAX_POWER and low < 0 and low + high < 0:
        return "looks like dB, not linear power: convert it with 10^(x/10)"
    return ""


def _scale_fault(
    modality: Modality, found: Quantiles, expected: list[tuple[float, float]], blamed: set[int]
) -> dict[str, list[int]]:
    """Return the bands whose values are far too large or too small, if most are: units are those of a whole raster.

    Bands that are `blamed` for something else do not count. What is merely low, and was so in training, is not too
    small: heights begin at the sea.
    """
    powers: dict[int, float] = {}
    bright, metres = _is_bright(modality), _METRES.fullmatch(modality.units.strip())
    for band, (values, (least, most)) in enumerate(zip(found, expected)):
        size, usual = max(abs(values[1]), abs(values[99])), max(abs(least), abs(most))
        if band in blamed or size <= 0 or usual <= 0 or 1 / _FACTOR <= size / usual <= _FACTOR:
            continue
        if size > usual or bright or not (metres or least <= values[50] <= most):
            powers[band] = math.log10(usual / size)
    if 2 * len(powers) <= len(found) - len(blamed):
        return {}
    power = round(sorted(powers.values())[len(powers) // 2])
    text = f"seems to be in another unit: multiplied by 1e{power} it would be near what is expected"
    return {text: list(powers)}


def _contradiction_of_units(low: float, high: float, units: str) -> str:
    """Return what the text of the units alone contradicts, or an empty string."""
    if _DECIBEL.search(units) and low >= 0 and high < _MAX_POWER:
        return "looks like linear power, not dB: convert it with 10 log10(x)"
    if _TEN_THOUSAND.search(units) and low >= 0 and high <= 2:
        return "seems to be in another unit: multiplied by 1e4 it would be near what is expected"
    if _FRACTION.search(units) and high > _FACTOR:
        return "seems to be in another unit: values from 0 to 1 are expected"
    return ""


def _change_of_one_value(values: Sequence[float], expected: tuple[float, float]) -> str:
    """Return that a band, of one value in all of the training data, has others here, or an empty string."""
    if max(abs(values[50] - end) for end in expected) <= 1e-6 * abs(expected[1]):
        return ""
    return "is not the one value that it has in all of the training data"


def _contradicted(
    modality: Modality, fault: str, bands: list[int], found: Quantiles, expected: Optional[list[tuple[float, float]]]
) -> ValueFault:
    """Return the fault that some bands (from 0) share, with the values that were found and expected."""
    names = tuple(modality.bands[band] for band in bands)
    low, high = min(found[band][1] for band in bands), max(found[band][99] for band in bands)
    text = f"band {_listed(names)}, with values from {_number(low)} to {_number(high)} in a sample, {fault}."
    if expected is not None:
        least, most = min(expected[band][0] for band in bands), max(expected[band][1] for band in bands)
        text += f" Expected: about {_number(least)} to {_number(most)}{' ' + modality.units if modality.units else ''}."
    elif modality.units:
        text += f" Expected: {modality.units}."
    return ValueFault("zero" if fault.startswith("is zero") else "unit", names, text)


def _gaps(modality: Modality, found: Quantiles, blamed: set[int]) -> list[_Gap]:
    """Return the bands that are far outside, the worst first, without those that are `blamed` for something else."""
    expected, gaps = expected_range(modality), []
    if expected is None:
        return []
    known = modality.statistics
    ends = list(zip(known["minimum"], known["maximum"])) if {"minimum", "maximum"} <= set(known) else None
    for band, values in enumerate(found):
        deviation = _deviation(modality, band)
        if band not in blamed and deviation > 0:
            end = None if ends is None else ends[band]
            gaps += _gap(modality.bands[band], values, expected[band], end, deviation)
    return sorted(gaps, key=lambda gap: (-gap.beyond, -gap.share))


def _gap(
    name: str,
    values: Sequence[float],
    usual: tuple[float, float],
    ends: Optional[tuple[float, float]],
    deviation: float,
) -> list[_Gap]:
    """Return how far a band is outside, as a list of one, or an empty one where it is not."""
    middle = values[50]
    least, most = ends or usual
    margin = _FAR * deviation
    over = max(0, len(values) - bisect_right(values, most + margin) - 1) / (len(values) - 1)
    under = max(0, bisect_left(values, least - margin) - 1) / (len(values) - 1)
    above = middle > usual[1] or (middle >= usual[0] and over >= under)
    beyond, beyond_all = (middle - usual[1], middle - most) if above else (usual[0] - middle, least - middle)
    share = 0.0 if ends is None else (over if above else under)
    distances = [max(0.0, distance) / deviation for distance in (beyond, beyond_all)]
    if distances[0] < _FAR:
        return [_Gap(name, above, 0.0, 0.0, share)] if share >= _MANY else []
    return [_Gap(name, above, distances[1] if ends else 0.0, distances[0], share)]


def _deviation(modality: Modality, band: int) -> float:
    """Return the deviation of the training data in a band, no less than the unit in which the network sees it.

    Where a scaling divides by more than the data varied, what lies outside them may still be next to nothing.
    """
    known = modality.statistics
    found = [known["std"][band]] if "std" in known else []
    if "p01" in known and "p99" in known:
        found.append((known["p99"][band] - known["p01"][band]) / _WIDTHS)
    elif not found and "minimum" in known and "maximum" in known:
        found.append((known["maximum"][band] - known["minimum"][band]) / _WIDTHS)
    first = modality.scaling[0] if modality.scaling else {}
    if found and max(found) > 0 and first.get("type") == "z_score":
        unit = first["std"]
        found.append(float(unit[band] if isinstance(unit, (list, tuple)) else unit))
    return max(found, default=0.0)


def _range_text(modality: Modality, gaps: list[_Gap]) -> str:
    """Return the sentence on the bands that are outside: up to three by name, and how many more there are."""
    farther = [gap for gap in gaps if gap.beyond >= _FAR]
    named = (farther or gaps)[:_NAMED]
    all_of_it = all(gap.beyond_all >= _FAR for gap in named) or not farther
    what = "than anything this checkpoint has seen" if all_of_it else "than nearly all that this checkpoint has seen"
    one = len(modality.bands) == 1
    parts: list[str] = []
    for gap in named:
        side = _side(modality, gap.above)
        far = _distance(gap.beyond_all if all_of_it else gap.beyond) if farther else f"{100 * gap.share:.0f} %"
        turned = "" if gap.above == named[0].above else f" {side}"
        if parts:
            parts.append(f"{gap.band} {far}{turned}" if farther else f"{far} in {gap.band}{turned}")
        elif farther:
            parts.append(f"{'its values are' if one else f'{gap.band} is'} {far} deviations {side} {what}")
        else:
            parts.append(f"{far} of its pixels {'' if one else f'in {gap.band} '}are {side} {what}")
    more = len(gaps) - len(named)
    words = ", ".join(parts) + (f", and {more} more" if more else "")
    return f"{words}; its measured accuracy does not hold here."


def _side(modality: Modality, above: bool) -> str:
    """Return how a modality's values that are above, or below, others are called."""
    if _is_bright(modality):
        return "brighter" if above else "darker"
    return "higher" if above else "lower"


def _is_bright(modality: Modality) -> bool:
    """Return whether values are amounts of light or of an echo."""
    in_metres = _METRES.fullmatch(modality.units.strip())
    return not in_metres and bool(_BRIGHT.search(f"{modality.units} {modality.name}"))


def _distance(deviations: float) -> str:
    """Return a number of deviations in words."""
    if deviations > 100:
        return "more than 100"
    return f"about {deviations:.1f}" if deviations < 2 else f"about {deviations:.0f}"


def _number(value: float) -> str:
    """Return a number as it is read most easily."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _listed(names: Sequence[str]) -> str:
    """Return up to three names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
