# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the values of a source fit what a checkpoint was trained on: reflectance 0..1 or 0..10,000, dB or power.

Told from a sample of the source by its 1st and 99th percentiles, against the card's statistics and units.
"""

from __future__ import annotations

import re

import numpy as np

from ..checkpoint.card import Modality
from ..events import Reporter
from .source import Source

# Between scenes of one sensor brightness differs by less than this; between scales of one quantity by more.
_FACTOR = 50.0
# Power ratios in use stay below; what is larger is no linear backscatter.
_MAX_POWER = 100.0
_DECIBEL = re.compile(r"\bdb\b|decibel", re.IGNORECASE)
_TEN_THOUSAND = re.compile(r"10[ ,_]?000\b|\b1e\+?4\b", re.IGNORECASE)
_FRACTION = re.compile(r"\b0 ?(?:to|-|\.\.) ?1\b(?![.,]?\d)", re.IGNORECASE)


def check_units(source: Source, reporter: Reporter) -> None:
    """Warn where the values of `source` contradict the units or the statistics of its modality.

    One warning for each kind of contradiction: bands that are zero throughout, values that seem to be in another unit,
    and values far outside the range of the training data. Says nothing where the sample holds no valid pixel.
    """
    sample = source.sample()
    if sample.shape[1] == 0:
        return
    modality = source.modality
    found = np.percentile(sample, [1, 99], axis=1).T
    expected = expected_range(modality)
    faults: dict[str, list[int]] = {}
    for band, (low, high) in enumerate(found):
        fault = _fault(low, high, None if expected is None else expected[band], modality.units, not sample[band].any())
        if fault:
            faults.setdefault(fault, []).append(band)
    for fault, bands in faults.items():
        reporter.warn(_text(source, fault, bands, found, expected))


def expected_range(modality: Modality) -> np.ndarray | None:
    """Return the 1st and 99th percentile (bands, 2) of the training data, or None where the card does not say."""
    known = set(modality.statistics)
    keys = next((keys for keys in (("p01", "p99"), ("minimum", "maximum")) if set(keys) <= known), None)
    if keys is None:
        return None
    return np.array([modality.statistics[key] for key in keys], dtype=np.float64).T


def _fault(low: float, high: float, expected: np.ndarray | None, units: str, zero: bool) -> str:
    """Return what is wrong with a band that runs from `low` to `high`, or an empty string."""
    if zero:
        return "" if expected is not None and expected[0] == expected[1] == 0 else "is zero throughout"
    if expected is None:
        return _fault_by_units(low, high, units)
    least, most = expected
    decibels = bool(_DECIBEL.search(units)) or (least < 0 and most <= 10 and least + most < 0)
    if decibels and low >= 0 and high < _MAX_POWER:
        return "looks like linear power, not dB: convert it with 10 log10(x)"
    if not decibels and least >= 0 and most < _MAX_POWER and low < 0 and low + high < 0:
        return "looks like dB, not linear power: convert it with 10^(x/10)"
    size, usual = max(abs(low), abs(high)), max(abs(least), abs(most))
    if size > 0 and usual > 0 and not 1 / _FACTOR <= size / usual <= _FACTOR:
        power = round(float(np.log10(usual / size)))
        return f"seems to be in another unit: multiplied by 1e{power} it would be near what is expected"
    width = max(most - least, 1e-9 * usual)
    if low > most + width or high < least - width:
        return "lies outside what the checkpoint was trained on, so its results may mean little here"
    return ""


def _fault_by_units(low: float, high: float, units: str) -> str:
    """Return what the text of the units alone contradicts, or an empty string."""
    if _DECIBEL.search(units) and low >= 0 and high < _MAX_POWER:
        return "looks like linear power, not dB: convert it with 10 log10(x)"
    if _TEN_THOUSAND.search(units) and low >= 0 and high <= 2:
        return "seems to be in another unit: multiplied by 1e4 it would be near what is expected"
    if _FRACTION.search(units) and high > _FACTOR:
        return "seems to be in another unit: values from 0 to 1 are expected"
    return ""


def _text(source: Source, fault: str, bands: list[int], found: np.ndarray, expected: np.ndarray | None) -> str:
    """Return the warning for the bands (from 0) that share a fault."""
    modality = source.modality
    names = ", ".join(modality.bands[band] for band in bands[:4])
    names += f" and {len(bands) - 4} more" if len(bands) > 4 else ""
    low, high = found[bands, 0].min(), found[bands, 1].max()
    text = f"{source}: band {names}, with values from {low:.4g} to {high:.4g} in a sample, {fault}."
    if expected is not None:
        text += f" Expected: about {expected[bands, 0].min():.4g} to {expected[bands, 1].max():.4g}"
        return f"{text}{' ' + modality.units if modality.units else ''}."
    return f"{text} Expected: {modality.units}." if modality.units else text
