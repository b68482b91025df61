# SPDX-License-Identifier: GPL-2.0-or-later
"""Values outside what a checkpoint was made for are scaled anew; those that fit are left as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, open_scenes
from lacuna.engine.finetuning.rescaling import changed_scaling, fit_scaling
from lacuna.engine.raster.scaling import scale

Z = {"type": "z_score", "mean": 300.0, "std": 80.0}


@pytest.fixture
def opened(two_scenes, heard):
    """The scenes of a small world, divided; with the manifest's modalities."""
    manifest = two_scenes.read()
    scenes = open_scenes(manifest, heard[0])
    divide_scenes(scenes, manifest, heard[0])
    yield scenes, manifest.modalities
    close_scenes(scenes)


def scaled(modalities, **chains):
    return [replace(item, scaling=chains.get(item.name, [{"type": "none"}])) for item in modalities]


def levels(scenes, name):
    values = [scene.read(0, 0, *scene.labels.shape)[name] for scene in scenes]
    return np.concatenate([layer.values[:, layer.valid] for layer in values], axis=1)


def own(scenes, name):
    values = levels(scenes, name)
    return [{"type": "z_score", "mean": values.mean(1).tolist(), "std": values.std(1).tolist()}]


def test_what_fits_is_left_bit_by_bit(opened):
    scenes, modalities = opened
    given = scaled(modalities, **{item.name: own(scenes, item.name) for item in modalities})
    assert fit_scaling(scenes, given) == given
    assert changed_scaling(given, fit_scaling(scenes, given)) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda step: {**step, "mean": [value + 1e4 for value in step["mean"]]}, id="far away"),
        pytest.param(lambda step: {**step, "std": [value * 50 for value in step["std"]]}, id="hardly any spread"),
        pytest.param(lambda step: {**step, "std": [value / 50 for value in step["std"]]}, id="too much spread"),
    ],
)
def test_what_does_not_fit_is_scaled_by_the_area(opened, change):
    scenes, modalities = opened
    fitting = {item.name: own(scenes, item.name) for item in modalities}
    given = scaled(modalities, **{**fitting, "optical": [change(fitting["optical"][0])]})
    found = fit_scaling(scenes, given)
    assert changed_scaling(given, found) == ["optical"]
    values = scale(levels(scenes, "optical"), found[0].scaling)
    assert np.abs(np.median(values, axis=1)).max() < 0.5
    assert values.std(1).min() > 0.5 and values.std(1).max() < 2
    assert found[0].statistics["minimum"] == pytest.approx(levels(scenes, "optical").min(1).tolist())


def test_values_held_by_the_old_scaling_are_seen_as_they_are(opened):
    """A card that holds its values within bounds would show an area far outside as one single value."""
    scenes, modalities = opened
    clip = {"type": "clip", "minimum": -10.0, "maximum": 10.0}
    step = {**own(scenes, "optical")[0]}
    step["mean"] = [value + 1e5 for value in step["mean"]]
    found = fit_scaling(scenes, scaled(modalities, optical=[step, clip], height=own(scenes, "height")))
    assert scale(levels(scenes, "optical"), found[0].scaling).std(1).min() > 0.5


def test_a_constant_band_is_no_reason(opened):
    scenes, modalities = opened
    for scene in scenes:
        scene._cache["height"].values[:] = 3.0
    flat = [{"type": "z_score", "mean": 3.0, "std": 1.0}]
    given = scaled(modalities, optical=own(scenes, "optical"), height=flat)
    assert fit_scaling(scenes, given) == given


def test_what_a_pretrained_encoder_relies_on_is_held(opened):
    scenes, modalities = opened
    given = scaled(modalities, **{item.name: [{"type": "z_score", "mean": 1e6, "std": 1.0}] for item in modalities})
    assert changed_scaling(given, fit_scaling(scenes, given, {"height"})) == ["optical"]
