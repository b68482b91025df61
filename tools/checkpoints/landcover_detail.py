# SPDX-License-Identifier: GPL-2.0-or-later
"""Train the detail path of the bundled land cover checkpoint, from labels and from what Dynamic World says.

With Sentinel-2 it learns the mean of Esri's labels and of Dynamic World's probabilities at level 1C, from level 2A.
From radar alone it learns the same, but most of every target is what is there in the mean (`PRIOR`): of places that it
does not know radar tells water and little more, and then the commonest class is the best guess. Hand-drawn floods
teach it water. Elevation has no say: heights above the sea tell these four places apart and nothing elsewhere, and
relief taught nothing that held elsewhere. Alone it gives what is there in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.models.detail import Detail, DetailConfig
from lacuna.engine.models.world_prior import KEYS, WorldPrior, WorldPriorConfig
from lacuna.engine.training.encoder_inputs import to_physical
from lacuna.engine.training.samples import WINDOWS
from lacuna.engine.training.session import rarity_weights
from lacuna.tools.checkpoints.atmosphere import BANDS
from lacuna.tools.checkpoints.landcover_classes import SNOW, VALUES, world_network
from lacuna.tools.checkpoints.landcover_ground import SPAIN, Ground

PIXELS, BATCH, STEPS, RATE = 6000, 256, 1200, 2e-3
SMOOTHED = 0.05
# Share of the mean over all ground in the targets of radar alone; chosen on scenes left out.
PRIOR = 0.7
_LABELS = 0.5
_TEACHING: tuple[tuple[str, ...], ...] = (("optical",), ("radar",), ("optical", "radar"), ("elevation",))


@dataclass
class _Lessons:
    """What is drawn from: codes by modality, targets with optical and for radar alone, weights; of Spain and floods."""

    codes: dict[str, Tensor]
    soft: Tensor
    radar: Tensor
    weights: Tensor
    bare: Tensor
    spain: tuple[Tensor, Tensor] | None
    floods: tuple[Tensor, Tensor]


def world_config(optical: Modality, line: np.ndarray) -> WorldPriorConfig:
    """Return how values that are scaled as `optical` says become level 1C, along the lines (9, 2) from level 2A."""
    table = to_physical(optical.scaling, len(optical.bands))
    assert table is not None
    places = [optical.bands.index(band) for band in BANDS]
    assert len(places) == len(KEYS)
    gain, offset = (np.array(table[key])[places] for key in ("gain", "offset"))
    whole = gain * line[:, 1], offset * line[:, 1] + line[:, 0]
    gains, offsets = ([float(f"{value:.9g}") for value in item] for item in whole)
    return WorldPriorConfig(places, gains, offsets)


def train_detail(
    scenes: Mapping[str, Ground],
    columns: Mapping[str, int],
    floods: Mapping[str, Ground],
    modalities: Sequence[Modality],
    line: np.ndarray,
    seed: int = 0,
) -> Detail:
    """Return the detail path trained on some scenes and floods.

    Args:
        scenes: with all modalities.
        columns: of scenes of which not all columns train: how many do, by name.
        floods: with radar alone.
        modalities: of the card, in order.
        line: lines (9, 2) from level 2A to 1C.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new(modalities, line)
        _fit(model, _lessons(model, scenes, columns, floods, rng), rng)
    return model.eval()


def _new(modalities: Sequence[Modality], line: np.ndarray) -> Detail:
    """Return the detail path before its training, elevation without a say."""
    prior = WorldPrior(world_config(modalities[0], line))
    prior.network.load_state_dict(world_network().state_dict())
    channels = {item.name: len(item.bands) for item in modalities}
    model = Detail(channels, len(VALUES), DetailConfig(list(WINDOWS), priors={"optical": prior.settings()}))
    model.priors[model.key("optical")].load_state_dict(prior.state_dict())
    deaf = model.enter[model.key("elevation")]
    for parameter in deaf.parameters():
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
    return model


def seen(model: Detail, ground: Ground, name: str) -> Tensor:
    """Return the features (F, h * w) of modality `name`, and below them what Dynamic World says."""
    found = torch.from_numpy(ground.features(name))
    if not model.has_prior(name):
        return found
    with torch.no_grad():
        belief = model.beliefs(name, torch.from_numpy(ground.images[name])[None])
    return torch.cat([found, belief[0].flatten(1)])


