# SPDX-License-Identifier: GPL-2.0-or-later
"""The blender: the sum of weighted tiles, each pixel once, to the last bit whatever the order of the tiles."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lacuna.engine.inference.blend import Blender
from lacuna.engine.raster.tiles import plan_tiles

CLASSES = 3


def blend(plan, tiles, order):
    """Return the blended scene, the evidence, how often each pixel came and how many cells were left waiting."""
    height, width = plan.rows.size, plan.columns.size
    scene = np.zeros((CLASSES, height, width), np.float32)
    evidence = np.zeros((height, width), np.uint16)
    count = np.zeros((height, width), int)

    def emit(rows, columns, probabilities, bits):
        count[rows, columns] += 1
        if probabilities is not None:
            scene[:, rows, columns] = probabilities
            evidence[rows, columns] = bits

    blender = Blender(plan, emit)
    for number in order:
        blender.add(number, *tiles[number])
    return scene, evidence, count, blender.pending


def random_tiles(plan, seed):
    generator = np.random.default_rng(seed)
    bits = np.ones(plan.shape, np.uint16)
    return [(generator.random((CLASSES, *plan.shape), np.float32), bits) for _ in range(len(plan))]


plans = st.builds(
    lambda height, width, tile, overlap, stride: plan_tiles(
        height, width, (tile, tile), min(overlap, tile // 2), stride
    ),
    st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 20), st.sampled_from([1, 4, 8]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(plans, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits_and_every_pixel_once(plan, random):
    tiles = random_tiles(plan, 0)
    order = list(range(len(plan)))
    ordered = blend(plan, tiles, order)
    random.shuffle(order)
    shuffled = blend(plan, tiles, order)
    assert (ordered[2] == 1).all()
    assert ordered[3] == shuffled[3] == 0
    assert ordered[0].tobytes() == shuffled[0].tobytes()


@settings(max_examples=60, deadline=None)
@given(plans)
def test_blend_is_the_weighted_sum_of_the_tiles(plan):
    tiles = random_tiles(plan, 1)
    expected = np.zeros((CLASSES, plan.rows.size, plan.columns.size))
    for number, (probabilities, _) in enumerate(tiles):
        i, j = plan.position(number)
        for a in plan.rows.cells(i):
            for b in plan.columns.cells(j):
                weight = np.outer(plan.rows.weight(i, a), plan.columns.weight(j, b))
                part = probabilities[:, plan.rows.local(i, a), plan.columns.local(j, b)]
                expected[:, plan.rows.cell(a), plan.columns.cell(b)] += part * weight
    scene, *_ = blend(plan, tiles, range(len(plan)))
    np.testing.assert_allclose(scene, expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(plans, st.floats(0, 1, width=32, allow_subnormal=False))
def test_a_constant_stays_constant_to_the_borders(plan, value):
    tiles = [(np.full((CLASSES, *plan.shape), value, np.float32), np.ones(plan.shape, np.uint16))] * len(plan)
    scene, *_ = blend(plan, tiles, range(len(plan)))
    # The smallest normal numbers, of which halves have fewer digits, are no probabilities.
    np.testing.assert_allclose(scene, value, rtol=3e-7, atol=1e-30)


def test_only_the_strips_around_seams_wait():
    plan = plan_tiles(400, 400, (64, 64), 16, 8)
    tiles = random_tiles(plan, 2)
    blender = Blender(plan, lambda *cell: None)
    most = 0
    for number in range(len(plan)):
        blender.add(number, *tiles[number])
        most = max(most, blender.pending)
    assert most <= 2 * len(plan.columns.origins) + 4


def test_a_tile_without_data_leaves_its_cells_to_its_neighbours():
    plan = plan_tiles(16, 24, (16, 16), 8, 4)
    assert len(plan) == 2
    left = np.ones((CLASSES, 16, 16), np.float32)
    bits = np.ones((16, 16), np.uint16)
    ramp = plan.columns.cell(1)
    left[:, :, ramp] = 0
    bits[:, ramp] = 0
    scene, evidence, count, pending = blend(plan, [(left, bits), (None, None)], [1, 0])
    assert pending == 0 and (count == 1).all()
    assert (evidence[:, : ramp.start] == 1).all() and not evidence[:, ramp.start :].any()
    assert (scene[:, :, : ramp.start] == 1).all() and not scene[:, :, ramp.start :].any()
