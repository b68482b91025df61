# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest: a TOML file that lists modalities, classes and scenes to train on. See `docs/manifest.md`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoint.card import RESAMPLINGS, Card, ClassInfo, Modality
from ..checkpoint.faults import card_fault, chain_fault
from ..jobs import SourceSpec
from ..naming import key_of
from ..palette import CLASSES, GREY
from .tables import Table, read_toml

CODE = "bad-manifest"
SPLITS = ("train", "validation", "test")
METHODS = ("group", "block", "polygon")
# Names that GDAL opens by one of its drivers; a single letter is a drive of Windows.
_DRIVER = re.compile(r"[A-Z][A-Z0-9_]+:")


@dataclass(frozen=True)
class SplitRule:
    """How scenes that name no split are divided into training and validation.

    `block` and `gap` are in pixels of the reference grid; `validation` is the share that validation gets. With the
    method `polygon`, those with one value of `field` stay together, or each polygon by itself.
    """

    method: str = "group"
    block: int = 64
    gap: int = 16
    validation: float = 0.2
    seed: int = 0
    field: str | None = None


@dataclass(frozen=True)
class SceneEntry:
    """A scene of the manifest; all paths are absolute.

    A source is a path, or says how to read it too. `field` names the class of each polygon where `labels` are polygons.
    `extent` is (xmin, ymin, xmax, ymax) in the CRS of the scene's reference grid.
    """

    name: str
    sources: Mapping[str, str | SourceSpec]
    labels: str
    field: str | None = None
    group: str = ""
    split: str | None = None
    extent: tuple[float, float, float, float] | None = None

    def specs(self) -> dict[str, SourceSpec]:
        """Return how the raster of each modality is read."""
        return {name: SourceSpec(item) if isinstance(item, str) else item for name, item in self.sources.items()}

    def files(self) -> list[str]:
        """Return all files of the scene: rasters, masks, labels."""
        return [*self.rasters(), *filter(None, [self.labels.partition("|")[0]])]

    def rasters(self) -> list[str]:
        """Return the files of the scene but its labels: rasters, masks."""
        specs = self.specs().values()
        return [path for path in (*(item.path for item in specs), *(item.mask for item in specs)) if path]


