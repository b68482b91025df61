# SPDX-License-Identifier: GPL-2.0-or-later
"""Fine-tuning as a job: it gets better, gives the same bits, goes on where it stopped, and says what is wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import safetensors.torch
import shapely
import torch
from affine import Affine

from lacuna.engine import cli
from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load, sha256
from lacuna.engine.errors import CancelledError, LacunaError, UsageError
from lacuna.engine.events import Reporter
from lacuna.engine.finetuning import network, strategy
from lacuna.engine.finetuning.distortion import measure_distortions
from lacuna.engine.finetuning.finetune_settings import read_settings
from lacuna.engine.finetuning.lora import apply_adapters
from lacuna.engine.jobs import FinetuneJob, SegmentJob, SourceSpec
from lacuna.engine.run import run
from lacuna.engine.runtime import outputs
from lacuna.engine.training import detail_path, state
from lacuna.engine.training.augment import Radiometry

SMALL = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8, "head_dropout": 0.0}
BANDS = {
    "optical": {"bands": ["red", "nir"], "scaling": [{"type": "z_score", "mean": 300.0, "std": 80.0}]},
    "height": {"bands": ["height"], "scaling": [{"type": "z_score", "mean": 5.0, "std": 4.0}]},
}
CLASSES = [1, 2, 5]
CONFIG = """
[training]
lr = 0.01
batch = 4
crop = 32
crops = 8
tile = 96
average = 0.5
[split]
block = 16
gap = 2
"""
PLACE = Affine(10, 0, 500000, 0, -10, 5500000)
UTM = "EPSG:32632"


def arrays(seed=0, size=96):
    """Classes in squares of 12 pixels; every modality tells them."""
    rng = np.random.default_rng(seed)
    kinds = np.kron(rng.integers(0, 3, (size // 12, size // 12)), np.ones((12, 12), int))
    return {
        "optical": (np.stack([kinds, 2 - kinds]) * 100 + rng.normal(200, 10, (2, size, size))).astype(np.float32),
        "height": (kinds * 5 + rng.normal(0, 1, (size, size))).astype(np.float32),
        "labels": np.array(CLASSES)[kinds].astype(np.uint8),
    }


@pytest.fixture
def world(write_raster):
    """Paths of the rasters of one scene and its labels."""
    return {name: write_raster(f"{name}.tif", values) for name, values in arrays().items()}


@pytest.fixture
def checkpoint(make_checkpoint):
    classes = [1, 2, 5]
    return make_checkpoint("base.safetensors", "sgma", BANDS, classes, SMALL, tile=[96, 96])


@pytest.fixture
def make(tmp_path, checkpoint, world):
    """A function that returns a FinetuneJob on the world."""

    def build(output="tuned.safetensors", config=CONFIG, modalities=("optical", "height"), **values):
        path = tmp_path / "tune.toml"
        path.write_text(config)
        sources = {name: SourceSpec(world[name]) for name in modalities}
        # Forest and detail path are asked for by the tests that are about them alone.
        start = {"labels": world["labels"], "strategy": "uniform", "epochs": 3, "device": "cpu"}
        start |= {"forest": False, "detail": False}
        start["config"] = str(path)
        if "manifest" in values:
            sources, start["labels"] = {}, None
        job = FinetuneJob(checkpoint, str(tmp_path / output), sources, **{**start, **values})
        job.check()
        return job

    return build


@pytest.fixture
def tune(make, heard):
    def run_job(**values):
        return run(make(**values), heard[0])

    return run_job


def texts(said, level="warning"):
    return [event["text"] for event in said if event["event"] == "message" and event["level"] == level]


def same(first, second):
    first, second = (safetensors.torch.load_file(path) for path in (first, second))
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_it_gets_better_and_the_card_says_how(tune, checkpoint, heard, tmp_path):
    report = str(tmp_path / "report.html")
    result = tune(epochs=14, report=report, strategy="latent")
    assert result["miou"] > result["miou_before"] + 0.1
    card, base = read_card(result["checkpoint"]), read_card(checkpoint)
    assert card.parents == [sha256(checkpoint)]
    assert card.modalities == base.modalities
    assert card.classes == base.classes
    order = scenarios(["optical", "height"])
    assert [tuple(item["available"]) for item in card.scores] == order
    assert [tuple(item["available"]) for item in result["before"]] == order
    record = card.training
    assert record["lineage"][0]["sha256"] == sha256(checkpoint)
    assert record["method"] == "full" and record["split"]["block"] == 16
    assert record["strategy"]["name"] == "latent"
    assert sum(record["strategy"]["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert record["strategy"]["latent"]["distortion"][-1] == 0
    assert sum(record["pixels"]["validation"].values()) == card.scores[0]["pixels"] > 0
    assert record["before"] == result["before"]
    assert len(card.calibration) == 3
    page = Path(report).read_text()
    # Two inputs, the labels, maps before and after of three scenarios.
    assert page.count("data:image/png;base64,") == 2 + 1 + 2 * 3
    assert page.count("<svg") >= 5 and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    live = [event for event in heard[1] if event["event"] == "metrics"]
    assert [event["epoch"] for event in live] == list(range(1, result["epochs"] + 1))
    assert {"loss", "miou", "scenarios", "best_epoch", "epochs"} <= set(live[0])


@pytest.mark.parametrize("method", ["full", "head", "decoder", "lora"])
@pytest.mark.slow
def test_each_method_trains_what_it_says_and_gives_the_same_bits_twice(tune, checkpoint, method):
    first = tune(method=method, output="a.safetensors", seed=3)
    again = tune(method=method, output="b.safetensors", seed=3)
    assert same(first["checkpoint"], again["checkpoint"])
    assert first["history"] == again["history"]
    old, new = (safetensors.torch.load_file(path) for path in (checkpoint, first["checkpoint"]))
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    if method == "head":
        assert all("classify" in name or ".filter." in name for name in moved)
    if method == "decoder":
        assert not [name for name in moved if name.startswith("encoder.")]
    if method == "lora":
        assert not [name for name in moved if name.endswith(".bias")]
    weights = first["plan"]["weights"]
    assert (weights["trained"] == weights["all"]) == (method == "full")


def crash_after(epochs):
    class Crash(Exception):
        pass

    def take(event):
        if event["event"] == "progress" and event["unit"] == "epochs" and event["done"] == epochs:
            raise KeyboardInterrupt

    return Reporter(take)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.slow
def test_an_interrupted_fine_tuning_goes_on_to_the_same_weights(make, heard, method, tmp_path):
    latent = {"strategy": "latent", "config": CONFIG + "[latent]\nrefresh = 2\nsamples = 4\n", "epochs": 4}
    whole = run(make(output="whole.safetensors", method=method, **latent), heard[0])
    job = make(method=method, **latent)
    with pytest.raises(KeyboardInterrupt):
        run(job, crash_after(3))
    result = run(job, heard[0])
    assert any("Resuming an unfinished training: 3 of 4" in text for text in texts(heard[1], "info"))
    assert same(whole["checkpoint"], result["checkpoint"])
    assert result["history"] == whole["history"]
    assert "probabilities" in result["history"][2]
    assert not list(tmp_path.glob("*.part*"))


def test_a_scaling_that_does_not_fit_is_set_anew_and_kept(tune, world, write_raster, heard, checkpoint):
    """The parent is measured in its own scaling, the new checkpoint carries the one it was trained in."""
    world["height"] = write_raster("hill.tif", arrays()["height"] + 1200)
    plan = tune(plan_only=True)
    assert plan["rescaled"] == ["height"]
    result = tune(epochs=2)
    card = read_card(result["checkpoint"])
    assert card.modality("optical") == read_card(checkpoint).modality("optical")
    assert 1195 < card.modality("height").scaling[0]["mean"][0] < 1215
    assert card.training["rescaled"] == ["height"]
    assert any(event.get("text", "").startswith("height: values here lie outside") for event in heard[1])


def test_files_that_hold_the_same_are_the_same_job(make, heard, tmp_path, world):
    """The panel writes configuration and labels anew for every run."""
    with pytest.raises(KeyboardInterrupt):
        run(make(), crash_after(2))
    other, labels = tmp_path / "other.toml", tmp_path / "copy.tif"
    other.write_text(CONFIG)
    labels.write_bytes(Path(world["labels"]).read_bytes())
    run(dataclasses.replace(make(), config=str(other), labels=str(labels)), heard[0])
    assert any("Resuming an unfinished training: 2 of 3" in text for text in texts(heard[1], "info"))


def test_other_labels_are_another_job(make, heard, world, write_raster):
    with pytest.raises(KeyboardInterrupt):
        run(make(), crash_after(2))
    values = arrays()["labels"]
    values[:12, :12] = 1
    run(make(labels=write_raster("other_labels.tif", values)), heard[0])
    assert any("is not resumed" in text for text in texts(heard[1], "info"))


def cancelling(at, keep=False):
    def take(event):
        if event["event"] == "metrics" and event["epoch"] == at:
            if keep:
                reporter.keep_best.set()
            reporter.cancelled.set()

    reporter = Reporter(take)
    return reporter


def test_cancel_keeps_nothing(make, tmp_path):
    with pytest.raises(CancelledError):
        run(make(epochs=50), cancelling(2))
    assert not list(tmp_path.glob("tuned*"))


@pytest.mark.parametrize("how", ["job", "later"])
def test_cancel_keeps_the_best_where_that_is_asked(make, tmp_path, how):
    result = run(make(epochs=50, keep_best=how == "job"), cancelling(2, keep=how == "later"))
    assert (result["stopped"], result["epochs"]) == ("asked", 2)
    assert load(result["checkpoint"])
    assert [path.name for path in tmp_path.glob("tuned*")] == ["tuned.safetensors"]


def test_it_ends_early_when_nothing_better_comes(tune):
    result = tune(epochs=40, config=CONFIG.replace("lr = 0.01", "lr = 1e-9\npatience = 3"))
    assert result["stopped"] == "early"
    assert result["epochs"] <= result["best_epoch"] + 3


def test_accumulation_takes_the_mean_of_several_batches(tune):
    one = CONFIG.replace("average = 0.5", 'average = 0.0\nscale = [1.0, 1.0]\nclass_weights = "none"')
    first = tune(epochs=1, config=one.replace("batch = 4", "batch = 8"), output="a.safetensors", strategy="full")
    split = tune(epochs=1, config=one.replace("batch = 4", "batch = 4\naccumulation = 2"), strategy="full")
    assert split["plan"]["steps"] == first["plan"]["steps"] == 1
    assert split["history"][0]["loss"] == pytest.approx(first["history"][0]["loss"], rel=0.1)


def test_the_published_latents_are_of_all_training_tiles_and_of_these_alone(tune, monkeypatch):
    seen = {}

    def measure(model, batches, *arguments, **options):
        seen[preset] = [images["optical"] for images in batches]
        return measure_distortions(model, [], *arguments, **options)

    monkeypatch.setattr(strategy, "measure_distortions", measure)
    for preset in ("default", "paper"):
        with pytest.raises(LacunaError) as caught:
            tune(strategy="latent", latent_preset=preset, plan_only=True)
        assert caught.value.code == "no-full-scene"
    assert sum(map(len, seen["default"])) == 48
    # 96 pixels in crops of 32, all of which hold training pixels.
    tiles = torch.cat(seen["paper"])
    assert len(tiles) == 9 and max(map(len, seen["paper"])) <= 8
    whole = (torch.from_numpy(arrays()["optical"]) - 300) / 80
    assert torch.allclose(tiles[0], whole[:, :32, :32], atol=1e-4)
    assert torch.allclose(tiles[-1], whole[:, 64:, 64:], atol=1e-4)


def test_classes_are_added_merged_and_dropped(tune, world, write_raster, heard):
    values = arrays()["labels"]
    values[:40, :40] = 9
    labels = write_raster("more.tif", values)
    result = tune(
        labels=labels, class_map={"9": "reed"}, merge={"class 1": "low", "class 2": "low"}, strategy="latent", epochs=2
    )
    assert [(item["value"], item["name"]) for item in result["classes"]] == [(1, "low"), (5, "class 5"), (9, "reed")]
    card, model = load(result["checkpoint"])
    assert model.classes == 3
    assert result["before"][-1]["iou"][2] == 0
    assert result["plan"]["classes"][0]["from"] == [0, 1]
    assert card.training["classes"]["added"] == ["reed"]
    assert any("are added: reed" in text for text in texts(heard[1]))


def test_labels_of_dropped_classes_teach_nothing(tune):
    result = tune(drop=["class 2"], epochs=1)
    assert [item["name"] for item in result["classes"]] == ["class 1", "class 5"]
    assert set(result["plan"]["pixels"]["training"]) == {"class 1", "class 5"}


def test_lora_may_be_kept_apart(tune, checkpoint, tmp_path):
    config = CONFIG + "[lora]\nrank = 2\nkeep_apart = true\n"
    result = tune(method="lora", config=config, class_map={"1": "new"}, epochs=1, forest=True)
    assert result["adapter"].endswith(".lora.safetensors")
    card, model = apply_adapters(checkpoint, result["adapter"])
    own = safetensors.torch.load_file(result["checkpoint"])
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    assert card.classes == read_card(result["checkpoint"]).classes
    again = str(tmp_path / "again.safetensors")
    arguments = ["--checkpoint", checkpoint, "--adapters", result["adapter"], "--output", again]
    assert cli.main(["merge", *arguments]) == 0
    assert sha256(again) == sha256(result["checkpoint"])
    assert cli.main(["merge", *arguments]) == 1, "the output exists"


def test_adapters_are_merged_into_the_checkpoint_they_belong_to_alone(tune, tmp_path, capsys):
    config = CONFIG + "[lora]\nrank = 2\nkeep_apart = true\n"
    result = tune(method="lora", config=config, epochs=1)
    output = str(tmp_path / "merged.safetensors")
    assert (
        cli.main(["merge", "--checkpoint", result["checkpoint"], "--adapters", result["adapter"], "--output", output])
        == 1
    )
    assert "belongs to the checkpoint with SHA-256" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))


def test_the_plan_says_all_and_writes_nothing(tune, tmp_path):
    before = set(tmp_path.iterdir())
    plan = tune(plan_only=True, output="", strategy="latent", method="lora", latent_preset="paper")
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "tune.toml"}
    assert json.loads(json.dumps(plan)) == plan
    sides = {region["side"]: region for region in plan["regions"]}
    assert set(sides) == {"training", "validation", "gap"}
    area = {side: shapely.area(shapely.geometry.shape(region["geometry"])) for side, region in sides.items()}
    assert sum(area.values()) == pytest.approx(960 * 960)
    assert sides["validation"]["crs"] == UTM
    pixels = plan["pixels"]
    assert sum(pixels["training"].values()) + sum(pixels["validation"].values()) + pixels["gap"] == 96 * 96
    assert sides["validation"]["pixels"] == pixels["validation"]
    assert sum(plan["strategy"]["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert plan["weights"]["lora"] == plan["weights"]["trained"] > 0
    assert plan["steps"] == 2 and plan["crop"] == 32


def test_without_a_split_blocks_are_chosen_that_suit(tune, heard):
    plan = tune(plan_only=True, config=CONFIG.partition("[split]")[0])
    assert plan["split"]["method"] == "block" and plan["split"]["gap"] <= 16
    assert all(count > 0 for side in ("training", "validation") for count in plan["pixels"][side].values())


def test_blocks_suit_the_labels_whatever_else_the_split_says(tune, checkpoint):
    head = CONFIG.partition("[split]")[0] + "[split]\nvalidation = 0.4\nseed = 3\n"
    plan = tune(plan_only=True, config=head)
    fitted = tune(plan_only=True, config=CONFIG.partition("[split]")[0])["split"]
    assert plan["split"]["validation"] == 0.4 and plan["split"]["seed"] == 3
    assert plan["split"]["gap"] == fitted["gap"]
    one = tune(plan_only=True, config=CONFIG.partition("[split]")[0] + "[split]\nblock = 24\n")
    assert (one["split"]["block"], one["split"]["gap"]) == (24, read_card(checkpoint).margin)


def test_the_strategy_may_be_edited(tune):
    result = tune(strategy="weights", weights=[0.0, 1.0, 3.0], epochs=1)
    assert result["plan"]["strategy"]["probabilities"] == [0, 0.25, 0.75]


def test_mas_leaves_sgma_its_own_draws(tune):
    assert tune(strategy="mas", plan_only=True)["strategy"]["own_draws"] is True
    assert tune(strategy="full", plan_only=True)["strategy"]["own_draws"] is False


def test_a_modality_that_is_not_there_is_not_needed(tune):
    result = tune(modalities=("optical",), strategy="latent", epochs=1)
    assert result["plan"]["strategy"]["probabilities"] == [1, 0, 0]
    assert [item["available"] for item in result["after"]] == [["optical"]]


@pytest.fixture
def manifest(world, tmp_path, write_raster):
    """A manifest of two scenes, whose labels have other values than the checkpoint's classes."""
    other = arrays(seed=5)
    move = Affine(10, 0, 520000, 0, -10, 5500000)
    for name, values in other.items():
        write_raster(f"other_{name}.tif", np.where(values == 5, 7, values) if name == "labels" else values, move)
    write_raster("labels7.tif", np.where(arrays()["labels"] == 5, 7, arrays()["labels"]))
    path = tmp_path / "scenes.toml"
    path.write_text(
        'reference = "optical"\nclasses = [{value = 1, name = "class 1"}, {value = 2, name = "class 2"}, '
        '{value = 7, name = "CLASS 5"}]\n[modalities.optical]\nbands = ["red", "nir"]\n[modalities.height]\n'
        'bands = ["height"]\n[[scenes]]\nname = "a"\nsources = {optical = "optical.tif", height = "height.tif"}\n'
        'labels = "labels7.tif"\n[[scenes]]\nname = "b"\nsources = {optical = "other_optical.tif"}\n'
        'labels = "other_labels.tif"\n'
    )
    return path


