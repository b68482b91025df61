# SPDX-License-Identifier: GPL-2.0-or-later
"""What a checkpoint is measured against: the scenes of a job, opened, their labels as the checkpoint's classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.card import Card, Modality
from ..errors import LacunaError, UsageError
from ..events import Reporter
from ..jobs import EvaluateJob, SourceSpec
from ..raster.polygons import mapped_classes
from ..raster.scene import Scene
from ..training.labels import Legend, labelled_window, read_labels
from ..training.manifest import Manifest, SceneEntry, read_manifest
from ..training.parts import CACHED, Part, assign, close_parts, count_classes, keep_small, window_of
from ..training.splits import REGIONS, TEST

_NAMED = 6


@dataclass
class Reference:
    """Scenes with labels, open.

    Attributes:
        parts: the scenes, their labels as indices of the card's classes.
        region: which of their pixels count (`training.splits`).
        split: test, validation, train or all; None where labels were given directly.
        words: what the labels are, for the card and the report.
        counts: int64 (K), labelled pixels of each class.
    """

    parts: list[Part]
    region: int
    split: str | None
    words: str
    counts: np.ndarray

    def close(self) -> None:
        """Close the files of all scenes."""
        close_parts(self.parts)


def open_reference(job: EvaluateJob, card: Card, reporter: Reporter) -> Reference:
    """Open the scenes that `job` names, and say which classes have no label.

    Raises:
        LacunaError: `no-labels`, not one labelled pixel counts; `unknown-class`, labels of none of the checkpoint's
            classes; else as for `read_manifest`, `Scene` and `read_labels`.
        UsageError: `bad-class-map`.
    """
    opened: list[Part] = []
    try:
        if job.manifest is None:
            found = _from_labels(job, card, opened, reporter)
        else:
            found = _from_manifest(job, card, opened, reporter)
    except BaseException:
        close_parts(opened)
        raise
    absent = [item.name for item, count in zip(card.classes, found.counts) if count == 0]
    if absent:
        reporter.warn(f"No labels of: {', '.join(absent)}. Nothing is said of how well they are found.")
    return found


def _from_labels(job: EvaluateJob, card: Card, opened: list[Part], reporter: Reporter) -> Reference:
    """Return the reference of one scene whose rasters and labels the job binds."""
    paths = {name: spec.path for name, spec in job.modalities.items()}
    entry = SceneEntry(os.path.basename(job.labels), paths, job.labels, field=job.field)
    scene = _open_scene(card, card.modalities, job.modalities, card.reference, reporter)
    part = Part(entry, scene, (0, 0, 0, 0), np.zeros((0, 0), np.int16), np.zeros((0, 0), np.uint8))
    opened.append(part)
    part.window = labelled_window(entry, scene.grid, reporter)
    if job.area_estimates:
        # They are for all that the rasters show, not for the box around the labels.
        part.window = (0, 0, scene.grid.height, scene.grid.width)
    legend = Legend(card.classes, job.ignore, job.class_map or {})
    part.labels = read_labels(entry, scene.grid, part.window, legend, reporter)
    part.region = np.full(part.labels.shape, TEST, np.uint8)
    part.prepare(card.modalities)
    counts = count_classes([part], TEST, len(card.classes))
    if not counts.any():
        raise LacunaError(
            "no-labels",
            f"{job.labels} has no labelled pixel on the rasters.",
            "Check its place, its nodata value and what is ignored; polygons must hold the centre of a pixel.",
        )
    rasters = ", ".join(os.path.basename(paths[name]) for name in scene.names)
    return Reference([part], TEST, None, f"{counts.sum()} labelled pixels of {entry.name}, on {rasters}", counts)


def _from_manifest(job: EvaluateJob, card: Card, opened: list[Part], reporter: Reporter) -> Reference:
    """Return the reference of the scenes of a split of a manifest."""
    manifest = read_manifest(job.manifest)
    split = job.split or ("test" if any(entry.split for entry in manifest.scenes) else "all")
    table = _match_classes(job, manifest, card)
    known = {*(str(item.value) for item in manifest.classes), *(item.name.casefold() for item in manifest.classes)}
    ignore = [*manifest.ignore, *(value for value in job.ignore if str(value).casefold() not in known)]
    modalities = _modalities(card, manifest, reporter)
    left = CACHED
    for entry in _choose(manifest, split):
        reporter.check()
        part = _open(entry, manifest, card, modalities, ignore, reporter)
        if part is not None:
            opened.append(part)
            left -= keep_small(part, left)
    region = _divide(opened, manifest, split, reporter)
    for part in opened:
        part.labels = table[part.labels].astype(part.labels.dtype)
        part.prepare(modalities)
    counts = count_classes(opened, region, len(card.classes)) if opened else np.zeros(len(card.classes), np.int64)
    if not counts.any():
        scenes = "scene" if split == "all" else f"{split} scene"
        raise LacunaError(
            "no-labels",
            f"{manifest.path} has no labelled pixel in any {scenes} ({_sides(manifest)}).",
            "Choose another split (--split), or check the labels.",
        )
    words = _words(manifest, split, [part for part in opened if part.counts(region, len(counts)).any()], counts)
    if split != "test" and card.training.get("manifest_sha256") == manifest.sha256:
        reporter.warn(
            f"The checkpoint was trained with {manifest.path}: figures on its split {split} flatter. Only scenes that "
            "training has not seen say how well it does elsewhere."
        )
        words += ", with which the checkpoint was trained"
    return Reference(opened, region, split, words, counts)


def _divide(opened: Sequence[Part], manifest: Manifest, split: str, reporter: Reporter) -> int:
    """Set what the pixels of scenes are for, as in training; return the region that stands for `split`."""
    if split != "all":
        assign(opened, manifest, reporter)
        return REGIONS[split]
    for part in opened:
        part.region[:] = TEST
    return TEST


def _words(manifest: Manifest, split: str, counted: Sequence[Part], counts: np.ndarray) -> str:
    """Return what the labels are."""
    names = [part.name for part in counted]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    which = "all scenes" if split == "all" else f"the {split} scenes"
    return f"{counts.sum()} labelled pixels of {which} of {manifest.name} ({', '.join(names[:_NAMED])}{more})"


def _choose(manifest: Manifest, split: str) -> list[SceneEntry]:
    """Return the scenes that may have pixels of a split: those that name it, and for train and validation also free
    ones, all of which decide together how they are divided.
    """
    sides = {entry.group: entry.split for entry in manifest.scenes if entry.split is not None}
    free = split in ("train", "validation")
    return [
        entry
        for entry in manifest.scenes
        if split == "all" or sides.get(entry.group) == split or (free and entry.group not in sides)
    ]


def _sides(manifest: Manifest) -> str:
    """Return in words how many scenes name which split."""
    counts = Counter(entry.split or "no split" for entry in manifest.scenes)
    return ", ".join(f"{side}: {count}" for side, count in counts.items())


def _modalities(card: Card, manifest: Manifest, reporter: Reporter) -> list[Modality]:
    """Return the card's modalities, with the nodata values of the manifest where that has some."""
    unknown = [name for name in manifest.names if name not in card.names]
    if unknown:
        reporter.warn(f"The checkpoint knows no modality {', '.join(unknown)}: left out. It knows {_list(card.names)}.")
    nodata = {item.name: item.nodata for item in manifest.modalities if item.nodata is not None}
    return [replace(item, nodata=nodata.get(item.name, item.nodata)) for item in card.modalities]


