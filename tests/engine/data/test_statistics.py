# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics in one pass equal those of all values at once, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.data import statistics
from lacuna.engine.data.statistics import BandStatistics, Level, pooled_level, standard_chain
from lacuna.engine.raster.scaling import scale


@given(st.integers(1, 3), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_pieces_equal_the_whole(bands, sizes, seed):
    total = sum(sizes)
    values = np.random.default_rng(seed).normal(1000, 3, (bands, total)).astype(np.float32)
    gathered = BandStatistics(bands, total)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        gathered.update(values[:, end - size : end])
    if total == 0:
        assert gathered.result() == {}
        return
    exact = values.astype(np.float64)
    wanted = {
        "minimum": exact.min(1),
        "maximum": exact.max(1),
        "mean": exact.mean(1),
        "std": exact.std(1),
        "p01": np.percentile(exact, 1, axis=1),
        "p99": np.percentile(exact, 99, axis=1),
    }
    found = gathered.result()
    assert set(found) == set(wanted)
    for name, numbers in wanted.items():
        assert found[name] == pytest.approx(numbers.tolist(), rel=1e-5, abs=1e-5)


def test_percentiles_of_many_pixels_come_from_every_nth(monkeypatch):
    monkeypatch.setattr(statistics, "_SAMPLED", 100)
    gathered = BandStatistics(1, 1000)
    for start in range(0, 1000, 7):
        gathered.update(np.arange(start, min(start + 7, 1000), dtype=np.float32)[None])
    assert np.concatenate(gathered._sample, axis=1)[0].tolist() == list(range(0, 1000, 10))
    assert gathered.result()["maximum"] == [999.0]


def level_of(values: np.ndarray) -> Level:
    gathered = BandStatistics(len(values), values.shape[1])
    gathered.update(values)
    return gathered.level()


def test_a_level_is_not_set_by_a_few_outliers():
    values = np.random.default_rng(0).normal(50, 4, (1, 10_000)).astype(np.float32)
    values[0, :50] = 1e6
    level = level_of(values)
    assert level.pixels == 10_000
    assert level.centre[0] == pytest.approx(50, abs=0.2)
    assert level.spread[0] == pytest.approx(4, rel=0.1)


def test_one_scene_of_snow_leaves_the_others_their_spread():
    rng = np.random.default_rng(0)
    fields = [rng.normal(centre, 200, (1, 5000)).astype(np.float32) for centre in (600, 700, 650)]
    snow = rng.normal(7000, 1500, (1, 5000)).astype(np.float32)
    pooled = pooled_level([level_of(item) for item in [*fields, snow]])
    assert pooled.centre[0] == pytest.approx(675, abs=30)
    assert 180 < pooled.spread[0] < 350
    chain = standard_chain(pooled)
    for item in fields:
        assert 0.5 < scale(item, chain).std() < 1.5
    assert scale(snow, chain).max() == 10.0


@given(st.integers(0, 1000), st.integers(1, 4))
def test_equal_scenes_pool_to_themselves_and_weights_count(seed, count):
    rng = np.random.default_rng(seed)
    own = Level(rng.normal(0, 5, 3), rng.uniform(0.1, 3, 3), 100)
    pooled = pooled_level([own] * count)
    assert pooled.centre == pytest.approx(own.centre)
    assert pooled.spread == pytest.approx(own.spread)
    assert pooled.pixels == 100 * count
    odd = Level(own.centre + 1000, own.spread, 1)
    assert pooled_level([own] * count + [odd]).centre == pytest.approx(own.centre, abs=20)


def test_scenes_apart_from_one_another_have_the_spread_between_them():
    pooled = pooled_level([Level(np.array([value]), np.array([1.0]), 10) for value in (0.0, 100.0)])
    assert pooled.centre[0] == pytest.approx(50)
    assert pooled.spread[0] == pytest.approx(np.hypot(1, 1.4826 * 50))


def test_a_band_of_one_value_is_left_as_it_is():
    chain = standard_chain(level_of(np.full((1, 10), 3.0, np.float32)))
    assert scale(np.array([[3.0, 4.0]], np.float32), chain).tolist() == [[0.0, 1.0]]
