# SPDX-License-Identifier: GPL-2.0-or-later
"""Training as a job: the same bits twice, taken up as if never interrupted, a full card, and nothing half-written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load
from lacuna.engine.errors import CancelledError, LacunaError, UsageError
from lacuna.engine.events import Reporter
from lacuna.engine.imports.encoder_file import EncoderInfo, save_encoder
from lacuna.engine.models.encoders import build_encoder
from lacuna.engine.training.train import train

DATA = Path(__file__).parents[2] / "data"
CONFIG = """
[model]
encoder_options = {width = 4, depth = 1}
head_width = 8
[training]
batch = 2
crop = 32
crops = 2
tile = 64
"""


def weights(path):
    return safetensors.torch.load_file(path)


def same(first, second):
    first, second = weights(first), weights(second)
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


class Crash(Exception):
    """Stands for a process that is killed."""


def crash_after(epochs):
    """A reporter whose process ends when so many epochs are done."""

    def take(event):
        if event["event"] == "progress" and event["done"] == epochs:
            raise Crash

    return Reporter(take)


def files(folder):
    return sorted(item.name for item in folder.iterdir() if "model" in item.name)


def test_two_runs_give_the_same_weights(two_scenes, make_job, heard):
    first, second, third = (
        make_job(two_scenes.manifest(), output=f"model{index}.safetensors", seed=seed, epochs=1)
        for index, seed in enumerate((4, 4, 5))
    )
    for job in (first, second, third):
        train(job, heard[0])
    assert same(first.output, second.output)
    assert not same(first.output, third.output)


def test_an_interrupted_training_goes_on_to_the_same_weights(two_scenes, make_job, heard, tmp_path):
    manifest = two_scenes.manifest()
    whole = make_job(manifest, output="whole.safetensors", epochs=3)
    wanted = train(whole, heard[0])
    cut = make_job(manifest, epochs=3)
    with pytest.raises(Crash):
        train(cut, crash_after(2))
    assert files(tmp_path) == ["model.safetensors.part"]
    result = train(cut, heard[0])
    assert any("Resuming an unfinished training: 2 of 3" in event.get("text", "") for event in heard[1])
    assert same(whole.output, cut.output)
    assert result["history"] == wanted["history"]
    assert files(tmp_path) == ["model.safetensors"]


def test_another_training_does_not_take_it_up(two_scenes, make_job, heard):
    manifest = two_scenes.manifest()
    with pytest.raises(Crash):
        train(make_job(manifest), crash_after(1))
    train(make_job(manifest, seed=1), heard[0])
    train(make_job(manifest, seed=1, output="other.safetensors"), heard[0])
    assert same(make_job(manifest).output, make_job(manifest, output="other.safetensors").output)


def test_resume_can_be_refused(two_scenes, make_job, heard):
    job = make_job(two_scenes.manifest(), resume=False)
    with pytest.raises(Crash):
        train(job, crash_after(1))
    train(job, heard[0])
    assert not any("Resuming" in event.get("text", "") for event in heard[1])


@pytest.mark.parametrize("when", ["epochs", "step"])
def test_cancel_leaves_nothing(two_scenes, make_job, tmp_path, when):
    reporter = Reporter(lambda event: None)
    job = make_job(two_scenes.manifest(), epochs=50)
    calls = 0
    check = reporter.check

    def counting():
        nonlocal calls
        calls += 1
        if calls == (4 if when == "step" else 30):
            reporter.cancelled.set()
        check()

    reporter.check = counting
    with pytest.raises(CancelledError):
        train(job, reporter)
    assert files(tmp_path) == []


def test_the_card_is_full(world, run_train):
    world.head = 'name = "small world"\nlicence = "CC0"\ncredits = "nobody"\ndescription = "a test"\n' + world.head
    world.scene("a", seed=1)
    world.scene("b", seed=2)
    world.scene("c", seed=3, split="test")
    result = run_train(world.manifest())
    card = read_card(result["checkpoint"])
    assert (card.name, card.licence, card.credits, card.description) == ("small world", "CC0", "nobody", "a test")
    assert card.architecture["name"] == "sgma"
    assert card.architecture["config"]["head_width"] == 8
    assert card.reference == "optical"
    assert [(item.value, item.name) for item in card.classes] == [(1, "low"), (2, "middle"), (5, "high")]
    assert card.resolution == [10.0, 10.0]
    assert (card.tile, card.stride) == ([64, 64], 16)
    assert 0 < card.margin <= 16
    optical = card.modality("optical")
    assert optical.resolution == [10.0, 10.0]
    assert set(optical.statistics) == {"minimum", "maximum", "mean", "std", "p01", "p99"}
    assert [step["type"] for step in optical.scaling] == ["z_score", "clip"]
    assert optical.scaling[0]["mean"] == pytest.approx(optical.statistics["mean"], rel=0.2)
    assert optical.scaling[0]["std"] == pytest.approx(optical.statistics["std"], rel=0.3)
    assert [tuple(item["available"]) for item in card.scores] == scenarios(["optical", "height"])
    assert all(item["pixels"] == 48 * 48 and len(item["iou"]) == 3 for item in card.scores)
    assert "2304 labelled pixels of the test scenes" in card.scores_on and "(c)" in card.scores_on
    assert [tuple(item["available"]) for item in card.calibration] == scenarios(["optical", "height"])
    record = card.training
    assert [item["name"] for item in record["scenes"]] == ["a", "b", "c"]
    assert sum(record["pixels"]["test"].values()) == record["scenes"][2]["test"] == 48 * 48
    assert record["pixels"]["training"]["low"] > 0
    assert (record["epochs"], record["seed"], record["settings"]["crop"]) == (2, 0, 24)
    assert set(record["versions"]) >= {"lacuna", "torch"}
    assert result["scores"] == card.scores


def test_without_test_scenes_the_scores_are_those_of_validation(two_scenes, run_train):
    result = run_train(two_scenes.manifest())
    assert "validation" in result["scores_on"]
    best = next(item for item in result["history"] if item["epoch"] == result["best_epoch"])
    assert best["miou"] == max(item["miou"] for item in result["history"]) == result["miou"]
    assert [item["miou"] for item in best["scenarios"]] == [item["miou"] for item in result["scores"]]


def test_what_was_learned_does_not_touch_validation_or_test(world, make_job, heard):
    """Other labels there give the same weights after one epoch."""
    jobs = []
    for index, labels in enumerate((None, np.full((48, 48), 5, np.uint8))):
        world.scenes = []

        def change(arrays, labels=labels):
            arrays["labels"] = arrays["labels"] if labels is None else labels

        world.scene("a", seed=1, split="train")
        world.scene("b", seed=2, split="validation", change=change)
        world.scene("c", seed=3, split="test", change=change)
        jobs.append(make_job(world.manifest(), output=f"model{index}.safetensors", epochs=1))
        train(jobs[-1], heard[0])
    assert same(jobs[0].output, jobs[1].output)


def test_a_scene_may_lack_a_modality(world, run_train):
    world.scene("a", seed=1, split="train", modalities=("optical",))
    world.scene("b", seed=2, split="train", modalities=("height",))
    world.scene("c", seed=3, split="validation")
    result = run_train(world.manifest())
    _, model = load(result["checkpoint"])
    assert model.modalities == {"optical": 2, "height": 1}


def test_the_reference_decides_the_grid_of_labels(world, run_train, write_raster):
    """Height at half the resolution of the reference comes onto its grid; the range of its pixels is in the card."""
    from affine import Affine

    world.scene("a", seed=1)
    world.scene("b", seed=2)
    coarse = np.random.default_rng(0).normal(0, 1, (24, 24)).astype(np.float32)
    write_raster("b_height.tif", coarse, transform=Affine(20, 0, 510000, 0, -20, 5500000))
    card = read_card(run_train(world.manifest())["checkpoint"])
    assert card.modality("height").resolution == [10.0, 20.0]
    assert card.resolution == [10.0, 10.0]


def test_encoder_weights_are_taken_and_named(two_scenes, make_job, heard, tmp_path):
    encoder = build_encoder("resnet_small", 2, options={"width": 4, "depth": 1})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(0.01)
    path = tmp_path / "encoder.safetensors"
    state = {encoder.published_name(name): value.clone() for name, value in encoder.state_dict().items()}
    safetensors.torch.save_file(state, path, {"lacuna_encoder": "{}"})
    config = "[training]\nlr = 1e-12\nencoder_lr_factor = 0\nepochs = 1\ncrop = 16\ncrops = 2\nbatch = 2\ntile = 64\n"
    config = "[model]\nencoder_options = {width = 4, depth = 1}\nhead_width = 8\n" + config
    job = make_job(two_scenes.manifest(), config=config, encoder_weights=str(path))
    train(job, heard[0])
    card, model = load(job.output)
    assert len(card.parents) == 1
    assert all((parameter == 0.01).all() for parameter in model.encoder.layers.parameters())


@pytest.mark.slow
def test_the_encoder_file_must_be_of_the_encoder_that_is_named(two_scenes, make_job, heard, tmp_path):
    path = str(tmp_path / "encoder.safetensors")
    encoder = build_encoder("resnet18", 3)
    state = {encoder.published_name(name): value for name, value in encoder.state_dict().items()}
    save_encoder(path, state, EncoderInfo("resnet18", 3))
    manifest = two_scenes.manifest()
    text = refused(make_job(manifest, encoder_weights=path), heard, "bad-encoder-weights")
    assert "weights of resnet18, the model's encoder is resnet_small" in text
    job = make_job(manifest, config=CONFIG.replace("encoder_options = {width = 4, depth = 1}", ""))
    job.encoder, job.encoder_weights, job.epochs = "resnet18", path, 1
    train(job, heard[0])
    assert read_card(job.output).architecture["config"]["encoder"] == "resnet18"


def test_a_checkpoint_is_no_encoder_file(two_scenes, make_job, heard, make_checkpoint):
    job = make_job(two_scenes.manifest(), encoder_weights=make_checkpoint("other.safetensors"))
    assert "whole checkpoint" in refused(job, heard, "bad-encoder-weights")


def test_a_pickle_is_no_encoder(two_scenes, make_job, heard, tmp_path):
    path = tmp_path / "encoder.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(LacunaError) as caught:
        train(make_job(two_scenes.manifest(), encoder_weights=str(path)), heard[0])
    assert caught.value.code == "pickle"


def refused(job, heard, code):
    with pytest.raises(LacunaError) as caught:
        train(job, heard[0])
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    return caught.value.text


def test_outputs_are_guarded(two_scenes, make_job, heard, tmp_path):
    manifest = two_scenes.manifest()
    job = make_job(manifest)
    Path(job.output).write_text("precious")
    assert "model.safetensors" in refused(job, heard, "output-exists")
    assert Path(job.output).read_text() == "precious"
    job.overwrite = True
    train(job, heard[0])
    read_card(job.output)
    for path in (manifest, job.config, str(tmp_path / "a_labels.tif")):
        job.output = path
        refused(job, heard, "output-is-input")
    job.output = str(tmp_path / "none" / "model.safetensors")
    refused(job, heard, "output-folder")


def test_a_training_that_fails_keeps_the_old_checkpoint(two_scenes, make_job, heard, tmp_path):
    job = make_job(two_scenes.manifest(), overwrite=True, config="[training]\nlr = 1e30\nepochs = 3\ncrops = 8\n")
    Path(job.output).write_text("precious")
    assert "epoch" in refused(job, heard, "diverged")
    assert Path(job.output).read_text() == "precious"


def test_cuda_that_is_not_there(two_scenes, make_job, heard):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused(make_job(two_scenes.manifest(), device="cuda"), heard, "no-cuda")


def test_a_raster_that_is_missing_is_named(two_scenes, make_job, heard, tmp_path):
    os.remove(tmp_path / "b_height.tif")
    text = refused(make_job(two_scenes.manifest()), heard, "file-missing")
    assert "b_height.tif" in text and "height" in text


def test_a_radar_image_without_a_single_value_is_named(world, make_job, heard, tmp_path):
    """Paraguay_34417 of Sen1Floods11 is all NaN."""
    shutil.copy(DATA / "floods_s1" / "Paraguay_34417.tif", tmp_path / "s1.tif")
    world.head = world.head.replace('bands = ["red", "nir"]', 'bands = ["VV", "VH"]')
    text = """
        [[scenes]]
        name = "Paraguay_34417"
        sources = {optical = "s1.tif"}
        labels = "s1.tif"
    """
    world.scenes = [text]
    assert "s1.tif" in refused(make_job(world.manifest()), heard, "no-valid-pixels")


def test_a_scene_without_labels_is_left_out_and_said(two_scenes, make_job, heard):
    def erase(arrays):
        arrays["labels"][:] = 0

    two_scenes.scene("empty", change=erase)
    train(make_job(two_scenes.manifest()), heard[0])
    assert any("empty has no labelled pixel" in text for text in heard[0].warnings)
    two_scenes.scenes = two_scenes.scenes[2:]
    refused(make_job(two_scenes.manifest(), output="other.safetensors"), heard, "no-labels")


def test_a_required_modality_that_a_scene_lacks(world, make_job, heard):
    world.head = world.head.replace('bands = ["height"]', 'bands = ["height"]\nrequired = true')
    world.scene("a")
    world.scene("b", modalities=("optical",))
    assert "Scene b" in refused(make_job(world.manifest()), heard, "required-modality")


def test_a_required_modality_leaves_fewer_scenarios(world, run_train):
    world.head = world.head.replace('bands = ["height"]', 'bands = ["height"]\nrequired = true')
    world.scene("a", seed=1)
    result = run_train(world.manifest())
    assert [item["available"] for item in result["scores"]] == [["height"], ["optical", "height"]]
    assert read_card(result["checkpoint"]).supported() == [("height",), ("optical", "height")]


def test_a_side_without_labels_is_refused(world, make_job, heard):
    world.scene("a", split="train")
    world.scene("b", split="train", seed=1)
    assert "validation" in refused(make_job(world.manifest()), heard, "no-labels")


def test_classes_without_labels_and_scenes_that_overlap_are_said(world, make_job, heard):
    def two(arrays):
        arrays["labels"][arrays["labels"] == 5] = 1

    world.scene("a", change=two, extent=[500000.0, 5499520.0, 500300.0, 5500000.0], split="train")
    first = world.scenes[0]
    world.scene("b", seed=1, split="validation")
    beside = first.replace("500000.0", "500200.0").replace("500300.0", "500480.0").replace('"train"', '"test"')
    world.scenes.append(beside.replace('name = "a"', 'name = "near a"'))
    train(make_job(world.manifest()), heard[0])
    assert "No labels for training of: high." in heard[0].warnings
    assert sum("a and near a overlap" in text for text in heard[0].warnings) == 1
    assert not any(f"{name} and b" in text for name in ("a", "near a") for text in heard[0].warnings)


def test_an_extent_elsewhere_is_refused(world, make_job, heard):
    world.scene("a", extent=[0.0, 0.0, 10.0, 10.0])
    assert "Scene a" in refused(make_job(world.manifest()), heard, "no-overlap")


def test_a_negative_seed_is_refused(make_job):
    with pytest.raises(UsageError, match="seed is -1"):
        make_job("m.toml", seed=-1).check()


def test_progress_is_told_in_epochs(two_scenes, run_train, heard):
    run_train(two_scenes.manifest())
    told = [(event["done"], event["total"], event["unit"]) for event in heard[1] if event["event"] == "progress"]
    assert told == [(0, 2, "epochs"), (1, 2, "epochs"), (2, 2, "epochs")]


def test_a_network_is_joined_with_a_detail_path(two_scenes, run_train):
    result = run_train(two_scenes.manifest(), detail=True)
    card, model = load(result["checkpoint"])
    assert card.architecture["name"] == "joined" and model.network.architecture == "sgma"
    assert set(model.model_config.weights) == {"optical", "height", "optical+height"}
    assert result["scores"] == card.scores and min(item["miou"] for item in card.scores) > 0.8
    alone = run_train(two_scenes.manifest(), output="alone.safetensors")
    trained = weights(alone["checkpoint"])
    assert all(torch.equal(trained[name], value) for name, value in model.network.state_dict().items())


DETAIL = """
[training.detail]
components = {optical = 1}
own_windows = {optical = [], height = [5, 21]}
inside = true
smoothing = 3
"""


def test_the_detail_path_has_the_settings_that_are_asked_for_and_the_forest_its_own(two_scenes, run_train, heard):
    result = run_train(two_scenes.manifest(), config=CONFIG + DETAIL, detail=True, forest=True)
    card, model = load(result["checkpoint"])
    found = card.architecture["config"]["detail"]
    assert found["components"] == {"optical": 1} and found["own_windows"]["height"] == [5, 21]
    assert card.training["settings"]["detail"]["smoothing"] == 3
    # One component of a pixel; the height, and means and deviations of two windows.
    assert [model.detail.enter[f"m_{name}"].in_features for name in ("optical", "height")] == [1, 5]
    # The two optical bands rise and fall against one another, so that their component has them with both signs.
    low, high = model.detail.components["m_optical"].weights[0].sort().values
    assert low < 0 < high
    assert load(result["forest"]["checkpoint"])[0].architecture["config"]["windows"] == [3, 7, 15]
    assert "1 principal components of the 2 bands of optical" in " ".join(event.get("text", "") for event in heard[1])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        *(("depth = 3", "depth"), ("components = {radar = 1}", "radar")),
        *(("priors = {}", "priors"), ("windows = [4]", "odd")),
    ],
)
def test_settings_of_the_detail_path_that_make_no_sense_are_refused(two_scenes, run_train, table, told):
    with pytest.raises(LacunaError, match=told) as caught:
        run_train(two_scenes.manifest(), config=f"{CONFIG}[training.detail]\n{table}\n", detail=True)
    assert caught.value.code == "bad-config"


def test_the_papers_know_no_detail_path(two_scenes, run_train):
    config = CONFIG.replace("[model]", '[model]\nencoder = "resnet_small"') + "epochs = 1\n"
    result = run_train(two_scenes.manifest(), detail=True, preset="paper", config=config)
    assert read_card(result["checkpoint"]).architecture["name"] == "sgma"
