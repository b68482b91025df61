# SPDX-License-Identifier: GPL-2.0-or-later
"""What a raster probably is, and with which bands and which encoder a new model best learns from it, with the reason.

A proposal is for people to see and to change; nothing is trained by one that was not shown.

Runs on Python 3.9 with the standard library alone, since the panel proposes with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .models.names import ENCODERS, MIXED
from .naming import band_key

IMAGE, SENTINEL2, RADAR, HEIGHT, OTHER = KINDS = ("image", "sentinel2", "radar", "height", "other")
# What a modality of a kind is called where the analyst gives it no name.
NAMES = {IMAGE: "image", SENTINEL2: "optical", RADAR: "radar", HEIGHT: "height", OTHER: "other"}
# The encoder that learns from labels alone.
PLAIN = "resnet_small"
# Those that come trained on a kind, best first, and the bands that they need (`encoders.inputs.known_bands`).
_NINE = frozenset({"b2", "b3", "b4", "b5", "b6", "b7", "b8", "b11", "b12"})
_KNOWING: dict[str, tuple[tuple[str, str, frozenset[str]], ...]] = {
    IMAGE: (("efficientnet_lite0", "knows photographs", frozenset({"red", "green", "blue"})),),
    SENTINEL2: (
        ("dynamic_world", "knows Sentinel-2", _NINE),
        ("galileo_nano", "knows Sentinel-2", frozenset({"b2", "b3", "b4"})),
    ),
    RADAR: (("galileo_nano", "knows Sentinel-1", frozenset({"vv", "vh"})),),
    HEIGHT: tuple(("galileo_nano", "knows elevation", frozenset({name})) for name in ("elevation", "dem", "dtm")),
}
# Bands of Sentinel-2 that no pretrained network of land cover takes: of aerosol, water vapour and cirrus.
_ATMOSPHERE = ("b1", "b9", "b10")
_SENTINEL2 = {f"b{number}" for number in range(1, 13)} | {"b8a"}
_COLOURS = ("red", "green", "blue", "nir")
_POLARISATIONS = {"vv", "vh", "hh", "hv"}
_HEIGHTS = {"dem", "dsm", "dtm", "ndsm", "chm", "height", "elevation", "srtm", "mnt", "mns"}
_UNITS = {SENTINEL2: "reflectance x 10000", RADAR: "dB", HEIGHT: "m"}
# Pixels of Sentinel-2, in metres, resampled or not; its products have 12 or 13 bands, without some of them 10.
_SATELLITE, _UNNAMED = (5.0, 65.0), (10, 12, 13)
_ALPHA = {"alpha", "a"}
# Decibels of backscatter.
_DECIBELS = (-60.0, 30.0)


@dataclass(frozen=True)
class RasterFacts:
    """What is known of a raster without looking at its pixels.

    Attributes:
        bands: names, an empty text where a band has none.
        dtype: type of the values, as `uint8` or `float32`.
        pixel: side of a pixel on the ground in metres, or None where that is not known.
        name: of the layer or file, whose words may say what it is.
        alpha: numbers from 1 of bands that say where there is a picture.
        low: about the least value, or None.
        high: about the largest value, or None.
    """

    bands: Sequence[str]
    dtype: str
    pixel: Optional[float] = None
    name: str = ""
    alpha: Sequence[int] = ()
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass(frozen=True)
class Proposal:
    """What a new model is to take a raster for.

    Attributes:
        kind: one of `KINDS`.
        bands: names of the bands, in order.
        numbers: number in the raster, from 1, of each of `bands`.
        units: of the values; an empty text where they are not known.
        encoder: the one that suits the kind best.
        why: what was found and what follows from it, in a sentence.
    """

    kind: str
    bands: Sequence[str]
    numbers: Sequence[int]
    units: str
    encoder: str
    why: str


@dataclass(frozen=True)
class EncoderChoice:
    """One encoder for all modalities: its name, its own settings, and the reason in a sentence."""

    name: str
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)


def propose_modality(facts: RasterFacts, kind: Optional[str] = None, known: Collection[str] = ENCODERS) -> Proposal:
    """Return what a raster is to be taken for.

    Args:
        facts: what is known of it.
        kind: what the analyst says it is; None: it is guessed.
        known: names of the encoders that there are.
    """
    guessed, words = guess_kind(facts)
    chosen = kind or guessed
    if chosen != guessed:
        words = _look(facts)
    numbers, left = _numbers(facts, chosen)
    bands = _names(facts, chosen, numbers)
    encoder, about = _encoder(facts, chosen, bands, known)
    why = f"{words}: {_CALLED[chosen]}{about}."
    if left:
        why += f" Left out: {', '.join(left)}."
    return Proposal(chosen, bands, numbers, _UNITS.get(chosen, "") if _sure_units(facts, chosen) else "", encoder, why)


def guess_kind(facts: RasterFacts) -> tuple[str, str]:
    """Return the kind of a raster, and what speaks for it in words."""
    keys = [band_key(name) for name in facts.bands]
    words = set(re.split(r"[^a-z0-9]+", facts.name.casefold().replace("sentinel-", "sentinel")))
    count = len(facts.bands) - len(facts.alpha)
    named = [key for key in keys if key in _SENTINEL2]
    look = _look(facts)
    if len(named) >= 3 and 2 * len(named) > count:
        return SENTINEL2, f"{look} with names like {_first(facts.bands, _SENTINEL2)}"
    polarised = [name for name, key in zip(facts.bands, keys) if set(re.split(r"[^a-z]+", key)) & _POLARISATIONS]
    if count <= 4 and polarised:
        return RADAR, f"{look} with names like {polarised[0]}"
    if count <= 2 and words & {"s1", "sentinel1", "sar", "rtc", "grd", "backscatter"}:
        return RADAR, f"{look}, called “{facts.name}”"
    if count == 1 and (words | set(keys)) & _HEIGHTS:
        return HEIGHT, f"{look}, called “{facts.name if words & _HEIGHTS else facts.bands[0]}”"
    if count in (3, 4) and facts.dtype == "uint8":
        return IMAGE, look
    if count in (3, 4) and {"red", "green", "blue"} <= set(keys):
        return IMAGE, f"{look} with names of colours"
    if count in _UNNAMED and facts.dtype in ("uint16", "int16") and _at_satellite(facts):
        return SENTINEL2, f"{look}, as many as Sentinel-2 has"
    if count <= 2 and facts.dtype.startswith("float") and _is_decibels(facts):
        return RADAR, f"{look}, values from {facts.low:.3g} to {facts.high:.3g} as of backscatter in dB"
    if count == 1 and facts.dtype in ("int16", "float32", "float64"):
        return HEIGHT, f"{look} with {_TYPES[facts.dtype]}, as heights have"
    return OTHER, look


def choose_encoder(proposals: Mapping[str, Proposal], known: Collection[str] = ENCODERS) -> EncoderChoice:
    """Return the encoder for a model of several modalities: that of all, one for each, or the plain one.

    Args:
        proposals: by name of the modality.
        known: names of the encoders that there are.
    """
    wanted = {name: item.encoder for name, item in proposals.items()}
    trained = {name: encoder for name, encoder in wanted.items() if encoder != PLAIN}
    if not trained:
        return EncoderChoice(PLAIN, "It learns from your labels alone: no encoder at hand knows such inputs.")
    names = list(dict.fromkeys(wanted.values()))
    if len(names) == 1:
        return EncoderChoice(names[0], f"It {_about(names[0], proposals)}.")
    if MIXED in known:
        listed = ", ".join(f"{encoder} for {name}" for name, encoder in wanted.items())
        return EncoderChoice(MIXED, f"Each input has the one that knows it: {listed}.", {"encoders": wanted})
    listed = ", ".join(trained)
    return EncoderChoice(PLAIN, f"It learns from your labels alone: those that know {listed} know nothing of the rest.")


def scaling_words(encoder: str) -> str:
    """Return in words how the values of the inputs are scaled with an encoder."""
    if encoder == PLAIN:
        return "Values are scaled by the mean and the spread that they have in your training areas."
    return (
        "Values that the encoder knows are scaled as it expects, all others by the mean and the spread that they have "
        "in your training areas."
    )


_CALLED = {
    IMAGE: "colour image",
    SENTINEL2: "Sentinel-2",
    RADAR: "radar",
    HEIGHT: "height",
    OTHER: "an input of a kind that Lacuna does not know",
}
_TYPES = {
    "uint8": "8 bits",
    "int8": "8 bits",
    "uint16": "16 bits",
    "int16": "16 bits",
    "uint32": "32 bits",
    "int32": "32 bits",
    "float32": "decimal numbers",
    "float64": "decimal numbers",
}
_COUNTS = {1: "One", 2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}


def _look(facts: RasterFacts) -> str:
    """Return count, type and pixel of the bands in words: `Three bands of 8 bits at 0.2 m`."""
    count = len(facts.bands) - len(facts.alpha)
    words = f"{_COUNTS.get(count, str(count))} {'band' if count == 1 else 'bands'}"
    words += f" of {_TYPES.get(facts.dtype, facts.dtype)}"
    return words if facts.pixel is None else f"{words} at {facts.pixel:.3g} m"


def _first(names: Sequence[str], keys: Collection[str]) -> str:
    """Return the first name that is one of `keys`."""
    return next(name for name in names if band_key(name) in keys)


def _at_satellite(facts: RasterFacts) -> bool:
    return facts.pixel is not None and _SATELLITE[0] <= facts.pixel <= _SATELLITE[1]


def _is_decibels(facts: RasterFacts) -> bool:
    """Return whether the values, as far as they are known, are like decibels: within bounds, mostly below zero."""
    if facts.low is None or facts.high is None:
        return False
    return _DECIBELS[0] <= facts.low < facts.high <= _DECIBELS[1] and facts.low + facts.high < 0


def _sure_units(facts: RasterFacts, kind: str) -> bool:
    """Return whether the units of a kind are those of this raster too, as far as can be told."""
    if kind == RADAR:
        return _is_decibels(facts)
    return kind != SENTINEL2 or facts.dtype in ("uint16", "int16")


def _numbers(facts: RasterFacts, kind: str) -> tuple[list[int], list[str]]:
    """Return the numbers of the bands to take, and the names of those that are left out."""
    numbers = [number for number in range(1, len(facts.bands) + 1) if number not in facts.alpha]
    numbers = [number for number in numbers if band_key(facts.bands[number - 1]) not in _ALPHA] or numbers
    if kind != SENTINEL2:
        return numbers, []
    lasting = [number for number in numbers if band_key(facts.bands[number - 1]) not in _ATMOSPHERE]
    lasting = lasting or numbers
    return lasting, [facts.bands[number - 1] for number in numbers if number not in lasting]


def _names(facts: RasterFacts, kind: str, numbers: Sequence[int]) -> list[str]:
    """Return a name for each band, all different: its own, else one that suits the kind."""
    usual: Sequence[str] = ()
    if kind == IMAGE:
        usual = _COLOURS
    elif kind == HEIGHT and len(numbers) == 1:
        usual = ("height",)
    elif kind == RADAR and len(numbers) == 2:
        usual = ("VV", "VH")
    names = [facts.bands[number - 1].strip() for number in numbers]
    if all(names) and len({band_key(name) for name in names}) == len(names):
        return names
    return [usual[place] if len(usual) >= len(numbers) else f"band {number}" for place, number in enumerate(numbers)]


def _encoder(facts: RasterFacts, kind: str, bands: Sequence[str], known: Collection[str]) -> tuple[str, str]:
    """Return the encoder that knows a kind by these bands, else the plain one, and what is to be said of it.

    What satellites taught is of use only at their pixels, and radar is known in decibels alone.
    """
    keys = {band_key(name) for name in bands}
    strange = kind != IMAGE and not _at_satellite(facts)
    if strange or (kind == RADAR and facts.low is not None and not _is_decibels(facts)):
        return PLAIN, ""
    for name, words, needed in _KNOWING.get(kind, ()):
        if name in known and needed <= keys:
            return name, f"; an encoder that {words}"
    return PLAIN, ""


def _about(encoder: str, proposals: Mapping[str, Proposal]) -> str:
    """Return what an encoder knows of the kinds that occur."""
    kinds = {item.kind for item in proposals.values()}
    found = [entry for kind in KINDS if kind in kinds for entry in _KNOWING.get(kind, ())]
    return " and ".join(dict.fromkeys(words for name, words, _ in found if name == encoder))
