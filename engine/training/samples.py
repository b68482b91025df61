# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of training pixels, for what learns pixel by pixel: forests and the detail path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..data.labelled_scenes import LabelledScene
from ..data.splits import TRAIN
from ..models.detail import DetailConfig
from ..models.window_features import count_features, strips_of_each
from ..models.world_prior import CLASSES, MARGIN, STRIDE
from .session import Session

WINDOWS = (3, 7, 15)
# Pixels that are taken, drawn alike from all there are: more cost time and change little.
MOST_PIXELS = 20_000
# Tiles in which pixels without a label are looked for: of a large scene, all would be read for a few pixels each.
MOST_TILES = 64
_TILE = 256


@dataclass(frozen=True)
class PixelSamples:
    """Pixels.

    Attributes:
        features: float32 (N, F) of each modality (`models.window_features`); 0 where it is not valid.
        valid: bool (N), where each modality is valid.
        labels: class indices (N), -1 for none.
        beliefs: float32 (N, 9) of the modalities of which Dynamic World has a say (`models.world_prior`).
    """

    features: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    labels: np.ndarray
    beliefs: dict[str, np.ndarray] = field(default_factory=dict)


def gather_samples(session: Session, regions: Sequence[int] = (TRAIN,), *, plain: bool = False) -> PixelSamples:
    """Return the features of labelled pixels of all scenes, of so many at most as `MOST_PIXELS` says.

    Args:
        session: the scenes, divided and prepared.
        regions: whose labels are taken (`splits`).
        plain: those of forests, whatever the session's detail path sees.
    """
    if plain and not session.detail.plain:
        session = replace(session, detail=DetailConfig(list(WINDOWS)), components={}, priors={})
    return _gathered(session, _places(session, regions, labelled=True))


def gather_pixels(session: Session, name: str) -> np.ndarray:
    """Return the scaled values (N, C) of modality `name` at labelled training pixels, as many as `gather_samples`."""
    detail = DetailConfig(list(WINDOWS), own_windows={item.name: [1] for item in session.modalities})
    item = next(item for item in session.modalities if item.name == name)
    alone = replace(session, modalities=[item], detail=detail, components={}, priors={})
    found = _gathered(alone, _places(session, (TRAIN,), labelled=True))
    return found.features[name][found.valid[name], : len(item.bands)]


def gather_unlabelled(session: Session, regions: Sequence[int] = (TRAIN,)) -> PixelSamples | None:
    """Return the features of pixels without a label, of so many at most; None where most pixels have one.

    They come from `MOST_TILES` tiles at most, drawn alike from all there are.

    Args:
        session: the scenes, divided and prepared.
        regions: which pixels are taken (`splits`).
    """
    found = _places(session, regions, labelled=False)
    count, labelled = (sum(map(len, item)) for item in (found, _places(session, regions, labelled=True)))
    return _gathered(session, _of_few_tiles(session, found)) if count > labelled else None


