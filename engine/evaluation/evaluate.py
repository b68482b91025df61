# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a checkpoint against reference labels: from the job to the figures of every case."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..checkpoint.card import Card, Scenario, scenarios
from ..checkpoint.store import load, sha256
from ..data.confusion import ConfusionMatrix
from ..data.labelled_scenes import LabelledScene, count_classes
from ..data.labelled_tiles import LabelledTile, LabelledTiles
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import EvaluateJob
from ..models.base import SegmentationModel
from ..raster.scene import gdal_limits
from ..raster.tiles import choose_tile
from ..runtime.device import choose_device, describe_device
from ..runtime.versions import library_versions
from .areas import estimate_areas
from .outputs import check_evaluation_outputs, write_results
from .reference import Reference, open_reference
from .reliability import Reliability, winning_probability
from .robustness import MEASURES, Damage, aggregate, benchmark_scores, damages
from .soft import SoftJaccard


@dataclass
class Case:
    """One case of a protocol, and what was found in it.

    Attributes:
        scenario: the modalities that the model is given.
        damage: what is done to them before, or None.
        matrix: labels against classes.
        reliability: confidence against labels.
        soft: overlap of the probabilities with the labels, or None where that is not asked for.
    """

    scenario: Scenario
    damage: Damage | None
    matrix: ConfusionMatrix
    reliability: Reliability = field(default_factory=Reliability)
    soft: SoftJaccard | None = None

    def summary(self) -> dict[str, Any]:
        """Return what was found as JSON values."""
        head: dict[str, Any] = {"available": list(self.scenario)}
        measures = self.matrix.summary()
        if self.damage is not None:
            head = {
                "available": list(self.damage.intact),
                "damaged": list(self.damage.damaged),
                "level": self.damage.level,
            }
            measures.update(benchmark_scores(self.matrix))
        return {
            **head,
            **measures,
            **({} if self.soft is None else {"soft_jaccard": self.soft.to_dict()}),
            "ece": round(self.reliability.ece(), 6),
            "confusion": self.matrix.counts.tolist(),
            "reliability": self.reliability.to_dict(),
        }


def evaluate(job: EvaluateJob, reporter: Reporter) -> dict[str, Any]:
    """Measure a checkpoint as `job` asks; write the report and the card if they are asked for.

    Returns:
        The result, described in `docs/commands.md`: `protocol`, `classes`, `cases`, `average`, `best`, `last`, `ece`
        and what they were measured on.

    Raises:
        LacunaError: for anything that makes it impossible; neither report nor card has changed then.
        CancelledError: when asked to stop; likewise.
    """
    started = time.monotonic()
    check_evaluation_outputs(job)
    with gdal_limits():
        device = choose_device(job.device, reporter)
        card, model = load(job.checkpoint, device)
        reference = open_reference(job, card, reporter)
        try:
            result = _Evaluation(job, card, model, reference, device, reporter).run()
        finally:
            reference.close()
    reporter.check()
    result["seconds"] = round(time.monotonic() - started, 2)
    return write_results(job, card, reference.words, result, reporter)


