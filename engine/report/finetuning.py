# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a fine-tuning: accuracy before and after, maps, curves, and where was learned; made from the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..palette import SERIES, SIDES
from . import charts, page

Result = Mapping[str, Any]

_PAIR = ("before", "after")


def finetuning_page(result: Result, pictures: str, warnings: Sequence[str]) -> str:
    """Return the report as a page of HTML.

    Args:
        result: what `finetune` returns.
        pictures: maps before and after, as HTML (`training.pictures.Gallery`).
        warnings: what was warned of.
    """
    plan = result["plan"]
    sections = [
        _head(result),
        page.warnings(warnings),
        page.section("mIoU by scenario", _scenario_bars(result), _detail_words(result) + _forest_words(result)),
        page.section("IoU by class, all modalities", page.key(_PAIR, SERIES) + _class_bars(result)),
        page.section("Maps", pictures),
        page.section("Training", _curves(result["history"])),
        page.section("How often each scenario was trained", _probabilities(plan["strategy"])),
        page.section("Where it learned and where it was measured", _split(plan["regions"]) + _pixels(plan["pixels"])),
        page.section("How it was made", _method(result)),
    ]
    return page.render(os.path.basename(result["checkpoint"]), sections)


def _head(result: Result) -> str:
    figures = [
        ("Mean mIoU over the scenarios", f"{result['miou']:.3f}"),
        ("before", f"{result['miou_before']:.3f}"),
        ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
    ]
    return page.header(os.path.basename(result["checkpoint"]), f"on {result['scores_on']}", figures)


def _scenario_bars(result: Result) -> str:
    """Return the mIoU of each scenario, before and after."""
    names, tables = list(_PAIR), [result["before"], result["after"]]
    if result.get("forest"):
        names, tables = [*names, "random forest"], [*tables, result["forest"]["scores"]]
    found = [{tuple(item["available"]): item["miou"] for item in table} for table in tables]
    rows = [
        (" + ".join(item["available"]), [scores.get(tuple(item["available"])) for scores in found])
        for item in result["after"]
    ]
    return page.key(names, SERIES) + charts.grouped_bars(rows, "mIoU of each scenario")


def _forest_words(result: Result) -> str:
    """Return what the random forest is, and on how many scenarios it is better."""
    forest = result.get("forest")
    if not forest:
        return ""
    own = {tuple(item["available"]): item["miou"] for item in result["after"]}
    better = sum(item["miou"] > own.get(tuple(item["available"]), 0.0) for item in forest["scores"])
    return (
        "The random forest was grown on the same labels and measured on the same pixels (100 trees a scenario, on "
        "bands with means and deviations in windows of 3, 7 and 15 pixels). It is better in "
        f"{better} of {len(own)} scenarios; its mean is {forest['miou']:.3f}. It lies beside the checkpoint: "
        f"{os.path.basename(forest['checkpoint'])}."
    )


def _detail_words(result: Result) -> str:
    """Return what the network is worth without its detail path."""
    scores = [item["miou"] for item in result.get("network") or () if item["miou"] is not None]
    if not scores:
        return ""
    return (
        "After is the network joined with a detail path, which looks at single pixels; the network alone has a mean of "
        f"{sum(scores) / len(scores):.3f}. "
    )


def _class_bars(result: Result) -> str:
    """Return the IoU of each class in the scenario with most modalities, before and after."""
    if not result["before"] or not result["after"]:
        return ""
    before, after = result["before"][-1]["iou"], result["after"][-1]["iou"]
    rows = [(item["name"], list(pair)) for item, *pair in zip(result["classes"], before, after)]
    return charts.grouped_bars(rows, "IoU of each class before and after")


def _curves(history: Sequence[Result]) -> str:
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


def _probabilities(strategy: Result) -> str:
    own = "<p>The network draws further scenarios in its own objective.</p>" if strategy["own_draws"] else ""
    rows = [(" + ".join(names), [value]) for names, value in zip(strategy["scenarios"], strategy["probabilities"])]
    bars = charts.grouped_bars(rows, "Probability of each scenario")
    return f"<p>Strategy: {escape(strategy['name'])}.</p>{own}{bars}"


def _split(regions: Sequence[Result]) -> str:
    """Return a map of each scene: training, validation, gap and test."""
    shown = []
    for scene in dict.fromkeys(region["scene"] for region in regions):
        own = [region for region in regions if region["scene"] == scene]
        shapes = [(SIDES[region["side"]], region["geometry"]["coordinates"]) for region in own]
        shown.append(f"<h3>{escape(scene)}</h3>{charts.regions(shapes, f'Split of {scene}')}")
    return page.key(SIDES, list(SIDES.values())) + "".join(shown)


def _pixels(pixels: Result) -> str:
    """Return the table of labelled pixels by class and side."""
    sides = [side for side in ("training", "validation", "test") if any(pixels[side].values())]
    rows = [[page.cell(name), *(page.cell(f"{pixels[side][name]:,}") for side in sides)] for name in pixels["training"]]
    return page.table(["labelled pixels", *sides], rows) + f"<p>In the gap: {pixels['gap']:,}.</p>"


def _method(result: Result) -> str:
    plan = result["plan"]
    weights = f"{plan['weights']['trained']:,} of {plan['weights']['all']:,} weights trained"
    scaled = ""
    if plan["rescaled"]:
        names = escape(", ".join(plan["rescaled"]))
        scaled = f"<p>Values scaled to suit this area, as they lie outside what the parent was made for: {names}.</p>"
    return (
        f"<p>Method {escape(plan['method'])}: {weights}.</p>{scaled}"
        f"<p>Made from the checkpoint with SHA-256 {escape(result['parent'])}.</p>"
    )
