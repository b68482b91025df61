# SPDX-License-Identifier: GPL-2.0-or-later
"""Segment a scene: read, compute, blend and write, tile by tile, the three at once and in bounded memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ..checkpoint.card import Card, Scenario, read_card
from ..checkpoint.store import load, sha256
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..jobs import SegmentJob
from ..raster.grid import GridOptions, extent_text
from ..raster.layout import Layout, class_layout, confidence_layout, evidence_layout, probability_layout
from ..raster.polygons import Painter, read_polygons
from ..raster.scene import Scene, gdal_limits
from ..raster.tiles import Plan, plan_tiles
from ..raster.writer import RasterWriter, replace, stage_json
from .blend import Blender
from .checks import check_outputs, choose_tile, input_files
from .device import choose_device, choose_precision, describe_device, peak_memory
from .heap import hold_heap
from .parts import Parts, fingerprint
from .predictor import Predictor
from .reader import Tile, TileReader
from .record import describe_grid, describe_job, summarise, versions
from .sink import Sink, read_tallies

_READERS = 2
# Tiles computed together where the job does not say; on a GPU several forwards then run without waiting.
_BATCH = {"cpu": 1, "cuda": 8}

Predict = Callable[[Scenario, Sequence[dict[str, np.ndarray]]], list[np.ndarray]]


def segment(job: SegmentJob, reporter: Reporter) -> dict[str, Any]:
    """Classify a scene as `job` asks.

    Returns:
        The result: the outputs' paths by kind, `record` (its path) and `summary` (what the record sums up).

    Raises:
        LacunaError: for anything that makes the job impossible; nothing is left behind but parts that can be taken up.
        CancelledError: when asked to stop; nothing is left behind.
    """
    started = time.time()
    hold_heap()
    card = read_card(job.checkpoint)
    card.check_request(job.modalities, job.reference)
    check_outputs(job)
    parts = Parts([path + ".part" for path in job.outputs().values()])
    with gdal_limits(), parts.locked():
        try:
            return _segment(job, card, parts, reporter, started)
        except CancelledError:
            parts.remove()
            raise


def _segment(job: SegmentJob, card: Card, parts: Parts, reporter: Reporter, started: float) -> dict[str, Any]:
    """Classify a scene whose outputs are locked for this job."""
    device = choose_device(job.device, reporter)
    precision = choose_precision(job.precision, device)
    card, model = load(job.checkpoint)
    checksum = sha256(job.checkpoint)
    with open_scene(job, card, reporter) as scene:
        plan = plan_scene(job, card, scene, reporter)
        area = read_area(job, scene, reporter)
        reader = TileReader(scene, card, plan, area, reporter)
        predictor = Predictor(model, card, device, precision)
        writers = make_writers(job, card, scene, plan)
        parts.prepare(fingerprint(job, checksum, input_files(job)), job.resume, reporter)
        classify(
            reader, predictor, writers, [item.value for item in card.classes], scene, plan, reporter,
            batch=job.batch_size or _BATCH[device.type],
        )  # fmt: skip
        for writer in writers:
            reporter.check()
            writer.assemble()
        summary = summarise(read_tallies(writers[0].part, len(plan.rows.strips) - 1), card, scene.grid)
        _say_shares(summary, reporter)
        record = {
            "request": describe_job(job),
            "inputs": scene.describe(),
            "checkpoint": {"path": job.checkpoint, "name": card.name, "sha256": checksum},
            "versions": versions(),
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
    return {**job.outputs(), "record": job.record_path(), "summary": record}


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
    return [
        RasterWriter(path, layouts[kind], scene.grid, plan.rows.strips) for kind, path in job.outputs().items()
    ]


def classify(
    reader: Callable[[int], Tile],
    predict: Predict,
    writers: Sequence[RasterWriter],
    values: Sequence[int],
    scene: Scene,
    plan: Plan,
    reporter: Reporter,
    batch: int = 1,
    readers: int = _READERS,
    order: Iterable[int] | None = None,
) -> None:
    """Read, compute, blend and write all tiles; strips that are on disk already are not computed again.

    Args:
        reader: gives the tile of a number; called from `readers` threads.
        predict: gives the probabilities of tiles in a scenario.
        writers: for each output.
        values: the classes' values in the raster.
        scene: the scene, for its grid.
        plan: the tiles.
        reporter: is told how far it is, and asked whether to go on.
        batch: how many tiles are computed together.
        readers: how many threads read.
        order: the order of the tiles; the result does not depend on it. Default: row by row.
    """
    first = _first_strip(writers, plan)
    # The ramp above the first missing strip needs the row of tiles above it again.
    across = len(plan.columns.origins)
    start = max(first - 1, 0) * across
    numbers = [number for number in (range(len(plan)) if order is None else order) if number >= start]
    if first:
        reporter.info(f"Taking up an unfinished job: {first} of {len(plan.rows.origins)} rows of tiles are there.")
    done = len(plan) - len(numbers)
    modalities = reader.modalities
    with Sink(writers, values, scene.grid, plan, first) as sink:
        blender = Blender(plan, sink.put)
        reporter.progress(done, len(plan), "tiles")
        for tiles in _batches(_prefetch(reader, numbers, readers, 2 * batch + readers), batch):
            reporter.check()
            for tile, probabilities in zip(tiles, _compute(tiles, predict, modalities, len(values)), strict=True):
                blender.add(tile.number, probabilities, tile.evidence if tile.scenarios else None)
            done += len(tiles)
            reporter.progress(done, len(plan), "tiles")


def _first_strip(writers: Sequence[RasterWriter], plan: Plan) -> int:
    """Return the first strip that is not on disk for every output."""
    strips = range(len(plan.rows.strips) - 1)
    return next((i for i in strips if not all(writer.finished(i) for writer in writers)), len(strips))


def _prefetch(reader: Callable[[int], Tile], numbers: Sequence[int], readers: int, ahead: int) -> Iterator[Tile]:
    """Yield the tiles of `numbers` in order, reading up to `ahead` of them beforehand."""
    waiting: deque[Future[Tile]] = deque()
    with ThreadPoolExecutor(readers, "lacuna-reader") as pool:
        try:
            for number in numbers:
                waiting.append(pool.submit(reader, number))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _batches(tiles: Iterator[Tile], size: int) -> Iterator[list[Tile]]:
    """Yield lists of up to `size` tiles."""
    batch: list[Tile] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _compute(
    tiles: Sequence[Tile], predict: Predict, modalities: Callable[[int], Scenario], classes: int
) -> list[np.ndarray | None]:
    """Return for each tile the probabilities (classes, h, w), every pixel's from the scenario that holds there."""
    found: list[np.ndarray | None] = [
        np.zeros((classes, *tile.evidence.shape), np.float32) if tile.scenarios else None for tile in tiles
    ]
    for scenario in sorted({value for tile in tiles for value in tile.scenarios}):
        chosen = [index for index, tile in enumerate(tiles) if scenario in tile.scenarios]
        results = predict(modalities(scenario), [tiles[index].images for index in chosen])
        for index, probabilities in zip(chosen, results, strict=True):
            np.copyto(found[index], probabilities, where=tiles[index].evidence == scenario)
    return found


def _say_shares(summary: dict[str, Any], reporter: Reporter) -> None:
    """Say how much was classified without some modality, and when nothing was."""
    if not summary["pixels"]["classified"]:
        reporter.warn("No pixel could be classified: nowhere in the area does any modality have data.")
        return
    for name, share in summary["share_without"].items():
        if 0 < share < 1:
            reporter.warn(f"{100 * share:.1f} % of the classified area was classified without {name}.")
