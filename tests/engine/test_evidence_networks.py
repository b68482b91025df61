# SPDX-License-Identifier: GPL-2.0-or-later
"""The networks of the evidence: what each baseline and ablation computes, and that all are trained and tested alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tomllib
import torch

from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import TrainJob
from lacuna.engine.models.config import checked
from lacuna.engine.models.registry import architecture, build
from lacuna.engine.training.recipe import read_recipe
from lacuna.tests.benchmarks.evidence import data, networks, protocol, run
from lacuna.tests.benchmarks.evidence.baselines import Alone
from lacuna.tests.benchmarks.evidence.protocol import NetworkCell
from lacuna.tests.benchmarks.strategies.data import config_text, manifest_text

DATA = Path(__file__).parents[1] / "data"
MODALITIES = {"a": 3, "b": 2, "c": 1}
CLASSES = 4
TINY = {"epochs": 2, "crops": 4, "batch": 2, "crop": 32, "tile": 64, "validate_every": 1, "warmup_epochs": 0}


def made(variant, modalities=MODALITIES):
    """The network of a variant, in float64 and evaluation mode, with the settings of the crowns."""
    torch.manual_seed(0)
    config = protocol.network_config(variant, "tree_crowns")["model"]
    kind = networks.KINDS.get(variant) or architecture(protocol.architecture_of(variant))
    return kind(modalities, CLASSES, checked(kind.Config, config, variant)).double().eval()


def images(names="abc", batch=2, side=32):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(batch, MODALITIES[name], side, side, generator=generator, dtype=torch.float64)
        for name in names
    }


def target(batch=2, side=32):
    return torch.randint(-1, CLASSES, (batch, side, side), generator=torch.Generator().manual_seed(2))


def test_bands_are_stacked_with_zeros_for_what_is_missing():
    model, given = made("stacked"), images()
    stack = model.stack({"b": given["b"]}, (32, 32))
    assert stack.shape == (2, 6, 32, 32)
    assert torch.equal(stack[:, 3:5], given["b"]) and not stack[:, :3].any() and not stack[:, 5:].any()
    zeros = {**given, "a": torch.zeros_like(given["a"])}
    assert torch.equal(model({name: given[name] for name in "bc"}), model(zeros))
    assert not torch.equal(model(given), model(zeros))


def test_features_are_averaged_over_the_modalities_present_and_nothing_stands_in_for_the_others():
    model, given = made("averaged"), images()
    alone = [model.maps({name: given[name]}, (32, 32)) for name in "ac"]
    for mean, first, second in zip(model.maps({name: given[name] for name in "ac"}, (32, 32)), *alone):
        torch.testing.assert_close(mean, (first + second) / 2)
    before = model({name: given[name] for name in "ac"})
    with torch.no_grad():
        for parameter in model.encoders["m_b"].parameters():
            parameter.add_(1.0)
    assert torch.equal(model({name: given[name] for name in "ac"}), before)
    assert not torch.equal(model(given), before)


@pytest.mark.parametrize("variant", ["stacked", "averaged"])
def test_images_may_each_have_a_grid_of_their_own(variant):
    given = {**images("ab"), "c": images("c", side=8)["c"]}
    assert made(variant)(given).shape == (2, CLASSES, 32, 32)


def test_alone_the_best_member_on_validation_answers():
    members = {name: made("alone", {name: channels}) for name, channels in MODALITIES.items()}
    model, given = Alone(members, {"a": 0.3, "b": 0.5, "c": 0.5}), images()
    assert [model.chosen(names) for names in (["a", "c"], ["a", "b", "c"], ["a"])] == ["c", "b", "a"]
    assert torch.equal(model({name: given[name] for name in "ac"}), members["c"]({"c": given["c"]}))


def test_without_sgf_the_projected_features_are_averaged_and_every_modality_is_drawn_alike():
    model, given = made("sgma_no_sgf"), images()
    assert not list(model.fusions.parameters())
    tokens = model.tokens(given, list("abc"), (32, 32))
    fused, weights = model.fuse(tokens)
    for scale, mean, shares in zip(tokens, fused, weights):
        torch.testing.assert_close(mean, (scale[:, 0] + scale[:, 1] + scale[:, 2]) / 3)
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3))
    model.train().losses(given, target())["total"].backward()
    assert all(parameter.grad is not None for parameter in model.projectors["m_a"].parameters())


def test_without_mas_only_the_fused_modalities_teach():
    parts = made("sgma_no_mas").losses(images(), target())
    torch.testing.assert_close(parts["total"], 2 * parts["sgf"])
    whole = made("sgma").losses(images(), target())
    torch.testing.assert_close(whole["total"], 2 * whole["sgf"] + whole["mas"])


def test_without_dlkd_labels_alone_teach():
    parts = made("dis2_no_dlkd").objective(images(), target(), "a")
    assert parts["kd"] == 0 and parts["div"] == 0
    supervised = ("unimodal", "full", "full_scales", "student", "student_scales")
    torch.testing.assert_close(parts["total"], sum(parts[name] for name in supervised))
    whole = made("dis2").objective(images(), target(), "a")
    assert whole["kd"] > 0 and whole["div"] > 0


def test_without_cflm_the_fused_map_is_decoded_once_for_all_classes():
    model = made("dis2_no_cflm")
    branch = model.branches["full"]
    fused = torch.randn(1, 64, 4, 4, dtype=torch.float64)
    evidence = branch.attention(fused)
    assert len(evidence) == 1 and evidence[0] is fused and not list(branch.attention.parameters())
    maps = [torch.randn(1, 8 << level, 32 >> level, 32 >> level, dtype=torch.float64) for level in range(4)]
    decoded = branch.decoder(evidence, maps, with_scales=True)
    assert decoded.logits.shape == (1, CLASSES, 64, 64)
    assert [scale.shape for scale in decoded.scales] == [(1, CLASSES, 64, 64)] * 4
    assert model(images("ac")).shape == (2, CLASSES, 32, 32)


def test_without_hf_levels_are_means_over_the_slots():
    model = made("dis2_no_hf")
    slots = [[torch.full((1, 2, 4, 4), float(slot + level)) for level in range(4)] for slot in range(3)]
    fused = model.branches["full"].fuse(slots, ())
    assert [float(level.mean()) for level in fused.maps] == [1.0, 2.0, 3.0, 4.0]
    assert fused.token.shape == (1, 2) and not list(model.branches["full"].fusion.parameters())
    assert model(images("ac")).shape == (2, CLASSES, 32, 32)


@pytest.mark.parametrize("variant", protocol._ALL)
def test_every_variant_has_an_objective_whose_gradient_reaches_its_weights(variant):
    model = made(variant).train()
    model.losses(images(), target(), generator=torch.Generator().manual_seed(3))["total"].backward()
    reached = sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)
    assert reached > 0.3 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", list(networks.KINDS))
def test_no_checkpoint_can_name_a_baseline_or_an_ablation(name):
    with pytest.raises(LacunaError, match="no architecture"):
        architecture(name)


@pytest.mark.parametrize("dataset", [item for item in protocol.DATASETS if protocol.DATASETS[item].networks])
def test_all_variants_of_a_data_set_share_what_is_not_their_own(dataset, tmp_path):
    recipes = {}
    for variant in protocol.DATASETS[dataset].networks:
        path = tmp_path / f"{variant}.toml"
        path.write_text(config_text(protocol.network_config(variant, dataset)))
        job = TrainJob("", protocol.architecture_of(variant), "", config=str(path))
        names = list(protocol.DATASETS[dataset].settings.radiometry)
        recipes[variant] = read_recipe(job, names)
        if variant not in networks.KINDS:
            build(job.architecture, recipes[variant].model, MODALITIES, CLASSES)
    first = recipes["sgma"]
    assert all(item.settings == first.settings and item.changes == first.changes for item in recipes.values())
    drawn = {name for name, item in recipes.items() if item.config.strategy == "uniform"}
    assert drawn == {"stacked_dropout", "averaged"} & set(recipes)


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A manifest of pieces of the small land cover scenes: 64 pixels of one to train on, 32 of another to test."""
    folder = tmp_path_factory.mktemp("land")
    scenes = [piece("38D_378R_2_3", 64, 64, {}), piece("637U_59R_1_3", 0, 32, {"split": "test"})]
    head = {**data.strategies._head("landcover_s2_s1_dem"), "ignore": [0, 3]}
    split = {"method": "block", "block": 16, "gap": 0, "validation": 0.25, "seed": 0}
    path = folder / "land.toml"
    path.write_text(manifest_text(head, split, scenes))
    return path


