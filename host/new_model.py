# SPDX-License-Identifier: GPL-2.0-or-later
"""A model that is to be trained from scratch: its card so far, and the manifest to train it by.

For panel and algorithm alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional, Union

from qgis.core import QgsRasterLayer

from ..compat import tr
from ..engine.checkpoint.card import Card, ClassInfo, Modality
from ..engine.checkpoint.classes import plan_classes
from ..engine.checkpoint.faults import card_fault
from ..engine.errors import UsageError
from ..engine.jobs import SourceSpec
from ..engine.naming import band_key, find_band
from ..engine.proposals import Proposal
from .binding import band_names
from .toml_text import toml_lines, toml_words

ARCHITECTURE = "sgma"


@dataclass(frozen=True)
class NewModel:
    """What a manifest says of a new model and its only scene.

    Attributes:
        card: as `draft_card` makes it.
        sources: how the raster of each modality is read, by its name.
        labels: the file of polygons or of a raster of classes.
        field: of the polygons, which holds the class.
        class_map: from values of the labels to names of classes; an empty name ignores the value.
        split: the table `split` of the manifest.
        name: of the scene and the model.
    """

    card: Card
    sources: Mapping[str, SourceSpec]
    labels: str
    field: Optional[str]
    class_map: Mapping[str, str]
    split: Mapping[str, Any]
    name: str

    def manifest(self) -> str:
        """Return the manifest as TOML.

        Raises:
            UsageError: `bad-classes`, there are fewer than two.
        """
        classes = new_classes(self.class_map)
        head = {
            "name": self.name,
            "reference": self.card.reference,
            "classes": [asdict(item) for item in classes],
            "class_map": dict(self.class_map),
        }
        modalities = {f"modalities.{item.name}": _table(item) for item in self.card.modalities}
        scene: dict[str, Any] = {
            "name": self.name,
            "sources": {name: spec.path for name, spec in self.sources.items()},
            "labels": self.labels,
            "field": self.field,
        }
        for key in ("bands", "mask", "nodata", "offset", "scale"):
            said = {name: getattr(spec, key) for name, spec in self.sources.items() if getattr(spec, key) is not None}
            scene.update({key: said} if said else {})
        tables = toml_words({**modalities, "split": self.split})
        return f"{toml_lines(head)}\n{tables}\n[[scenes]]\n{toml_lines(scene)}"


def _table(modality: Modality) -> dict[str, Any]:
    """Return what a manifest says of a modality: without a scaling, which the training pixels set."""
    return {"bands": modality.bands, **({"units": modality.units} if modality.units else {})}


def new_classes(class_map: Mapping[str, str]) -> list[ClassInfo]:
    """Return the classes that values of labels lead to, each with a value and a colour of its own.

    Raises:
        UsageError: `bad-classes`, there are fewer than two.
    """
    return plan_classes([], class_map, {}, []).classes


def draft_card(modalities: Sequence[Modality], reference: str, architecture: str = ARCHITECTURE) -> Card:
    """Return the card of a model that is not trained yet: its modalities, and no class."""
    return Card({"name": architecture, "config": {}}, list(modalities), [], reference=reference)


def check_draft(card: Card) -> None:
    """Raise UsageError `bad-modalities` for names or bands of modalities that no checkpoint could have."""
    two = [ClassInfo(1, "a"), ClassInfo(2, "b")]
    fault = card_fault(Card(card.architecture, card.modalities, two, reference=card.reference)) if card.names else ""
    if fault:
        raise UsageError(
            "bad-modalities",
            tr("The model cannot be made so: {}.").format(fault),
            tr("Give each input a name of letters, digits, - and _, beginning with a letter, and different bands."),
        )


def band_numbers(layer: QgsRasterLayer, bands: Sequence[Union[int, str]]) -> list[int]:
    """Return the number of each of `bands`, names or numbers from 1.

    Raises:
        ValueError: in words, one that is not there, or is there twice.
    """
    names, found = band_names(layer), []
    for band in bands:
        number = band if isinstance(band, int) else find_band(band, names)
        if number is None or not 1 <= number <= layer.bandCount():
            raise ValueError(tr("there is no single band {} among {}").format(band, layer.bandCount()))
        if number in found:
            raise ValueError(tr("band {} is named twice").format(band))
        found.append(number)
    return found


def bands_as_known(layer: QgsRasterLayer, proposal: Proposal, numbers: Sequence[int]) -> list[str]:
    """Return the names under which a model knows bands of a layer: as proposed, else as the file names them."""
    known, own = dict(zip(proposal.numbers, proposal.bands)), band_names(layer)
    names = [known.get(number) or own[number - 1] or f"band {number}" for number in numbers]
    different = len({band_key(name) for name in names}) == len(names)
    return names if different else [f"band {number}" for number in numbers]


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return a name for a modality that no other has: the one that is wanted, else with a number behind it."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_-") or "input"
    plain = plain if plain[0].isalpha() else f"input_{plain}"
    numbered = (plain if number == 1 else f"{plain}{number}" for number in range(1, len(taken) + 2))
    return next(name for name in numbered if name not in taken)


def encoder_tables(encoder: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the table `model` of a configuration for an encoder with settings of its own; empty without such."""
    return {"model": {"encoder": encoder, "encoder_options": dict(options)}} if options else {}
