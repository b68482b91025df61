# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled checkpoint of Dynamic World is fine-tuned like any other: every method, and classes of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.jobs import FinetuneJob, SourceSpec
from lacuna.engine.run import run

ROOT = Path(__file__).parents[3]
CHECKPOINT = str(ROOT / "resources" / "checkpoints" / "dynamic-world-s2.safetensors")
SAMPLE = ROOT / "resources" / "sample"
CONFIG = "[training]\nbatch = 2\ncrop = 32\ncrops = 4\ntile = 224\n"
CLASSES = {"1": "water", "2": "trees", "3": "flooded vegetation", "4": "crops", "5": "built", "9": "rangeland"}


@pytest.fixture
def tune(tmp_path, heard):
    """A function that fine-tunes the checkpoint on the sample scene for one short epoch."""

    def tune(method, **values):
        config = tmp_path / "tune.toml"
        config.write_text(CONFIG)
        sources = {"optical": SourceSpec(str(SAMPLE / "s2.tif"))}
        start = {"epochs": 1, "device": "cpu", "forest": False, "detail": False, "strategy": "uniform"}
        start |= {"labels": str(SAMPLE / "labels.tif"), "class_map": CLASSES, "config": str(config), "method": method}
        job = FinetuneJob(CHECKPOINT, str(tmp_path / "tuned.safetensors"), sources, **{**start, **values})
        job.check()
        return run(job, heard[0])

    return tune


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("head", {"head"}),
        ("decoder", {"decoder", "head"}),
        ("lora", {"stem", "block1", "block2", "skip", "decoder", "head"}),
        ("full", {"stem", "block1", "block2", "skip", "decoder", "head"}),
    ],
)
@pytest.mark.slow
def test_each_method_moves_its_part_and_keeps_the_scaling(tune, method, parts):
    merge = {"grass": "rangeland", "shrub and scrub": "rangeland"}
    result = tune(method, merge=merge, drop=["bare", "snow and ice"])
    card, base = read_card(result["checkpoint"]), read_card(CHECKPOINT)
    assert {item.name for item in card.classes} == set(CLASSES.values())
    assert result["plan"]["rescaled"] == [] and card.modalities == base.modalities
    assert card.architecture == base.architecture and card.licence == base.licence
    old, new = (safetensors.torch.load_file(path) for path in (CHECKPOINT, result["checkpoint"]))
    moved = {name.split(".")[1] for name in new if old[name].shape != new[name].shape or not old[name].equal(new[name])}
    assert moved == parts
    assert 0 < result["miou"] < 1 and all(torch.isfinite(value).all() for value in new.values())


@pytest.mark.slow
def test_it_is_joined_with_a_detail_path(tune):
    result = tune("head", detail=True, class_map={**CLASSES, "9": "grass"})
    card = read_card(result["checkpoint"])
    assert card.architecture["name"] == "joined" and card.architecture["config"]["network"]["name"] == "dynamic_world"
    # The detail path averages over 5 x 5 pixels what Dynamic World says of each.
    assert (card.stride, card.margin) == (2, 26)


@pytest.mark.slow
def test_latent_guidance_has_one_scenario(tune):
    result = tune("head", strategy="latent", class_map={**CLASSES, "9": "grass"})
    assert result["plan"]["strategy"]["probabilities"] == [1.0]
