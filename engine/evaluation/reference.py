# SPDX-License-Identifier: GPL-2.0-or-later
"""What a checkpoint is measured against: the scenes of a job, opened, their labels as the checkpoint's classes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.card import Card, ClassInfo, Modality
from ..data.labelled_scenes import (
    CACHED,
    LabelledScene,
    assign_regions,
    close_scenes,
    count_classes,
    keep_small,
    window_of,
)
from ..data.labels import Legend, labelled_window, read_labels
from ..data.manifest import Manifest, SceneEntry, read_manifest
from ..data.splits import REGIONS, TEST
from ..errors import LacunaError, UsageError
from ..events import Reporter
from ..jobs import EvaluateJob, SourceSpec
from ..naming import key_of
from ..raster.polygons import mapped_classes
from ..raster.scene import Scene

_NAMED = 6


@dataclass
class Reference:
    """Scenes with labels, open.

    Attributes:
        scenes: the scenes, their labels as indices of the card's classes.
        region: which of their pixels count (`training.splits`).
        split: test, validation, train or all; None where labels were given directly.
        words: what the labels are, for the card and the report.
        counts: int64 (K), labelled pixels of each class.
    """

    scenes: list[LabelledScene]
    region: int
    split: str | None
    words: str
    counts: np.ndarray

    def close(self) -> None:
        """Close the files of all scenes."""
        close_scenes(self.scenes)


def open_reference(job: EvaluateJob, card: Card, reporter: Reporter) -> Reference:
    """Open the scenes that `job` names, and say which classes have no label.

    Raises:
        LacunaError: `no-labels`, not one labelled pixel counts; `unknown-class`, labels of none of the checkpoint's
            classes; else as for `read_manifest`, `Scene` and `read_labels`.
        UsageError: `bad-class-map`.
    """
    opened: list[LabelledScene] = []
    try:
        if job.manifest is None:
            found = _from_labels(job, card, opened, reporter)
        else:
            found = _from_manifest(job, job.manifest, card, opened, reporter)
    except BaseException:
        close_scenes(opened)
        raise
    absent = [item.name for item, count in zip(card.classes, found.counts) if count == 0]
    if absent:
        reporter.warn(f"No labels of: {', '.join(absent)}. How well these classes are found is not measured.")
    return found


def _from_labels(job: EvaluateJob, card: Card, opened: list[LabelledScene], reporter: Reporter) -> Reference:
    """Return the reference of one scene whose rasters and labels the job binds."""
    paths = {name: spec.path for name, spec in job.modalities.items()}
    labels = job.labels or ""  # never empty: a job without manifest and labels does not pass its check
    entry = SceneEntry(os.path.basename(labels), paths, labels, field=job.field)
    rasters = _open_scene(card, card.modalities, job.modalities, card.reference, reporter)
    scene = LabelledScene(entry, rasters, (0, 0, 0, 0), np.zeros((0, 0), np.int16), np.zeros((0, 0), np.uint8))
    opened.append(scene)
    scene.window = labelled_window(entry, rasters.grid, reporter)
    if job.area_estimates:
        # They are for all that the rasters show, not for the box around the labels.
        scene.window = (0, 0, rasters.grid.height, rasters.grid.width)
    legend = Legend(card.classes, job.ignore, job.class_map or {})
    scene.labels = read_labels(entry, rasters.grid, scene.window, legend, reporter)
    scene.region = np.full(scene.labels.shape, TEST, np.uint8)
    scene.prepare(card.modalities)
    counts = count_classes([scene], TEST, len(card.classes))
    if not counts.any():
        raise LacunaError(
            "no-labels",
            f"{job.labels} has no labelled pixel on the rasters.",
            "Check its place, its nodata value and what is ignored; polygons must hold the centre of a pixel.",
        )
    files = ", ".join(os.path.basename(paths[name]) for name in rasters.names)
    words = f"{counts.sum()} labelled pixels of {entry.name}, on {files}"
    if entry.name == card.training.get("labels"):
        # The card that the scores may go into must not show them for more than they are.
        words += "; perhaps the labels that it was fine-tuned on"
        reporter.warn(
            f"The checkpoint was fine-tuned on labels called {entry.name} too. If these are the same, most of their "
            "pixels were used for training and all scores are too high: fine-tuning measured on pixels that it kept "
            "apart."
        )
    return Reference([scene], TEST, None, words, counts)


def _from_manifest(
    job: EvaluateJob, path: str, card: Card, opened: list[LabelledScene], reporter: Reporter
) -> Reference:
    """Return the reference of the scenes of a split of the manifest at `path`."""
    manifest = read_manifest(path)
    split = job.split or ("test" if any(entry.split for entry in manifest.scenes) else "all")
    table = _match_classes(job, manifest, card)
    known = {key for item in manifest.classes for key in _keys(item)}
    ignore = [*manifest.ignore, *(value for value in job.ignore if key_of(value) not in known)]
    modalities = _modalities(card, manifest, reporter)
    left = CACHED
    for entry in _choose(manifest, split):
        reporter.check()
        scene = _open(entry, manifest, card, modalities, ignore, reporter)
        if scene is not None:
            opened.append(scene)
            left -= keep_small(scene, left)
    region = _divide(opened, manifest, split, reporter)
    for scene in opened:
        scene.labels = table[scene.labels].astype(scene.labels.dtype)
        scene.prepare(modalities)
    counts = count_classes(opened, region, len(card.classes)) if opened else np.zeros(len(card.classes), np.int64)
    if not counts.any():
        scenes = "scene" if split == "all" else f"{split} scene"
        raise LacunaError(
            "no-labels",
            f"{manifest.path} has no labelled pixel in any {scenes} ({_sides(manifest)}).",
            "Choose another split (--split), or check the labels.",
        )
    words = _words(manifest, split, [scene for scene in opened if scene.counts(region, len(counts)).any()], counts)
    if split != "test" and card.training.get("manifest_sha256") == manifest.sha256:
        reporter.warn(
            f"The checkpoint was trained with {manifest.path}: figures on its split {split} flatter it. Only scenes "
            "that were not used for training show how well it does elsewhere."
        )
        words += ", with which the checkpoint was trained"
    return Reference(opened, region, split, words, counts)


def _divide(opened: Sequence[LabelledScene], manifest: Manifest, split: str, reporter: Reporter) -> int:
    """Set what the pixels of scenes are for, as in training; return the region that stands for `split`."""
    if split != "all":
        assign_regions(opened, manifest, reporter)
        return REGIONS[split]
    for scene in opened:
        scene.region[:] = TEST
    return TEST


def _words(manifest: Manifest, split: str, counted: Sequence[LabelledScene], counts: np.ndarray) -> str:
    """Return what the labels are."""
    names = [scene.name for scene in counted]
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
) -> LabelledScene | None:
    """Return a scene of a manifest, its labels as indices of the manifest's classes; None for one of no use."""
    sources = {name: spec for name, spec in entry.specs().items() if name in card.names}
    if card.effective(tuple(sources)) is None:
        reporter.warn(
            f"Scene {entry.name} is left out: the checkpoint cannot do with {_list(entry.sources)} alone; it needs "
            f"{'; or '.join(' + '.join(item) for item in card.supported()[:_NAMED])}."
        )
        return None
    reference = manifest.reference if manifest.reference in card.names else card.reference
    rasters = _open_scene(card, modalities, sources, reference, reporter)
    try:
        window = window_of(entry, rasters.grid)
        labels = read_labels(entry, rasters.grid, window, Legend(manifest.classes, ignore), reporter)
    except BaseException:
        rasters.close()
        raise
    if not (labels >= 0).any():
        reporter.warn(f"Scene {entry.name} has no labelled pixel and is left out ({entry.labels}).")
        rasters.close()
        return None
    return LabelledScene(entry, rasters, window, labels, np.zeros(labels.shape, np.uint8))