@dataclass(frozen=True)
class Manifest:
    """What to train on.

    Attributes:
        ignore: label values, or texts of a field of polygons, without a class.
        modalities: one whose `scaling` is empty is scaled by mean and standard deviation of the training scenes.
        split: how scenes that name no split are divided; None: all of them are for training.
        class_map: from values of the labels, as text, to names of classes; an empty name ignores the value.
        fitted: whether blocks and gap of `split` are to suit the labels (`division.fit_split`).
    """

    path: str
    reference: str
    classes: list[ClassInfo]
    modalities: list[Modality]
    scenes: list[SceneEntry]
    ignore: list[int | str] = field(default_factory=list)
    split: SplitRule | None = SplitRule()
    class_map: dict[str, str] = field(default_factory=dict)
    fitted: bool = False
    name: str = ""
    description: str = ""
    licence: str = ""
    credits: str = ""
    sha256: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the modalities, in order."""
        return [item.name for item in self.modalities]

    def content(self) -> str:
        """Return all that it says but where it and its labels lie: the panel writes both anew for every run."""
        found = asdict(replace(self, path="", sha256=""))
        scenes = [{key: value for key, value in scene.items() if key != "labels"} for scene in found["scenes"]]
        return json.dumps({**found, "scenes": scenes})


def read_manifest(path: str) -> Manifest:
    """Return the manifest at `path`, checked; files that it names are not looked at.

    Raises:
        LacunaError: `file-missing`, `file-unreadable`; `bad-manifest`, naming the key, what was found and expected.
    """
    root = read_toml(path, CODE)
    tables = root.table("modalities")
    modalities = [_modality(tables.table(name), name) for name in tables]
    reference = root.choice("reference", [item.name for item in modalities])
    classes = _classes(root)
    scenes = _scenes(root, [item.name for item in modalities])
    split, fitted = _split(root, scenes)
    manifest = Manifest(
        path=os.path.abspath(path),
        reference=reference,
        classes=classes,
        modalities=modalities,
        scenes=scenes,
        ignore=_ignore(root, classes),
        split=split,
        class_map=_class_map(root, classes),
        fitted=fitted,
        name=root.take("name", str, default=Path(path).resolve().stem),
        description=root.take("description", str, default=""),
        licence=root.take("licence", str, default=""),
        credits=root.take("credits", str, default=""),
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
    )
    root.finish()
    _check_as_card(manifest, root)
    return manifest


def _classes(root: Table) -> list[ClassInfo]:
    """Return the classes; those without a colour get one of the palette."""
    classes = []
    for index, table in enumerate(root.tables("classes")):
        color = CLASSES[index] if index < len(CLASSES) else GREY
        value, name = table.take("value", int), table.take("name", str)
        classes.append(ClassInfo(value, name, table.take("color", str, default=color)))
        table.finish()
    names = Counter(key_of(item.name) for item in classes)
    twice = [item.name for item in classes if names[key_of(item.name)] > 1]
    if twice:
        raise root.fault(f"has two classes named {twice[0]!r}", "Give each class a name of its own (case is ignored).")
    if len(classes) < 2:
        raise root.wrong("classes", [item.name for item in classes], "at least two classes")
    return classes


def _ignore(root: Table, classes: list[ClassInfo]) -> list[int | str]:
    """Return the label values, or texts of a field, without a class."""
    ignore = root.items("ignore", int, str, default=[])
    names, values = {key_of(item.name) for item in classes}, {item.value for item in classes}
    both = [value for value in ignore if (key_of(value) in names if isinstance(value, str) else value in values)]
    if both:
        raise root.fault(f"lists {both[0]!r} under ignore and under classes", "Leave it out of one of them.")
    return ignore


def _class_map(root: Table, classes: list[ClassInfo]) -> dict[str, str]:
    """Return which class each value of the labels means, by the name of the class; "" ignores the value."""
    found = root.mapping("class_map", str) if "class_map" in root else {}
    names = {key_of(item.name): item.name for item in classes}
    for value, name in found.items():
        if name and key_of(name) not in names:
            raise root.wrong(f"class_map.{value}", name, f"one of {', '.join(names.values())}, or nothing")
    return {value: names.get(key_of(name), "") for value, name in found.items()}


def _modality(table: Table, name: str) -> Modality:
    nodata = table.take("nodata", float, default=None)
    modality = Modality(
        name,
        table.items("bands", str),
        units=table.take("units", str, default=""),
        scaling=_scaling(table),
        resampling=table.choice("resampling", RESAMPLINGS, default="bilinear"),
        nodata=None if nodata is None else float(nodata),
        required=table.take("required", bool, default=False),
    )
    fault = chain_fault(modality.scaling, len(modality.bands))
    if fault:
        raise table.fault(f"has {table.place('scaling')}: {fault}", "See docs/checkpoint.md for what each step takes.")
    table.finish()
    return modality


def _scaling(table: Table) -> list[dict[str, Any]]:
    """Return the chain of scaling steps, empty where the file leaves it to the training scenes."""
    found = table.take("scaling", dict, list, default=[])
    if found == [] and "scaling" in table:
        raise table.wrong("scaling", found, "at least one step")
    return [found] if isinstance(found, dict) else found


def _split(root: Table, scenes: list[SceneEntry]) -> tuple[SplitRule | None, bool]:
    """Return the rule of the table `split`, and whether blocks and gap are to suit the labels (`fit`).

    Without the table it is the default, or None where scenes name validation.
    """
    table = root.table("split", default={})
    if "split" not in root and any(scene.split == "validation" for scene in scenes):
        return None, False
    fitted = table.take("fit", bool, default=False)
    if fitted and ({"block", "gap"} & set(table) or table.take("method", str, default="") != "block"):
        hint = 'Give fit with method = "block" alone, without block and gap: it chooses these.'
        raise table.fault("has split.fit beside what it cannot be combined with", hint)
    return split_rule(table), fitted


def split_rule(table: Table, default: SplitRule = SplitRule()) -> SplitRule:
    """Return the rule that the table `split` of a file holds; what it leaves out is as in `default`."""
    rule = SplitRule(
        table.choice("method", METHODS, default=default.method),
        table.take("block", int, default=default.block),
        table.take("gap", int, default=default.gap),
        float(table.take("validation", float, default=default.validation)),
        table.take("seed", int, default=default.seed),
        table.take("field", str, default=default.field),
    )
    table.finish()
    if rule.block < 1:
        raise table.wrong("block", rule.block, "at least 1 pixel")
    if rule.gap < 0:
        raise table.wrong("gap", rule.gap, "0 or more pixels")
    if not 0 < rule.validation < 1:
        raise table.wrong("validation", rule.validation, "a share above 0 and below 1")
    if rule.seed < 0:
        raise table.wrong("seed", rule.seed, "a whole number of at least 0")
    return rule


def _scenes(root: Table, modalities: list[str]) -> list[SceneEntry]:
    """Return the scenes, with paths relative to the file made absolute."""
    scenes = [_scene(table, modalities) for table in root.tables("scenes")]
    twice = [name for name, count in Counter(scene.name for scene in scenes).items() if count > 1]
    if twice:
        raise root.fault(f"has two scenes named {twice[0]!r}", "Give each scene a name of its own.")
    _check_groups(root, scenes)
    return scenes


def _scene(table: Table, modalities: list[str]) -> SceneEntry:
    name = table.take("name", str)
    sources = table.mapping("sources", str)
    unknown = [key for key in sources if key not in modalities]
    if unknown or not sources:
        raise table.wrong("sources", list(sources), f"a raster for one or more of {', '.join(modalities)}")
    folder = os.path.dirname(os.path.abspath(table.path))
    entry = SceneEntry(
        name,
        _read_as(table, {key: _absolute(folder, sources[key]) for key in modalities if key in sources}),
        _absolute(folder, table.take("labels", str)),
        field=table.take("field", str, default=None),
        group=table.take("group", str, default=name),
        split=table.choice("split", SPLITS, default=None),
        extent=_extent(table),
    )
    table.finish()
    return entry


def _read_as(table: Table, paths: dict[str, str]) -> dict[str, str | SourceSpec]:
    """Return the sources of a scene, those that the scene says more of with how they are read.

    That are `offset` and `scale`, `nodata`, `bands` (names or numbers from 1, in the modality's order), and `mask`.
    """
    changes: dict[str, dict[str, Any]] = {name: {} for name in paths}
    for key, kind in (("offset", float), ("scale", float), ("nodata", float), ("bands", list), ("mask", str)):
        found = table.mapping(key, kind) if key in table else {}
        stray = [name for name in found if name not in paths]
        if stray:
            words = "bands" if kind is list else "rasters" if kind is str else "numbers"
            raise table.wrong(key, list(found), f"{words} for one or more of the sources {', '.join(paths)}")
        for name, value in found.items():
            changes[name][key] = _read_value(table, key, name, value)
    return {name: SourceSpec(path, **changes[name]) if changes[name] else path for name, path in paths.items()}


def _read_value(table: Table, key: str, name: str, value: Any) -> Any:
    """Return what a scene says of a source, checked where its type does not tell all."""
    if key == "mask":
        return _absolute(os.path.dirname(os.path.abspath(table.path)), value)
    if key == "bands" and (not value or not all(type(item) in (int, str) for item in value)):
        raise table.wrong(f"bands.{name}", value, "names or numbers of bands")
    return value


def _extent(table: Table) -> tuple[float, float, float, float] | None:
    found = table.items("extent", float, default=[])
    if "extent" not in table:
        return None
    if len(found) != 4 or found[0] >= found[2] or found[1] >= found[3]:
        raise table.wrong("extent", found, "xmin, ymin, xmax, ymax, with xmin < xmax and ymin < ymax")
    return float(found[0]), float(found[1]), float(found[2]), float(found[3])


def _check_groups(root: Table, scenes: list[SceneEntry]) -> None:
    """Raise LacunaError for a group whose scenes name different splits: a group stays on one side."""
    sides: dict[str, str] = {}
    for scene in scenes:
        if scene.split is not None and sides.setdefault(scene.group, scene.split) != scene.split:
            raise root.fault(
                f"puts scenes of the group {scene.group!r} into {sides[scene.group]} and into {scene.split}",
                "Scenes of one group stay on one side; change the split or the group.",
            )


def _check_as_card(manifest: Manifest, root: Table) -> None:
    """Raise LacunaError for modalities and classes that no card could hold."""
    modalities = [replace(item, scaling=item.scaling or [{"type": "none"}]) for item in manifest.modalities]
    card = Card({"name": "any", "config": {}}, modalities, manifest.classes, reference=manifest.reference)
    fault = card_fault(card)
    if fault:
        raise root.fault(f"cannot be used: {fault}", "Correct this in the manifest.")


def _absolute(folder: str, path: str) -> str:
    """Return `path` from `folder`, unless it is absolute or no local path (`/vsi...`, `scheme://`, `DRIVER:...`)."""
    return path if "://" in path or _DRIVER.match(path) else os.path.normpath(os.path.join(folder, path))