def test_a_manifest_divides_by_groups_and_names_its_classes(tune, manifest):
    result = tune(manifest=str(manifest), config=CONFIG.partition("[split]")[0], epochs=1)
    assert result["plan"]["split"]["method"] == "group"
    assert {region["side"] for region in result["plan"]["regions"]} == {"training", "validation"}
    assert [item["name"] for item in result["classes"]] == ["class 1", "class 2", "class 5"]
    assert "manifest_sha256" in read_card(result["checkpoint"]).training


def test_scenes_for_testing_are_what_the_scores_are_on(tune, manifest):
    text = manifest.read_text().replace('name = "b"\n', 'name = "b"\nsplit = "test"\n')
    manifest.write_text(text + '[split]\nmethod = "block"\nblock = 24\ngap = 2\n')
    result = tune(manifest=str(manifest), config=CONFIG.partition("[split]")[0], epochs=1)
    assert "test scenes" in result["scores_on"]
    assert result["after"][0]["pixels"] == result["before"][0]["pixels"] == 96 * 96


# Polygons.


def square(column, row, side=10):
    left, top = PLACE.c + 10 * column, PLACE.f - 10 * row
    return shapely.box(left, top - 10 * side, left + 10 * side, top)


@pytest.fixture
def polygons(tmp_path):
    """A function that writes polygons with a field `kind`, and their paths."""

    def write(shapes, kinds, crs=UTM, name="labels.gpkg", **fields):
        path = str(tmp_path / name)
        columns = {"kind": kinds, **fields}
        pyogrio.raw.write(
            path,
            shapely.to_wkb(np.array(shapes, dtype=object)),
            [
                np.array(values, dtype=object if isinstance(values[0], (str, type(None))) else None)
                for values in columns.values()
            ],
            list(columns),
            crs=crs,
            geometry_type="Polygon",
        )
        return path

    return write