class _Evaluation:
    """One evaluation, its scenes open.

    Args:
        job: the request.
        card: of the checkpoint.
        model: its network, on the device.
        reference: what to measure against.
        device: where to compute.
        reporter: told what happens.
    """

    def __init__(
        self,
        job: EvaluateJob,
        card: Card,
        model: SegmentationModel,
        reference: Reference,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.job, self.card, self.model, self.reference = job, card, model, reference
        self.device, self.reporter = device, reporter
        self.tile, self.overlap = choose_tile(job.tile, job.overlap, card, reporter)

    def run(self) -> dict[str, Any]:
        """Measure all cases; return the result."""
        cases, scenes = self._plan()
        for case in cases:
            case.soft = SoftJaccard() if self.job.soft_jaccard else None
        self._measure(cases, scenes)
        measured = [case for case in cases if case.matrix.pixels]
        self._say_what_is_missing(cases, measured)
        found = [case.summary() for case in measured]
        for case, values in zip(measured, found):
            self.reporter.info(_line(case, values))
        result = self._head(scenes)
        result.update(cases=found, **_totals(found), ece=_pooled(measured))
        if self.job.protocol != "subsets":
            result.update(self._aggregates(found))
        if self.job.area_estimates:
            result["areas"] = self._areas(max(measured, key=lambda case: len(case.scenario)), scenes)
        return result

    def _plan(self) -> tuple[list[Case], list[LabelledScene]]:
        """Return the cases to measure, and the scenes to measure them on."""
        scenes, size = self.reference.scenes, len(self.card.classes)
        if self.job.protocol == "subsets":
            return [Case(scenario, None, ConfusionMatrix(size)) for scenario in self.card.supported()], scenes
        names = tuple(name for name in self.card.names if any(name in scene.rasters.names for scene in scenes))
        whole = [scene for scene in scenes if set(names) <= set(scene.rasters.names)]
        self._check_whole(names, whole)
        planned = damages(self.job.protocol, names, self.job.seed, self.job.no_gaussian)
        return [Case(names, damage, ConfusionMatrix(size)) for damage in planned], whole

    def _check_whole(self, names: Scenario, whole: Sequence[LabelledScene]) -> None:
        """Check that there are scenes with all modalities `names`, which the protocols of damage need."""
        protocol = self.job.protocol.upper()
        strange = [name for name in self.job.no_gaussian if name not in names]
        if strange:
            text = f"no_gaussian names {', '.join(strange)}; the scenes have {', '.join(names)}."
            raise LacunaError("unknown-modality", text, "Name modalities among these.")
        if not whole:
            text = f"No scene has all of {', '.join(names)}, which the protocol {protocol} needs."
            raise LacunaError("no-scenes", text, "Give such a scene, or choose the protocol subsets.")
        if not self.card.supports(names):
            text = f"The checkpoint does not support {' + '.join(names)}, all that the scenes have."
            raise LacunaError("unsupported-scenario", text, "Give scenes with more modalities.")
        absent = [name for name in self.card.names if name not in names]
        if absent:
            self.reporter.warn(f"{protocol} is measured without {', '.join(absent)}, which no scene has.")
        left_out = [scene.name for scene in self.reference.scenes if scene not in whole]
        if left_out:
            self.reporter.warn(f"{protocol} needs scenes with {', '.join(names)}; left out: {', '.join(left_out)}.")

    def _tiles(self, scenes: Sequence[LabelledScene], everywhere: bool = False) -> LabelledTiles:
        return LabelledTiles(scenes, self.reference.region, self.tile, self.overlap, self.card.stride, everywhere)

    def _measure(self, cases: Sequence[Case], scenes: Sequence[LabelledScene]) -> None:
        """Run all cases over all tiles with labels."""
        tiles = self._tiles(scenes)
        self.reporter.progress(0, len(tiles), "tiles")
        for done, tile in enumerate(tiles, start=1):
            for case in cases:
                self.reporter.check()
                self._add(case, tile)
            self.reporter.progress(done, len(tiles), "tiles")
        if not any(case.matrix.pixels for case in cases):
            raise LacunaError(
                "no-labels",
                "No labelled pixel lies where the modalities of any case all have data.",
                "Check that the labels lie over the rasters, and the rasters' nodata values and masks.",
            )

    def _add(self, case: Case, tile: LabelledTile) -> None:
        """Count the pixels of a tile in a case."""
        counted = tile.counted(case.scenario)
        if not counted.any():
            return
        images = tile.images(case.scenario)
        if case.damage is not None:
            images = case.damage(images, tile.scene.name, tile.number)
        logits, labels = self._logits(tile, images)[:, counted], tile.labels[counted]
        found = logits.argmax(axis=0)
        case.matrix.update(labels, found)
        confidence = winning_probability(logits, self.card.temperature(case.scenario))
        case.reliability.update(confidence, found == labels)
        if case.soft is not None:
            case.soft.update(logits, labels)

    def _logits(self, tile: LabelledTile, images: dict[str, torch.Tensor]) -> np.ndarray:
        logits = tile.logits(self.model, images, self.device)
        if not np.isfinite(logits).all():
            text = f"In scene {tile.scene.name} the model gave values that are no numbers, with {', '.join(images)}."
            raise LacunaError("not-finite", text, "The checkpoint is damaged, or its inputs are far from its training.")
        return logits

    def _say_what_is_missing(self, cases: Sequence[Case], measured: Sequence[Case]) -> None:
        """Say which scenarios were not measured and why, and whether the others share their pixels."""
        if self.job.protocol != "subsets":
            return
        unsupported = [item for item in scenarios(self.card.names) if not self.card.supports(item)]
        for items, why in (
            (unsupported, "the checkpoint does not support them"),
            ([case.scenario for case in cases if not case.matrix.pixels], "no labelled pixel has all their data"),
        ):
            if items:
                listed = "; ".join(" + ".join(item) for item in items)
                self.reporter.warn(f"{len(items)} scenarios are left out, as {why}: {listed}.")
        pixels = [case.matrix.pixels for case in measured]
        if min(pixels) != max(pixels):
            self.reporter.warn(
                f"The scenarios are measured on different pixels, {min(pixels)} to {max(pixels)}, as some modalities "
                "do not cover all labels: differences between them are partly differences between places."
            )

    def _head(self, scenes: Sequence[LabelledScene]) -> dict[str, Any]:
        """Return what was measured on what, and how."""
        size = len(self.card.classes)
        counts = count_classes(scenes, self.reference.region, size)
        described = [
            {
                "name": scene.name,
                "modalities": list(scene.rasters.names),
                "labelled": int(scene.counts(self.reference.region, size).sum()),
            }
            for scene in scenes
        ]
        return {
            "protocol": self.job.protocol,
            "classes": [
                {"value": item.value, "name": item.name, "color": item.color, "labelled": int(count)}
                for item, count in zip(self.card.classes, counts)
            ],
            "modalities": self.card.names,
            "checkpoint": {
                "path": self.job.checkpoint,
                "name": self.card.name,
                "sha256": sha256(self.job.checkpoint),
            },
            "measured_on": self.reference.words,
            "split": self.reference.split,
            "scenes": [item for item in described if item["labelled"]],
            "tile": list(self.tile),
            "overlap": self.overlap,
            "precision": "fp32",
            "device": describe_device(self.device),
            "versions": library_versions(),
        }

    def _aggregates(self, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the level, seed and aggregates of a protocol of damage."""
        seed = self.job.seed
        if self.job.protocol == "nm":
            levels = [{key: case[key] for key in ("level", *MEASURES)} for case in found]
            return {"seed": seed, "no_gaussian": self.job.no_gaussian, "aggregates": levels}
        count = len(found[0]["available"]) + len(found[0]["damaged"])
        by_level: dict[Any, list[dict[str, Any]]] = {}
        for case in found:
            by_level.setdefault(case["level"], []).append(case)
        return {
            "seed": seed,
            "aggregates": [{"level": level, **aggregate(cases, count)} for level, cases in by_level.items()],
        }

    def _areas(self, case: Case, scenes: Sequence[LabelledScene]) -> dict[str, Any] | None:
        """Return the area estimates of the map made in the scenario of `case`, over its scenes."""
        mapped, pixels = np.zeros(len(self.card.classes)), 0
        tiles = self._tiles(scenes, everywhere=True)
        for done, tile in enumerate(tiles, start=1):
            self.reporter.check()
            valid = tile.valid(case.scenario)
            if valid.any():
                logits = self._logits(tile, tile.images(case.scenario))
                sizes = tile.scene.rasters.grid.pixel_areas_m2(np.arange(tile.rows.start, tile.rows.stop))
                weights = np.broadcast_to(sizes[:, None], valid.shape)[valid]
                mapped += np.bincount(logits.argmax(axis=0)[valid], weights, minlength=len(mapped))
                pixels += int(valid.sum())
            self.reporter.progress(done, len(tiles), "tiles of the mapped area")
        return self._describe_areas(case, mapped, pixels)

    def _describe_areas(self, case: Case, mapped: np.ndarray, pixels: int) -> dict[str, Any] | None:
        """Return the estimates as JSON values, and say what they rest on."""
        found = estimate_areas(case.matrix.counts, mapped)
        if found is None:
            self.reporter.warn("Areas cannot be estimated: no class of the map has two labelled pixels.")
            return None
        left_out = [item.name for item, area, used in zip(self.card.classes, mapped, found.used) if area and not used]
        if left_out:
            self.reporter.warn(
                f"Area estimates leave out {100 * found.left_out / mapped.sum():.2g} % of the map, classified as "
                f"{', '.join(left_out)}: fewer than two labelled pixels lie there."
            )
        self.reporter.warn(
            f"The area estimates treat the {case.matrix.pixels} labelled pixels as an independent random sample of the "
            f"{pixels} pixels mapped. Labels that were placed by choice bias them, and neighbouring pixels of one "
            "polygon make the intervals too narrow."
        )
        head = {"available": list(case.scenario), "mapped_pixels": pixels, "labelled_pixels": case.matrix.pixels}
        return {**head, **found.to_dict(self.card.classes)}


def _totals(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, largest and smallest of mIoU and F1 over cases."""
    totals = {}
    for name, ending in (("miou", ""), ("f1", "_f1")):
        values = [case[name] for case in cases]
        totals[f"average{ending}"] = round(float(np.mean(values)), 6)
        totals[f"best{ending}"], totals[f"last{ending}"] = max(values), min(values)
    return totals


def _pooled(cases: Sequence[Case]) -> float:
    """Return the expected calibration error of the pixels of all cases together."""
    everything = Reliability()
    for case in cases:
        everything.merge(case.reliability)
    return round(everything.ece(), 6)


def _line(case: Case, values: dict[str, Any]) -> str:
    """Return one case in words."""
    name = " + ".join(case.scenario)
    if case.damage is not None:
        level = "" if case.damage.level is None else f" {case.damage.level}"
        name = f"{case.damage.protocol.upper()}{level}, damaged: {' + '.join(case.damage.damaged) or 'none'}"
    soft = (
        "" if case.soft is None else ", soft Jaccard {mean:.3f} (deviation {std:.3f})".format(**values["soft_jaccard"])
    )
    kappa = "" if values["kappa"] is None else f", kappa {values['kappa']:.3f}"
    return (
        f"{name}: mIoU {values['miou']:.3f}, F1 {values['f1']:.3f}, OA {values['oa']:.3f}{kappa}, ECE "
        f"{values['ece']:.3f}{soft}, {values['pixels']} pixels"
    )
