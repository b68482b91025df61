# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rasters that a job writes look like: type, nodata, palette, names of bands and values, overviews.

The four layouts are those of the contract in `docs/commands.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..checkpoint.card import ClassInfo
from ..checkpoint.card import scenarios as all_scenarios
from ..palette import SCENARIOS
from .evidence import evidence_of

_CONFIDENCE_STOPS = ((0, "#d7191c"), (50, "#fdae61"), (75, "#ffffbf"), (90, "#a6d96a"), (100, "#1a9641"))


@dataclass(frozen=True)
class Entry:
    """The name and the colour (`#rrggbb`) of one value."""

    name: str
    color: str


@dataclass(frozen=True)
class Layout:
    """How one raster is encoded.

    `palette` names the values of a raster of categories; `stops` are the values and colours of a continuous one.
    `scale` turns stored numbers into fractions where they are not fractions themselves.
    """

    kind: str
    dtype: str
    nodata: float
    overviews: str
    bands: tuple[str, ...] = ("",)
    palette: dict[int, Entry] = field(default_factory=dict)
    stops: tuple[tuple[int, str], ...] = ()
    scale: float | None = None


def class_layout(classes: Sequence[ClassInfo]) -> Layout:
    """Return the layout of a class map: uint8 with nodata 255, or uint16 with 65535 if a value is above 254."""
    wide = max(item.value for item in classes) > 254
    palette = {item.value: Entry(item.name, item.color) for item in sorted(classes, key=lambda item: item.value)}
    return Layout("classes", "uint16" if wide else "uint8", 65535 if wide else 255, "MODE", ("class",), palette)


def confidence_layout() -> Layout:
    """Return the layout of the confidence: the probability of the winning class in per cent, nodata 255."""
    return Layout("confidence", "uint8", 255, "AVERAGE", ("confidence in per cent",), stops=_CONFIDENCE_STOPS)


def probability_layout(classes: Sequence[ClassInfo], dtype: str) -> Layout:
    """Return the layout of the probabilities, a band a class: uint8 in 1/254 with nodata 255, or float32 with NaN."""
    names = tuple(item.name for item in classes)
    if dtype == "float32":
        return Layout("probabilities", "float32", float("nan"), "AVERAGE", names)
    return Layout("probabilities", "uint8", 255, "AVERAGE", names, scale=1 / 254)


def evidence_layout(modalities: Sequence[str], bound: Sequence[str]) -> Layout:
    """Return the layout of the evidence: bit i is set where modality i was used; 0 is nodata.

    Args:
        modalities: all modalities, in the card's order, which is that of the bits.
        bound: those of the job, whose combinations are named.
    """
    palette = {}
    for number, scenario in enumerate(all_scenarios([name for name in modalities if name in bound])):
        palette[evidence_of(scenario, modalities)] = Entry(" + ".join(scenario), SCENARIOS[number % len(SCENARIOS)])
    return Layout("evidence", "uint8" if len(modalities) <= 7 else "uint16", 0, "MODE", ("modalities used",), palette)


def rgb(color: str) -> tuple[int, int, int]:
    """Return `#rrggbb` as three numbers from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
