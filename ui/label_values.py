# SPDX-License-Identifier: GPL-2.0-or-later
"""The values that labels hold, how often, and what they probably mean; read without geometries and block by block.

`field_reader` and `raster_reader` are called on the main thread; what they return may run in any thread.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from qgis.core import (
    NULL,
    QgsFeatureRequest,
    QgsPalettedRasterRenderer,
    QgsRasterBlock,
    QgsRasterIterator,
    QgsRasterLayer,
    QgsVectorLayer,
    QgsVectorLayerFeatureSource,
)

from ..compat import tr
from ..engine.checkpoint.card import ClassInfo
from ..engine.checkpoint.classes import propose_matches
from ..engine.errors import CancelledError, LacunaError
from ..engine.naming import key_of
from ..host.layer_values import ARRAY_CODES

# More than this are measurements or names of places, not classes.
MAX_VALUES = 256
_BLOCK = 512
_SAMPLE = 500
# Numbers are taken for classes without being asked only in a field of such a name.
_CLASS_FIELDS = ("class", "class_id", "classvalue", "label", "label_id", "value", "code", "dn", "gridcode")

Cancelled = Callable[[], bool]
Reader = Callable[[Cancelled], "LabelValues"]


@dataclass
class LabelValues:
    """The values of labels.

    Attributes:
        counts: for each value, as text, in its order, how many polygons or pixels have it.
        values: the same values as they were read, text or number.
        names: what the legend of a raster calls them, where it does.
        empty: how many polygons have no value.
    """

    counts: dict[str, int] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    empty: int = 0


@dataclass(frozen=True)
class Meaning:
    """The class that a value stands for: its `name`, "" for none, None where it is not known; `sure` unless guessed."""

    name: Optional[str]
    sure: bool = True


def field_reader(layer: QgsVectorLayer, name: str, selected: bool) -> Reader:
    """Return what reads the values of the field `name` of the polygons of `layer`, or of the `selected` ones."""
    index = layer.fields().lookupField(name)
    source, request = QgsVectorLayerFeatureSource(layer), _plain_request([index])
    if selected:
        request.setFilterFids(layer.selectedFeatureIds())

    def read(cancelled: Cancelled) -> LabelValues:
        found: Counter[str] = Counter()
        values: dict[str, Any] = {}
        for number, feature in enumerate(source.getFeatures(request)):
            if number % 1000 == 0 and cancelled():
                raise CancelledError
            value = _plain_value(feature[index])
            key = key_of(value)
            found[key] += 1
            values.setdefault(key, value)
            _check_count(len(values), tr("The field “{}”").format(name))
        empty = found.pop("", 0)
        return _ordered({_text(values[key]): (values[key], count) for key, count in found.items()}, {}, empty)

    return read


def raster_reader(layer: QgsRasterLayer) -> Reader:
    """Return what reads the values of the first band of `layer`, nodata left out; the layer itself is not touched."""
    provider = layer.dataProvider().clone()
    # The engine reads the file, which knows nothing of what the layer's properties add.
    provider.setUserNoDataValue(1, [])
    extent, size, title, names = layer.extent(), (layer.width(), layer.height()), layer.name(), legend_names(layer)

    def read(cancelled: Cancelled) -> LabelValues:
        found: Counter[float] = Counter()
        blocks = QgsRasterIterator(provider)
        blocks.setMaximumTileWidth(_BLOCK)
        blocks.setMaximumTileHeight(_BLOCK)
        blocks.startRasterRead(1, size[0], size[1], extent)
        while True:
            if cancelled():
                raise CancelledError
            more, _, _, block, _, _ = blocks.readNextRasterPart(1)
            if not more:
                break
            found.update(_block_values(block, title))
            _check_count(len(found), tr("The raster “{}”").format(title))
        return _ordered({_text(value): (value, count) for value, count in found.items()}, names, 0)

    return read


def legend_names(layer: QgsRasterLayer) -> dict[str, str]:
    """Return what the legend of `layer` calls its values, where it has more to say than the number."""
    renderer = layer.renderer()
    if not isinstance(renderer, QgsPalettedRasterRenderer):
        return {}
    named = {_text(float(item.value)): item.label.strip() for item in renderer.classes()}
    return {text: label for text, label in named.items() if label and key_of(label) != text}


def guess_field(layer: QgsVectorLayer, classes: Sequence[ClassInfo]) -> str:
    """Return the field of `layer` that probably holds the class, or "" where none speaks for itself.

    That is the text field most of whose values are names of `classes`; else the only text field; else one of whole
    numbers that is called like a class and holds only values of classes.
    """
    fields = layer.fields()
    sample = list(layer.getFeatures(_plain_request(list(range(len(fields)))).setLimit(_SAMPLE)))
    found: dict[str, list[Any]] = {}
    for index, item in enumerate(fields):
        found[item.name()] = [value for value in (_plain_value(row[index]) for row in sample) if key_of(value)]
    texts = {name: values for name, values in found.items() if values and isinstance(values[0], str)}
    shares = {name: _known_share(values, classes) for name, values in texts.items()}
    best = max(shares, key=lambda name: shares[name], default="")
    if best and shares[best] > 0:
        return best
    if len(texts) == 1:
        return best
    numbers = (name for name in found if name.casefold() in _CLASS_FIELDS and found[name] and name not in texts)
    return next((name for name in numbers if _known_share(found[name], classes) == 1), "")


def propose(found: LabelValues, classes: Sequence[ClassInfo], new_classes: bool) -> dict[str, Meaning]:
    """Return what each value probably means.

    Only the name or the value of a class is sure; and where the legend of a raster gives a value another name than the
    checkpoint does, not even that. With `new_classes` a text that is like no class proposes a class of its own, which
    is sure only where there is no class yet that it could mean; there a number proposes one too, which is not.
    """
    meanings = {}
    for text, value in found.values.items():
        label = found.names.get(text, "")
        by_value = propose_matches([value], classes)[text]
        by_label = propose_matches([label], classes)[label] if label else None
        name, said = (by_label, label) if by_label else (by_value, value)
        sure = name is not None and key_of(said) in _keys(name, classes)
        if label and by_label is None:
            sure = False
        if name is None and new_classes and (label or isinstance(value, str)):
            name, sure = label or text, not classes
        elif name is None and new_classes and not classes:
            name = tr("class {}").format(text)
        meanings[text] = Meaning(name, sure)
    return meanings


def _keys(name: str, classes: Sequence[ClassInfo]) -> set[str]:
    """Return name and value of the class called `name`, as they are compared."""
    return {key for item in classes if item.name == name for key in (key_of(item.name), key_of(item.value))}


def _known_share(values: Sequence[Any], classes: Sequence[ClassInfo]) -> float:
    """Return the share (0 to 1) of different values that are like some class."""
    matches = propose_matches({key_of(value): value for value in values}.values(), classes)
    return sum(name is not None for name in matches.values()) / max(len(matches), 1)


def _plain_request(fields: list[int]) -> QgsFeatureRequest:
    """Return a request for these fields alone."""
    return QgsFeatureRequest().setFlags(QgsFeatureRequest.Flag.NoGeometry).setSubsetOfAttributes(fields)


def _plain_value(value: Any) -> Any:
    """Return a value of a field as text, number or None."""
    if value is None or value == NULL:
        return None
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, (int, float)) else str(value).strip()


def _text(value: Any) -> str:
    """Return a value as text, whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _block_values(block: QgsRasterBlock, title: str) -> Counter[float]:
    """Return how often each value stands in a block; NaN and nodata left out."""
    code = ARRAY_CODES.get(block.dataType())
    if code is None:
        raise LacunaError(
            "labels-unreadable",
            tr("The raster “{}” cannot be read, or holds no plain numbers.").format(title),
            tr("Choose a raster of class values."),
        )
    values = array(code, bytes(block.data()))
    found: Counter[float] = Counter(value for value in values if value == value) if code in "fd" else Counter(values)
    if block.hasNoDataValue():
        found.pop(block.noDataValue(), None)
    return found


def _check_count(count: int, what: str) -> None:
    """Raise LacunaError if there are more values than classes could have."""
    if count > MAX_VALUES:
        raise LacunaError(
            "labels-not-classes",
            tr("{} has more than {} different values: these are no classes.").format(what, MAX_VALUES),
            tr("Choose what holds a class for each polygon or pixel."),
        )


def _ordered(found: Mapping[str, tuple[Any, int]], names: Mapping[str, str], empty: int) -> LabelValues:
    """Return the values in their order, numbers before text."""

    def rank(text: str) -> tuple[bool, float, str]:
        value = found[text][0]
        return (True, 0.0, text.casefold()) if isinstance(value, str) else (False, float(value), "")

    order = sorted(found, key=rank)
    return LabelValues(
        {text: found[text][1] for text in order},
        {text: found[text][0] for text in order},
        {text: names[text] for text in order if text in names},
        empty,
    )