def piece(name, first, side, more):
    """A scene of which the square from pixel `first` along both axes counts."""
    scene = data._scene(DATA / "landcover_s2_s1_dem", name)
    with rasterio.open(scene["labels"]) as dataset:
        place = dataset.transform
    left, top = place.c + first * place.a, place.f + first * place.e
    return {**scene, "extent": [left, top + side * place.e, left + side * place.a, top], **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", ["stacked_dropout", "averaged", "alone", "sgma_no_sgf", "dis2_no_dlkd", "dis2_no_hf"]
)
def test_variants_are_trained_and_tested_in_every_scenario(land, variant, tmp_path):
    found = networks.measure(NetworkCell("unseen_433D", variant, 0), land, tmp_path, Reporter(lambda _: None), TINY)
    assert len(found.tested) == 7
    assert len({int(tally.matrix.counts.sum()) for tally in found.tested.values()}) == 1
    assert set(found.validation) == ({"optical", "radar", "elevation"} if variant == "alone" else {"all"})
    assert all(1 <= epoch <= 2 for epoch in found.best_epoch.values()) and found.parameters > 10_000
    assert not list(tmp_path.glob("*.part")), "what was unfinished is removed"


@pytest.mark.slow
def test_a_network_that_was_broken_off_goes_on_where_it_stopped(land, tmp_path):
    cell = NetworkCell("unseen_433D", "alone", 0)
    whole = networks.measure(cell, land, tmp_path / "whole", Reporter(lambda _: None), TINY)
    seen = []

    def stop(event):
        if event["event"] == "metrics":
            seen.append(event)
            if len(seen) == 3:
                reporter.cancelled.set()

    reporter = Reporter(stop)
    with pytest.raises(CancelledError):
        networks.measure(cell, land, tmp_path / "broken", reporter, TINY)
    epochs = []
    again = Reporter(lambda event: epochs.append(event) if event["event"] == "metrics" else None)
    found = networks.measure(cell, land, tmp_path / "broken", again, TINY)
    assert len(epochs) == 3, "of six epochs three were done before"
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name])


