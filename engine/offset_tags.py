# SPDX-License-Identifier: GPL-2.0-or-later
"""What a raster's metadata say is to be added to its values: GDAL's scale and offset, and the tags of Sentinel-2.

Sentinel-2's reflectance is (value + BOA_ADD_OFFSET) / 10,000, at level 1C with RADIO_ADD_OFFSET, since processing
baseline 04.00: -1,000 for all bands so far. Where it stands depends on who wrote the file: GDAL's driver tags each
band, other writers the file, as BOA_ADD_OFFSET or by band (BOA_ADD_OFFSET_B8A), and older drivers pass on no more than
PROCESSING_BASELINE.
https://sentiwiki.copernicus.eu/web/s2-processing, https://gdal.org/drivers/raster/sentinel2.html

Runs on Python 3.9 with the standard library alone, since the panel proposes by the same rule as the engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

ADDED = 1000.0
# Dark water or shadow is found in every scene, in one of the bands at least; of less bands than this nothing is told.
# With the offset no band's first percentile is below this.
_BANDS, _LEAST = 4, 950.0
_OFFSET = re.compile(r"((?:BOA|RADIO)_ADD_OFFSET)(?:_.+)?")
_BASELINE, _APPLIED = "PROCESSING_BASELINE", "BOA_OFFSET_APPLIED"
# Products made by analysts themselves, with Sen2Cor, bear 99.99, whether they carry an offset or not.
_FIRST_BASELINE, _UNKNOWN_BASELINE = 4.0, 99.0


class OffsetTag(NamedTuple):
    """What metadata say is to be added to values, in the units of the file, and the name by which they say it.

    `value` is None where they contradict themselves, or differ between bands, so that no one number is right.
    """

    value: Optional[float]
    name: str


def offset_in_metadata(
    linear: Sequence[tuple[float, float]], file_tags: Mapping[str, str], band_tags: Sequence[Mapping[str, str]]
) -> Optional[OffsetTag]:
    """Return what metadata say is to be added to the values of a raster, or None for nothing.

    The baseline of Sentinel-2 counts only where nothing else states an offset, be it one of 0, and where no tag says
    that the offset has been taken off again.

    Args:
        linear: GDAL's scale and offset of each used band; (1, 0) where the file states none.
        file_tags: the tags of the file.
        band_tags: the tags of each used band.
    """
    files, scaled = _plain(file_tags), _scaled(linear)
    if files.get(_APPLIED, "").casefold() in ("true", "1", "yes"):
        return scaled
    tagged = _tagged(files, [_plain(tags) for tags in band_tags])
    if tagged is None:
        return scaled or _baseline(files)
    if scaled is None or tagged.value == 0:
        return scaled if tagged.value == 0 else tagged
    return tagged if tagged.value == scaled.value else OffsetTag(None, f"{tagged.name}, {scaled.name}")


def carry_offset(lows: Sequence[float]) -> bool:
    """Return whether bands whose first percentiles are `lows` look like reflectance x 10,000 with Sentinel-2's offset.

    Only of values that are reflectance x 10,000 does this say anything.
    """
    return len(lows) >= _BANDS and min(lows) >= _LEAST


def learned_with_offset(statistics: Mapping[str, Sequence[float]]) -> bool:
    """Return whether training data with the `statistics` of a card look like values with Sentinel-2's offset."""
    return carry_offset(statistics.get("p01") or statistics.get("minimum") or ())


def _plain(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags by name, without the prefix of a catalogue (`s2:processing_baseline`)."""
    return {name.rpartition(":")[2].upper(): value.strip() for name, value in tags.items()}


def _tagged(files: Mapping[str, str], bands: Sequence[Mapping[str, str]]) -> Optional[OffsetTag]:
    """Return what the tags of Sentinel-2 say: those of the bands where there are some, else those of the file."""
    own = [_offsets(tags) for tags in bands]
    names = {name for found in own for name in found}
    if names:
        values = {found.get(name, 0.0) for found in own for name in names}
    else:
        whole = _offsets(files)
        names, values = {match[1] for name in whole if (match := _OFFSET.fullmatch(name))}, set(whole.values())
    if not names:
        return None
    return OffsetTag(values.pop() if len(values) == 1 else None, sorted(names)[0])


def _offsets(tags: Mapping[str, str]) -> dict[str, float]:
    """Return the offsets among `tags`; an offset keeps dark pixels above zero, so what is added back is never positive.

    Some writers give what was added (1000) for what is to be added (-1000).
    """
    found = {name: _number(value) for name, value in tags.items() if _OFFSET.fullmatch(name)}
    return {name: 0.0 - abs(value) for name, value in found.items() if value is not None}


def _scaled(linear: Sequence[tuple[float, float]]) -> Optional[OffsetTag]:
    """Return what GDAL's scale and offset say, in the units of the file."""
    found = {round(offset / scale, 6) + 0.0 for scale, offset in linear if scale and math.isfinite(offset / scale)}
    if found <= {0.0}:
        return None
    return OffsetTag(found.pop() if len(found) == 1 else None, "scale and offset")


def _baseline(tags: Mapping[str, str]) -> Optional[OffsetTag]:
    """Return what the processing baseline means (`05.09`, `N0509`)."""
    digits = re.fullmatch(r"N?(\d\d)(\d\d)", tags.get(_BASELINE, ""), re.IGNORECASE)
    number = float(".".join(digits.groups())) if digits else _number(tags.get(_BASELINE, ""))
    if number is None or not _FIRST_BASELINE <= number < _UNKNOWN_BASELINE:
        return None
    return OffsetTag(-ADDED, f"{_BASELINE} {tags[_BASELINE]}")


def _number(text: str) -> Optional[float]:
    """Return the finite number that `text` is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
