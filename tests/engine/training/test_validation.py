# SPDX-License-Identifier: GPL-2.0-or-later
"""Validation: every labelled pixel counts once, in tiles of any size, and only where the scenario holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, open_scenes
from lacuna.engine.data.splits import TRAIN, VALIDATION
from lacuna.engine.models.base import SegmentationModel
from lacuna.engine.training.validation import Evaluator, mean_miou

SCENARIOS = [("optical",), ("height",), ("optical", "height")]


class Reader(SegmentationModel):
    """Finds the class in the height (0, 5 or 10 and noise), else calls everything the first class."""

    def __init__(self):
        super().__init__({"optical": 2, "height": 1}, 3, None)

    def forward(self, images, size=None):
        if "height" not in images:
            images = {"height": torch.zeros_like(images["optical"][:, :1])}
        index = (images["height"][:, 0] / 5).round().long().clamp(0, 2)
        return torch.nn.functional.one_hot(index, 3).permute(0, 3, 1, 2).float() * 4

    latent = losses = settings = preset_config = forward


@pytest.fixture
def scenes(world, heard):
    def holes(arrays):
        arrays["height"] = np.array([0, 0, 5, 0, 0, 10], np.float32)[arrays["labels"]]
        arrays["height"][:20] = np.nan

    world.head = world.head.replace('bands = ["red", "nir"]', 'bands = ["red", "nir"]\nscaling = {type = "none"}')
    world.head = world.head.replace('bands = ["height"]', 'bands = ["height"]\nscaling = {type = "none"}')
    world.scene("a", change=holes)
    world.scene("b", seed=2, modalities=("optical",))
    manifest = world.read()
    opened = open_scenes(manifest, heard[0])
    divide_scenes(opened, manifest, heard[0])
    for scene in opened:
        scene.prepare(manifest.modalities)
    yield opened
    close_scenes(opened)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (16, 0), (16, 8), (24, 10), (13, 5)])
@pytest.mark.parametrize("region", [TRAIN, VALIDATION])
def test_every_labelled_pixel_counts_once_whatever_the_tiles(scenes, heard, tile, overlap, region):
    evaluate = Evaluator(scenes, region, SCENARIOS, 3, tile, overlap, 4)
    found = evaluate(Reader(), torch.device("cpu"), heard[0])
    assert list(found) == SCENARIOS
    targets = [scene.target(region) for scene in scenes]
    optical = found["optical",].matrix
    assert optical.counts.sum(axis=1).tolist() == sum(np.bincount(t[t >= 0], minlength=3) for t in targets).tolist()
    assert (optical.counts[:, 1:] == 0).all()
    # Height is there in the lower part of the first scene alone, and tells the class without error.
    below = targets[0][20:]
    for scenario in (("height",), ("optical", "height")):
        counts = found[scenario].matrix.counts
        assert counts.tolist() == np.diag(np.bincount(below[below >= 0], minlength=3)).tolist()
    assert mean_miou(found) == pytest.approx((2 + optical.miou()) / 3)


def test_logits_are_kept_with_their_labels(scenes, heard, monkeypatch):
    from lacuna.engine.training import validation

    monkeypatch.setattr(validation, "_KEPT", 100)
    evaluate = Evaluator(scenes, TRAIN, SCENARIOS, 3, 16, 4, 4)
    found = evaluate(Reader(), torch.device("cpu"), heard[0], keep_logits=True)
    logits, labels = found["height",].kept()
    assert 0 < len(labels) <= 100
    assert logits.shape == (len(labels), 3)
    assert (logits.argmax(axis=1) == labels).all()


def test_ground_is_told_apart_by_squares_and_by_whole_scenes(scenes, heard, monkeypatch):
    from lacuna.engine.training import validation

    monkeypatch.setattr(validation, "_PIECE", 16)
    evaluate = Evaluator(scenes, VALIDATION, SCENARIOS, 3, 24, 8, 4)
    found = evaluate(Reader(), torch.device("cpu"), heard[0], keep_logits=True)["optical",].pieces()
    squares = {
        (index, row // 16, column // 16)
        for index, scene in enumerate(scenes)
        for row, column in zip(*np.nonzero(scene.target(VALIDATION) >= 0))
    }
    assert len(np.unique(found)) == len(squares) > 2
    for scene in scenes:
        scene.region[scene.region == TRAIN] = VALIDATION
    whole = Evaluator(scenes, VALIDATION, SCENARIOS, 3, 24, 8, 4)
    found = whole(Reader(), torch.device("cpu"), heard[0], keep_logits=True)["optical",].pieces()
    assert len(np.unique(found)) == 2


def test_scenes_without_such_pixels_are_not_read(scenes):
    scenes[1].region[:] = TRAIN
    assert Evaluator(scenes, VALIDATION, SCENARIOS, 3, 16, 4, 4).names == ["a"]
