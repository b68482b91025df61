# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiles: they cover the scene, their weights sum to 1 at every pixel, and their origins obey the stride."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lacuna.engine.raster.tiles import plan_axis, plan_tiles

axes = st.tuples(
    st.integers(1, 700), st.integers(1, 128), st.integers(0, 64), st.sampled_from([1, 2, 4, 8, 32])
).filter(lambda case: 2 * case[2] <= case[1] and case[1] >= case[3])


def weight_sum(axis):
    total = np.zeros(axis.size)
    for index in range(len(axis.origins)):
        for cell in axis.cells(index):
            local = axis.local(index, cell)
            assert local.start >= 0 and local.stop <= axis.tile, "a cell lies outside its tile"
            total[axis.cell(cell)] += axis.weight(index, cell)
    return total


@settings(max_examples=400, deadline=None)
@given(axes)
def test_weights_sum_to_one_everywhere(case):
    axis = plan_axis(*case)
    np.testing.assert_allclose(weight_sum(axis), 1, atol=1e-6)


@settings(max_examples=400, deadline=None)
@given(axes)
def test_cells_cut_the_axis_without_gaps(case):
    axis = plan_axis(*case)
    assert axis.edges[0] == 0 and axis.edges[-1] == axis.size
    assert all(a <= b for a, b in zip(axis.edges, axis.edges[1:], strict=False))
    assert len(axis.edges) == 2 * len(axis.origins)
    assert len(axis.strips) == len(axis.origins) + 1
    assert all(a < b for a, b in zip(axis.strips, axis.strips[1:], strict=False))


@settings(max_examples=400, deadline=None)
@given(axes)
def test_origins_are_on_the_stride_and_at_most_one_step_apart(case):
    size, _, overlap, stride = case
    axis = plan_axis(*case)
    assert all(origin % stride == 0 for origin in axis.origins)
    assert axis.origins[0] == 0
    assert axis.origins[-1] + axis.tile >= size
    step = max((axis.tile - overlap) // stride, 1) * stride
    assert all(b - a <= step for a, b in zip(axis.origins, axis.origins[1:], strict=False))


def test_spacing_is_even_and_the_ramp_is_half_the_overlap():
    axis = plan_axis(1000, 256, 64, 32)
    steps = np.diff(axis.origins)
    assert steps.max() - steps.min() <= 32
    assert axis.ramp == 32
    assert axis.weight(0, 1)[0] < 1 and axis.weight(0, 1)[-1] > 0


def test_no_overlap_is_crop_and_place():
    axis = plan_axis(128, 32, 0, 32)
    assert axis.ramp == 0
    assert axis.origins == (0, 32, 64, 96)
    assert [axis.cell(2 * i) for i in range(4)] == [slice(o, o + 32) for o in axis.origins]


def test_a_scene_smaller_than_a_tile_is_one_tile_on_the_stride():
    plan = plan_tiles(37, 500, (256, 256), 32, 32)
    assert plan.shape == (64, 256)
    assert plan.rows.origins == (0,)


def test_tiles_are_numbered_row_by_row():
    plan = plan_tiles(64, 96, (32, 32), 0, 32)
    assert len(plan) == 6
    assert plan.position(4) == (1, 1) and plan.origin(4) == (32, 32)
    assert plan.support(4) == (slice(0, 32), slice(0, 32))
