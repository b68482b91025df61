# SPDX-License-Identifier: GPL-2.0-or-later
"""What each pretrained encoder knows of a modality: bands by their names, and the values that it was trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...naming import band_key

Quantity = Literal["reflectance", "decibel", "metres", "degrees"]


@dataclass(frozen=True)
class KnownBand:
    """A band that an encoder was trained with.

    Attributes:
        key: its name here.
        quantity: what its values are: reflectance x 10,000 without an offset, dB, metres, degrees.
        mean, std: by which values are scaled before they enter: (x - mean) / std.
    """

    key: str
    quantity: Quantity
    mean: float
    std: float


# Other names of bands; all are compared without case, blanks, hyphens and leading zeros.
_ALIASES = {
    "B2": ("blue",),
    "B3": ("green",),
    "B4": ("red",),
    "B5": ("rededge1", "vre1", "re1", "rededge705"),
    "B6": ("rededge2", "vre2", "re2", "rededge740"),
    "B7": ("rededge3", "vre3", "re3", "rededge783"),
    "B8": ("nir", "nir1"),
    "B8A": ("nir2", "narrownir", "nirnarrow", "nir08", "rededge4", "re4"),
    "B11": ("swir1", "swir16"),
    "B12": ("swir2", "swir22"),
    "VV": ("vvdb", "sigma0vv", "gamma0vv"),
    "VH": ("vhdb", "sigma0vh", "gamma0vh"),
    "elevation": ("dem", "dtm", "altitude", "srtm", "height above sea level"),
    "slope": (),
}

# ln(0.005 x + 1), then (u - a) / b, then 5 v - 1: the last two are one z-score. The network takes the logistic of it.
WORLD_LOG = 0.005
_WORLD = {
    "B2": (1.7417268007636313, 2.023298706048351),
    "B3": (1.7261204997060209, 2.038905204308012),
    "B4": (1.6798346251414997, 2.179592821212937),
    "B5": (1.7734969472909623, 2.2890068333026603),
    "B6": (2.289154079164943, 2.6171674549378166),
    "B7": (2.382939712192371, 2.773418590375327),
    "B8": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}
_GALILEO: dict[str, tuple[Quantity, float, float]] = {
    "VV": ("decibel", -11.728724389184965, 4.887145774840316),
    "VH": ("decibel", -18.85558188024017, 5.730270320384293),
    "B2": ("reflectance", 1395.3408730676722, 917.7041440370853),
    "B3": ("reflectance", 1338.4026921784578, 913.2988423581528),
    "B4": ("reflectance", 1343.09883810357, 1092.678723527555),
    "B5": ("reflectance", 1543.8607982512297, 1047.2206083460424),
    "B6": ("reflectance", 2186.2022069512263, 1048.0101611156767),
    "B7": ("reflectance", 2525.0932853316694, 1143.6903026819996),
    "B8": ("reflectance", 2410.3377187373408, 1098.979177731649),
    "B8A": ("reflectance", 2750.2854646886753, 1204.472755085893),
    "B11": ("reflectance", 2234.911100061487, 1145.9774063078878),
    "B12": ("reflectance", 1474.5311266077113, 980.2429840007796),
    "elevation": ("metres", 673.0152819503361, 983.0697298296237),
    "slope": ("degrees", 5.930092668915115, 8.167406789813247),
}

# Of each group of Galileo, the bands that it needs; NDVI is computed of two, and slope where only elevation is given.
GALILEO_GROUPS: dict[str, tuple[str, ...]] = {
    "S1": ("VV", "VH"),
    "S2_RGB": ("B2", "B3", "B4"),
    "S2_Red_Edge": ("B5", "B6", "B7"),
    "S2_NIR_10m": ("B8",),
    "S2_NIR_20m": ("B8A",),
    "S2_SWIR": ("B11", "B12"),
    "NDVI": ("B8", "B4"),
    "SRTM": ("elevation",),
}

BANDS: dict[str, dict[str, KnownBand]] = {
    "dynamic_world": {
        key: KnownBand(key, "reflectance", start + width / 5, width / 5) for key, (start, width) in _WORLD.items()
    },
    "galileo_nano": {key: KnownBand(key, *rest) for key, rest in _GALILEO.items()},
    "efficientnet_lite0": {key: KnownBand(key, "reflectance", 0.0, 1.0) for key in ("B4", "B3", "B2")},
}
# Encoders that have a scaling of their own; others take values scaled by mean and deviation of the training scenes.
SCALED = ("dynamic_world", "galileo_nano")
# What the analyst has to know of the values that each was trained with.
NOTES = {
    "dynamic_world": (
        "It was trained on Sentinel-2 L1C (top of atmosphere) x 10,000, without the offset of 1,000 that products "
        "since January 2022 carry. L2A serves less well without training."
    ),
    "galileo_nano": (
        "It was trained on Sentinel-2 L1C x 10,000 without the offset of 1,000 that products since January 2022 carry, "
        "Sentinel-1 in dB, elevation in metres, at 10 m."
    ),
    "efficientnet_lite0": "It was trained on photographs in red, green and blue.",
}


def plain_key(name: str) -> str:
    """Return what names of bands are compared by here: as `naming.band_key`, without blanks, hyphens, underscores."""
    return band_key(re.sub(r"[\s_-]+", "", name))


_KEYS = {plain_key(alias): key for key, others in _ALIASES.items() for alias in (key, *others)}


def named_bands(names: Sequence[str]) -> dict[str, int]:
    """Return the places, from 0, of the bands in `names` that any encoder knows; a band named twice is not known."""
    found: dict[str, int] = {}
    twice = set()
    for place, name in enumerate(names):
        key = _KEYS.get(plain_key(name))
        if key in found:
            twice.add(key)
        elif key is not None:
            found[key] = place
    return {key: place for key, place in found.items() if key not in twice}


def known_bands(encoder: str, names: Sequence[str]) -> dict[str, int]:
    """Return the places, from 0, of the bands in `names` that `encoder` uses; none where too few are there.

    Dynamic World needs all nine of its bands, EfficientNet-Lite0 red, green and blue; Galileo takes each of its groups
    (`GALILEO_GROUPS`) that is whole.
    """
    found = {key: place for key, place in named_bands(names).items() if key in BANDS.get(encoder, {})}
    if encoder == "galileo_nano":
        used = {key for needed in GALILEO_GROUPS.values() if set(needed) <= set(found) for key in needed}
        if "elevation" in found:
            used.add("slope")
        return {key: place for key, place in found.items() if key in used}
    return found if set(found) == set(BANDS.get(encoder, {})) else {}


def held_modalities(config: Mapping[str, Any]) -> set[str]:
    """Return the names of modalities whose scaling a pretrained encoder relies on, from an architecture's `config`."""
    found: set[str] = set()
    options = config.get("encoder_options")
    if isinstance(options, Mapping):
        for name in options.get("bands", {}):
            if options.get("encoders", {}).get(name, config.get("encoder")) in SCALED:
                found.add(name)
    for value in config.values():
        if isinstance(value, Mapping):
            found |= held_modalities(value)
    return found
