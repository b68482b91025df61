# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a modality is Sentinel-2, of which Dynamic World has a say, and how its values become those that it knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..checkpoint.card import Modality
from ..data.measure import gather
from ..imports.encoder_file import load_encoder
from ..imports.encoder_weights import CREDITS, bundled_path
from ..models.encoders.inputs import BANDS, known_bands
from ..models.joined import Joined
from ..models.world_prior import AIR_GAIN, AIR_OFFSET, KEYS, WorldPrior, WorldPriorConfig
from .encoder_inputs import to_physical
from .session import Session

_NAME = "dynamic_world"
_Z_SCORE = ("mean", "std")
_TELLING = ("minimum", "p01", "p99")
# Sentinel-2's finest pixels have 10 m, its coarsest 60 m; on others what it says would be wrong, or cost too much.
_PIXELS = (8.0, 62.0)
_SURFACE = re.compile(r"surface|\bl2a\b|level.?2a|\bboa\b", re.I)
_ABOVE = re.compile(r"\btoa\b|\bl1c\b|level.?1c|top of", re.I)
# The darkest hundredth of blue seen through the air is brighter than this; of the ground alone it is darker.
_LEAST_AIR = 600.0
# If the least value of all bands lies in here, they carry the offset of 1,000 of products since January 2022: of scenes
# that carry it the least are 969 to 1157, of others 1 to 691.
_WITH_OFFSET = (900.0, 1500.0)
_EXCESS = 1000.0
# Reflectance as a share goes up to little more than 1, as a number of ten thousandths to thousands.
_LARGEST_SHARE, _LEAST_NUMBER, _TEN_THOUSANDTHS = 4.0, 400.0, 1e4


@dataclass(frozen=True)
class _Reflectance:
    """What the training pixels say: physical values times `factor` less `excess` are reflectance x 10,000."""

    factor: float
    excess: float
    through_air: bool


def world_priors(session: Session) -> dict[str, WorldPrior]:
    """Return for each modality of a session that is Sentinel-2 what Dynamic World says of it; say so, or why not.

    A modality is Sentinel-2 if its bands are named so, all nine that Dynamic World needs, at its pixel size. Whether
    values are those of level 1C or 2A is told from the modality's units, else from how dark blue is. Those of level 2A
    get a typical atmosphere.

    Raises:
        LacunaError: codes of `load_encoder`, where the weights that come with Lacuna cannot be read.
    """
    found: dict[str, WorldPrior] = {}
    if session.recipe.config.prior == "none":
        return found
    sizes = session.resolution() or [0.0, 0.0]
    for modality in session.modalities:
        known = known_bands(_NAME, modality.bands)
        if not known or not _PIXELS[0] <= sizes[0] <= sizes[1] <= _PIXELS[1]:
            continue
        places = [known[key] for key in KEYS]
        config = _config(session, modality, places)
        if config is not None:
            prior = WorldPrior(config)
            prior.network.load_state_dict(load_encoder(bundled_path(_NAME))[1])
            found[modality.name] = prior.eval().to(session.device)
    return found


