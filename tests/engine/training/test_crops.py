# SPDX-License-Identifier: GPL-2.0-or-later
"""Crops: only training pixels teach, a modality that hardly covers a crop is left out, holes are not learned from."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.data.labelled_scenes import close_scenes, divide_scenes, open_scenes
from lacuna.engine.data.measure import measure_modalities
from lacuna.engine.data.splits import TRAIN
from lacuna.engine.training.augment import Geometry
from lacuna.engine.training.crops import Crop, Cutter, Sampler, chunks, collate, regular_crops
from lacuna.engine.training.strategies import Strategy, named_strategy, supported

SIDE = 24


@pytest.fixture
def opened(heard):
    """A function that opens the scenes of a world, divided and prepared; with their modalities."""
    kept = []

    def open_all(world):
        manifest = world.read()
        scenes = open_scenes(manifest, heard[0])
        kept.extend(scenes)
        divide_scenes(scenes, manifest, heard[0])
        modalities = measure_modalities(scenes, manifest.modalities, heard[0])
        for scene in scenes:
            scene.prepare(modalities)
        return scenes, modalities

    yield open_all
    close_scenes(kept)


def cutter(scenes, modalities, strategy="full"):
    return Cutter(scenes, modalities, SIDE, named_strategy(strategy, modalities), {})


def hide(name, rows=slice(None), columns=slice(None)):
    def change(arrays):
        arrays[name][..., rows, columns] = np.nan

    return change


def test_all_layers_of_a_crop_show_the_same_place(two_scenes, opened):
    """The scenes' red band grows with the class, so a crop's target can be told from each of its images."""
    scenes, modalities = opened(two_scenes)
    cut = cutter(scenes, modalities)
    for crop in Sampler(scenes, 3, SIDE, (1.0, 1.0), 0.5).draw(20, np.random.default_rng(0)):
        sample = cut(crop)
        known = sample.target >= 0
        for name in ("optical", "height"):
            means = [sample.images[name][0][sample.target == label].mean() for label in np.unique(sample.target[known])]
            assert means == sorted(means)
            assert len(means) == 1 or min(np.diff(means)) > 0.5


def test_only_training_pixels_teach(two_scenes, opened):
    scenes, modalities = opened(two_scenes)
    cut = cutter(scenes, modalities)
    for index, scene in enumerate(scenes):
        for row in range(0, 48 - SIDE + 1, 8):
            target = cut(Crop(index, row, 8, Geometry(SIDE), 0)).target
            window = slice(row, row + SIDE), slice(8, 8 + SIDE)
            wanted = np.where(scene.region[window] == TRAIN, scene.labels[window], -1)
            assert (target == wanted).all()


def test_regular_crops_hold_every_training_pixel_as_it_is(two_scenes, opened):
    scenes, modalities = opened(two_scenes)
    scenes[1].region[:24] = TRAIN + 1
    crops = regular_crops(scenes, SIDE)
    assert {(crop.scene, crop.row, crop.column) for crop in crops} == {
        (0, 0, 0), (0, 0, 24), (0, 24, 0), (0, 24, 24), (1, 24, 0), (1, 24, 24)
    }  # fmt: skip
    assert {crop.geometry for crop in crops} == {Geometry(SIDE)}
    cut = cutter(scenes, modalities)
    assert sum((cut(crop).target >= 0).sum() for crop in crops) == sum(scene.counts(TRAIN, 3).sum() for scene in scenes)


def test_an_extent_hides_all_beyond_it(world, opened):
    # Columns 8 to 39 of 48: the grid begins at x = 500000, pixels are 10 m.
    world.scene("a", extent=[500080.0, 5499520.0, 500400.0, 5500000.0])
    scenes, modalities = opened(world)
    assert scenes[0].window == (0, 8, 48, 32)
    sample = cutter(scenes, modalities)(Crop(0, 0, 20, Geometry(SIDE), 0))
    assert (sample.images["optical"][:, :, 12:] == 0).all()
    assert (sample.images["optical"][:, :, :12] != 0).any()
    assert (sample.target[:, 12:] == -1).all()


def test_crops_stay_within_their_scene_and_show_a_training_pixel(two_scenes, opened):
    scenes, _ = opened(two_scenes)
    for crop in Sampler(scenes, 3, SIDE, (0.8, 1.25), 0.5).draw(200, np.random.default_rng(0)):
        side = crop.geometry.side
        assert 0 <= crop.row <= 48 - side
        assert 0 <= crop.column <= 48 - side
        window = slice(crop.row, crop.row + side), slice(crop.column, crop.column + side)
        assert (scenes[crop.scene].region[window] == TRAIN).any()


def test_a_crop_larger_than_its_scene_is_padded_with_nothing(world, opened):
    world.scene("a", size=(48, 48))
    scenes, modalities = opened(world)
    (crop,) = Sampler(scenes, 3, 80, (1.0, 1.0), 0.5).draw(1, np.random.default_rng(0))
    assert crop.row <= 0 and crop.row + 80 >= 48
    sample = Cutter(scenes, modalities, 80, named_strategy("full", modalities), {})(crop)
    assert sample.images["optical"].shape == (2, 80, 80)
    assert (sample.target >= 0).sum() == ((scenes[0].region == TRAIN) & (scenes[0].labels >= 0)).sum()


def test_half_of_the_crops_look_for_rare_classes(world, opened):
    def rare(arrays):
        arrays["labels"][arrays["labels"] == 5] = 1
        arrays["labels"][40:, 40:] = 5

    world.scene("a", change=rare, split="train")
    world.scene("b", seed=4, split="validation")
    scenes, _ = opened(world)
    drawn = {}
    for balance in (0.0, 1.0):
        crops = Sampler(scenes, 3, 8, (1.0, 1.0), balance).draw(300, np.random.default_rng(0))
        drawn[balance] = np.mean([crop.row > 32 and crop.column > 32 for crop in crops])
    assert drawn[0.0] < 0.1
    assert drawn[1.0] > 0.25


def test_a_modality_that_hardly_covers_a_crop_is_left_out_of_it(world, opened):
    world.scene("a", change=hide("height", columns=slice(20, None)), split="train")
    world.scene("b", seed=3, split="validation")
    scenes, modalities = opened(world)
    cut = cutter(scenes, modalities)
    most, least = cut(Crop(0, 0, 0, Geometry(SIDE), 0)), cut(Crop(0, 0, 16, Geometry(SIDE), 0))
    assert list(most.images) == ["optical", "height"]
    assert list(least.images) == ["optical"]
    # What stays valid teaches; where height has no data another scenario decides in use.
    assert (most.target[:, 20:] == -1).all() and (most.target[:, :20] >= 0).all()
    assert (most.images["height"][:, :, 20:] == 0).all()
    assert (least.target >= 0).all()


def test_a_required_modality_is_never_left_out(world, opened):
    world.head = world.head.replace('bands = ["height"]', 'bands = ["height"]\nrequired = true')
    world.scene("a", change=hide("height", columns=slice(8, None)), split="train")
    world.scene("b", seed=3, split="validation")
    scenes, modalities = opened(world)
    sample = cutter(scenes, modalities)(Crop(0, 0, 0, Geometry(SIDE), 0))
    assert "height" in sample.images
    assert supported(modalities) == [("height",), ("optical", "height")]


def test_uniform_draws_every_scenario_alike(two_scenes, opened):
    _, modalities = opened(two_scenes)
    draw, rng = named_strategy("uniform", modalities), np.random.default_rng(0)
    drawn = [draw(("optical", "height"), rng) for _ in range(600)]
    for scenario in supported(modalities):
        assert drawn.count(scenario) == pytest.approx(200, abs=45)
    assert {draw(("height",), rng) for _ in range(20)} == {("height",)}


def test_samples_of_one_batch_have_the_same_modalities(world, opened):
    world.scene("a", split="train")
    world.scene("b", seed=1, modalities=("optical",), split="train")
    world.scene("c", seed=2, split="validation")
    scenes, modalities = opened(world)
    cut = cutter(scenes, modalities)
    samples = [cut(Crop(index % 2, 0, index, Geometry(SIDE), index)) for index in range(6)]
    batches = collate(samples)
    assert [tuple(batch.images) for batch in batches] == [("optical",), ("optical", "height")]
    assert [len(batch.target) for batch in batches] == [3, 3]
    assert batches[1].images["optical"].shape == (3, 2, SIDE, SIDE)
    assert (batches[0].target[1].numpy() == samples[3].target).all()


def test_chunks_cover_all_crops_in_order():
    assert [list(chunk) for chunk in chunks(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_scenes_read_by_window_equal_scenes_in_memory(two_scenes, opened, monkeypatch):
    from lacuna.engine.data import labelled_scenes as module

    kept, modalities = opened(two_scenes)
    monkeypatch.setattr(module, "CACHED", 0)
    streamed, _ = opened(two_scenes)
    for crop in Sampler(kept, 3, SIDE, (0.8, 1.25), 0.5).draw(6, np.random.default_rng(1)):
        first, second = cutter(kept, modalities)(crop), cutter(streamed, modalities)(crop)
        assert (first.target == second.target).all()
        for name, image in first.images.items():
            assert (image == second.images[name]).all()


@pytest.mark.parametrize("beyond", [False, True])
def test_a_network_that_looks_beyond_its_scenario_gets_all_that_there_is(two_scenes, opened, beyond):
    scenes, modalities = opened(two_scenes)
    order = supported(modalities)
    strategy = Strategy(order, np.array([1.0, 0.0, 0.0]))
    cut = Cutter(scenes, modalities, SIDE, strategy, {}, beyond)
    samples = [cut(crop) for crop in Sampler(scenes, 3, SIDE, (1.0, 1.0), 0.5).draw(5, np.random.default_rng(0))]
    assert {sample.scenario for sample in samples} == {order[0]}
    assert {tuple(sample.images) for sample in samples} == {order[-1] if beyond else order[0]}
    batches = collate(samples)
    assert [batch.scenario for batch in batches] == [order[0]] and len(batches[0].target) == 5


def test_samples_of_other_scenarios_share_no_forward(two_scenes, opened):
    scenes, modalities = opened(two_scenes)
    cut = Cutter(scenes, modalities, SIDE, Strategy(supported(modalities), np.ones(3) / 3), {}, True)
    samples = [cut(crop) for crop in Sampler(scenes, 3, SIDE, (1.0, 1.0), 0.5).draw(12, np.random.default_rng(0))]
    batches = collate(samples)
    assert {batch.scenario for batch in batches} == set(supported(modalities))
    assert sum(len(batch.target) for batch in batches) == 12
    assert all(set(batch.images) == {"optical", "height"} for batch in batches)
