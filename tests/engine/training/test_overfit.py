# SPDX-License-Identifier: GPL-2.0-or-later
"""The chain from rasters to loss can learn: one real crop by heart, in every scenario."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.evaluation.metrics import ConfusionMatrix
from lacuna.engine.events import silent
from lacuna.engine.models.registry import build
from lacuna.engine.training.augment import Geometry
from lacuna.engine.training.crops import Crop, Cutter, collate
from lacuna.engine.training.manifest import read_manifest
from lacuna.engine.training.parts import close_parts, divide, measure, open_parts
from lacuna.engine.training.scenarios import full
from lacuna.engine.training.splits import TRAIN

DATA = Path(__file__).parents[2] / "data" / "landcover_s2_s1_dem"
SIDE = 32


@pytest.fixture
def batch():
    """The training crop of the first scene with most classes, every label known."""
    manifest = read_manifest(str(DATA / "manifest.toml"))
    parts = open_parts(manifest, silent())
    divide(parts, manifest, silent())
    modalities = measure(parts, manifest.modalities, silent())
    for part in parts:
        part.prepare(modalities)
    parts[0].region[:] = TRAIN
    labels = parts[0].labels
    corners = [(row, column) for row in range(0, 192, 16) for column in range(0, 96, 16)]
    kinds = [np.bincount(labels[r : r + SIDE, c : c + SIDE].ravel() + 1, minlength=7)[1:] for r, c in corners]
    row, column = corners[int(np.argmax([(counts > 40).sum() for counts in kinds]))]
    yield collate([Cutter(parts, modalities, SIDE, full(modalities), {})(Crop(0, row, column, Geometry(SIDE), 0))])[0]
    close_parts(parts)


@pytest.mark.slow
def test_one_crop_is_learned_by_heart_in_every_scenario(batch):
    torch.manual_seed(0)
    config = {"encoder_options": {"stem_stride": 1, "width": 16, "depth": 1}, "head_width": 32, "head_dropout": 0.0}
    channels = {name: image.shape[1] for name, image in batch.images.items()}
    model = build("sgma", config, channels, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    assert len(batch.target[batch.target >= 0].unique()) >= 3
    for _ in range(300):
        optimizer.zero_grad()
        model.losses(batch.images, batch.target, generator=generator)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    for scenario in scenarios(list(channels)):
        with torch.inference_mode():
            found = model({name: batch.images[name] for name in scenario}).argmax(1)
        matrix = ConfusionMatrix(6)
        matrix.update(batch.target.numpy(), found.numpy())
        assert matrix.miou() > 0.9, scenario
