# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring modalities to a pretrained encoder as it was trained: which bands it knows, and how their values are scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ..checkpoint.card import CURVED, SCALINGS, Modality
from ..data.manifest import Manifest
from ..data.statistics import FARTHEST
from ..events import Reporter
from ..models.config import bad_config
from ..models.encoders import MIXED, pretrained_encoders
from ..models.encoders.inputs import BANDS, NOTES, SCALED, WORLD_LOG, known_bands
from .recipe import Recipe

# Reflectance x 10,000 goes beyond this somewhere; bytes and shares do not.
_LEAST_REFLECTANCE = 400.0
_LARGEST_REFLECTANCE = 100_000.0
# Pixels, in metres, of which a network that was trained at 10 m still makes sense.
_PIXELS = (5.0, 60.0)
_GALILEO = "galileo_nano"


@dataclass
class _Fit:
    """What was found out so far: names of bands and physical values for the encoder, and modalities for the card."""

    bands: dict[str, list[str]]
    affine: dict[str, dict[str, list[float]]]
    modalities: list[Modality]


def fit_encoder(
    recipe: Recipe, manifest: Manifest, measured: Sequence[Modality], reporter: Reporter
) -> tuple[Recipe, list[Modality]]:
    """Return `recipe` with what a pretrained encoder has to know of modalities, and these with the scaling it needs.

    A modality whose bands the encoder knows is scaled as the encoder was trained, unless the manifest states a scaling;
    then the encoder is told how values become physical again. So it is for elevation too, which keeps the scaling that
    was measured: by that of the whole earth the relief of one area would all but vanish. What the encoder does not know
    keeps what was measured. Nothing changes for other encoders.

    Args:
        recipe: how to train.
        manifest: what it says of the modalities.
        measured: the modalities with statistics and scaling of the training scenes.
        reporter: told what the encoder knows, and what it was trained with.

    Raises:
        LacunaError: `bad-config`, options that name an unknown modality, or cannot be.
    """
    encoder, options = recipe.model.get("encoder"), recipe.model.get("encoder_options", {})
    if not isinstance(encoder, str) or not pretrained_encoders(encoder, options):
        return recipe, list(measured)
    _check_names(options, manifest.names)
    fit = _Fit({}, {}, [])
    stated = {item.name: bool(item.scaling) for item in manifest.modalities}
    for modality in measured:
        own = options.get("encoders", {}).get(modality.name, options.get("other")) if encoder == MIXED else encoder
        names = options.get("bands", {}).get(modality.name, modality.bands)
        known = known_bands(own, names) if isinstance(own, str) and len(names) == len(modality.bands) else {}
        if own in NOTES:
            _say_what_is_known(own, modality, known, reporter)
        fault = _misfit(own, modality, known) if known else ""
        if fault:
            reporter.warn(fault)
        if known and not fault:
            modality = _fitted(fit, own, modality, names, known, stated[modality.name], reporter)
        fit.modalities.append(modality)
    for name in pretrained_encoders(encoder, options):
        reporter.info(f"Encoder {name}: {NOTES[name]}")
    # What the configuration says of bands that the encoder cannot use stays out.
    changed = {**options, "bands": fit.bands, "scaled_otherwise": fit.affine}
    model = {**recipe.model, "encoder_options": _with_pixel(encoder, changed, manifest, measured, reporter)}
    return replace(recipe, model=model), fit.modalities


