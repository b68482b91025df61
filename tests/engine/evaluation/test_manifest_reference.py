# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenes of a manifest as reference: which of them count, how its classes become those of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import sha256
from lacuna.engine.checkpoint.store import rewrite_card
from lacuna.engine.data.confusion import ConfusionMatrix
from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, open_scenes
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.events import silent

HEAD = """
reference = "a"
ignore = [9]
classes = [{value = 0, name = "Class 0"}, {value = 10, name = "class 2"}, {value = 3, name = "CLASS 1"}]
[modalities.a]
bands = ["index"]
[modalities.b]
bands = ["index"]
[split]
method = "block"
block = 8
gap = 2
validation = 0.3
"""
# Manifest value -> index of the card's class.
INDEX = {0: 0, 10: 2, 3: 1}


class Scenes:
    """Scenes written into a folder, and what is known of them."""

    def __init__(self, folder, write):
        self.folder, self._write = Path(folder), write
        self.entries, self.arrays = [], {}

    def add(self, name, split=None, modalities=("a", "b"), seed=0, size=(40, 48), extra=""):
        rng = np.random.default_rng(seed)
        labels = rng.choice([0, 10, 3], size)
        truth = np.vectorize(INDEX.get)(labels)
        images = {
            key: np.where(rng.random(size) < share, rng.integers(0, 4, size), truth)
            for key, share in (("a", 0.2), ("b", 0.5))
        }
        place = Affine(10, 0, 500000 + 5000 * len(self.entries), 0, -10, 5500000)
        for key in modalities:
            self._write(f"{name}_{key}.tif", images[key].astype(np.float32), transform=place)
        self._write(f"{name}_labels.tif", labels.astype(np.uint8), transform=place)
        sources = ", ".join(f'{key} = "{name}_{key}.tif"' for key in modalities)
        side = f'split = "{split}"\n' if split else ""
        lines = f'[[scenes]]\nname = "{name}"\nsources = {{{sources}}}\nlabels = "{name}_labels.tif"\n{side}{extra}\n'
        self.entries.append(lines)
        self.arrays[name] = {"truth": truth, **images}

    def manifest(self, head=HEAD):
        path = self.folder / "scenes.toml"
        path.write_text(head + "".join(self.entries))
        return str(path)

    def confusion(self, key, *names):
        matrix = ConfusionMatrix(4)
        for name in names:
            matrix.update(self.arrays[name]["truth"], self.arrays[name][key])
        return matrix.counts.tolist()


@pytest.fixture
def scenes(tmp_path, write_raster):
    return Scenes(tmp_path, write_raster)


def warned(said):
    return [event["text"] for event in said if event["event"] == "message" and event["level"] == "warning"]


def test_test_scenes_count_and_one_matrix_holds_them_all(scenes, checkpoint, run_evaluate):
    scenes.add("first", "test", seed=1)
    scenes.add("second", "train", seed=2)
    scenes.add("third", "test", seed=3, modalities=("a",))
    scenes.add("fourth", seed=4)
    result, said = run_evaluate(checkpoint, manifest=scenes.manifest())
    assert result["split"] == "test"
    assert [scene["name"] for scene in result["scenes"]] == ["first", "third"]
    alone, radar, both = result["cases"]
    assert alone["confusion"] == scenes.confusion("a", "first", "third")
    assert radar["confusion"] == scenes.confusion("b", "first")
    assert both["confusion"] == scenes.confusion("a", "first")
    assert "3840 labelled pixels of the test scenes of scenes (first, third)" in result["measured_on"]
    assert any("different pixels, 1920 to 3840" in text for text in warned(said))


def test_without_any_split_named_all_scenes_count(scenes, checkpoint, run_evaluate):
    scenes.add("first", seed=1)
    scenes.add("second", seed=2)
    result, _ = run_evaluate(checkpoint, manifest=scenes.manifest())
    assert result["split"] == "all"
    assert result["cases"][0]["confusion"] == scenes.confusion("a", "first", "second")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_sides_of_a_division_by_blocks_are_those_of_training(scenes, checkpoint, run_evaluate, split):
    scenes.add("first", seed=1)
    scenes.add("second", seed=2)
    scenes.add("third", "test", seed=3)
    path = scenes.manifest()
    manifest = read_manifest(path)
    parts = open_scenes(manifest, silent())
    divide_scenes(parts, manifest, silent())
    wanted = ConfusionMatrix(4)
    for part in parts:
        inside = part.region == {"train": 0, "validation": 1}[split]
        known = scenes.arrays[part.name]
        wanted.update(known["truth"][inside], known["a"][inside])
    close_scenes(parts)
    result, _ = run_evaluate(checkpoint, manifest=path, split=split)
    assert result["cases"][0]["confusion"] == wanted.counts.tolist()
    assert 0 < result["cases"][0]["pixels"] < 2 * 40 * 48


