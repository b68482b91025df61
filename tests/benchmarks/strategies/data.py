# SPDX-License-Identifier: GPL-2.0-or-later
"""The data of the comparison: which scenes serve what, written as manifests of the product into a working folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rasterio

# What plots serve: groups of plots that lie within 10 m of one another, in the order of their numbers, take these roles
# in turn at each site. Of the orders of two bases, three train, one validation and two test, this one leaves the roles
# with the most similar shares of the classes. OSBS_35 shows the ground of OSBS_16 once more and is left out.
_TURNS = ("train", "test", "train", "base", "test", "base", "train", "validation")
_ROLES = ("base", "train", "validation", "test")
TWICE = ("OSBS_35",)
_NEAR = 10.0
# Every thirtieth of the 369 bands of the hyperspectral images.
HSI_BANDS = tuple(range(16, 370, 30))
_CROWNS = {
    "reference": "rgb",
    "ignore": [0],
    "classes": {1: "Pinus", 2: "Quercus", 3: "Acer", 4: "Other tree"},
    "modalities": {
        "rgb": {"bands": ["red", "green", "blue"]},
        "hsi": {"bands": [f"b{number}" for number in HSI_BANDS]},
        "chm": {"bands": ["height"]},
    },
}
_LANDCOVER = {
    "reference": "optical",
    "ignore": [3],
    "classes": {1: "Water", 2: "Trees", 4: "Crops", 5: "Built area", 7: "Snow or ice", 9: "Rangeland"},
    "modalities": {
        "optical": {
            "bands": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"],
        },
        "radar": {"bands": ["VV", "VH"]},
        "elevation": {"bands": ["elevation"], "scaling": {"type": "z_score", "mean": 150.0, "std": 50.0}},
    },
}
_FOLDERS = {"optical": "s2", "radar": "s1", "elevation": "dem"}
_SCENE = "433D_629L_3_1"
# Columns 0 to 58, 75 to 133 and 150 to 223 of this scene; what lies between serves nothing.
_WEST = [717729.84, 5697853.34, 718319.83, 5700093.33]
_MIDDLE = [718479.84, 5697853.34, 719069.83, 5700093.33]
_EAST = [719229.84, 5697853.34, 719969.83, 5700093.33]
_BLOCKS = {"method": "block", "block": 32, "gap": 8, "validation": 0.3, "seed": 0}


Bounds = tuple[float, float, float, float]


class Manifests(NamedTuple):
    """The manifests of a data set: base training, fine-tuning and its validation, test."""

    base: Path
    tune: Path
    test: Path


def prepare(dataset: str, data: Path, work: Path) -> Manifests:
    """Write the manifests of a data set, and the rasters that have to be made first.

    Args:
        dataset: a key of `protocol.DATASETS`.
        data: the folder in which the data sets lie.
        work: the folder to write to.

    Raises:
        SystemExit: the data are not there, with what was expected where.
    """
    folder = data / dataset
    kinds = ("rgb", "hsi", "chm", "labels") if dataset == "tree_crowns" else ("s2", "s1", "dem", "labels")
    absent = [kind for kind in kinds if not any((folder / kind).glob("*.tif"))]
    if absent:
        raise SystemExit(
            f"{folder} has no rasters in {', '.join(absent)}; {dataset} needs the folders {', '.join(kinds)}. "
            "Give the folder that holds both data sets with --data (docs/strategies.md says where they come from)."
        )
    work.mkdir(parents=True, exist_ok=True)
    made = _crowns(folder, work) if dataset == "tree_crowns" else _landcover(folder)
    paths = Manifests(*(work / f"{dataset}-{role}.toml" for role in Manifests._fields))
    for path, (split, scenes) in zip(paths, made):
        text = manifest_text(_head(dataset), split, scenes)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return paths


def values_of(dataset: str, names: Sequence[str]) -> list[int]:
    """Return the label values of some classes of a data set."""
    classes = _head(dataset)["classes"]
    return [value for value, name in classes.items() if name in names]


def manifest_text(head: dict[str, Any], split: dict[str, Any], scenes: Sequence[dict[str, Any]]) -> str:
    """Return a manifest as TOML."""
    classes = [{"value": value, "name": name} for value, name in head["classes"].items()]
    lines = [f"{key} = {to_toml(head[key])}" for key in ("reference", "ignore")] + [f"classes = {to_toml(classes)}"]
    for name, table in {
        **{f"modalities.{key}": item for key, item in head["modalities"].items()},
        "split": split,
    }.items():
        lines += [f"[{name}]", *(f"{key} = {to_toml(value)}" for key, value in table.items())]
    for scene in scenes:
        lines += ["[[scenes]]", *(f"{key} = {to_toml(value)}" for key, value in scene.items())]
    return "\n".join(lines) + "\n"


def to_toml(value: Any) -> str:
    """Return a value as TOML: numbers, texts, lists, and tables in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {to_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def config_text(config: dict[str, dict[str, Any]]) -> str:
    """Return a configuration file of tables as TOML."""
    lines = []
    for name, table in config.items():
        lines += [f"[{name}]", *(f"{key} = {to_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def plot_roles(bounds: Mapping[str, Bounds]) -> dict[str, str]:
    """Return what each plot serves: `base`, `train`, `validation` or `test`; plots near one another serve the same.

    Args:
        bounds: left, bottom, right, top in metres of each plot, whose name is `SITE_NUMBER`.
    """
    names = sorted(set(bounds) - set(TWICE), key=plot_key)
    roles: dict[str, str] = {}
    for site in dict.fromkeys(name.partition("_")[0] for name in names):
        groups = groups_of({name: bounds[name] for name in names if name.partition("_")[0] == site})
        turns = {group: turn for turn, group in enumerate(dict.fromkeys(groups.values()))}
        roles |= {name: _TURNS[turns[group] % len(_TURNS)] for name, group in groups.items()}
    return {name: roles[name] for name in names}


def groups_of(bounds: Mapping[str, Bounds]) -> dict[str, str]:
    """Return for each plot the first of those that lie within 10 m of one another: they must not be parted."""
    groups: dict[str, str] = {}
    left = list(bounds)
    while left:
        together = [left.pop(0)]
        for name in together:
            near = [other for other in left if _distance(bounds[name], bounds[other]) < _NEAR]
            together += near
            left = [other for other in left if other not in near]
        groups |= dict.fromkeys(together, together[0])
    return groups


def plot_key(name: str) -> tuple[str, int]:
    """Return site and number of a plot, `SITE_NUMBER`, to sort by."""
    site, _, number = name.partition("_")
    return site, int(number)


def _distance(first: Bounds, second: Bounds) -> float:
    """Return how far two rectangles are apart."""
    right = max(first[0] - second[2], second[0] - first[2], 0.0)
    up = max(first[1] - second[3], second[1] - first[3], 0.0)
    return math.hypot(right, up)


def _head(dataset: str) -> dict[str, Any]:
    return _CROWNS if dataset == "tree_crowns" else _LANDCOVER


def _landcover(folder: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return split and scenes of each manifest: three scenes and the west of the fourth, its middle, its east."""

    def scene(name: str, **more: Any) -> dict[str, Any]:
        sources = {key: str(folder / kind / f"{name}.tif") for key, kind in _FOLDERS.items()}
        return {"name": name, "sources": sources, "labels": str(folder / "labels" / f"{name}.tif"), **more}

    others = sorted(path.stem for path in (folder / "labels").glob("*.tif") if path.stem != _SCENE)
    return [
        (_BLOCKS, [*map(scene, others), scene(_SCENE, extent=_WEST)]),
        (_BLOCKS, [scene(_SCENE, extent=_MIDDLE)]),
        (_BLOCKS, [scene(_SCENE, extent=_EAST, split="test")]),
    ]


def _crowns(folder: Path, work: Path) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return split and scenes of each manifest: the plots of each role."""

    def scene(name: str, **more: Any) -> dict[str, Any]:
        sources = {kind: str(folder / kind / f"{name}.tif") for kind in ("rgb", "chm")}
        sources["hsi"] = str(_chosen_bands(folder / "hsi" / f"{name}.tif", work / "hsi" / f"{name}.tif"))
        return {"name": name, "sources": sources, "labels": str(folder / "labels" / f"{name}.tif"), **more}

    bounds = {}
    for path in (folder / "labels").glob("*.tif"):
        with rasterio.open(path) as dataset:
            bounds[path.stem] = tuple(dataset.bounds)
    roles = plot_roles(bounds)
    plots = {role: [scene(name) for name in roles if roles[name] == role] for role in _ROLES}
    tune = [{**entry, "split": role} for role in ("train", "validation") for entry in plots[role]]
    split = {"method": "group", "validation": 0.2, "seed": 0}
    return [(split, plots["base"]), (split, tune), (split, [{**entry, "split": "test"} for entry in plots["test"]])]


def _chosen_bands(source: Path, target: Path) -> Path:
    """Write the chosen bands of a hyperspectral image, with their names, unless that was done before."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.tif")
    with rasterio.open(source) as dataset:
        profile = {**dataset.profile, "count": len(HSI_BANDS), "driver": "GTiff"}
        with rasterio.open(part, "w", **profile) as written:
            written.write(dataset.read(list(HSI_BANDS)))
            for place, number in enumerate(HSI_BANDS, 1):
                written.set_band_description(place, f"b{number}")
    part.replace(target)
    return target