def _check_names(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise LacunaError for options that name a modality which the manifest does not have."""
    for key in ("bands", "encoders"):
        strange = [name for name in options.get(key, {}) if name not in names]
        if strange:
            what = f"names {strange[0]!r} under {key}"
            raise bad_config("encoder_options", what, f"Modalities of the manifest are {', '.join(names)}.")


def _say_what_is_known(encoder: str, modality: Modality, known: Mapping[str, int], reporter: Reporter) -> None:
    if not known:
        wanted = ", ".join(BANDS[encoder])
        reporter.info(
            f"{modality.name}: {encoder} does not know its bands (it knows {wanted}), so it gets a first layer that is "
            "learned anew."
        )
        return
    others = [name for place, name in enumerate(modality.bands) if place not in known.values()]
    text = f"{modality.name}: {encoder} knows {', '.join(known)}"
    reporter.info(f"{text}; {', '.join(others)} it does not." if others else f"{text}.")


def _misfit(encoder: str, modality: Modality, known: Mapping[str, int]) -> str:
    """Return in words how the values of a modality cannot be those that `encoder` was trained with, or nothing."""
    statistics, fault = modality.statistics, ""
    kinds: dict[str, list[int]] = {}
    for key, place in known.items():
        kinds.setdefault(BANDS[encoder][key].quantity, []).append(place)
    if encoder not in SCALED:
        return ""
    if places := kinds.get("reflectance"):
        largest = max(statistics["maximum"][place] for place in places)
        if largest <= _LEAST_REFLECTANCE:
            fault = f"its values go up to {largest:.4g}; reflectance x 10,000 is expected"
    if (places := kinds.get("decibel")) and not fault:
        least = min(statistics["minimum"][place] for place in places)
        if least >= 0:
            fault = f"its values begin at {least:.4g}; backscatter in dB is expected"
    if not fault:
        return ""
    return (
        f"Modality {modality.name} is not given to {encoder} by its bands: {fault}. It gets a first layer that is "
        "learned anew. Convert the raster, or give its scenes a scale, if it should be."
    )


def _fitted(
    fit: _Fit,
    encoder: str,
    modality: Modality,
    names: Sequence[str],
    known: Mapping[str, int],
    stated: bool,
    reporter: Reporter,
) -> Modality:
    """Return a modality, scaled as its encoder needs it; note in `fit` what the encoder has to know."""
    relief = all(BANDS[encoder][key].quantity in ("metres", "degrees") for key in known)
    if encoder not in SCALED:
        fit.bands[modality.name] = list(names)
        return modality
    own = encoder_chain(encoder, known, modality)
    if (stated and modality.scaling != own) or relief:
        affine = to_physical(modality.scaling, len(modality.bands))
        if affine is None:
            reporter.warn(
                f"Modality {modality.name} is not given to {encoder} by its bands: the manifest states a scaling that "
                "is no straight line. It gets a first layer that is learned anew. Leave scaling out, if it should be."
            )
            return modality
        fit.bands[modality.name], fit.affine[modality.name] = list(names), affine
        if stated:
            reporter.info(f"Modality {modality.name} keeps the scaling of the manifest, which {encoder} undoes.")
        return modality
    reporter.info(f"Modality {modality.name} is scaled as {encoder} was trained, not by its training scenes.")
    fit.bands[modality.name] = list(names)
    return replace(modality, scaling=own)


def encoder_chain(encoder: str, known: Mapping[str, int], modality: Modality) -> list[dict[str, Any]]:
    """Return the scaling with which `encoder` was trained, for all bands of a modality.

    Bands that it does not know are brought to about mean 0 and deviation 1 by the modality's statistics.

    Args:
        encoder: one of `inputs.SCALED`.
        known: places of the bands that it knows, by name.
        modality: with statistics.
    """
    means, stds = list(modality.statistics["mean"]), list(modality.statistics["std"])
    chain: list[dict[str, Any]] = []
    if encoder == "dynamic_world":
        chain = [
            {"type": "clip", "minimum": 0.0, "maximum": _LARGEST_REFLECTANCE},
            {"type": "log", "scale": WORLD_LOG},
        ]
        lowest = [max(mean, 0.0) * WORLD_LOG + 1 for mean in means]
        means, stds = (
            [math.log(value) for value in lowest],
            [std * WORLD_LOG / value for std, value in zip(stds, lowest)],
        )
    for key, place in known.items():
        means[place], stds[place] = BANDS[encoder][key].mean, BANDS[encoder][key].std
    mean, std = ([float(f"{value:.9g}") for value in values] for values in (means, stds))
    z_score = {"type": "z_score", "mean": mean, "std": [value or 1.0 for value in std]}
    return [*chain, z_score, {"type": "clip", "minimum": -FARTHEST, "maximum": FARTHEST}]


def to_physical(chain: Sequence[Mapping[str, Any]], bands: int) -> dict[str, list[float]] | None:
    """Return `gain` and `offset` of each band that undo a scaling; None where it is no straight line.

    Clipping is passed over: what it cut off is lost.
    """
    gain, offset = [1.0] * bands, [0.0] * bands
    for step, band in product(chain, range(bands)):
        line = _line(step, band)
        if line is None:
            return None
        gain[band], offset[band] = gain[band] * line[0], offset[band] * line[0] + line[1]
    return {
        "gain": [1 / value for value in gain],
        "offset": [-start / value for value, start in zip(gain, offset)],
    }


def _line(step: Mapping[str, Any], band: int) -> tuple[float, float] | None:
    """Return slope and start of one step for one band, counted from 0; None where it is no straight line."""
    kind = step["type"]
    if kind in CURVED:
        return None
    first, second = (_of_band(step[name], band) for name in SCALINGS[kind]) if SCALINGS[kind] else (0.0, 0.0)
    if kind == "z_score":
        return 1 / second, -first / second
    if kind == "min_max":
        return 1 / (second - first), -first / (second - first)
    return (second, first) if kind == "offset_scale" else (1.0, 0.0)


def _of_band(parameter: Any, band: int) -> float:
    """Return a parameter of a step for one band: it is one number, or a list with one for all or one for each."""
    if not isinstance(parameter, list):
        return float(parameter)
    return float(parameter[band] if len(parameter) > 1 else parameter[0])


def _with_pixel(
    encoder: str, options: dict[str, Any], manifest: Manifest, measured: Sequence[Modality], reporter: Reporter
) -> dict[str, Any]:
    """Return `options` with the size of pixels on the ground, where Galileo is used and was not told."""
    if _GALILEO not in pretrained_encoders(encoder, options):
        return options
    own = options.get("options", {}).get(_GALILEO, {}) if encoder == MIXED else options
    if "pixel" in own:
        return options
    sizes = next(item.resolution for item in measured if item.name == manifest.reference)
    pixel = None if sizes is None else sizes[0]
    if pixel is None or not _PIXELS[0] <= pixel <= _PIXELS[1]:
        found = "of unknown size" if pixel is None else f"of {pixel:.3g} m"
        reporter.warn(f"{_GALILEO} was trained at 10 m. Pixels are {found}; it takes them for 10 m.")
        return options
    if encoder == MIXED:
        return {**options, "options": {**options.get("options", {}), _GALILEO: {**own, "pixel": pixel}}}
    return {**options, "pixel": pixel}
