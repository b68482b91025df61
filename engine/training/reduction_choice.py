# SPDX-License-Identifier: GPL-2.0-or-later
"""How many times a new network reduces each modality: by the pixels of its rasters against the reference grid's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..data.labelled_scenes import LabelledScene
from ..data.splits import TRAIN
from ..events import Reporter
from ..models.config import bad_config
from ..models.reduction import LARGEST
from .recipe import Recipe

AUTO = "auto"
# Pixel sizes are rounded, and differ a little over a scene: 19.8 m on 10 m is two to one.
_TOLERANCE = 0.02


def choose_reduction(recipe: Recipe, scenes: Sequence[LabelledScene], tile: int, reporter: Reporter) -> Recipe:
    """Return `recipe` with the factors that suit the training scenes, where it leaves them to Lacuna (`AUTO`).

    For each modality that is the largest power of two not above the ratio of its pixels on the ground to those of the
    reference grid, in the scene where that is smallest; and one that divides crop and tile, so that blocks end where
    these do.

    Args:
        recipe: with the setting `reduce` of the model.
        scenes: the scenes, opened and divided.
        tile: side of the tiles that are wanted, in pixels of the reference grid.
        reporter: told what is reduced, and why.

    Raises:
        LacunaError: `bad-config`, another text than `auto`.
    """
    asked = recipe.model.get("reduce")
    if not isinstance(asked, str):
        return recipe
    if asked != AUTO:
        hint = f'Give a table such as {{name = 8}}, or "{AUTO}".'
        raise bad_config("table model", f"was given reduce = {asked!r}", hint)
    factors = {}
    for name, (own, grid) in _pixels(scenes).items():
        factor = factor_of(own / grid, math.gcd(recipe.settings.crop, tile))
        if factor > 1:
            factors[name] = factor
            reporter.info(
                f"{name} has pixels of {own:.3g} m on a grid of {grid:.3g} m: its encoder sees it reduced {factor} "
                "times."
            )
    return replace(recipe, model={**recipe.model, "reduce": factors})


def factor_of(ratio: float, sides: int) -> int:
    """Return the largest power of two not above `ratio` (but for rounding) that divides `sides`; 1 for no number."""
    factor = 1
    while 2 * factor <= min(ratio * (1 + _TOLERANCE), LARGEST) and sides % (2 * factor) == 0:
        factor *= 2
    return factor


def _pixels(scenes: Sequence[LabelledScene]) -> dict[str, tuple[float, float]]:
    """Return for each modality the side of its pixels and of the grid's, in metres, where their ratio is smallest."""
    found: dict[str, tuple[float, float]] = {}
    for scene in scenes:
        if not (scene.region == TRAIN).any():
            continue
        grid = scene.rasters.grid.ground_resolution
        for name in scene.rasters.names:
            own = scene.rasters.source(name).grid.ground_resolution
            sizes = (own, grid) if math.isfinite(own) and math.isfinite(grid) else (1.0, 1.0)
            found[name] = min(found.get(name, sizes), sizes, key=lambda pair: pair[0] / pair[1])
    return found