@pytest.mark.slow
def test_a_manifest_without_a_test_is_refused(land, tmp_path):
    root = tomllib.loads(land.read_text())
    path = tmp_path / "untested.toml"
    path.write_text(manifest_text(data._head_of(root), root["split"], root["scenes"][:1]))
    with pytest.raises(LacunaError, match="no labelled test pixel"):
        networks.measure(NetworkCell("unseen_433D", "stacked", 0), path, tmp_path, Reporter(lambda _: None), TINY)


@pytest.fixture
def tiles(tmp_path):
    """A folder of tiles such as those of ign_vhr: colour of A is finer than the rest, D has two classes."""
    folder, rng = tmp_path / "data" / "ign_vhr", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, (name, pixel) in data._TILES.items():
        classes = (0, 1, 2, 3, 4) if split == "train" else (0, 1, 4)
        labels = np.kron(rng.choice(classes, (20, 20)), np.ones((5, 5))).astype(np.uint8)[None]
        height = (labels * 2.0 + rng.normal(0, 0.1, labels.shape)).astype(np.float32)
        fine = 250 if pixel == "0.2m" else 100
        rgb = rng.integers(0, 255, (3, fine, fine)).astype(np.uint8)
        kinds = {"rgb": rgb, "ndsm": height, "intensity": 100 * height, "label": labels}
        for kind, values in kinds.items():
            size = pixel if kind == "rgb" else "0.5m"
            place = rasterio.Affine(50 / values.shape[1], 0, 700000, 0, -50 / values.shape[1], 6600000)
            with rasterio.open(
                folder / f"{name}_{kind}_{size}.tif", "w", driver="GTiff", count=len(values), height=values.shape[1],
                width=values.shape[2], dtype=values.dtype, crs="EPSG:2154", transform=place,
            ) as dataset:  # fmt: skip
                dataset.write(values)
    return tmp_path / "data"


