# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics in one pass equal those of all values at once, however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.data import statistics
from lacuna.engine.data.statistics import BandStatistics


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
