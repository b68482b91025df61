# SPDX-License-Identifier: GPL-2.0-or-later
"""Splits for fine-tuning: whole polygons on one side, and blocks that suit few and clustered labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacuna.engine.data.manifest import SplitRule
from lacuna.engine.data.splits import GAP, TRAIN, VALIDATION, choose_blocks, split_blocks, split_objects
from lacuna.engine.errors import LacunaError


def squares(seed, size=60, count=20, classes=3):
    """Labels and numbers of squares of 5 pixels; later ones cover earlier ones."""
    rng = np.random.default_rng(seed)
    labels, objects = np.full((size, size), -1), np.full((size, size), -1)
    for number in range(count):
        row, column = rng.integers(0, size - 5, 2)
        labels[row : row + 5, column : column + 5] = number % classes
        objects[row : row + 5, column : column + 5] = number
    return labels, objects


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(0, 6), st.floats(0.1, 0.6))
def test_a_polygon_is_on_one_side_and_training_keeps_the_gap(seed, gap, share):
    labels, objects = squares(seed)
    (region,) = split_objects([labels], [objects], 3, SplitRule("polygon", gap=gap, validation=share, seed=seed))
    validation = region == VALIDATION
    assert validation.any()
    for number in np.unique(objects[objects >= 0]):
        assert len(np.unique(validation[objects == number])) == 1
    assert not validation[labels < 0].any()
    rows, columns = np.nonzero(validation)
    for row, column in np.argwhere(region == TRAIN)[::7]:
        assert np.maximum(np.abs(rows - row), np.abs(columns - column)).min() > gap
    for row, column in np.argwhere((region == GAP) & (labels < 0))[::7]:
        assert np.maximum(np.abs(rows - row), np.abs(columns - column)).min() <= gap


def test_polygons_of_one_number_stay_together_over_scenes():
    labels = [np.repeat([[0, 1, 0, 1]], 4, 0), np.repeat([[1, 0, 1, 0]], 4, 0)]
    objects = [np.repeat([[0, 1, 2, 3]], 4, 0), np.repeat([[3, 2, 1, 0]], 4, 0)]
    regions = split_objects(labels, objects, 2, SplitRule("polygon", gap=0, validation=0.5))
    sides = {}
    for region, numbers in zip(regions, objects):
        for number in range(4):
            sides.setdefault(number, set()).update(region[numbers == number])
    assert all(len(side) == 1 for side in sides.values())
    assert {side.pop() for side in sides.values()} == {TRAIN, VALIDATION}


def test_what_several_polygons_claim_is_for_nothing():
    labels, objects = squares(0)
    where = (labels >= 0) & (np.indices(labels.shape)[0] % 2 == 0)
    objects[where] = -1
    (region,) = split_objects([labels], [objects], 3, SplitRule("polygon", gap=0))
    assert (region[where] == GAP).all()


def test_one_polygon_cannot_be_divided():
    with pytest.raises(LacunaError) as caught:
        split_objects([np.zeros((4, 4), int)], [np.zeros((4, 4), int)], 2, SplitRule("polygon"))
    assert caught.value.code == "bad-split"


def test_blocks_leave_every_class_on_both_sides_with_the_gap_where_there_is_room():
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (32, 32)), np.ones((16, 16), int))
    rule = choose_blocks([labels], 3, 32, SplitRule("block", seed=1))
    assert (rule.gap, rule.seed, rule.validation) == (32, 1, 0.2)
    (region,) = split_blocks([labels], 3, rule)
    for side in (TRAIN, VALIDATION):
        assert set(labels[region == side]) == {0, 1, 2}
    assert (region == GAP).mean() <= 0.55


def test_the_gap_shrinks_where_it_would_leave_nothing():
    labels = np.kron(np.random.default_rng(0).integers(0, 2, (4, 4)), np.ones((12, 12), int))
    rule = choose_blocks([labels], 2, 32, SplitRule("block"))
    assert rule.gap < 32
    (region,) = split_blocks([labels], 2, rule)
    assert set(labels[region == TRAIN]) == set(labels[region == VALIDATION]) == {0, 1}


def test_a_single_spot_of_labels_is_refused():
    labels = np.full((64, 64), -1)
    labels[:4, :4] = np.arange(16).reshape(4, 4) % 2
    with pytest.raises(LacunaError) as caught:
        choose_blocks([labels], 2, 8, SplitRule("block"))
    assert caught.value.code == "bad-split"


def test_a_large_scene_is_not_cut_into_countless_blocks():
    labels = np.full((3000, 3000), -1, np.int16)
    labels[::7, ::7] = np.arange(429 * 429).reshape(429, 429) % 3
    rule = choose_blocks([labels], 3, 16, SplitRule("block"))
    assert 3000**2 / rule.block**2 <= 8192
