# SPDX-License-Identifier: GPL-2.0-or-later
"""What a job writes: where it may go, and its rasters brought into the project, as layers new or there already."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Optional

from qgis.core import QgsProject, QgsRasterLayer

from ..compat import tr
from ..engine.jobs import SegmentJob
from ..host.run_job import duration


def show_outputs(job: SegmentJob) -> list[QgsRasterLayer]:
    """Show every raster that `job` wrote, the class map on top, and return the layers, it first.

    The style is that of the `.qml` that the engine wrote beside each file, which QGIS takes by itself.
    """
    layers = [_reloaded(path) or _added(path, kind) for kind, path in reversed(list(job.outputs().items()))]
    return layers[::-1]


def _reloaded(path: str) -> Optional[QgsRasterLayer]:
    """Return the layer of the project that shows `path`, read again; None if there is none."""
    for layer in QgsProject.instance().mapLayers().values():
        if isinstance(layer, QgsRasterLayer) and same_file(layer.source(), path):
            layer.dataProvider().reloadData()
            layer.loadDefaultStyle()
            layer.triggerRepaint()
            return layer
    return None


def _added(path: str, kind: str) -> QgsRasterLayer:
    """Return a new layer of the project for `path`, above the others; all but the class map start unticked."""
    layer = QgsRasterLayer(path, os.path.splitext(os.path.basename(path))[0])
    project = QgsProject.instance()
    project.addMapLayer(layer, False)
    node = project.layerTreeRoot().insertLayer(0, layer)
    node.setItemVisibilityChecked(kind == "classes")
    node.setExpanded(kind in ("classes", "evidence"))
    return layer


def output_path(text: str, *endings: str) -> str:
    """Return the path that was typed, with the first of `endings` if it has none of them; "" for no text."""
    text = text.strip()
    if not text:
        return ""
    path = os.path.abspath(os.path.expanduser(text))
    return path if path.lower().endswith(endings) else path + endings[0]


def output_problem(path: str, inputs: Iterable[str]) -> str:
    """Return why a file cannot be written to `path`, also because it is one of the `inputs`; else an empty string."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return tr("The folder {} does not exist.").format(folder)
    if not os.access(folder, os.W_OK):
        return tr("The folder {} is not writable.").format(folder)
    if any(same_file(source, path) for source in inputs):
        return tr("The output is one of the inputs: choose another file.")
    return ""


def same_file(source: str, path: str) -> bool:
    """Return whether a layer's `source` is the file `path`."""
    first, second = (os.path.normcase(os.path.abspath(item.split("|")[0])) for item in (source, path))
    return first == second


def summary_words(summary: dict[str, Any], warnings: int) -> str:
    """Return what the analyst must know of a run, from the summary in its result, and how many warnings there were."""
    words = [tr("Done in {}").format(duration(summary.get("seconds", 0)))]
    if summary.get("device"):
        words[0] += tr(" on {}").format(summary["device"])
    for name, share in summary.get("share_without", {}).items():
        if share:
            words.append(tr("{} of the area without {}").format(percent(share), name))
    nodata = summary.get("pixels", {}).get("nodata", 0)
    if nodata:
        words.append(tr("{} has no data").format(percent(nodata / summary["pixels"]["scene"])))
    if warnings:
        words.append(tr("{} warnings").format(warnings) if warnings > 1 else tr("1 warning"))
    return ", ".join(words) + "."


def percent(share: float) -> str:
    """Return a share in per cent, never rounded to nothing or to all."""
    if 0 < share < 0.01:
        return tr("less than 1 %")
    if 0.99 < share < 1:
        return tr("more than 99 %")
    return f"{100 * share:.0f} %"
