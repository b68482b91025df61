# SPDX-License-Identifier: GPL-2.0-or-later
"""How many times `lacuna train` reduces a modality: from the pixels of real rasters, said, and kept in the card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load, rewrite_card
from lacuna.engine.data.labelled_scenes import close_scenes, open_scenes
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.data.splits import TEST
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import silent
from lacuna.engine.training.recipe import read_recipe
from lacuna.engine.training.reduction_choice import AUTO, choose_reduction, factor_of
from lacuna.engine.training.train import train

PLOT = Path(__file__).parents[2] / "data" / "tree_crowns"
HEAD = """
reference = "rgb"
ignore = [0]
classes = [{value = 1, name = "a"}, {value = 2, name = "b"}, {value = 3, name = "c"}, {value = 4, name = "d"}]
[modalities.rgb]
bands = ["1", "2", "3"]
[modalities.chm]
bands = ["1"]
[modalities.hsi]
bands = ["1", "100", "200"]
[split]
method = "block"
block = 40
gap = 4
validation = 0.3
"""
CONFIG = """
[model]
encoder_options = {width = 4, depth = 1}
head_width = 8
reduce = REDUCE
[training]
epochs = 1
batch = 2
crop = 64
crops = 2
tile = 64
"""


def config(reduce):
    return CONFIG.replace("REDUCE", reduce)


@pytest.fixture
def plot(tmp_path):
    """The manifest of a plot: rgb of 0.1 m, hsi and chm of 1 m."""
    sources = ", ".join(f'{kind} = "{PLOT / kind}.tif"' for kind in ("rgb", "chm", "hsi"))
    scene = f'[[scenes]]\nname = "plot"\nsources = {{{sources}}}\nlabels = "{PLOT / "labels.tif"}"\n'
    path = tmp_path / "plot.toml"
    path.write_text(HEAD + scene)
    return str(path)


def chosen(path, job, said, tile=64, regions=None):
    """Return the setting that is chosen for the scenes of a manifest."""
    manifest = read_manifest(path)
    scenes = open_scenes(manifest, silent())
    try:
        for scene, region in (regions or {}).items():
            scenes[scene].region[:] = region
        return choose_reduction(read_recipe(job, manifest.names), scenes, tile, said).model["reduce"]
    finally:
        close_scenes(scenes)


@pytest.mark.parametrize(
    ("ratio", "sides", "factor"),
    [
        (1.0, 96, 1), (0.5, 96, 1), (1.9, 96, 1), (1.99, 96, 2), (2.0, 96, 2), (3.9, 96, 2), (10.0, 32, 8),
        (10.0, 36, 4), (10.0, 7, 1), (300.0, 4096, 64), (float("nan"), 96, 1),
    ],
)  # fmt: skip
def test_the_largest_power_of_two_that_fits(ratio, sides, factor):
    assert factor_of(ratio, sides) == factor


def test_it_follows_from_the_pixels_of_real_rasters_and_is_said(plot, make_job, heard):
    job = make_job(plot, config=config('"auto"'))
    assert chosen(plot, job, heard[0]) == {"chm": 8, "hsi": 8}
    said = [event["text"] for event in heard[1] if event["event"] == "message" and event["level"] == "info"]
    assert "hsi has pixels of 1 m on a grid of 0.1 m: its encoder sees it reduced 8 times." in said
    # The tile, then the crop, is no multiple of 8.
    assert chosen(plot, job, heard[0], tile=68) == {"chm": 4, "hsi": 4}
    assert chosen(plot, make_job(plot, config=config('"auto"').replace("crop = 64", "crop = 66")), heard[0]) == {
        "chm": 2, "hsi": 2
    }  # fmt: skip


@pytest.mark.parametrize("given", ["{}", "{hsi = 2}"])
def test_a_table_is_taken_as_it_is(given, plot, make_job, heard):
    assert chosen(plot, make_job(plot, config=config(given)), heard[0]) == ({} if given == "{}" else {"hsi": 2})
    assert not heard[1]


def test_another_text_is_refused(plot, make_job, heard):
    with pytest.raises(LacunaError) as caught:
        chosen(plot, make_job(plot, config=config('"always"')), heard[0])
    assert caught.value.code == "bad-config" and "'always'" in caught.value.text and AUTO in caught.value.hint


def test_the_finest_raster_of_the_training_scenes_decides(world, write_raster, make_job, heard):
    for name in ("a", "b", "c"):
        world.scene(name)
    # Heights of 80, 40 and 10 m on grids of 10 m; the last scene is for tests.
    for index, (name, size) in enumerate((("a", 8), ("b", 4), ("c", 1))):
        place = Affine(10 * size, 0, 500000 + 10000 * index, 0, -10 * size, 5500000)
        write_raster(f"{name}_height.tif", np.ones((48 // size, 48 // size), np.float32), transform=place)
    job = make_job(world.manifest(), config=config('"auto"'))
    assert chosen(world.manifest(), job, heard[0], regions={2: TEST}) == {"height": 4}
    assert chosen(world.manifest(), job, heard[0]) == {}


@pytest.mark.slow
def test_the_card_keeps_it_and_the_network_is_the_same_again(plot, make_job, heard):
    result = train(make_job(plot, config=config('"auto"')), heard[0])
    card, model = load(result["checkpoint"])
    assert card.architecture["config"]["reduce"] == {"chm": 8, "hsi": 8} and model.factors == {"chm": 8, "hsi": 8}
    # The coarsest features of resnet_small lie 16 pixels of their own apart; tiles are two of their steps.
    assert card.stride == model.output_stride == 128 and card.tile == [256, 256] and card.margin == 64
    images = {"rgb": torch.rand(1, 3, 128, 128), "hsi": torch.rand(1, 3, 128, 128)}
    with torch.no_grad():
        assert torch.equal(load(result["checkpoint"])[1](images), model(images))


def test_a_card_from_before_says_nothing_and_is_read(make_checkpoint):
    path = make_checkpoint(
        architecture="sgma", config={"encoder_options": {"width": 4, "depth": 1}}, modalities={"a": ["1"], "b": ["1"]}
    )
    card = read_card(path)
    del card.architecture["config"]["reduce"]
    rewrite_card(path, card)
    assert "reduce" not in json.dumps(read_card(path).architecture)
    assert load(path)[1].factors == {}