def _open(
    entry: SceneEntry,
    manifest: Manifest,
    card: Card,
    modalities: Sequence[Modality],
    ignore: Sequence[int | str],
    reporter: Reporter,
) -> Part | None:
    """Return a scene of a manifest, its labels as indices of the manifest's classes; None for one of no use."""
    sources = {name: spec for name, spec in entry.specs().items() if name in card.names}
    if card.effective(tuple(sources)) is None:
        reporter.warn(
            f"Scene {entry.name} is left out: the checkpoint cannot do with {_list(entry.sources)} alone; it needs "
            f"{'; or '.join(' + '.join(item) for item in card.supported()[:_NAMED])}."
        )
        return None
    reference = manifest.reference if manifest.reference in card.names else card.reference
    scene = _open_scene(card, modalities, sources, reference, reporter)
    try:
        window = window_of(entry, scene.grid)
        labels = read_labels(entry, scene.grid, window, Legend(manifest.classes, ignore), reporter)
    except BaseException:
        scene.close()
        raise
    if not (labels >= 0).any():
        reporter.warn(f"Scene {entry.name} has no labelled pixel and is left out ({entry.labels}).")
        scene.close()
        return None
    return Part(entry, scene, window, labels, np.zeros(labels.shape, np.uint8))


def _open_scene(
    card: Card, modalities: Sequence[Modality], sources: Mapping[str, SourceSpec], reference: str, reporter: Reporter
) -> Scene:
    return Scene(modalities, sources, reference=reference, trained_resolution=card.resolution, reporter=reporter)


def _match_classes(job: EvaluateJob, manifest: Manifest, card: Card) -> np.ndarray:
    """Return for each class of the manifest, and last for no class, the index of the card's class, or -1.

    A class is matched by its name, case ignored; the job's class map, by name or value, goes before that.
    """
    names = {item.name.strip().casefold(): index for index, item in enumerate(card.classes)}
    mapped = mapped_classes(job.class_map or {}, card.classes)
    ignored = {str(value).strip().casefold() for value in job.ignore}
    table, strange = [], []
    for item in manifest.classes:
        keys = (item.name.strip().casefold(), str(item.value))
        index = next((mapped[key] for key in keys if key in mapped), None)
        if index is None:
            index = -1 if ignored & set(keys) else names.get(keys[0])
        if index is None:
            strange.append(f"{item.name} ({item.value})")
        table.append(-1 if index is None else index)
    if strange:
        raise LacunaError(
            "unknown-class",
            f"{manifest.path} has classes that the checkpoint does not have: {', '.join(strange)}; it has "
            f"{', '.join(f'{item.name} ({item.value})' for item in card.classes)}.",
            "Say which class each is (--class-map), or leave it out (--ignore).",
        )
    stray = set(mapped) - {key for item in manifest.classes for key in (item.name.strip().casefold(), str(item.value))}
    if stray:
        text = f"The class map names {', '.join(sorted(stray))}, which is no class of {manifest.path}."
        raise UsageError("bad-class-map", text, "Name its classes, by name or value.")
    return np.array([*table, -1])


def _list(names: Sequence[str] | Mapping[str, str]) -> str:
    return ", ".join(names)
