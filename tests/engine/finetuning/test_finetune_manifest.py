# SPDX-License-Identifier: GPL-2.0-or-later
"""The classes that the labels of a manifest lead to in fine-tuning."""

from __future__ import annotations

import pytest

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.events import silent
from lacuna.engine.finetuning.task import prepare_manifest
from lacuna.engine.jobs import FinetuneJob

MANIFEST = """
reference = "optical"
ignore = [5]
classes = [{value = 1, name = "class 1"}, {value = 2, name = "class 2"}]
[modalities.optical]
bands = ["red"]
[[scenes]]
name = "s"
labels = "labels.tif"
sources = {optical = "optical.tif"}
"""
SMALL = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}


@pytest.mark.parametrize(("asked", "goal"), [({}, None), ({"5": "class 1"}, "class 1"), ({"5": ""}, "")])
def test_what_a_manifest_ignores_stays_ignored_unless_it_is_mapped(make_checkpoint, tmp_path, asked, goal):
    """Value 5 is that of a class of the checkpoint which is merged, and one that the manifest ignores."""
    optical = {"bands": ["red"], "scaling": [{"type": "z_score", "mean": 300.0, "std": 80.0}]}
    checkpoint = make_checkpoint("base.safetensors", "sgma", {"optical": optical}, [1, 2, 5], SMALL)
    path = tmp_path / "m.toml"
    path.write_text(MANIFEST)
    job = FinetuneJob(checkpoint, manifest=str(path), class_map=asked, merge={"class 5": "class 2"})
    manifest, _ = prepare_manifest(job, read_card(checkpoint), silent())
    assert manifest.class_map.get("5") == goal
    assert manifest.class_map["class 5"] == "class 2"
    assert manifest.ignore == [5]
