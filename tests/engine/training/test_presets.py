# SPDX-License-Identifier: GPL-2.0-or-later
"""Every architecture is trained by the same command under both presets, and its checkpoint segments."""

from __future__ import annotations

import pytest

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load
from lacuna.engine.models.names import MODULES
from lacuna.engine.models.registry import architecture
from lacuna.engine.training.train import train

# What makes the networks small; the rest of them is the preset's.
SMALL = {
    "sgma": "head_width = 8",
    "dis2": "width = 4\npool_width = 4",
    "cmx": "head_width = 8",
    "cbc": "level_widths = [4, 4, 4, 4, 4]\ntoken_width = 16\nheads = 2\nlatent_width = 8",
    "cbc_slp": "level_widths = [4, 4, 4, 4, 4]\ntoken_width = 16\nheads = 2\nlatent_width = 8",
}
ENCODERS = {"sgma": "pvt_v2_b0", "cmx": "mit_b0", "cbc": "resnet18", "cbc_slp": "resnet18"}
TINY = "encoder_options = {width = 4, depth = 1}\n"


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.slow
def test_each_is_trained_under_each_preset(two_scenes, make_job, heard, name, preset):
    text = "[model]\n" + SMALL[name] + "\n"
    if name == "dis2":
        text += "image_size = [32, 32]\n" if preset == "paper" else ""
    elif preset == "default":
        text += TINY
    # BatchNorm needs more than the one cell that an encoder of stride 32 makes of 32 pixels.
    crop = 64 if name.startswith("cbc") and preset == "paper" else 32
    text += f"[training]\nbatch = 2\ncrop = {crop}\ncrops = 4\nepochs = 1\n"
    text += "" if name == "dis2" and preset == "paper" else "tile = 64\n"
    job = make_job(two_scenes.manifest(), config=text, architecture=name, preset=preset)
    job.encoder = ENCODERS.get(name) if preset == "paper" else None
    train(job, heard[0])
    card, model = load(job.output)
    assert model.architecture == name
    assert len(card.scores) == 3
    wanted = architecture(name).settings(preset)
    settings = card.training["settings"]
    for key in ("lr", "weight_decay", "optimizer", "schedule", "accumulation", "momentum", "nesterov", "decay_factor"):
        assert settings[key] == getattr(wanted, key), key
    config = card.architecture["config"]
    own = architecture(name).preset_config(preset)
    changed = {"encoder", "head_width", "level_widths", "token_width", "image_size"}
    assert {key: config[key] for key in own if key not in changed} == {
        key: value for key, value in own.items() if key not in changed
    }
    papers = (settings["average"], settings["balance"], settings["class_weights"])
    assert papers == ((0.0, 0.0, "none") if preset == "paper" else (0.99, 0.5, "sqrt"))


def test_tiles_are_those_that_the_network_is_made_for(two_scenes, make_job, heard):
    text = "[model]\nwidth = 4\nimage_size = [32, 32]\n[training]\nbatch = 2\ncrop = 32\ncrops = 2\nepochs = 1\n"
    job = make_job(two_scenes.manifest(), config=text, architecture="dis2")
    train(job, heard[0])
    assert read_card(job.output).tile == [32, 32]
