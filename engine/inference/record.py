# SPDX-License-Identifier: GPL-2.0-or-later
"""The run record: what was asked, what was used and what came out, as JSON beside the class map."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..checkpoint.card import Card
from ..jobs import SegmentJob
from ..raster.evidence import scenario_of
from ..raster.grid import Grid
from ..runtime.unfinished import file_stamp

Tally = Sequence[tuple[int, int, int, float]]


def input_files(job: SegmentJob) -> list[str]:
    """Return the files that the job reads: rasters, masks, polygons, checkpoint."""
    sources = job.modalities.values()
    named = [*(item.path for item in sources), *(item.mask for item in sources), job.area, job.checkpoint]
    return [path for path in named if path]


def segment_fingerprint(job: SegmentJob, checkpoint_sha256: str) -> str:
    """Return a hash of all that decides the result: the request, the inputs by size and time, checkpoint and torch."""
    request = asdict(job)
    for name in ("overwrite", "resume", "record"):
        del request[name]
    stats = [file_stamp(path) for path in input_files(job)]
    text = json.dumps([request, stats, checkpoint_sha256, torch.__version__, sys.platform])
    return hashlib.sha256(text.encode()).hexdigest()


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Return the grid of the output."""
    authority = grid.crs.to_authority()
    return {
        "crs": ":".join(authority) if authority else grid.crs.to_wkt(),
        "transform": list(grid.transform)[:6],
        "width": grid.width,
        "height": grid.height,
        "bounds": list(grid.bounds),
    }


def summarise_tally(tally: Tally, card: Card, grid: Grid) -> dict[str, Any]:
    """Return pixels and area by class and by scenario, and the shares that the analyst must know.

    `share_without` holds for each modality of the card the part of the classified pixels that did without it.
    """
    total = sum(pixels for _, _, pixels, _ in tally)
    whole = grid.width * grid.height
    return {
        "pixels": {"scene": whole, "classified": total, "nodata": whole - total},
        "classes": [
            {
                "value": item.value,
                "name": item.name,
                "pixels": sum(row[2] for row in tally if row[0] == index),
                "area_m2": round(sum(row[3] for row in tally if row[0] == index), 3),
            }
            for index, item in enumerate(card.classes)
        ],
        "scenarios": [_scenario(value, tally, card, total) for value in sorted({row[1] for row in tally})],
        "share_without": {
            name: round(sum(row[2] for row in tally if name not in scenario_of(row[1], card.names)) / total, 6)
            if total
            else 0.0
            for name in card.names
        },
    }


def _scenario(value: int, tally: Tally, card: Card, total: int) -> dict[str, Any]:
    """Return what was classified with one set of modalities."""
    names = scenario_of(value, card.names)
    rows = [row for row in tally if row[1] == value]
    pixels = sum(row[2] for row in rows)
    return {
        "available": list(names),
        "evidence": value,
        "pixels": pixels,
        "share": round(pixels / total, 6),
        "area_m2": round(sum(row[3] for row in rows), 3),
        "expected_miou": card.miou(names),
        "classes": {card.classes[row[0]].name: row[2] for row in rows},
    }
