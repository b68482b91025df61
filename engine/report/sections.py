# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts that the reports of a training and of a fine-tuning share: curves, draws, split, labels, the forest beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..palette import SERIES, SIDES
from . import charts, page

Result = Mapping[str, Any]


def scenario_bars(after: Sequence[Result], tables: Mapping[str, Sequence[Result]]) -> str:
    """Return bars of the mIoU of each scenario.

    Args:
        after: scores of the new checkpoint, which name the scenarios.
        tables: the scores to show beside each other, by what they are called.
    """
    found = [{tuple(item["available"]): item["miou"] for item in table} for table in tables.values()]
    rows = [
        (" + ".join(item["available"]), [scores.get(tuple(item["available"])) for scores in found]) for item in after
    ]
    return page.key(list(tables), SERIES) + charts.grouped_bars(rows, "mIoU of each scenario")


def forest_text(after: Sequence[Result], forest: Result | None) -> str:
    """Return what the random forest is, and on how many scenarios it is better."""
    if not forest:
        return ""
    own = {tuple(item["available"]): item["miou"] for item in after}
    better = sum(item["miou"] > own.get(tuple(item["available"]), 0.0) for item in forest["scores"])
    return (
        "The random forest was grown on the same labels and measured on the same pixels (100 trees a scenario, on "
        "bands with means and deviations in windows of 3, 7 and 15 pixels). It is better in "
        f"{better} of {len(own)} scenarios; its mean is {forest['miou']:.3f}. It lies beside the checkpoint: "
        f"{os.path.basename(forest['checkpoint'])}."
    )


def training_curves(history: Sequence[Result]) -> str:
    """Return the loss, and the validation mIoU of every scenario, by epoch."""
    loss = [[(entry["epoch"], entry["loss"]) for entry in history]]
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for item in entry.get("scenarios", ()):
            curves.setdefault(" + ".join(item["available"]), []).append((entry["epoch"], item["miou"]))
    return (
        f"<h3>Loss</h3>{charts.lines(loss, 'Loss by epoch', 'epoch')}"
        f"<h3>Validation mIoU of each scenario</h3>{page.key(curves, SERIES)}"
        f"{charts.lines(list(curves.values()), 'Validation mIoU by epoch', 'epoch', 1.0)}"
    )


def draw_bars(strategy: Result) -> str:
    """Return how often each scenario was drawn."""
    own = "<p>The network draws further scenarios in its own objective.</p>" if strategy["own_draws"] else ""
    rows = [(" + ".join(names), [value]) for names, value in zip(strategy["scenarios"], strategy["probabilities"])]
    bars = charts.grouped_bars(rows, "Probability of each scenario")
    return f"<p>Strategy: {escape(strategy['name'])}.</p>{own}{bars}"


def ground(plan: Result) -> str:
    """Return what the ground of a plan is for: a map of each scene, and the labelled pixels by class."""
    return _split_maps(plan["regions"]) + _pixels_table(plan["pixels"])


def _split_maps(regions: Sequence[Result]) -> str:
    """Return a map of each scene: training, validation, gap and test."""
    shown = []
    for scene in dict.fromkeys(region["scene"] for region in regions):
        own = [region for region in regions if region["scene"] == scene]
        shapes = [(SIDES[region["side"]], region["geometry"]["coordinates"]) for region in own]
        shown.append(f"<h3>{escape(scene)}</h3>{charts.regions(shapes, f'Split of {scene}')}")
    return page.key(SIDES, list(SIDES.values())) + "".join(shown)


def _pixels_table(pixels: Result) -> str:
    """Return the table of labelled pixels by class and side."""
    sides = [side for side in ("training", "validation", "test") if any(pixels[side].values())]
    rows = [[page.cell(name), *(page.cell(f"{pixels[side][name]:,}") for side in sides)] for name in pixels["training"]]
    return page.table(["labelled pixels", *sides], rows) + f"<p>In the gap: {pixels['gap']:,}.</p>"
