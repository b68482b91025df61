# SPDX-License-Identifier: GPL-2.0-or-later
"""Splits: validation and training never touch, whatever the labels; classes are shared out as evenly as they can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lacuna.engine.data.manifest import SplitRule
from lacuna.engine.data.splits import GAP, TRAIN, VALIDATION, choose_validation, split_blocks, split_groups
from lacuna.engine.errors import LacunaError

CLASSES = 3
scenes = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
        lambda shape: arrays(np.int16, shape, elements=st.integers(-1, CLASSES - 1))
    ),
    min_size=1,
    max_size=3,
)
rules = st.builds(
    SplitRule,
    method=st.just("block"),
    block=st.integers(1, 15),
    gap=st.integers(0, 6),
    validation=st.floats(0.05, 0.6),
    seed=st.integers(0, 100),
)


def divide(labels, rule):
    """Split labels of which some scene has at least two blocks with labels."""
    assume(any(count_blocks(indices, rule.block) > 1 for indices in labels))
    return split_blocks(labels, CLASSES, rule)


def count_blocks(labels, side):
    starts = [(row, column) for row in range(0, len(labels), side) for column in range(0, labels.shape[1], side)]
    return sum((labels[row : row + side, column : column + side] >= 0).any() for row, column in starts)


@given(scenes, rules)
def test_no_training_pixel_lies_within_the_gap_of_validation(labels, rule):
    for region in divide(labels, rule):
        places = np.argwhere(region == TRAIN)
        for row, column in np.argwhere(region == VALIDATION):
            distance = np.abs(places - (row, column)).max(axis=1)
            assert (distance > rule.gap).all()


@given(scenes, rules)
def test_every_pixel_is_for_one_thing_and_validation_is_whole_blocks(labels, rule):
    regions = divide(labels, rule)
    assert any((region == VALIDATION).any() for region in regions)
    for region, indices in zip(regions, labels, strict=True):
        assert region.shape == indices.shape
        assert np.isin(region, (TRAIN, VALIDATION, GAP)).all()
        for row in range(0, region.shape[0], rule.block):
            for column in range(0, region.shape[1], rule.block):
                block = region[row : row + rule.block, column : column + rule.block] == VALIDATION
                assert block.all() or not block.any()


@given(scenes, rules)
def test_the_gap_lies_around_validation_alone(labels, rule):
    for region in divide(labels, rule):
        near = np.argwhere(region == VALIDATION)
        for row, column in np.argwhere(region == GAP):
            assert np.abs(near - (row, column)).max(axis=1).min() <= rule.gap


@given(scenes, rules)
def test_one_seed_gives_one_split(labels, rule):
    for first, second in zip(divide(labels, rule), divide(labels, rule), strict=True):
        assert (first == second).all()


def test_seeds_give_different_splits():
    labels = [np.zeros((64, 64), np.int16)]
    splits = {split_blocks(labels, 1, SplitRule("block", 8, 0, 0.3, seed))[0].tobytes() for seed in range(8)}
    assert len(splits) > 4


def test_validation_gets_its_share_of_every_class():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice(3, (24, 24), p=[0.8, 0.15, 0.05]), np.ones((8, 8), int)).astype(np.int16)
    (region,) = split_blocks([labels], 3, SplitRule("block", 16, 0, 0.2, 0))
    for index in range(3):
        share = (region[labels == index] == VALIDATION).mean()
        assert share == pytest.approx(0.2, abs=0.03)


def test_a_class_in_one_block_stays_for_training():
    labels = np.zeros((64, 64), np.int16)
    labels[:16, :16] = 1
    for seed in range(10):
        (region,) = split_blocks([labels], 2, SplitRule("block", 16, 0, 0.2, seed))
        assert (region[labels == 1] == TRAIN).all()


def test_every_scene_is_divided_anew():
    labels = [np.full((32, 32), index, np.int16) for index in range(3)]
    for region in split_blocks(labels, 3, SplitRule("block", 8, 0, 0.25, 0)):
        assert (region == VALIDATION).mean() == 0.25


@given(
    arrays(np.int64, st.tuples(st.integers(2, 30), st.integers(1, 4)), elements=st.integers(0, 50)),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
def test_both_sides_get_something(counts, share, seed):
    picked = choose_validation(counts, share, seed)
    assert 0 < picked.sum() < len(counts)


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=12), st.integers(0, 9))
def test_groups_stay_together(groups, seed):
    assume(len(set(groups)) > 1)
    counts = np.random.default_rng(seed).integers(0, 100, (len(groups), CLASSES))
    sides = split_groups(groups, counts, SplitRule("group", validation=0.3, seed=seed))
    for name in set(groups):
        assert len({side for side, group in zip(sides, groups, strict=True) if group == name}) == 1
    assert set(sides) == {TRAIN, VALIDATION}


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(LacunaError, match="one group"):
        split_groups(["a", "a"], np.ones((2, 2)), SplitRule("group"))
    with pytest.raises(LacunaError, match="two blocks"):
        split_blocks([np.zeros((20, 20), np.int16)], 1, SplitRule("block", block=64))