def _config(session: Session, modality: Modality, places: Sequence[int]) -> WorldPriorConfig | None:
    """Return how values of a modality become those that Dynamic World knows; None, said why, where it is not clear."""
    prepared = _prepared(modality, places)
    if prepared is not None:
        _say(session, modality, "Its scaling is that of Dynamic World")
        return prepared
    table = to_physical(modality.scaling, len(modality.bands))
    if table is None:
        _refuse(session, modality, "its scaling is no straight line")
        return None
    gain, offset = (np.array(table[key])[list(places)] for key in ("gain", "offset"))
    if session.measured:
        values = {key: np.array(modality.statistics[key])[list(places)] for key in _TELLING}
    else:
        scaled = gather(session.scenes, modality)[0].result()
        values = {key: np.array(scaled[key])[list(places)] * gain + offset for key in _TELLING}
    reflectance = _told(modality, values)
    if isinstance(reflectance, str):
        _refuse(session, modality, reflectance)
        return None
    air, factor, excess = reflectance.through_air, reflectance.factor, reflectance.excess
    level = "the top of the atmosphere (L1C)" if air else "the ground (L2A), to which a typical atmosphere is added"
    _say(session, modality, f"Values are taken for reflectance at {level}")
    if excess:
        # No warning: whoever binds the raster has been offered the offset already.
        session.reporter.info(
            f"Modality {modality.name}: even the darkest pixels are bright in all bands, as if 1,000 had been added to "
            "all. It is taken off for Dynamic World alone. If it is an offset, give it to the scenes."
        )
    air_gain, air_offset = (1.0, 0.0) if air else (np.array(AIR_GAIN), np.array(AIR_OFFSET))
    whole_gain, whole_offset = gain * factor * air_gain, (offset * factor - excess) * air_gain + air_offset
    wanted, start = ([float(f"{value:.9g}") for value in item] for item in (whole_gain, whole_offset))
    return WorldPriorConfig(list(places), wanted, start)


def _prepared(modality: Modality, places: Sequence[int]) -> WorldPriorConfig | None:
    """Return how values become Dynamic World's of a modality that is scaled for it; None for another.

    It is scaled so for the encoder `dynamic_world`, whose chain ends before the logistic curve, and for the checkpoints
    of Dynamic World, where a `z_score` comes behind it.
    """
    kinds = [step["type"] for step in modality.scaling]
    known = [BANDS[_NAME][key].mean for key in KEYS]
    last = next((step for step in reversed(modality.scaling) if step["type"] == "z_score"), None)
    if last is None or "log" not in kinds:
        return None
    bands = len(modality.bands)
    mean, std = ([float(np.broadcast_to(last[key], bands)[place]) for place in places] for key in _Z_SCORE)
    if kinds[-1] == "z_score" and kinds[-2:-1] == ["logistic"]:
        return WorldPriorConfig(list(places), std, mean, "input")
    return WorldPriorConfig(list(places), form="logit") if np.allclose(mean, known, 1e-6) else None


def _say(session: Session, modality: Modality, how: str) -> None:
    session.reporter.info(
        f"Modality {modality.name} is Sentinel-2: what Dynamic World says of each pixel helps the detail path. {how}."
    )


def _told(modality: Modality, values: Mapping[str, np.ndarray]) -> _Reflectance | str:
    """Return what the `minimum`, `p01` and `p99` (9) of the bands tell, or why nothing."""
    factor, brightest = 1.0, values["p99"].max()
    if brightest <= _LARGEST_SHARE:
        factor = _TEN_THOUSANDTHS
    elif brightest < _LEAST_NUMBER:
        return f"its values go up to {brightest:.4g}, which is no reflectance"
    least = values["minimum"].min() * factor
    excess = _EXCESS if _WITH_OFFSET[0] <= least <= _WITH_OFFSET[1] else 0.0
    return _Reflectance(factor, excess, _through_air(modality.units, values["p01"] * factor - excess))


def _through_air(units: str, dark: np.ndarray) -> bool:
    """Return whether values are of level 1C, by the `units`, else by the darkest hundredths (9) of the bands."""
    if _SURFACE.search(units) or _ABOVE.search(units):
        return not _SURFACE.search(units)
    return bool(dark[0] >= _LEAST_AIR)


def _refuse(session: Session, modality: Modality, why: str) -> None:
    """Say why Dynamic World has no say."""
    session.reporter.warn(
        f"Modality {modality.name} has the bands of Sentinel-2, but Dynamic World is not asked about it: {why}."
    )


def with_credits(text: str, model: nn.Module) -> str:
    """Return the credits of a card, with Dynamic World's where its weights are part of `model`."""
    if not isinstance(model, Joined) or not model.detail.priors:
        return text
    own = f"The detail path holds the weights of {CREDITS[_NAME]}."
    return text if own in text else "\n".join(part for part in (text, own) if part)
