# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings: preset, file and options in this order, and no key passed over."""

from __future__ import annotations

import json

import pytest

from lacuna.engine.errors import LacunaError
from lacuna.engine.models.sgma import Sgma
from lacuna.engine.training.augment import Radiometry
from lacuna.engine.training.recipe import read_recipe

NAMES = ["optical", "height"]


@pytest.fixture
def read(make_job):
    return lambda text="", **options: read_recipe(make_job("m.toml", config=text, **options), NAMES)


def test_without_a_file_the_preset_holds(make_job):
    job = make_job("m.toml")
    job.config = None
    recipe = read_recipe(job, NAMES)
    assert recipe.settings == Sgma.settings("default")
    assert recipe.model == {}
    job.preset = "paper"
    recipe = read_recipe(job, NAMES)
    assert recipe.settings == Sgma.settings("paper")
    assert recipe.model["encoder"] == "pvt_v2_b2"


def test_the_file_changes_the_preset_and_options_change_the_file(read):
    text = '[model]\nencoder = "pvt_v2_b0"\nhead_width = 32\n[training]\nlr = 1\nepochs = 40\ncrop = 32\nbalance = 0.25'
    recipe = read(text)
    assert recipe.model == {"encoder": "pvt_v2_b0", "head_width": 32}
    assert (recipe.settings.lr, recipe.settings.epochs, recipe.settings.crop) == (1, 40, 32)
    assert recipe.settings.weight_decay == Sgma.settings().weight_decay
    assert recipe.config.balance == 0.25
    recipe = read(text, epochs=8, encoder="resnet_small")
    assert (recipe.settings.epochs, recipe.settings.warmup_epochs) == (8, 2)
    assert recipe.model == {"encoder": "resnet_small", "head_width": 32}


def test_changes_of_values_by_modality(read):
    recipe = read("[training.radiometry]\nheight = {offset = 0.5}\noptical = {gain = 0.1, noise = 0.02}")
    assert recipe.changes == {"height": Radiometry(offset=0.5), "optical": Radiometry(gain=0.1, noise=0.02)}
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[trainng]\nlr = 1", "trainng"),
        ("[training]\nlearning_rate = 1", "learning_rate"),
        ('[training]\nlr = "fast"', "lr = 'fast'"),
        ("[training]\nlr = 0", "lr is 0"),
        ("[training]\nepochs = 1.5", "epochs = 1.5"),
        ("[training]\nclip = -1", "clip is -1"),
        ("[training]\nbalance = 2", "balance is 2"),
        ("[training]\naverage = 1.0", "average is 1.0"),
        ("[training]\nscale = [1.0]", "scale is [1.0]"),
        ("[training]\nscale = [0, 1]", "scale is [0, 1]"),
        ('[training]\nstrategy = "anyseg"', "strategy = 'anyseg'"),
        ("[training]\nwarmup_ratio = -0.1", "warmup_ratio is -0.1"),
        ("[training.radiometry]\nsar = {noise = 1}", "'sar'"),
        ("[training.radiometry]\nheight = 1", "height = 1"),
        ("[training.radiometry]\nheight = {shift = 1}", "'shift'"),
        ("[training.radiometry]\nheight = {noise = -1}", "at least 0"),
        ("model = 3", "model = 3"),
        ("[training", "no TOML"),
    ],
)
def test_every_mistake_is_named(read, text, named):
    with pytest.raises(LacunaError) as caught:
        read(text)
    assert caught.value.code == "bad-config"
    assert named in str(caught.value)
    assert "config.toml" in str(caught.value)


def test_an_unknown_architecture_is_named(make_job):
    with pytest.raises(LacunaError) as caught:
        read_recipe(make_job("m.toml", architecture="unet"), NAMES)
    assert caught.value.code == "unknown-architecture"


def test_a_file_that_is_not_there(make_job):
    job = make_job("m.toml")
    job.config += ".none"
    with pytest.raises(LacunaError) as caught:
        read_recipe(job, NAMES)
    assert caught.value.code == "file-missing"
