# SPDX-License-Identifier: GPL-2.0-or-later
"""Segment a scene: from the job to the maps and the record of how they were made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from ..checkpoint.card import Card
from ..checkpoint.card_file import read_card
from ..checkpoint.store import load, sha256
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..jobs import SegmentJob
from ..raster.encodings import Layout, class_layout, confidence_layout, evidence_layout, probability_layout
from ..raster.grid import GridOptions, extent_text
from ..raster.polygons import Painter, read_polygons
from ..raster.scene import Scene, gdal_limits
from ..raster.tiles import Plan, choose_tile, plan_tiles
from ..raster.writer import RasterWriter, replace, stage_json
from ..runtime.device import choose_device, choose_precision, describe_device, peak_memory
from ..runtime.heap import hold_heap
from ..runtime.outputs import check_outputs
from ..runtime.unfinished import Unfinished
from ..runtime.versions import library_versions
from .classification import Classification
from .predictor import Predictor
from .reader import TileReader
from .record import describe_grid, input_files, segment_fingerprint, summarise_tally
from .sink import read_tallies

# Tiles computed together where the job does not say; on a GPU several forwards then run without waiting.
_BATCH = {"cpu": 1, "cuda": 8}
# What of the record is the job's, its inputs' and its surroundings': not part of what the result sums up.
_CIRCUMSTANCES = ("request", "inputs", "checkpoint", "versions", "precision", "grid")


def segment(job: SegmentJob, reporter: Reporter) -> dict[str, Any]:
    """Classify a scene as `job` asks.

    Returns:
        The result: the outputs' paths by kind, `record` (its path) and `summary`: what of the record says what came
        out and at what cost.

    Raises:
        LacunaError: for anything that makes the job impossible; nothing is left behind but what can be taken up.
        CancelledError: when asked to stop; nothing is left behind.
    """
    started = time.time()
    hold_heap()
    read_card(job.checkpoint).check_request(job.modalities, job.reference)
    check_outputs([*job.outputs().values(), job.record_path()], input_files(job), job.overwrite)
    unfinished = Unfinished([path + ".part" for path in job.outputs().values()])
    with gdal_limits(), unfinished.locked():
        try:
            return _segment(job, unfinished, reporter, started)
        except CancelledError:
            unfinished.remove()
            raise


def _segment(job: SegmentJob, unfinished: Unfinished, reporter: Reporter, started: float) -> dict[str, Any]:
    """Classify a scene whose outputs are locked for this job."""
    device = choose_device(job.device, reporter)
    precision = choose_precision(job.precision, device)
    card, model = load(job.checkpoint)
    checksum = sha256(job.checkpoint)
    with open_scene(job, card, reporter) as scene:
        plan = plan_scene(job, card, scene, reporter)
        reader = TileReader(scene, card, plan, read_area(job, scene, reporter), reporter)
        predictor = Predictor(model, card, device, precision)
        writers = make_writers(job, card, scene, plan)
        unfinished.prepare(segment_fingerprint(job, checksum), job.resume, reporter)
        work = Classification(reader, predictor, writers, [item.value for item in card.classes], scene.grid, plan)
        work.run(reporter, job.batch_size or _BATCH[device.type])
        for writer in writers:
            reporter.check()
            writer.assemble()
        summary = summarise_tally(read_tallies(writers[0].part, len(plan.rows.strips) - 1), card, scene.grid)
        _say_shares(summary, reporter)
        record = {
            "request": asdict(job),
            "inputs": scene.describe(),
            "checkpoint": {"path": job.checkpoint, "name": card.name, "sha256": checksum},
            "versions": library_versions(),
            "device": describe_device(device),
            "precision": precision,
            "grid": describe_grid(scene.grid),
            "tiles": {"count": len(plan), "shape": list(plan.shape), "ramp": [plan.rows.ramp, plan.columns.ramp]},
            "seconds": round(time.time() - started, 2),
            "peak_memory_bytes": peak_memory(device),
            **summary,
            "warnings": reporter.warnings,
        }
        # The record is on disk before the first rename, so that a full disk cannot leave maps without one.
        staged = stage_json(job.record_path(), record)
        for writer in reversed(writers):
            writer.publish()
        replace(staged, job.record_path())
    said = {name: value for name, value in record.items() if name not in _CIRCUMSTANCES}
    return {**job.outputs(), "record": job.record_path(), "summary": said}


def open_scene(job: SegmentJob, card: Card, reporter: Reporter) -> Scene:
    """Open the job's rasters on one grid, and say which modalities are missing altogether."""
    scene = Scene(
        card.modalities,
        job.modalities,
        reference=card.reference,
        options=GridOptions(job.extent, job.extent_crs, job.crs, job.resolution, job.reference),
        trained_resolution=card.resolution,
        reporter=reporter,
    )
    absent = [name for name in card.names if name not in job.modalities]
    if absent:
        reporter.info(f"Without {', '.join(absent)}: the checkpoint classifies with {', '.join(scene.names)}.")
    return scene


def plan_scene(job: SegmentJob, card: Card, scene: Scene, reporter: Reporter) -> Plan:
    """Return the tiles for the job: its own tile and overlap, else those of the card.

    Raises:
        UsageError: `bad-value`, when the overlap is more than half a tile.
    """
    tile, overlap = choose_tile(job.tile, job.overlap, card, reporter)
    return plan_tiles(scene.grid.height, scene.grid.width, tile, overlap, card.stride)


def read_area(job: SegmentJob, scene: Scene, reporter: Reporter) -> Callable[..., np.ndarray] | None:
    """Return the mask of the job's polygons, or None where it has none.

    Raises:
        LacunaError: `no-overlap`, when no polygon touches the scene.
    """
    if not job.area:
        return None
    grid = scene.grid
    painter = Painter(read_polygons(job.area, grid.crs, reporter=reporter), grid)
    if not painter.touches(0, 0, grid.height, grid.width):
        raise LacunaError(
            "no-overlap",
            f"No polygon of {job.area} lies in the area of the map, {extent_text(grid)}.",
            "Choose polygons over the rasters, or another extent.",
        )
    return painter.mask


def make_writers(job: SegmentJob, card: Card, scene: Scene, plan: Plan) -> list[RasterWriter]:
    """Return a writer for each raster that the job asks for."""
    layouts: dict[str, Layout] = {
        "classes": class_layout(card.classes),
        "confidence": confidence_layout(),
        "probabilities": probability_layout(card.classes, job.probabilities_dtype),
        "evidence": evidence_layout(card.names, scene.names),
    }
    return [RasterWriter(path, layouts[kind], scene.grid, plan.rows.strips) for kind, path in job.outputs().items()]


def _say_shares(summary: dict[str, Any], reporter: Reporter) -> None:
    """Say how much was classified without some modality, and when nothing was."""
    if not summary["pixels"]["classified"]:
        reporter.warn("No pixel could be classified: nowhere in the area does any modality have data.")
        return
    for name, share in summary["share_without"].items():
        if 0 < share < 1:
            reporter.warn(f"{100 * share:.1f} % of the classified area was classified without {name}.")
