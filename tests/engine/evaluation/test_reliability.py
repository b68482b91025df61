# SPDX-License-Identifier: GPL-2.0-or-later
"""Calibration: bins, the expected calibration error against plain loops, and the probability of the winner."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.evaluation.reliability import BINS, Reliability, winning_probability

pixels = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def made(items):
    found = Reliability()
    found.update(np.array([confidence for confidence, _ in items]), np.array([right for _, right in items], bool))
    return found


def test_worked_example():
    # Two bins: (0.6, 0.6667] holds .65 right and .61 wrong, (0.9333, 1] holds 1.0 right, .95 right and .95 wrong.
    found = made([(0.65, True), (0.61, False), (1.0, True), (0.95, True), (0.95, False)])
    first, second = abs(1 / 2 - (0.65 + 0.61) / 2), abs(2 / 3 - 2.9 / 3)
    assert found.ece() == pytest.approx(2 / 5 * first + 3 / 5 * second)
    assert found.to_dict()["pixels"] == [0] * 9 + [2] + [0] * 4 + [3]
    assert found.to_dict()["accuracy"][9] == 0.5
    assert found.to_dict()["confidence"][0] is None


@pytest.mark.parametrize(
    ("confidence", "index"), [(0.0, 0), (1 / 15, 0), (0.067, 1), (0.5, 7), (0.9999, 14), (1.0, 14)]
)
def test_a_bin_holds_its_upper_end(confidence, index):
    assert made([(confidence, True)]).counts.argmax() == index


@given(pixels)
def test_against_plain_loops(items):
    total = 0.0
    for index in range(BINS):
        inside = [
            (confidence, right)
            for confidence, right in items
            if min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1) == index
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            total += len(inside) / len(items) * abs(accuracy - mean)
    assert made(items).ece() == pytest.approx(total, abs=1e-12)


@given(pixels, pixels)
def test_parts_merge_into_the_whole(first, second):
    merged = made(first)
    merged.merge(made(second))
    assert merged.ece() == pytest.approx(made(first + second).ece(), abs=1e-12)


def test_confidence_that_is_right_as_often_as_it_says_has_no_error():
    assert made([(0.75, True)] * 3 + [(0.75, False)]).ece() == 0


def test_no_pixel_has_no_error_to_tell():
    assert math.isnan(Reliability().ece())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_winning_probability_is_that_of_the_softmax(temperature):
    logits = np.random.default_rng(0).normal(0, 30, (5, 40)).astype(np.float32)
    wanted = torch.softmax(torch.from_numpy(logits).double() / temperature, 0).max(0).values.numpy()
    assert winning_probability(logits, temperature) == pytest.approx(wanted, rel=1e-12)