def _open_scene(
    card: Card, modalities: Sequence[Modality], sources: Mapping[str, SourceSpec], reference: str, reporter: Reporter
) -> Scene:
    return Scene(modalities, sources, reference=reference, trained_resolution=card.resolution, reporter=reporter)


def _match_classes(job: EvaluateJob, manifest: Manifest, card: Card) -> np.ndarray:
    """Return for each class of the manifest, and last for no class, the index of the card's class, or -1.

    A class is matched by its name, case ignored; the job's class map, by name or value, goes before that.
    """
    names = {key_of(item.name): index for index, item in enumerate(card.classes)}
    mapped = mapped_classes(job.class_map or {}, card.classes)
    ignored = {key_of(value) for value in job.ignore}
    table, strange = [], []
    for item in manifest.classes:
        keys = _keys(item)
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
    stray = set(mapped) - {key for item in manifest.classes for key in _keys(item)}
    if stray:
        text = f"The class map names {', '.join(sorted(stray))}, which is no class of {manifest.path}."
        raise UsageError("bad-class-map", text, "Name its classes, by name or value.")
    return np.array([*table, -1])


def _keys(item: ClassInfo) -> tuple[str, str]:
    """Return the keys by which a class may be meant: of its name and of its value."""
    return key_of(item.name), key_of(item.value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