SPOTS = [square(column, row) for row in (1, 25, 49, 73) for column in (1, 25, 49, 73)]
KINDS = ["Class 1", "class 2", "class 5", "CLASS 1"] * 4


def test_polygons_in_another_crs_that_cross_themselves_and_lack_a_class(tune, polygons, heard):
    here = np.array([*SPOTS, square(85, 85, 4)], dtype=object)
    points = shapely.get_coordinates(here)
    import rasterio.warp

    lonlat = np.column_stack(rasterio.warp.transform(UTM, "EPSG:4326", *points.T))
    there = shapely.set_coordinates(here.copy(), lonlat)
    corners = shapely.get_coordinates(there[0])
    there[0] = shapely.Polygon(corners[[0, 2, 1, 3]])
    path = polygons(there, [*KINDS, None], crs="EPSG:4326")
    result = tune(labels=path, field="kind", plan_only=True)
    pixels = result["pixels"]
    assert sum(sum(pixels[side].values()) for side in ("training", "validation")) + pixels["gap"] > 1400
    assert any("repaired" in text for text in texts(heard[1]))
    assert any("1 polygons have no class" in text for text in texts(heard[1]))


def test_polygons_stay_whole_and_groups_of_them_together(tune, polygons):
    plots = [f"plot {index // 4}" for index in range(16)]
    path = polygons(SPOTS, KINDS, plot=plots)
    head = CONFIG.partition("[split]")[0] + '[split]\nmethod = "polygon"\ngap = 3\n'
    for extra, size in (("", 1), ('field = "plot"\n', 4)):
        plan = tune(labels=path, field="kind", plan_only=True, config=head + extra)
        region = next(item for item in plan["regions"] if item["side"] == "validation")
        assert shapely.area(shapely.geometry.shape(region["geometry"])) % (100 * 100 * size) == 0
        assert plan["pixels"]["gap"] == 0


