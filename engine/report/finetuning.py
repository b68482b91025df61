# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a fine-tuning: accuracy before and after, maps, curves, and where was learned; made from the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..palette import SERIES
from . import charts, page
from .sections import draw_bars, forest_text, ground, scenario_bars, training_curves

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
        page.section("mIoU by scenario", _scenario_bars(result), _words(result)),
        page.section("IoU by class, all modalities", page.key(_PAIR, SERIES) + _class_bars(result)),
        page.section("Maps", pictures),
        page.section("Training", training_curves(result["history"])),
        page.section("How often each scenario was trained", draw_bars(plan["strategy"])),
        page.section("Where it learned and where it was measured", ground(plan)),
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
    """Return the mIoU of each scenario, before and after, and that of the forest where one was grown."""
    tables = {name: result[name] for name in _PAIR}
    if result.get("forest"):
        tables["random forest"] = result["forest"]["scores"]
    return scenario_bars(result["after"], tables)


def _words(result: Result) -> str:
    """Return what the network is worth without its detail path, and what the forest is."""
    return _detail_words(result) + forest_text(result["after"], result.get("forest"))


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
