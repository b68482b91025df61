# SPDX-License-Identifier: GPL-2.0-or-later
"""Which bands of a raster are the bands that a modality names: as asked, by name, or by order."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.card import Modality
from ..errors import LacunaError, UsageError
from ..events import Reporter
from ..naming import find_band
from .native import RasterFile


def choose_bands(
    file: RasterFile, modality: Modality, asked: Sequence[int | str] | None, reporter: Reporter
) -> list[int]:
    """Return the 1-based number in `file` of each band of `modality`, and say how they were found.

    Bands asked for are taken as they are: numbers, or names that the file gives (also by its colour interpretation).
    Else they are matched by name if the file names them all, ignoring case and leading zeros (B2 is B02); else, if it
    names none of them, by order, where alpha is not counted.

    Raises:
        UsageError: `bad-bands`, another number of bands asked for than the modality has.
        LacunaError: `unknown-band`, one that the file does not have; `too-few-bands`.
    """
    if asked is not None:
        return _asked(file, modality, asked)
    plain = [band for band in range(1, file.count + 1) if band not in file.alpha]
    found = [_named(file.names, name, plain) for name in modality.bands]
    if all(found):
        reporter.info(f"{file}: bands {_listed(modality.bands)} matched by name.")
        return [band for band in found if band is not None]
    if len(plain) < len(modality.bands):
        raise _too_few(file, modality, len(plain))
    if any(found):
        missing = [name for name, band in zip(modality.bands, found, strict=True) if not band]
        raise _unknown(file, modality, missing)
    numbers = plain[: len(modality.bands)]
    pairs = [f"{number} as {name}" for number, name in zip(numbers, modality.bands, strict=True)]
    reporter.info(f"{file}: bands matched by order: {_listed(pairs)}.")
    named = [file.names[band - 1] for band in plain]
    if len(plain) > len(numbers) or (len(plain) > 1 and all(named) and len(set(named)) == len(named)):
        reporter.warn(
            f"{file} has {len(plain)} bands ({_bands_text(file)}), not named as modality {modality.name} does; the "
            f"first {len(numbers)} are taken as {_listed(modality.bands)}. If that is wrong, say which bands they are."
        )
    return numbers


def _asked(file: RasterFile, modality: Modality, asked: Sequence[int | str]) -> list[int]:
    """Return the numbers of the bands that were asked for."""
    if len(asked) != len(modality.bands):
        text = f"{len(asked)} bands were asked of {file}: {', '.join(map(str, asked))}; modality {modality.name} has "
        hint = "Name one band of the file for each, in this order."
        raise UsageError("bad-bands", f"{text}{len(modality.bands)}: {_listed(modality.bands)}.", hint)
    every = range(1, file.count + 1)
    found: list[int] = []
    missing: list[int | str] = []
    for item in asked:
        if isinstance(item, int):
            band = item if item in every else None
        else:
            band = _named(file.names, item, every) or _named(file.colors, item, every)
        found.append(band or 0)
        missing += [] if band else [item]
    if missing:
        raise _unknown(file, modality, missing)
    return found


def _named(names: Sequence[str], wanted: str, bands: Sequence[int]) -> int | None:
    """Return the one of `bands` that is called `wanted`, or None if none or several are."""
    place = find_band(wanted, [names[band - 1] for band in bands])
    return None if place is None else bands[place - 1]


def _bands_text(file: RasterFile) -> str:
    """Return the bands of a file in words."""
    shown = [f"{i} {name or color}" for i, (name, color) in enumerate(zip(file.names, file.colors, strict=True), 1)]
    return _listed(shown)


def _listed(items: Sequence[str]) -> str:
    """Return up to 16 items in words; of more, the first and the last."""
    return ", ".join(items if len(items) <= 16 else [*items[:12], "...", items[-1]])


def _unknown(file: RasterFile, modality: Modality, missing: Sequence[int | str]) -> LacunaError:
    return LacunaError(
        "unknown-band",
        f"{file} has no band {', '.join(map(str, missing))}; its bands are {_bands_text(file)}.",
        f"Say which bands are {_listed(modality.bands)}: --bands {modality.name}=1,2,... or their names in the file.",
    )


def _too_few(file: RasterFile, modality: Modality, count: int) -> LacunaError:
    needed = f"modality {modality.name} needs {len(modality.bands)} ({_listed(modality.bands)})"
    hint = "Give a raster that has them."
    if file.count >= len(modality.bands):
        hint = f"Alpha is not counted; if it holds data, name the bands: --bands {modality.name}=1,2,..."
    text = f"{file} has {count} band{'s' * (count != 1)} ({_bands_text(file)}); {needed}."
    return LacunaError("too-few-bands", text, hint)