def test_a_number_in_a_field_is_a_class_value_and_the_map_is_stronger(tune, polygons):
    path = polygons(SPOTS, [1, 2, 8, 5] * 4)
    plan = tune(labels=path, field="kind", plan_only=True, class_map={"8": "class 5", "5": ""})
    total = sum(plan["pixels"][side]["class 5"] for side in ("training", "validation"))
    assert 0 < total <= 400


BAD = {
    "outside the rasters": (lambda p: p([square(500, 500), square(600, 600)], ["class 1", "class 2"]), {}, "no-labels"),
    "an unknown class": (lambda p: p(SPOTS, ["class 1", "reed"] * 8), {}, "unknown-class"),
    "one single class": (lambda p: p(SPOTS, ["class 1"] * 16), {}, "too-few-labels"),
    "too few pixels": (lambda p: p([square(1, 1, 3), square(50, 50, 3)], ["class 1", "class 2"]), {}, "too-few-labels"),
    "no such field": (lambda p: p(SPOTS, KINDS), {"field": "genus"}, "no-field"),
    "no field named": (lambda p: p(SPOTS, KINDS), {"field": None}, "no-field"),
    "one group of polygons": (
        lambda p: p(SPOTS, KINDS, plot=["a"] * 16),
        {"config": CONFIG.partition("[split]")[0] + '[split]\nmethod = "polygon"\nfield = "plot"\n'},
        "bad-split",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_cannot_be_used_are_told(tune, polygons, case, tmp_path):
    path, options, code = BAD[case]
    with pytest.raises(LacunaError) as caught:
        tune(**{"labels": path(polygons), "field": "kind", **options})
    assert caught.value.code == code
    assert caught.value.hint
    assert not list(tmp_path.glob("tuned*"))


def test_how_many_labels_were_found_and_are_needed_is_said(tune, polygons):
    with pytest.raises(LacunaError, match=r"give 18 labelled pixels of 2 classes .*at least 100 pixels of 2 classes"):
        tune(labels=polygons([square(1, 1, 3), square(50, 50, 3)], ["class 1", "class 2"]), field="kind")


def test_a_class_without_validation_labels_is_said(tune, polygons, heard):
    path = polygons(SPOTS[:13], [*(["class 1", "class 2"] * 6), "class 5"])
    tune(labels=path, field="kind", plan_only=True, config=CONFIG.replace("block = 16", "block = 12"))
    assert any("class 5" in text and text.startswith("No labels for") for text in texts(heard[1]))


def test_labels_on_another_grid_are_brought_to_that_of_the_scene(tune, write_raster, heard):
    coarse = write_raster("coarse.tif", arrays()["labels"][::2, ::2], Affine(20, 0, 500000, 0, -20, 5500000))
    plan = tune(labels=coarse, plan_only=True)
    assert any("resampled to the reference grid by nearest neighbour" in text for text in texts(heard[1], "info"))
    assert sum(plan["pixels"]["training"].values()) > 0


def test_polygon_wise_needs_polygons(tune):
    with pytest.raises(LacunaError, match="no polygons to divide"):
        tune(config=CONFIG.partition("[split]")[0] + '[split]\nmethod = "polygon"\n')


def test_a_checkpoint_that_cannot_be_fine_tuned_is_told(tune, make, make_checkpoint, heard):
    job = make()
    job.checkpoint = make_checkpoint("same.safetensors", modalities=BANDS, classes=[1, 2, 5], tile=[96, 96])
    job.method = "decoder"
    with pytest.raises(LacunaError) as caught:
        run(job, heard[0])
    assert caught.value.code == "no-encoder"


def test_changes_of_values_are_those_of_the_parent(make, make_checkpoint):
    changes = {"height": {"offset": 0.5}}
    job = make(config="[training]\nbatch = 2\n")
    parent = {"settings": {"radiometry": changes}}
    job.checkpoint = make_checkpoint("other.safetensors", "sgma", BANDS, CLASSES, SMALL, training=parent)
    found = read_settings(job, read_card(job.checkpoint)).recipe
    assert found.changes == {"height": Radiometry(offset=0.5)}
    assert (found.settings.batch, found.settings.epochs, found.config.patience) == (2, 3, 10)
    for broken in ({"settings": 3}, {"settings": {"radiometry": {"height": 1}}}, {}):
        card = read_card(job.checkpoint)
        card.training = broken
        assert read_settings(job, card).recipe.changes == {}


def test_the_detail_path_is_set_as_the_parents_was_unless_the_configuration_says_otherwise(make, make_checkpoint):
    given = {"components": {"optical": 1}, "smoothing": 9}
    parent = {"settings": {"detail": given}}
    path = make_checkpoint("other.safetensors", "sgma", BANDS, CLASSES, SMALL, training=parent)
    for config, wanted in (("", given), ("[training.detail]\nsmoothing = 3\n", {"smoothing": 3})):
        job = make(config=config)
        job.checkpoint = path
        assert read_settings(job, read_card(path)).recipe.config.detail == wanted
    card = read_card(path)
    card.training = {"settings": {"detail": 3}}
    assert read_settings(make(config=""), card).recipe.config.detail == {}


def test_heads_with_added_classes_are_what_is_new(make, world, write_raster, heard, monkeypatch):
    values = arrays()["labels"]
    values[:40, :40] = 9
    seen = []
    choose = network.choose_trainable

    def chosen(model, *arguments):
        seen.append(model)
        choose(model, *arguments)

    monkeypatch.setattr(network, "choose_trainable", chosen)
    job = make(labels=write_raster("more.tif", values), class_map={"9": "reed"}, plan_only=True)
    run(job, heard[0])
    run(make(plan_only=True), heard[0])
    added, same_classes = seen
    tensors = added.class_tensors().names(4)
    assert added.new_parameters == {name for name, _ in added.named_parameters() if name in tensors} != set()
    assert same_classes.new_parameters == set()


def test_the_last_epoch_may_be_kept_and_the_card_says_so(tune):
    """A training that learns nothing has its best epoch at the beginning."""
    result = tune(epochs=3, config=CONFIG.replace("lr = 0.01", 'lr = 1e-12\nkeep = "last"'))
    history = result["history"]
    assert history[0]["miou"] == history[2]["miou"]
    assert result["best_epoch"] == result["epochs"] == 3 and result["stopped"] == "done"
    card = read_card(result["checkpoint"])
    assert card.training["validation_miou"] == history[2]["miou"]
    assert card.scores_on.endswith("which chose no epoch, as the last was kept")


@pytest.mark.parametrize("name", ["labels", "optical"])
def test_inputs_are_not_overwritten(make, world, heard, name):
    job = make(overwrite=True)
    job.output = world[name]
    with pytest.raises(LacunaError) as caught:
        run(job, heard[0])
    assert caught.value.code == "output-is-input"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ('[training]\nstrategy = "full"\n', "--strategy"),
        ("[latent]\nsoftmax_share = 2\n", "softmax_share"),
        ("[latent]\ntau = 2\n", "tau"),
        ("[lora]\nrank = 0\n", "rank"),
        ('[split]\nmethod = "pixel"\n', "pixel"),
        ("[split]\nvalidation = 1.5\n", "validation"),
        ("[model]\nwidth = 3\n", "model"),
    ],
)
def test_every_mistake_in_the_configuration_is_named(tune, config, named):
    with pytest.raises(LacunaError, match=named) as caught:
        tune(config=config)
    assert caught.value.code == "bad-config"


