# SPDX-License-Identifier: GPL-2.0-or-later
"""The chain from rasters to loss can learn: real crops by heart, with every architecture and in every scenario."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.data.confusion import ConfusionMatrix
from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, measure_modalities, open_scenes
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.data.splits import TRAIN
from lacuna.engine.events import silent
from lacuna.engine.models.names import MODULES
from lacuna.engine.models.registry import build
from lacuna.engine.training.augment import Geometry
from lacuna.engine.training.crops import Crop, Cutter, collate
from lacuna.engine.training.scenarios import named_strategy
from lacuna.engine.training.session import class_weights

DATA = Path(__file__).parents[2] / "data" / "landcover_s2_s1_dem"
SIDE = 32
PLOT = Path(__file__).parents[2] / "data" / "tree_crowns"
PLOT_SIDE = 64
MANIFEST = """
reference = "rgb"
ignore = [0]
classes = [{value = 1, name = "a"}, {value = 2, name = "b"}, {value = 3, name = "c"}, {value = 4, name = "d"}]
[modalities.rgb]
bands = ["red", "green", "blue"]
[modalities.chm]
bands = ["height"]
[modalities.hsi]
bands = ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
SMALL = {"encoder_options": {"stem_stride": 2, "width": 16, "depth": 1}}
CBC = {"level_widths": [16, 16, 24, 32, 32], "token_width": 32, "heads": 4, "latent_width": 48, "dropout": 0.0}
# By architecture: how it is made small, the learning rate and the steps: a step of CBC meets
# one of the seven scenarios, of DIS2 all modalities and one of the other six.
METHODS = {
    "sgma": ({**SMALL, "head_width": 32, "head_dropout": 0.0}, 3e-3, 150),
    "cmx": ({**SMALL, "head_width": 32, "head_dropout": 0.0}, 3e-3, 200),
    "cbc": ({**SMALL, **CBC}, 2e-3, 500),
    "cbc_slp": ({**SMALL, **CBC}, 2e-3, 500),
    "dis2": ({"width": 8, "dropout": 0.0}, 6e-3, 500),
}


@pytest.fixture
def batch():
    """The training crop of the first scene with most classes, every label known."""
    manifest = read_manifest(str(DATA / "manifest.toml"))
    scenes = open_scenes(manifest, silent())
    divide_scenes(scenes, manifest, silent())
    modalities = measure_modalities(scenes, manifest.modalities, silent())
    for scene in scenes:
        scene.prepare(modalities)
    scenes[0].region[:] = TRAIN
    labels = scenes[0].labels
    corners = [(row, column) for row in range(0, 192, 16) for column in range(0, 96, 16)]
    kinds = [np.bincount(labels[r : r + SIDE, c : c + SIDE].ravel() + 1, minlength=7)[1:] for r, c in corners]
    row, column = corners[int(np.argmax([(counts > 40).sum() for counts in kinds]))]
    yield collate(
        [
            Cutter(scenes, modalities, SIDE, named_strategy("full", modalities), {})(
                Crop(0, row, column, Geometry(SIDE), 0)
            )
        ]
    )[0]
    close_scenes(scenes)


@pytest.fixture
def plot(tmp_path, write_raster):
    """A crop of 6.4 m of the plot, all on the grid of the labels (0.1 m); height and 9 of the 369 bands have 1 m."""
    with rasterio.open(PLOT / "hsi.tif") as source:
        write_raster("hsi.tif", source.read(list(range(20, 369, 40))), source.transform, source.crs)
    files = {"rgb": PLOT / "rgb.tif", "chm": PLOT / "chm.tif", "hsi": tmp_path / "hsi.tif"}
    sources = ", ".join(f"{name} = {str(path)!r}" for name, path in files.items())
    scene = f"[[scenes]]\nname = 'plot'\nsplit = 'train'\nsources = {{{sources}}}\nlabels = '{PLOT / 'labels.tif'}'\n"
    (tmp_path / "plot.toml").write_text(MANIFEST + scene)
    manifest = read_manifest(str(tmp_path / "plot.toml"))
    scenes = open_scenes(manifest, silent())
    scenes[0].region[:] = TRAIN
    modalities = measure_modalities(scenes, manifest.modalities, silent())
    scenes[0].prepare(modalities)
    cutter = Cutter(scenes, modalities, PLOT_SIDE, named_strategy("full", modalities), {})
    yield collate([cutter(Crop(0, 112, 0, Geometry(PLOT_SIDE), 0))])[0]
    close_scenes(scenes)


def learn(model, batch, rate, steps):
    """Train on one batch, its classes weighed as in training, with a short warm-up and the rate falling to nought."""
    weights = class_weights(np.bincount(batch.target[batch.target >= 0], minlength=model.classes), "sqrt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps) ** 0.9
        optimizer.zero_grad()
        losses = model.losses(batch.images, batch.target, generator=generator, class_weights=weights)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def mious(model, batch):
    """Return the mIoU on the batch in every scenario."""
    found = {}
    for scenario in scenarios(list(model.modalities)):
        with torch.inference_mode():
            classes = model({name: batch.images[name] for name in scenario}).argmax(1)
        matrix = ConfusionMatrix(model.classes)
        matrix.update(batch.target.numpy(), classes.numpy())
        found["+".join(scenario)] = matrix.miou()
    return found


@pytest.mark.slow
def test_one_crop_is_learned_by_heart_in_every_scenario(batch):
    torch.manual_seed(0)
    config = {"encoder_options": {"stem_stride": 1, "width": 16, "depth": 1}, "head_width": 32, "head_dropout": 0.0}
    channels = {name: image.shape[1] for name, image in batch.images.items()}
    model = build("sgma", config, channels, 6)
    assert len(batch.target[batch.target >= 0].unique()) >= 3
    learn(model, batch, 3e-3, 300)
    assert min(mious(model, batch).values()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_each_objective_learns_tree_crowns_by_heart_in_every_scenario(plot, name):
    assert plot.target.shape == (1, PLOT_SIDE, PLOT_SIDE) and (plot.target >= 0).all()
    assert plot.target.unique().tolist() == [1, 2, 3]
    config, rate, steps = METHODS[name]
    torch.manual_seed(0)
    model = build(name, config, {key: image.shape[1] for key, image in plot.images.items()}, 4)
    learn(model, plot, rate, steps)
    found = mious(model, plot)
    assert len(found) == 7 and min(found.values()) > 0.9, found
