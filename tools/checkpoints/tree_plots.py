# SPDX-License-Identifier: GPL-2.0-or-later
"""The plots of the bundled checkpoint of tree genera: which fold each is in, their manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rasterio

from lacuna.tests.benchmarks.strategies.data import TWICE, Bounds, plot_key, to_toml

KINDS = ("rgb", "hsi", "chm", "labels")
# Where the plots are published: the file `train` of this record, made ready as docs/bundled-tree-genus.md says.
SOURCE = "https://doi.org/10.5281/zenodo.3934932"
# Every fourth of the 369 bands of the hyperspectral images, as neighbours tell nearly the same; the first are dark.
HSI_BANDS = tuple(range(7, 370, 4))
FOLDS = 4
_CLASSES = [
    {"value": 1, "name": "Pinus", "color": "#1b7837"},
    {"value": 2, "name": "Quercus", "color": "#e08214"},
    {"value": 3, "name": "Acer", "color": "#b2182b"},
    {"value": 4, "name": "Other tree", "color": "#8073ac"},
]
_MODALITIES: dict[str, dict[str, Any]] = {
    "rgb": {"bands": ["red", "green", "blue"], "units": "digital number, 0 to 255"},
    "hsi": {"bands": [f"b{number}" for number in HSI_BANDS], "units": "surface reflectance x 10,000"},
    "chm": {"bands": ["height"], "units": "m above ground"},
}


def read_bounds(folder: Path) -> dict[str, Bounds]:
    """Return left, bottom, right and top of each plot in metres, by its name, `SITE_NUMBER`, in the order of numbers.

    Args:
        folder: with the folders `rgb`, `hsi`, `chm` and `labels`.

    Raises:
        SystemExit: rasters are missing, with what was expected where.
    """
    absent = [kind for kind in KINDS if not any((folder / kind).glob("*.tif"))]
    if absent:
        raise SystemExit(
            f"{folder} has no rasters in {', '.join(absent)}. The checkpoint of tree genera is trained on plots of "
            f"IDTReeS 2020, {SOURCE}, in folders {', '.join(KINDS)}; docs/bundled-tree-genus.md says what each holds. "
            "Give the folder that they lie in with --data."
        )
    found = {}
    for path in sorted((folder / "labels").glob("*.tif"), key=lambda item: plot_key(item.stem)):
        if path.stem not in TWICE:
            with rasterio.open(path) as dataset:
                found[path.stem] = tuple(dataset.bounds)
    return found


def folds_of(groups: Mapping[str, str]) -> dict[str, int]:
    """Return the fold of each plot: at each site its groups take turns, in the order of their plots' numbers."""
    turns: dict[str, int] = {}
    counts: dict[str, int] = {}
    for name in sorted(groups, key=plot_key):
        site, group = name.partition("_")[0], groups[name]
        if group not in turns:
            turns[group] = counts.get(site, 0) % FOLDS
            counts[site] = counts.get(site, 0) + 1
    return {name: turns[group] for name, group in groups.items()}


def manifest_text(folder: Path, groups: Mapping[str, str], head: Mapping[str, Any]) -> str:
    """Return the manifest of all plots as TOML.

    Args:
        folder: of the data.
        groups: the group of each plot.
        head: keys at the top, such as the name of the checkpoint.
    """
    top = {**head, "reference": "rgb", "ignore": [0], "classes": _CLASSES}
    lines = _lines(top)
    for name, table in _MODALITIES.items():
        lines += [f"[modalities.{name}]", *_lines(table)]
    lines += ["[split]", *_lines({"method": "group", "validation": 0.2, "seed": 0})]
    for name, group in groups.items():
        sources = {kind: str(folder / kind / f"{name}.tif") for kind in _MODALITIES}
        scene = {"name": name, "group": group, "sources": sources, "labels": str(folder / "labels" / f"{name}.tif")}
        lines += ["[[scenes]]", *_lines({**scene, "bands": {"hsi": list(HSI_BANDS)}})]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {to_toml(value)}" for key, value in table.items()]
