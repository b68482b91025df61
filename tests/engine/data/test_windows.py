# SPDX-License-Identifier: GPL-2.0-or-later
"""Windows on which latents are compared: spread over the scenes, scaled, and only where all modalities are."""

from __future__ import annotations

import numpy as np
import pytest

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.data.windows import collect_batches, every_batch, grid_places
from lacuna.engine.events import silent
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.scene import Scene

MODALITIES = [
    Modality("a", ["x"], scaling=[{"type": "offset_scale", "offset": -1.0, "scale": 2.0}]),
    Modality("b", ["y"]),
]


@pytest.fixture
def scene(write_raster):
    """A function that opens a scene of modalities given as arrays (h, w)."""
    opened = []

    def make(name, **arrays):
        sources = {key: SourceSpec(write_raster(f"{name}_{key}.tif", value)) for key, value in arrays.items()}
        opened.append(Scene(MODALITIES, sources))
        return opened[-1]

    yield make
    for item in opened:
        item.close()


def collect(scenes, side=16, count=6, batch=4):
    return collect_batches(scenes, MODALITIES, ("a", "b"), side, count, batch, silent())


def ramp(size=64):
    return np.arange(size * size, dtype=np.float32).reshape(size, size)


def test_windows_are_scaled_and_both_modalities_show_the_same_place(scene):
    found = collect([scene("s", a=ramp(), b=ramp())])
    assert [images["a"].shape for images in found] == [(4, 1, 16, 16), (2, 1, 16, 16)]
    for images in found:
        assert (images["a"] == images["b"] * 2 - 1).all()
    starts = {float(window[0, 0, 0]) for images in found for window in images["b"]}
    assert len(starts) == 6


def test_they_are_the_same_every_time_and_scenes_take_turns(scene):
    scenes = [scene("s", a=ramp(), b=ramp()), scene("t", a=ramp(), b=-ramp() - 1)]
    first, again = collect(scenes), collect(scenes)
    assert all((one["b"] == two["b"]).all() for one, two in zip(first, again))
    signs = [bool((window < 0).all()) for images in first for window in images["b"]]
    assert signs == [False, True] * 3


def test_only_windows_that_have_all_modalities_count(scene):
    half = ramp()
    half[:, 30:] = np.nan
    found = collect([scene("s", a=ramp(), b=half), scene("t", a=ramp())], count=100)
    windows = [window for images in found for window in images["b"]]
    assert 0 < len(windows) <= 8
    assert all((window != 0).float().mean() >= 0.5 for window in windows)
    assert collect([scene("u", a=ramp())]) == []


def test_a_scene_smaller_than_a_window_is_one_window(scene):
    found = collect([scene("s", a=ramp(14), b=ramp(14))])
    assert len(found) == 1 and found[0]["a"].shape == (1, 1, 16, 16)


def test_all_windows_cover_every_pixel_and_come_batch_by_batch(scene):
    values, other = ramp(40), ramp(40) + 1600
    read, scenes = [], [scene("s", a=values, b=values), scene("t", a=other, b=other), scene("u", a=ramp())]
    for item in scenes:
        item.read = lambda *place, given=item.read: (read.append(place), given(*place))[1]
    batches = every_batch(scenes, MODALITIES, ("a", "b"), 16, 4, silent())
    seen = [next(batches)["b"]]
    assert len(read) == 4
    seen += [images["b"] for images in batches]
    assert [len(images) for images in seen] == [4, 4, 4, 4, 2]
    assert {float(value) for images in seen for value in images.flatten()} == set(map(float, range(3200)))


def test_of_all_windows_those_without_a_modality_are_left_out(scene):
    half = ramp()
    half[:, 30:] = np.nan
    found = list(every_batch([scene("s", a=ramp(), b=half)], MODALITIES, ("a", "b"), 16, 100, silent()))
    assert [len(images["a"]) for images in found] == [8]


def test_a_grid_lies_within_the_area_or_around_a_smaller_one():
    assert grid_places(32, 20, 16) == [(0, 0), (0, 4), (16, 0), (16, 4)]
    assert grid_places(10, 16, 16) == [(-3, 0)]