def test_half_precision_on_a_cpu_is_refused(tune):
    with pytest.raises(LacunaError) as caught:
        tune(config=CONFIG.replace("[split]", 'precision = "bf16"\n[split]'))
    assert caught.value.code == "bad-precision"


def test_wrong_weights_are_told_before_training(tune):
    with pytest.raises(UsageError) as caught:
        tune(strategy="weights", weights=[1.0])
    assert caught.value.code == "bad-weights"


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_best_so_far_whole(make, heard, monkeypatch, tmp_path):
    job, wanted = make(epochs=4), run(make(output="whole.safetensors", epochs=4), heard[0])
    save, calls = state.safetensors.torch.save, []

    def full(tensors, metadata=None):
        if metadata is not None and state._KEY in metadata:
            calls.append(1)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        return save(tensors, metadata)

    monkeypatch.setattr(state.safetensors.torch, "save", full)
    with pytest.raises(LacunaError) as caught:
        run(job, heard[0])
    assert caught.value.code == "disk-full"
    assert [path.name for path in tmp_path.glob("tuned*")] == ["tuned.safetensors.part"]
    with safetensors.safe_open(job.output + ".part", "pt") as stream:
        assert [name for name in stream.keys() if name.startswith("best/")]  # noqa: SIM118 it is no dict
    monkeypatch.setattr(state.safetensors.torch, "save", save)
    assert same(run(job, heard[0])["checkpoint"], wanted["checkpoint"])


