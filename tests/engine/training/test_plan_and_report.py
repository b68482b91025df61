# SPDX-License-Identifier: GPL-2.0-or-later
"""A training from scratch shows its plan first, finds a split itself, and says what a forest on its labels is worth."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.training.train import train

FITTED = 'method = "block"\nfit = true\n'


@pytest.fixture
def fitted(two_scenes):
    """Two scenes whose blocks and gap are to suit the labels; `World.manifest()` writes them."""
    two_scenes.head = two_scenes.head.replace('method = "block"\nblock = 16\ngap = 2\n', FITTED)
    assert FITTED in two_scenes.head
    return two_scenes


def test_the_plan_says_what_will_be_done_and_nothing_is_written(fitted, make_job, heard, tmp_path):
    job = dataclasses.replace(make_job(fitted.manifest(), report=str(tmp_path / "r.html")), plan_only=True)
    before = {path.name for path in tmp_path.iterdir()}
    plan = train(job, heard[0])
    assert {path.name for path in tmp_path.iterdir()} == before
    assert [item["name"] for item in plan["classes"]] == ["low", "middle", "high"]
    assert plan["added"] == []
    assert plan["split"]["method"] == "block" and plan["split"]["validation"] == 0.25
    assert {item["side"] for item in plan["regions"]} >= {"training", "validation"}
    assert {item["scene"] for item in plan["regions"]} == {"a", "b"}
    labelled = sum(sum(plan["pixels"][side].values()) for side in ("training", "validation")) + plan["pixels"]["gap"]
    assert labelled == 2 * 48 * 48
    assert plan["strategy"]["scenarios"] == [["optical"], ["height"], ["optical", "height"]]
    assert plan["strategy"]["own_draws"] is True
    assert plan["weights"]["all"] == plan["weights"]["trained"] > 0
    assert (plan["epochs"], plan["steps"], plan["crop"]) == (2, 2, 24)


def test_the_split_that_was_planned_is_the_one_that_is_trained(fitted, make_job, heard):
    job = make_job(fitted.manifest(), forest=True, detail=False)
    plan = train(dataclasses.replace(job, plan_only=True), heard[0])
    result = train(job, Reporter(lambda event: None))
    assert result["plan"]["split"] == plan["split"]
    assert result["plan"]["regions"] == plan["regions"]
    assert read_card(result["checkpoint"]).training["pixels"]["training"] == plan["pixels"]["training"]


def test_too_few_labels_are_refused_where_the_split_is_left_to_them(world, make_job, heard):
    def thin(arrays):
        arrays["labels"][1:] = 0

    world.head = world.head.replace('method = "block"\nblock = 16\ngap = 2\n', FITTED)
    world.scene("a", change=thin)
    with pytest.raises(LacunaError, match=r"48 labelled pixels.*at least 100") as caught:
        train(make_job(world.manifest()), heard[0])
    assert caught.value.code == "too-few-labels"


def test_a_forest_stands_beside_the_model_and_the_report_shows_both(two_scenes, make_job, heard, tmp_path):
    job = make_job(two_scenes.manifest(), forest=True, report=str(tmp_path / "model.html"))
    result = train(job, heard[0])
    forest = read_card(result["forest"]["checkpoint"])
    assert result["forest"]["checkpoint"] == str(tmp_path / "model.forest.safetensors")
    assert forest.architecture["name"] == "forest" and "beside a training" in forest.description
    assert forest.scores == result["forest"]["scores"]
    assert read_card(result["checkpoint"]).training["forest"]["miou"] == result["forest"]["miou"]
    page = Path(result["report"]).read_text(encoding="utf-8")
    for words in ("new model", "random forest", "IoU by class", "optical + height", "Trained from scratch", "<img"):
        assert words in page
    assert "before" not in page.partition("<body")[2].casefold().replace("before its", "")


def test_an_interrupted_training_goes_on_from_a_manifest_and_labels_written_anew(two_scenes, make_job, tmp_path):
    class Crash(Exception):
        pass

    def stop(event):
        if event["event"] == "progress" and event["done"] == 1:
            raise Crash

    job = make_job(two_scenes.manifest())
    with pytest.raises(Crash):
        train(job, Reporter(stop))
    shutil.copy(tmp_path / "a_labels.tif", tmp_path / "again.tif")
    # A folder of its own, as a manifest that gives no name is called as its file.
    (tmp_path / "new").mkdir()
    text = two_scenes.text().replace("a_labels.tif", "again.tif")
    for name in ("a_optical", "a_height", "b_optical", "b_height", "b_labels", "again"):
        text = text.replace(f'"{name}.tif"', f'"../{name}.tif"')
    (tmp_path / "new" / "scenes.toml").write_text(text)
    said = []
    train(dataclasses.replace(job, manifest=str(tmp_path / "new" / "scenes.toml")), Reporter(said.append))
    assert any("Resuming an unfinished training: 1 of" in event.get("text", "") for event in said)
