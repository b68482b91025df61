# SPDX-License-Identifier: GPL-2.0-or-later
"""Area estimates: the example that the paper works out, closed forms, and what must hold for any matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lacuna.engine.checkpoint.card import ClassInfo
from lacuna.engine.evaluation.areas import Z, estimate_areas

matrices = arrays(np.int64, (3, 3), elements=st.integers(0, 50))
areas = arrays(np.float64, 3, elements=st.floats(1, 1e6))

# Olofsson et al. 2014, table 8: rows are the map (deforestation, forest gain, stable forest, stable non-forest),
# columns the reference; mapped areas in pixels of 0.09 ha.
TABLE_8 = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = [200_000, 150_000, 3_200_000, 6_450_000]


def test_the_example_of_the_paper():
    found = estimate_areas(TABLE_8.T, PIXELS)
    assert found.area[0] == pytest.approx(235_086, abs=1)
    assert 0.09 * found.area == pytest.approx([21_158, 11_686, 285_770, 581_386], abs=1)
    assert 0.09 * found.margin == pytest.approx([6_158, 3_756, 15_510, 16_282], abs=1)
    assert (round(found.oa, 2), round(Z * found.oa_error, 2)) == (0.95, 0.02)


def test_two_classes_in_closed_form():
    # map A: 8 of 10 right, map B: 15 of 20 right; mapped 30 and 70
    found = estimate_areas(np.array([[8, 5], [2, 15]]), [30.0, 70.0])
    share = 0.3 * 0.8 + 0.7 * 0.25
    error = math.sqrt(0.3**2 * 0.8 * 0.2 / 9 + 0.7**2 * 0.25 * 0.75 / 19)
    assert found.area == pytest.approx([100 * share, 100 * (1 - share)])
    assert found.error == pytest.approx([100 * error] * 2)
    assert found.oa == pytest.approx(0.3 * 0.8 + 0.7 * 0.75)


def test_a_map_without_error_keeps_its_areas_and_has_no_interval():
    found = estimate_areas(np.diag([5, 9, 2]), [10.0, 20.0, 30.0])
    assert found.area.tolist() == [10.0, 20.0, 30.0]
    assert found.margin.tolist() == [0.0, 0.0, 0.0]


def test_a_sample_in_proportion_to_the_map_gives_the_shares_of_the_reference():
    counts = np.array([[30, 5, 0], [10, 40, 3], [0, 5, 7]])
    found = estimate_areas(counts, counts.sum(axis=0) * 2.5)
    assert found.area == pytest.approx(counts.sum(axis=1) * 2.5)


def test_classes_of_the_map_without_two_labelled_pixels_are_left_out_and_told():
    found = estimate_areas(np.array([[4, 0, 1], [1, 0, 0], [0, 0, 0]]), [50.0, 20.0, 30.0])
    assert found.used.tolist() == [True, False, False]
    assert found.left_out == 50.0
    assert found.area == pytest.approx([40.0, 10.0, 0.0])


def test_nothing_can_be_said_without_labelled_pixels():
    assert estimate_areas(np.eye(3, dtype=int), [1.0, 1.0, 1.0]) is None


@given(matrices, areas)
def test_estimates_sum_to_the_mapped_area_that_is_used(counts, mapped):
    found = estimate_areas(counts, mapped)
    if found is not None:
        assert found.area.sum() + found.left_out == pytest.approx(mapped.sum())
        assert (found.error >= 0).all()
        assert 0 <= found.oa <= 1 + 1e-9


@given(matrices, areas)
def test_a_larger_sample_of_the_same_shares_has_narrower_intervals(counts, mapped):
    once, often = estimate_areas(counts + 2, mapped), estimate_areas(4 * (counts + 2), mapped)
    assert often.area == pytest.approx(once.area)
    assert (often.error <= once.error + 1e-9).all()


def test_the_result_in_square_metres():
    classes = [ClassInfo(1, "water"), ClassInfo(2, "trees")]
    found = estimate_areas(np.array([[8, 5], [2, 15]]), [30.0, 70.0]).to_dict(classes)
    row = found["classes"][0]
    assert row["high_m2"] - row["low_m2"] == pytest.approx(2 * Z * row["standard_error_m2"], abs=0.01)
    assert (row["name"], row["mapped_m2"], found["mapped_m2"], found["level"]) == ("water", 30.0, 100.0, 0.95)
    assert "stratified" in found["design"]
