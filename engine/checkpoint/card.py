# SPDX-License-Identifier: GPL-2.0-or-later
"""The card: what a checkpoint says of itself, and what follows from it: scenarios, scores, which requests it can meet.

Runs on Python 3.9 with the standard library alone. `card_file` reads and writes cards, `faults` says what is wrong
with one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any, Optional

from ..errors import UsageError

MAX_MODALITIES = 16
MAX_CLASSES = 65534
RESAMPLINGS = ("nearest", "bilinear", "cubic")
# The steps of a scaling chain and their parameters, as in `docs/checkpoint.md`.
SCALINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "offset_scale": ("offset", "scale"),
    "min_max": ("minimum", "maximum"),
    "clip": ("minimum", "maximum"),
    "z_score": ("mean", "std"),
    "log": ("scale",),
    "logistic": ("offset", "scale"),
}
# Steps that are no straight line: what a network learned behind one of them means something else behind another.
CURVED = ("log", "logistic")
SCHEMA = 1

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