def test_a_report_that_cannot_be_written_costs_no_checkpoint(make, heard, monkeypatch, tmp_path):
    job = make(epochs=1, report=str(tmp_path / "report.html"))

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.os, "replace", lambda a, b: full(a, b) if b == job.report else os.rename(a, b))
    result = run(job, heard[0])
    assert result["report"] is None
    assert load(result["checkpoint"])
    assert any("disk is full" in text and "The checkpoint is whole" in text for text in texts(heard[1]))
    assert not list(tmp_path.glob("report*"))


def test_fine_tuning_what_was_fine_tuned_is_warned_of_and_the_chain_is_kept(tune, make, checkpoint, heard):
    first = tune(epochs=1)["checkpoint"]
    assert not any("itself fine-tuned" in text for text in texts(heard[1]))
    job = make(output="again.safetensors", epochs=1)
    job.checkpoint = first
    card = read_card(run(job, heard[0])["checkpoint"])
    assert card.parents == [sha256(first), sha256(checkpoint)]
    assert [item["sha256"] for item in card.training["lineage"]] == card.parents
    assert any("itself fine-tuned" in text for text in texts(heard[1]))


def test_from_the_command_line(world, checkpoint, tmp_path, capsys):
    config = tmp_path / "tune.toml"
    config.write_text(CONFIG)
    arguments = [
        "finetune", "--checkpoint", checkpoint, "--modality", f"optical={world['optical']}", "--labels",
        world["labels"], "--output", str(tmp_path / "out.safetensors"), "--strategy", "uniform", "--epochs", "1",
        "--device", "cpu", "--config", str(config), "--class-map", "1=class 1,2=class 2", "--json",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "result" and lines[-1]["before"]
    assert "metrics" in {line["event"] for line in lines}


NETWORKS = {
    "dis2": {"width": 4},
    "cmx": {"encoder_options": {"width": 8, "depth": 1}, "head_width": 16},
    "cbc_slp": {
        "encoder_options": {"width": 8, "depth": 1},
        "level_widths": [4, 8, 8, 8, 8],
        "token_width": 16,
        "heads": 2,
        "latent_width": 12,
    },
}


@pytest.mark.parametrize("method", ["head", "decoder", "lora"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_other_networks_are_tuned_too_with_a_class_more(make_checkpoint, make, heard, name, method):
    base = make_checkpoint("other.safetensors", name, BANDS, [1, 2, 5, 7], NETWORKS[name], tile=[96, 96])
    job = make(method=method, class_map={"1": "new"}, drop=["class 7"], epochs=1, strategy="uniform")
    job.checkpoint = base
    result = run(job, heard[0])
    assert [item["name"] for item in result["classes"]] == ["class 1", "class 2", "class 5", "new"]
    assert result["plan"]["strategy"]["own_draws"] is False
    assert load(result["checkpoint"])


def test_a_forest_is_grown_on_the_same_labels_and_measured_on_the_same_pixels(tune, heard, world, tmp_path):
    report = str(tmp_path / "report.html")
    result = tune(epochs=1, forest=True, report=report)
    path = str(tmp_path / "tuned.forest.safetensors")
    forest, card = result["forest"], read_card(path)
    assert forest["checkpoint"] == path and forest["scores"] == card.scores
    assert [item["pixels"] for item in forest["scores"]] == [item["pixels"] for item in result["after"]]
    assert card.scores_on == result["scores_on"]
    assert forest["miou"] > 0.9, "every modality tells the classes"
    assert read_card(result["checkpoint"]).training["forest"]["scores"] == card.scores
    assert any("random forest on the same labels does better in 3 of 3" in text for text in texts(heard[1]))
    assert "random forest" in Path(report).read_text()
    # It is a checkpoint like any other.
    job = SegmentJob(
        path, {"height": SourceSpec(world["height"])}, str(tmp_path / "map.tif"), evidence=str(tmp_path / "e.tif")
    )
    mapped = run(job, heard[0])["summary"]
    assert [item["available"] for item in mapped["scenarios"]] == [["height"]]
    with rasterio.open(tmp_path / "map.tif") as dataset, rasterio.open(world["labels"]) as labels:
        assert (dataset.read() == labels.read()).mean() > 0.9


def test_the_same_labels_grow_the_same_forest(tune):
    first, second = (tune(epochs=1, forest=True, output=f"{name}.safetensors")["forest"] for name in "ab")
    assert same(first["checkpoint"], second["checkpoint"])


def test_without_a_forest_none_is_written(tune, tmp_path):
    assert tune(epochs=1)["forest"] is None
    assert not list(tmp_path.glob("*.forest.*"))


def test_a_forest_that_is_there_is_not_replaced_unasked(make, heard, tmp_path):
    (tmp_path / "tuned.forest.safetensors").write_text("mine")
    with pytest.raises(LacunaError) as caught:
        run(make(epochs=1, forest=True), heard[0])
    assert caught.value.code == "output-exists"


def test_the_network_is_joined_with_a_detail_path(tune, heard, world, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(detail_path, "STEPS", (600, 600))
    result = tune(epochs=1, detail=True, forest=True)
    card, model = load(result["checkpoint"])
    assert card.architecture["name"] == "joined" and model.network.architecture == "sgma"
    assert set(model.model_config.weights) == {"optical", "height", "optical+height"}
    assert result["after"] == card.scores and card.training["network"] == result["network"]
    assert [item["available"] for item in result["network"]] == [item["available"] for item in card.scores]
    assert result["miou"] > 0.9, "every modality tells the classes, pixel by pixel"
    assert min(item["miou"] for item in result["network"]) < 0.9, "one epoch is too short for the network"
    assert len(card.calibration) == 3 and card.margin >= model.detail.margin
    assert card.training["refitted"] is True and "trained once more" in card.scores_on
    # It is a checkpoint like any other, in every scenario.
    job = SegmentJob(result["checkpoint"], {"height": SourceSpec(world["height"])}, str(tmp_path / "map.tif"))
    run(job, heard[0])
    with rasterio.open(tmp_path / "map.tif") as dataset, rasterio.open(world["labels"]) as labels:
        assert (dataset.read() == labels.read()).mean() > 0.9


def test_a_joined_checkpoint_is_trained_further_by_its_network(make, tune, heard):
    first = tune(epochs=1, detail=True)
    job = make(epochs=1, detail=True, output="second.safetensors", strategy="latent")
    job.checkpoint = first["checkpoint"]
    second = run(job, heard[0])
    # Measured as it is: since then its detail path has learned the validation labels too.
    assert second["miou_before"] >= first["miou"] - 0.01
    card, _model = load(second["checkpoint"])
    assert card.architecture["name"] == "joined" and card.parents[0] == sha256(first["checkpoint"])
    job = make(epochs=1, output="third.safetensors")
    job.checkpoint = first["checkpoint"]
    assert read_card(run(job, heard[0])["checkpoint"]).architecture["name"] == "sgma"


def test_the_same_labels_join_the_same_checkpoint(tune):
    first, second = (tune(epochs=1, detail=True, output=f"{name}.safetensors") for name in "ab")
    assert same(first["checkpoint"], second["checkpoint"])
    assert first["after"] == second["after"]


def test_adapters_belong_to_the_network_of_a_joined_checkpoint(make, heard, checkpoint, tmp_path):
    job = make(epochs=1, detail=True, method="lora", config=CONFIG + "[lora]\nkeep_apart = true\n")
    result = run(job, heard[0])
    card, model = apply_adapters(checkpoint, result["adapter"])
    assert card.architecture["name"] == "sgma"
    network = load(result["checkpoint"])[1].network.state_dict()
    assert all(torch.equal(value, network[name]) for name, value in model.state_dict().items())


def test_labels_can_change_their_classes_under_a_detail_path(make, heard):
    """The network takes its classes over, the detail path learns the new ones from nothing."""
    job = make(epochs=1, detail=True, merge={"class 2": "class 1"})
    result = run(job, heard[0])
    assert [item["name"] for item in result["classes"]] == ["class 1", "class 5"]
    assert result["miou"] > 0.8
