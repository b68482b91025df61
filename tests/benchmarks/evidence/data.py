# SPDX-License-Identifier: GPL-2.0-or-later
"""The data of the evidence: manifests for base, training and test, and labels thinned out to small squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import tomllib

from ..strategies import data as strategies

_LANDCOVER = "landcover_s2_s1_dem"
_FOLDERS = {"optical": "s2", "radar": "s1", "elevation": "dem"}
_SCENES = {"38D": "38D_378R_2_3", "433D": "433D_629L_3_1", "609U": "609U_541L_3_0", "637U": "637U_59R_1_3"}
# Columns of a scene of 224: what is trained on and what is tested, 160 m apart.
_WEST, _EAST = (0, 104), (120, 224)
_FLOODS = {
    "reference": "radar",
    "ignore": [-1],
    "classes": {0: "Dry", 1: "Water"},
    "modalities": {"radar": {"bands": ["VV", "VH"]}},
}
# Paraguay has no valid pixel, one of Ghana no label.
_CHIPS = {
    "train": ("Ghana_53713", "Mekong_333434", "Pakistan_849790", "Somalia_699062"),
    "validation": ("Spain_7370579",),
    "test": ("Ghana_97059", "Sri-Lanka_534068", "USA_905409"),
}
# Modalities of both tiles. Heights above the sea would tell the tiles apart, so those above the ground are taken. The
# labels come from the same LiDAR.
_IGN = {
    "reference": "height",
    "ignore": [0],
    "classes": {1: "Ground", 2: "Low vegetation", 3: "High vegetation", 4: "Building"},
    "modalities": {
        "rgb": {"bands": ["red", "green", "blue"]},
        "height": {"bands": ["height"]},
        "intensity": {"bands": ["intensity"]},
    },
}
_TILES = {"train": ("A_77055_627760", "0.2m"), "test": ("D_870200_6617146", "0.5m")}
# Tile A has 100 x 100 pixels.
_IGN_BLOCKS = {"method": "block", "block": 25, "gap": 4, "validation": 0.25, "seed": 0}


class Manifests(NamedTuple):
    """Manifests of a data set; `base` is None where nothing is fine-tuned."""

    base: Path | None
    train: Path
    test: Path


def prepare(dataset: str, folder: Path, work: Path) -> Manifests:
    """Write the manifests of a data set with all its labels; `folder` holds the data, `work` is written to."""
    work.mkdir(parents=True, exist_ok=True)
    if dataset == "tree_crowns":
        return Manifests(*strategies.prepare(dataset, folder, work))
    if dataset == "floods_s1":
        scenes = {split: [_chip(folder / dataset, name, split) for name in names] for split, names in _CHIPS.items()}
        block = {"method": "block"}
        train = _write(work / "floods-train.toml", _FLOODS, block, scenes["train"] + scenes["validation"])
        return Manifests(None, train, _write(work / "floods-test.toml", _FLOODS, block, scenes["test"]))
    if dataset == "ign_vhr":
        train, test = (_tile(folder / dataset, *_TILES[split]) for split in ("train", "test"))
        return Manifests(
            None,
            _write(work / "ign-train.toml", _IGN, _IGN_BLOCKS, [train]),
            _write(work / "ign-test.toml", _IGN, {"method": "block"}, [{**test, "split": "test"}]),
        )
    key = dataset.removeprefix("unseen_")
    head = strategies._head(_LANDCOVER)
    others = [_scene(folder / _LANDCOVER, name) for short, name in _SCENES.items() if short != key]
    west, east = (_scene(folder / _LANDCOVER, _SCENES[key], columns) for columns in (_WEST, _EAST))
    blocks = {"method": "block", "block": 32, "gap": 8, "validation": 0.3, "seed": 0}
    return Manifests(
        _write(work / f"{dataset}-base.toml", head, blocks, others),
        _write(work / f"{dataset}-train.toml", head, {"method": "block"}, [west]),
        _write(work / f"{dataset}-test.toml", head, {"method": "block"}, [{**east, "split": "test"}]),
    )


def together(manifests: Manifests, path: Path) -> Path:
    """Write at `path` one manifest of all scenes, for networks from scratch: train on base and training, then test.

    Where the training manifest names its validation, all of the base is trained on; else the rule of the base, or that
    of the training manifest, draws validation blocks from both.
    """
    roots = [tomllib.loads(item.read_text(encoding="utf-8")) for item in manifests if item is not None]
    *base, train, test = (root["scenes"] for root in roots)
    named = any(scene.get("split") == "validation" for scene in train)
    scenes = [{**scene, "split": "train"} if named else scene for part in base for scene in part] + train
    names = {scene["name"] for scene in scenes}
    # The halves of a scene have its name in their own manifests.
    scenes += [{**scene, "name": scene["name"] + ", test"} if scene["name"] in names else scene for scene in test]
    return _write(path, _head_of(roots[0]), roots[0]["split"], scenes)


def _head_of(root: dict[str, Any]) -> dict[str, Any]:
    """Return what was read of a manifest as `manifest_text` takes it."""
    return {**root, "classes": {item["value"]: item["name"] for item in root["classes"]}}


def thinned(manifest: Path, squares: int, side: int, seed: int, work: Path) -> Path:
    """Return a manifest whose labels are so many squares a class, at places drawn alike from its labelled pixels.

    A square keeps the pixels of the class that it was drawn for, as a polygon that an analyst draws has one class.

    Args:
        manifest: with all labels, as rasters.
        squares: how many a class.
        side: of a square in pixels, odd.
        seed: of the places.
        work: folder for the manifest and its labels.
    """
    root = tomllib.loads(manifest.read_text(encoding="utf-8"))
    ignored, rng = root["ignore"][0], np.random.default_rng(seed)
    labels = [_labels(scene) for scene in root["scenes"]]
    kept = [np.full(values.shape, ignored, values.dtype) for values, _ in labels]
    for item in root["classes"]:
        places = [np.flatnonzero((values == item["value"]) & inside) for values, inside in labels]
        owners = np.repeat(np.arange(len(places)), [len(found) for found in places])
        everywhere = np.concatenate(places)
        for index in rng.choice(len(everywhere), min(squares, len(everywhere)), replace=False):
            scene = owners[index]
            values, inside = labels[scene]
            row, column = divmod(int(everywhere[index]), values.shape[1])
            window = (
                slice(max(row - side // 2, 0), row + side // 2 + 1),
                slice(max(column - side // 2, 0), column + side // 2 + 1),
            )
            own = (values[window] == item["value"]) & inside[window]
            kept[scene][window][own] = item["value"]
    folder = work / f"{manifest.stem}-{squares}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for scene, values in zip(root["scenes"], kept):
        target = folder / f"{scene['name']}.tif"
        with rasterio.open(scene["labels"]) as source, rasterio.open(target, "w", **source.profile) as written:
            written.write(values, 1)
        scene["labels"] = str(target)
    held = [scene for scene, values in zip(root["scenes"], kept) if (values != ignored).any()]
    return _write(folder / "manifest.toml", _head_of(root), root["split"], held)


def _labels(scene: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a scene, and which of them lie in its extent."""
    with rasterio.open(scene["labels"]) as dataset:
        values, inside = dataset.read(1), np.ones(dataset.shape, bool)
        if "extent" in scene:
            left, bottom, right, top = scene["extent"]
            window = dataset.window(left, bottom, right, top).round()
            rows, columns = window.toslices()
            inside[:] = False
            inside[rows, columns] = True
    return values, inside


