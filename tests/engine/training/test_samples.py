# SPDX-License-Identifier: GPL-2.0-or-later
"""Pixels that teach without a label are drawn from few tiles of a large scene, and from all of a small one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lacuna.engine.data.splits import GAP, TRAIN
from lacuna.engine.imports.encoder_file import load_encoder
from lacuna.engine.imports.encoder_weights import bundled_path
from lacuna.engine.models.detail import DetailConfig
from lacuna.engine.models.window_features import count_features
from lacuna.engine.models.world_prior import WorldPrior, WorldPriorConfig
from lacuna.engine.training import samples
from lacuna.engine.training.samples import WINDOWS, gather_unlabelled


class Scene:
    """A scene of one band, whose values are the positions of its pixels; it remembers where it was read."""

    def __init__(self, height, width, labelled=0):
        self.window, self.origins = (0, 0, height, width), []
        self.region = np.full((height, width), TRAIN)
        self.labels = np.full((height, width), -1)
        self.labels.flat[:labelled] = 0

    def read(self, top, left, height, width):
        self.origins.append((top, left))
        rows, columns = np.mgrid[top : top + height, left : left + width]
        values = (rows * self.window[3] + columns).astype(np.float32)[None]
        return {"optical": SimpleNamespace(values=values, valid=np.ones((height, width), bool))}


def session(scenes, heard, seed=0):
    modality = SimpleNamespace(name="optical", bands=["red"])
    return SimpleNamespace(
        scenes=scenes,
        modalities=[modality],
        seed=seed,
        reporter=heard[0],
        priors={},
        detail=DetailConfig(),
        components={},
    )


def test_a_large_scene_is_read_in_few_tiles(heard, monkeypatch):
    monkeypatch.setattr(samples, "MOST_TILES", 5)
    monkeypatch.setattr(samples, "MOST_PIXELS", 200)
    scenes = [Scene(2048, 1100, 10), Scene(512, 300)]
    found = gather_unlabelled(session(scenes, heard))
    assert sum(len(scene.origins) for scene in scenes) == 5
    assert len(found.labels) == pytest.approx(200, abs=2)
    assert found.features["optical"].shape == (len(found.labels), count_features(1, WINDOWS))
    assert (found.labels == -1).all()


def test_other_seeds_draw_other_tiles_and_the_same_seed_the_same(heard, monkeypatch):
    monkeypatch.setattr(samples, "MOST_TILES", 3)
    read = []
    for seed in (0, 0, 1):
        scene = Scene(2048, 2048)
        gather_unlabelled(session([scene], heard, seed))
        read.append(scene.origins)
    assert read[0] == read[1] != read[2]


def test_a_small_scene_is_read_whole_and_only_where_pixels_may_teach(heard):
    scene = Scene(512, 600)
    scene.region[:256] = GAP
    found = gather_unlabelled(session([scene], heard))
    edge = max(WINDOWS) // 2 + 1
    assert scene.origins == [(256 - edge, column - edge) for column in (0, 256, 512)]
    assert found.features["optical"][:, 0].min() >= 256 * 600


def test_where_most_pixels_have_a_label_there_are_none(heard):
    assert gather_unlabelled(session([Scene(64, 64, 64 * 33)], heard)) is None


def test_what_dynamic_world_says_of_each_pixel_is_what_it_says_of_the_whole_scene(heard):
    prior = WorldPrior(WorldPriorConfig(list(range(9)), form="logit"))
    prior.network.load_state_dict(load_encoder(bundled_path("dynamic_world"))[1])
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(0, 1, (1, 9, 40, 40)))
    values = torch.nn.functional.interpolate(coarse, (301, 100), mode="bicubic")[0].float().numpy()
    padded = np.pad(values, ((0, 0), (64, 400), (64, 400)))
    scene = Scene(301, 100)
    scene.window = (1, 0, 300, 100)
    scene.region, scene.labels = scene.region[1:], scene.labels[1:]
    scene.read = lambda top, left, height, width: {
        "optical": SimpleNamespace(
            values=padded[:, top + 64 : top + 64 + height, left + 64 : left + 64 + width],
            valid=np.ones((height, width), bool),
        )
    }
    found = session([scene], heard)
    found.modalities = [SimpleNamespace(name="optical", bands=list(range(9)))]
    found.priors, found.device = {"optical": prior.eval()}, "cpu"
    taken = gather_unlabelled(found)
    with torch.no_grad():
        whole = prior(torch.from_numpy(padded[:, :400, :200])[None])[0, :, 64:, 64:].numpy()
    # Its own value tells where a pixel lies; the few that come twice do not count.
    known, first, counts = np.unique(values[0], return_index=True, return_counts=True)
    at = np.searchsorted(known, taken.features["optical"][:, 0])
    rows, columns = np.divmod(first[at], 100)
    deep = (counts[at] == 1) & (rows > 30) & (rows < 270) & (columns > 30) & (columns < 70)
    assert deep.sum() > 1000
    assert np.abs(taken.beliefs["optical"] - whole[:, rows, columns].T)[deep].max() < 1e-3