def test_tile_a_trains_and_tile_d_tests(tiles, tmp_path):
    made = data.prepare("ign_vhr", tiles, tmp_path / "work")
    train, test = read_manifest(str(made.train)), read_manifest(str(made.test))
    assert made.base is None and train.names == ["rgb", "height", "intensity"] and train.ignore == [0]
    assert [scene.name[0] for scene in train.scenes] == ["A"] and train.split.method == "block"
    assert [(scene.name[0], scene.split) for scene in test.scenes] == [("D", "test")]
    both = read_manifest(str(data.together(made, tmp_path / "work" / "both.toml")))
    assert [(scene.name[0], scene.split) for scene in both.scenes] == [("A", None), ("D", "test")]
    assert both.split == train.split and both.classes == train.classes


def written(path, scenes, split):
    path.write_text(manifest_text(data._FLOODS, split, scenes))
    return path


def test_networks_train_on_base_and_training_ground_and_never_on_the_test(tmp_path):
    def scene(name, **more):
        return {"name": name, "sources": {"radar": f"/{name}.tif"}, "labels": f"/{name}-labels.tif", **more}

    blocks, default = {"method": "block", "block": 32}, {"method": "block"}
    base = written(tmp_path / "base.toml", [scene("x"), scene("y")], blocks)
    halves = data.Manifests(
        base,
        written(tmp_path / "west.toml", [scene("z")], default),
        written(tmp_path / "east.toml", [scene("z", split="test")], default),
    )
    found = read_manifest(str(data.together(halves, tmp_path / "halves.toml")))
    assert [(item.name, item.group, item.split) for item in found.scenes] == [
        ("x", "x", None), ("y", "y", None), ("z", "z", None), ("z, test", "z, test", "test"),
    ]  # fmt: skip
    assert found.split.block == 32, "the rule of the base divides both"
    plots = data.Manifests(
        base,
        written(tmp_path / "tune.toml", [scene("u", split="train"), scene("v", split="validation")], default),
        written(tmp_path / "test.toml", [scene("w", split="test")], default),
    )
    found = read_manifest(str(data.together(plots, tmp_path / "plots.toml")))
    assert {item.name: item.split for item in found.scenes} == {
        "x": "train", "y": "train", "u": "train", "v": "validation", "w": "test",
    }  # fmt: skip


@pytest.mark.slow
def test_the_queue_runs_networks_and_forgets_those_that_are_done(tiles, tmp_path, monkeypatch):
    config = protocol.network_config

    def short(variant, dataset):
        found = config(variant, dataset)
        return {**found, "training": {**found["training"], **TINY}}

    monkeypatch.setattr(protocol, "network_config", short)
    results = tmp_path / "results.jsonl"
    arguments = ["--data", str(tiles), "--work", str(tmp_path / "work"), "--results", str(results)]
    assert run.main([*arguments, "--only", "networks/ign_vhr/stacked*/0"]) == 0
    records = run.read(results)
    assert [(item["kind"], item["variant"], item["seed"]) for item in records] == [
        ("networks", "stacked", 0), ("networks", "stacked_dropout", 0),
    ]  # fmt: skip
    assert all(len(item["cases"]) == 7 and item["parameters"] > 0 for item in records)
    done = {protocol.cell_of(item) for item in records}
    assert protocol.pending(protocol.queue(), done, ["networks/ign_vhr/stacked*/0"]) == []
