# SPDX-License-Identifier: GPL-2.0-or-later
"""A manifest, or the rasters of one scene, held against the card of a checkpoint that is to run on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from ..checkpoint.card import Card, Modality
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import SourceSpec
from .manifest import Manifest, SceneEntry, SplitRule


def fit_manifest(manifest: Manifest, card: Card, reporter: Reporter) -> Manifest:
    """Return `manifest` with the modalities of `card`, which decides bands, scaling, resampling and what is required.

    Only where values mean no data is the manifest's to say.

    Raises:
        LacunaError: `bad-manifest`, for a modality that the checkpoint does not know or that has other bands.
    """
    own = {item.name: item for item in manifest.modalities}
    unknown = [name for name in own if name not in card.names]
    if unknown:
        raise _unfit(manifest, f"has the modality {unknown[0]!r}", f"The checkpoint knows {', '.join(card.names)}.")
    for name, item in own.items():
        wanted = card.modality(name).bands
        if item.bands != wanted:
            found = f"has the bands {', '.join(item.bands)} for {name}"
            raise _unfit(manifest, found, f"The checkpoint needs {', '.join(wanted)}, in this order.")
        if item.scaling and item.scaling != card.modality(name).scaling:
            reporter.warn(f"{manifest.path}: the scaling of {name} is that of the checkpoint, not the manifest's.")
    modalities = [_merged(item, own.get(item.name)) for item in card.modalities]
    reference = card.reference if card.reference in own else manifest.reference
    if reference != manifest.reference:
        reporter.warn(f"{manifest.path}: labels follow the grid of {reference}, the checkpoint's reference.")
    return replace(manifest, modalities=modalities, reference=reference)


def single_scene(
    card: Card, modalities: Mapping[str, SourceSpec], labels: str = "", field: str | None = None
) -> Manifest:
    """Return a manifest of one scene, in which a checkpoint's modalities are bound to rasters.

    Args:
        card: of the checkpoint.
        modalities: the rasters by modality.
        labels: polygons or a raster of classes.
        field: of the polygons, which holds the class.

    Raises:
        UsageError: as for `Card.check_request`.
    """
    card.check_request(modalities)
    name = os.path.splitext(os.path.basename(labels.partition("|")[0]))[0] or "scene"
    sources = {key: modalities[key] for key in card.names if key in modalities}
    scene = SceneEntry(name, sources, labels, field=field, group=name)
    return Manifest(
        path=labels,
        reference=card.reference,
        classes=card.classes,
        modalities=card.modalities,
        scenes=[scene],
        split=SplitRule(method="block"),
        name=name,
    )


def _merged(own: Modality, given: Modality | None) -> Modality:
    nodata = own.nodata if given is None or given.nodata is None else given.nodata
    return replace(own, nodata=nodata)


def _unfit(manifest: Manifest, found: str, hint: str) -> LacunaError:
    return LacunaError("bad-manifest", f"{manifest.path} {found}, which the checkpoint does not have.", hint)