def _of_few_tiles(session: Session, places: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return those of the `places` of each scene that lie in `MOST_TILES` tiles, drawn from the session's seed."""
    numbers = [_tiles(scene, found) for scene, found in zip(session.scenes, places)]
    tiles = [(index, number) for index, item in enumerate(numbers) for number in np.unique(item)]
    if len(tiles) <= MOST_TILES:
        return list(places)
    rng = np.random.default_rng([session.seed, len(tiles)])
    drawn = [tiles[row] for row in np.sort(rng.choice(len(tiles), MOST_TILES, replace=False))]
    return [
        found[np.isin(item, [number for scene, number in drawn if scene == index])]
        for index, (item, found) in enumerate(zip(numbers, places))
    ]


def _tiles(scene: LabelledScene, places: np.ndarray) -> np.ndarray:
    """Return for flat positions in the window of a scene the number of the tile in which each lies."""
    width = scene.window[3]
    rows, columns = np.divmod(places, width)
    return (rows // _TILE) * -(-width // _TILE) + columns // _TILE


def _places(session: Session, regions: Sequence[int], labelled: bool) -> list[np.ndarray]:
    """Return for each scene the flat positions of the pixels of some regions that have a label, or have none."""
    return [
        np.flatnonzero(np.isin(scene.region, regions) & ((scene.labels >= 0) == labelled)) for scene in session.scenes
    ]


def _gathered(session: Session, places: Sequence[np.ndarray]) -> PixelSamples:
    """Return the features at `places` of each scene, or of some of them, drawn alike."""
    rng = np.random.default_rng(session.seed)
    share = min(1.0, MOST_PIXELS / max(sum(map(len, places)), 1))
    pieces: list[PixelSamples] = []
    for scene, found in zip(session.scenes, places):
        chosen = np.sort(rng.choice(found, round(share * len(found)), replace=False))
        if len(chosen):
            pieces += _of_scene(scene, chosen, session)
    return PixelSamples(
        {name: np.concatenate([piece.features[name] for piece in pieces]) for name in pieces[0].features},
        {name: np.concatenate([piece.valid[name] for piece in pieces]) for name in pieces[0].valid},
        np.concatenate([piece.labels for piece in pieces]),
        {name: np.concatenate([piece.beliefs[name] for piece in pieces]) for name in pieces[0].beliefs},
    )


def _of_scene(scene: LabelledScene, chosen: np.ndarray, session: Session) -> list[PixelSamples]:
    """Return the samples at flat positions `chosen` in the window of a scene, tile by tile."""
    top, left, height, width = scene.window
    rows, columns = np.divmod(chosen, width)
    found = []
    for row in range(0, height, _TILE):
        for column in range(0, width, _TILE):
            inside = (rows // _TILE == row // _TILE) & (columns // _TILE == column // _TILE)
            if inside.any():
                session.reporter.check()
                places = rows[inside] - row, columns[inside] - column
                labels = scene.labels[rows[inside], columns[inside]]
                found.append(_of_tile(scene, (top + row, left + column), places, labels, session))
    return found


def _of_tile(
    scene: LabelledScene,
    origin: tuple[int, int],
    places: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    session: Session,
) -> PixelSamples:
    """Return the samples at `places` (rows, columns) of the tile that begins at `origin` in the scene's grid."""
    config = session.detail
    edge = max(MARGIN if session.priors else 0, config.reach)
    # Dynamic World's grid of half the resolution begins at even pixels, as when a scene is classified.
    top, left = ((place - edge) // STRIDE * STRIDE for place in origin)
    side = _TILE + 2 * edge + STRIDE
    layers = scene.read(top, left, side, side)
    rows, columns = places[0] + origin[0] - top, places[1] + origin[1] - left
    features, valid, beliefs = {}, {}, {}
    for item in session.modalities:
        name, sides = item.name, config.sides(item.name)
        count = count_features(len(item.bands) if name not in session.components else config.components[name], sides)
        features[name] = np.zeros((len(labels), count), np.float32)
        valid[name] = np.zeros(len(labels), bool)
        if name in session.priors:
            beliefs[name] = np.zeros((len(labels), CLASSES), np.float32)
        if name in layers:
            image = torch.from_numpy(layers[name].values)
            valid[name] = layers[name].valid[rows, columns]
            seen = session.components[name](image[None])[0] if name in session.components else image
            features[name] = _picked(strips_of_each([seen], [sides], inside=config.inside), rows, columns)
            if name in session.priors:
                belief = session.priors[name](image[None].to(session.device))[0].cpu()
                beliefs[name] = belief[:, rows, columns].T.numpy()
    return PixelSamples(features, valid, labels, beliefs)


def _picked(strips: Iterable[Tensor], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the features (N, F) at `rows` and `columns` of the image whose strips are given."""
    found, first = [], 0
    for strip in strips:
        here = (rows >= first) & (rows < first + strip.shape[1])
        found.append((np.flatnonzero(here), strip[:, rows[here] - first, columns[here]].T.numpy()))
        first += strip.shape[1]
    order = np.argsort(np.concatenate([places for places, _ in found]), kind="stable")
    return np.concatenate([features for _, features in found])[order]