def _scene(folder: Path, name: str, columns: tuple[int, int] | None = None) -> dict[str, Any]:
    sources = {key: str(folder / kind / f"{name}.tif") for key, kind in _FOLDERS.items()}
    scene = {"name": name, "sources": sources, "labels": str(folder / "labels" / f"{name}.tif")}
    if columns is not None:
        with rasterio.open(scene["labels"]) as dataset:
            place, box = dataset.transform, dataset.bounds
        left, right = (place.c + column * place.a for column in columns)
        scene["extent"] = [left, box.bottom, right, box.top]
    return scene


def _chip(folder: Path, name: str, split: str) -> dict[str, Any]:
    sources = {"radar": str(folder / "s1" / f"{name}.tif")}
    return {"name": name, "sources": sources, "labels": str(folder / "labels" / f"{name}.tif"), "split": split}


def _tile(folder: Path, name: str, pixel: str) -> dict[str, Any]:
    sources = {
        "rgb": str(folder / f"{name}_rgb_{pixel}.tif"),
        "height": str(folder / f"{name}_ndsm_0.5m.tif"),
        "intensity": str(folder / f"{name}_intensity_0.5m.tif"),
    }
    return {"name": name, "sources": sources, "labels": str(folder / f"{name}_label_0.5m.tif")}


def _write(path: Path, head: dict[str, Any], split: dict[str, Any], scenes: list[dict[str, Any]]) -> Path:
    text = strategies.manifest_text(head, split, scenes)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path
