# SPDX-License-Identifier: GPL-2.0-or-later
"""Augmentation: all layers of a crop move as one, and nothing appears where there was no data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.training.augment import (
    Geometry,
    Radiometry,
    change_values,
    draw_geometry,
    resize_labels,
    resize_valid,
    resize_values,
    turn,
)


def test_turns_and_mirrors_are_the_eight_symmetries():
    square = np.arange(9).reshape(3, 3)
    found = {turn(square, Geometry(3, turns, mirror)).tobytes() for turns in range(4) for mirror in (False, True)}
    assert len(found) == 8
    assert turn(square, Geometry(3)).tolist() == square.tolist()


@given(st.integers(0, 3), st.booleans(), st.integers(1, 12), st.integers(1, 12))
def test_bands_labels_and_validity_move_as_one(turns, mirror, side, shown):
    labels = np.random.default_rng(side).integers(0, 5, (shown, shown))
    image = np.stack([labels, 10 - labels]).astype(np.float32)
    geometry = Geometry(shown, turns, mirror)
    moved = resize_labels(turn(labels, geometry), side)
    if shown == side:
        assert (resize_values(turn(image, geometry), side)[0] == moved).all()
    nearest = np.stack([resize_labels(turn(band, geometry), side) for band in image])
    assert (nearest[0] == moved).all()
    assert (nearest[1] == 10 - moved).all()


@given(st.integers(2, 20), st.integers(2, 20))
def test_resizing_keeps_the_place_of_things(shown, side):
    ramp = np.tile((np.arange(shown, dtype=np.float32) + 0.5) / shown, (shown, 1))
    resized = resize_values(ramp[None], side)[0]
    centres = ((np.arange(side) + 0.5) / side).clip(0.5 / shown, 1 - 0.5 / shown)
    assert resized == pytest.approx(np.tile(centres, (side, 1)), abs=1e-5)
    assert np.abs(resize_labels(ramp, side) - centres).max() <= 0.5 / shown + 1e-6


@given(st.integers(2, 16), st.integers(2, 16), st.integers(0, 99))
def test_nothing_invalid_enters_a_valid_pixel(shown, side, seed):
    valid = np.random.default_rng(seed).random((shown, shown)) < 0.8
    hidden = np.where(valid, 1.0, np.nan).astype(np.float32)
    resized = resize_values(hidden[None], side)[0]
    known = resize_valid(valid, side)
    assert (
        np.abs(resize_values(np.where(valid, 1, 0).astype(np.float32)[None], side)[0][known] - 1).max(initial=0) < 1e-3
    )
    if shown == side:
        assert (np.isfinite(resized) == known).all()


@given(st.integers(0, 99))
def test_changes_leave_holes_empty(seed):
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(3, 8, 8)).astype(np.float32), rng.random((8, 8)) < 0.5
    changed = change_values(values, valid, Radiometry(offset=1, gain=0.2, noise=0.1), rng)
    assert changed.dtype == np.float32
    assert (changed[:, ~valid] == 0).all()
    assert (changed[:, valid] != values[:, valid]).any() or not valid.any()


def test_without_changes_valid_values_stay():
    values = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    assert (change_values(values, np.ones((8, 8), bool), Radiometry(), np.random.default_rng(1)) == values).all()


def test_an_offset_is_one_number_for_the_whole_crop():
    values = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    changed = change_values(values, np.ones((8, 8), bool), Radiometry(offset=3), np.random.default_rng(1))
    assert (changed - values).std() < 1e-6
    assert abs((changed - values).mean()) > 0.01


def test_geometries_fill_the_range():
    drawn = [draw_geometry(64, (0.5, 2.0), np.random.default_rng(seed)) for seed in range(300)]
    sides = [item.side for item in drawn]
    assert 32 <= min(sides) < 36
    assert 120 < max(sides) <= 128
    assert {(item.turns, item.mirror) for item in drawn} == {(a, b) for a in range(4) for b in (False, True)}
    assert np.median(sides) == pytest.approx(64, rel=0.1)


def test_negative_changes_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Radiometry(noise=-1)