def _lessons(
    model: Detail,
    scenes: Mapping[str, Ground],
    columns: Mapping[str, int],
    floods: Mapping[str, Ground],
    rng: np.random.Generator,
) -> _Lessons:
    """Return the pixels to learn from; sets the codes of `model`."""
    features: dict[str, list[Tensor]] = {"optical": [], "radar": []}
    labels, said = [], []
    for name, ground in scenes.items():
        inside = np.arange(ground.labels.shape[1]) < columns.get(name, ground.labels.shape[1])
        places = np.flatnonzero((ground.labels >= 0) & inside)
        rows = rng.choice(places, min(PIXELS, len(places)), replace=False)
        for key, found in features.items():
            found.append(seen(model, ground, key)[:, rows])
        labels.append(ground.labels.ravel()[rows])
        assert ground.soft is not None
        said.append(ground.soft.reshape(-1, len(VALUES))[rows])
    spain, water = _of_floods(model, floods, rng)
    whole = {key: torch.cat(found, 1) for key, found in features.items()}
    for key, values in whole.items():
        extra = [spain[0], water[0][:, ::2]] if key == "radar" else []
        model.fit_code(key, torch.cat([values, *[item for item in extra if item is not None]], 1))
    hard = np.concatenate(labels)
    known = F.one_hot(torch.from_numpy(hard), len(VALUES)).float()
    soft = _LABELS * known + (1 - _LABELS) * torch.from_numpy(np.concatenate(said))
    mean = known.mean(0)
    # Of snow radar knows nothing: one scene is all snow, and its radar would be snow everywhere.
    dark = known.clone()
    dark[hard == SNOW] = mean
    counts = np.bincount(hard, minlength=len(VALUES))
    weights = torch.from_numpy(rarity_weights(np.where(counts, np.maximum(counts, 1e-3 * len(hard)), 0))).float()
    mean = mean.clone()
    mean[SNOW] = 0
    mean /= mean.sum()
    return _Lessons(
        model.code(whole),
        soft,
        PRIOR * mean + (1 - PRIOR) * dark,
        weights[hard],
        mean,
        None if spain[0] is None else (model.code({"radar": spain[0]})["radar"], PRIOR * mean + (1 - PRIOR) * spain[1]),
        (model.code({"radar": water[0]})["radar"], water[1]),
    )


def _of_floods(
    model: Detail, floods: Mapping[str, Ground], rng: np.random.Generator
) -> tuple[tuple[Tensor | None, Tensor], tuple[Tensor, Tensor]]:
    """Return features and targets of Spain (None where it is not there), and features of floods with 1 for water."""
    spain: tuple[Tensor | None, Tensor] = (None, torch.empty(0))
    features, water = [], []
    for name, ground in floods.items():
        found, labels = seen(model, ground, "radar"), ground.labels.ravel()
        for value in (0, 1):
            places = np.flatnonzero(labels == value)
            rows = rng.choice(places, min(PIXELS // 3, len(places)), replace=False)
            features.append(found[:, rows])
            water.append(np.full(len(rows), 1.0 - value, np.float32))
        if name == SPAIN and ground.soft is not None:
            rows = rng.choice(np.flatnonzero(ground.known), PIXELS, replace=False)
            spain = found[:, rows], torch.from_numpy(ground.soft.reshape(-1, len(VALUES))[rows])
    return spain, (torch.cat(features, 1), torch.from_numpy(np.concatenate(water)))


def _fit(model: Detail, lessons: _Lessons, rng: np.random.Generator) -> None:
    """Train `model`: each step draws one of the scenarios."""
    trained = [item for item in model.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=1e-2)
    model.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        loss = _step(model, lessons, _TEACHING[rng.integers(len(_TEACHING))], rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _step(model: Detail, lessons: _Lessons, scenario: Sequence[str], rng: np.random.Generator) -> Tensor:
    """Return the loss of one draw of pixels in one scenario."""
    if scenario == ("elevation",):
        nothing = torch.zeros(1, model.enter[model.key("elevation")].in_features)
        return -(lessons.bare * model.classify({"elevation": nothing}).log_softmax(1)[0]).sum()
    rows = torch.from_numpy(rng.choice(len(lessons.soft), BATCH))
    logs = model.classify({name: lessons.codes[name][rows] for name in scenario}).log_softmax(1)
    if "optical" in scenario:
        terms = -(1 - SMOOTHED) * (lessons.soft[rows] * logs).sum(1) - SMOOTHED * logs.mean(1)
        own = lessons.weights[rows]
        return (own * terms).sum() / own.sum()
    loss = -(lessons.radar[rows] * logs).sum(1).mean()
    if lessons.spain is not None:
        codes, targets = lessons.spain
        rows = torch.from_numpy(rng.choice(len(targets), BATCH))
        loss = loss - (targets[rows] * model.classify({"radar": codes[rows]}).log_softmax(1)).sum(1).mean()
    codes, targets = lessons.floods
    rows = torch.from_numpy(rng.choice(len(targets), BATCH))
    shares = model.classify({"radar": codes[rows]}).softmax(1)[:, 0].clamp(1e-4, 1 - 1e-4)
    return loss + F.binary_cross_entropy(shares, targets[rows])
