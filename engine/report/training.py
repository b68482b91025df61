# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a training from scratch: accuracy, maps, curves, and where was learned; made from the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..palette import SERIES
from . import charts, page
from .sections import draw_bars, forest_text, ground, scenario_bars, training_curves

Result = Mapping[str, Any]

_OWN = "new model"


def training_page(result: Result, pictures: str, warnings: Sequence[str]) -> str:
    """Return the report as a page of HTML.

    Args:
        result: what `train` returns.
        pictures: inputs, labels and map, as HTML (`training.pictures.Gallery`).
        warnings: what was warned of.
    """
    plan, scores, forest = result["plan"], result["scores"], result["forest"]
    tables = {_OWN: scores, **({"random forest": forest["scores"]} if forest else {})}
    sections = [
        _training_head(result),
        page.warnings(warnings),
        page.section("mIoU by scenario", scenario_bars(scores, tables), forest_text(scores, forest)),
        page.section("IoU by class, all modalities", _iou_bars(result)),
        page.section("Maps", pictures),
        page.section("Training", training_curves(result["history"])),
        page.section("How often each scenario was trained", draw_bars(plan["strategy"])),
        page.section("Where it learned and where it was measured", ground(plan)),
        page.section("How it was made", f"<p>Trained from scratch: {plan['weights']['trained']:,} weights.</p>"),
    ]
    return page.render(os.path.basename(result["checkpoint"]), sections)


def _training_head(result: Result) -> str:
    known = [item["miou"] for item in result["scores"] if item["miou"] is not None]
    figures = [
        ("Mean mIoU over the scenarios", f"{sum(known) / len(known):.3f}" if known else "not measured"),
        ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
    ]
    return page.header(os.path.basename(result["checkpoint"]), f"on {result['scores_on']}", figures)


def _iou_bars(result: Result) -> str:
    """Return the IoU of each class in the scenario with most modalities, beside that of the forest."""
    tables = {_OWN: result["scores"][-1]["iou"]}
    full = result["scores"][-1]["available"]
    grown = [item["iou"] for item in (result["forest"] or {}).get("scores", ()) if item["available"] == full]
    if grown:
        tables["random forest"] = grown[0]
    rows = [(item["name"], list(values)) for item, *values in zip(result["classes"], *tables.values())]
    return page.key(list(tables), SERIES) + charts.grouped_bars(rows, "IoU of each class")