def test_an_extent_limits_the_pixels(scenes, checkpoint, run_evaluate):
    scenes.add("first", seed=1, extra="extent = [500100.0, 5499800.0, 500300.0, 5499900.0]")
    result, _ = run_evaluate(checkpoint, manifest=scenes.manifest(), area_estimates=True)
    assert result["cases"][0]["pixels"] == 20 * 10
    assert result["areas"]["mapped_pixels"] == 20 * 10


def test_figures_on_what_it_was_trained_with_are_said_to_flatter(scenes, checkpoint, run_evaluate):
    scenes.add("first", seed=1)
    path = scenes.manifest()
    card = read_card(checkpoint)
    card.training = {"manifest_sha256": sha256(path)}
    rewrite_card(checkpoint, card)
    result, said = run_evaluate(checkpoint, manifest=path)
    assert any("flatter" in text for text in warned(said))
    assert result["measured_on"].endswith("with which the checkpoint was trained")


def test_classes_are_mapped_by_name_or_value_and_ignored(scenes, checkpoint, run_evaluate):
    scenes.add("first", seed=1)
    head = HEAD.replace("class 2", "wood").replace("CLASS 1", "rock")
    path = scenes.manifest(head)
    with pytest.raises(LacunaError) as caught:
        run_evaluate(checkpoint, manifest=path)
    assert caught.value.code == "unknown-class"
    assert "wood (10), rock (3)" in caught.value.text
    result, _ = run_evaluate(checkpoint, manifest=path, class_map={"WOOD": 2, "3": "class 1"})
    assert result["cases"][0]["confusion"] == scenes.confusion("a", "first")
    result, _ = run_evaluate(checkpoint, manifest=path, class_map={"wood": "class 2"}, ignore=["Rock"])
    assert result["cases"][0]["confusion"] == [
        row if index != 1 else [0] * 4 for index, row in enumerate(scenes.confusion("a", "first"))
    ]
    with pytest.raises(UsageError, match="stone"):
        run_evaluate(checkpoint, manifest=path, class_map={"wood": 2, "rock": 1, "stone": 0})


def test_scenes_and_modalities_that_the_checkpoint_cannot_use_are_left_out_and_said(
    scenes, make_checkpoint, run_evaluate
):
    needy = make_checkpoint(modalities={"a": {"bands": ["index"], "required": True}}, classes=4)
    scenes.add("first", seed=1)
    scenes.add("second", seed=2, modalities=("b",))
    result, said = run_evaluate(needy, manifest=scenes.manifest())
    assert [case["available"] for case in result["cases"]] == [["a"]]
    assert any("knows no modality b" in text for text in warned(said))
    assert any("Scene second is left out" in text for text in warned(said))


@pytest.mark.parametrize("protocol", ["emm", "rmm", "nm"])
def test_damage_needs_scenes_with_every_modality(scenes, checkpoint, run_evaluate, protocol):
    scenes.add("first", seed=1)
    scenes.add("second", seed=2, modalities=("a",))
    result, said = run_evaluate(checkpoint, manifest=scenes.manifest(), protocol=protocol)
    assert [scene["name"] for scene in result["scenes"]] == ["first"]
    assert {case["pixels"] for case in result["cases"]} == {40 * 48}
    assert any("left out: second" in text for text in warned(said))


def test_a_split_without_labels_is_said(scenes, checkpoint, run_evaluate):
    scenes.add("first", "train", seed=1)
    scenes.add("second", "validation", seed=2)
    with pytest.raises(LacunaError) as caught:
        run_evaluate(checkpoint, manifest=scenes.manifest())
    assert caught.value.code == "no-labels"
    assert "train: 1, validation: 1" in caught.value.text
    assert "--split" in caught.value.hint
