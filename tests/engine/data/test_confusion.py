# SPDX-License-Identifier: GPL-2.0-or-later
"""The confusion matrix: numbers worked out by hand, and what must hold for any two maps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lacuna.engine.data.confusion import ConfusionMatrix

CLASSES = 4
maps = arrays(np.int16, (3, 7), elements=st.integers(-1, CLASSES - 1))


def matrix(reference, prediction, classes=CLASSES):
    made = ConfusionMatrix(classes)
    made.update(np.asarray(reference), np.asarray(prediction))
    return made


def test_worked_example():
    # rows reference, columns prediction: [[3, 1, 0], [1, 2, 0], [0, 2, 1]] and one class that is nowhere
    reference = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    prediction = [0, 0, 0, 1, 0, 1, 1, 1, 1, 2]
    made = matrix(reference, prediction)
    assert made.counts[:3, :3].tolist() == [[3, 1, 0], [1, 2, 0], [0, 2, 1]]
    assert made.iou_by_class()[:3] == pytest.approx([3 / 5, 2 / 6, 1 / 3])
    assert math.isnan(made.iou_by_class()[3])
    assert made.miou() == pytest.approx((3 / 5 + 1 / 3 + 1 / 3) / 3)
    assert made.f1_by_class()[:3] == pytest.approx([6 / 8, 4 / 8, 2 / 4])
    assert made.f1() == pytest.approx(7 / 12)
    assert made.oa() == pytest.approx(0.6)
    by_chance = (4 * 4 + 3 * 5 + 3 * 1) / 100
    assert made.kappa() == pytest.approx((0.6 - by_chance) / (1 - by_chance))


def test_class_only_in_the_prediction_counts_as_zero():
    made = matrix([0, 0], [0, 1])
    assert made.iou_by_class()[:2].tolist() == [0.5, 0.0]
    assert made.miou() == 0.25


def test_unknown_pixels_are_left_out():
    made = matrix([[0, -1], [1, 1]], [[0, 0], [-1, 1]])
    assert made.pixels == 2
    assert made.miou() == 1.0


def test_nothing_counted_is_no_number():
    summary = ConfusionMatrix(2).summary()
    assert summary == {"miou": None, "f1": None, "oa": None, "kappa": None, "iou": [None, None], "pixels": 0}


def test_kappa_of_one_class_everywhere_is_no_number():
    assert math.isnan(matrix([1, 1], [1, 1]).kappa())


@pytest.mark.parametrize(("reference", "prediction"), [([0, 1], [0]), ([4, 0], [0, 0]), ([0, 0], [0, -2])])
def test_maps_that_do_not_fit_are_refused(reference, prediction):
    with pytest.raises(ValueError, match=r"shape|indices"):
        matrix(reference, prediction)


@given(maps, maps)
def test_against_plain_loops(reference, prediction):
    made = matrix(reference, prediction)
    known = [(int(r), int(p)) for r, p in zip(reference.flat, prediction.flat, strict=True) if r >= 0 and p >= 0]
    assert made.pixels == len(known)
    for index in range(CLASSES):
        both = sum(r == p == index for r, p in known)
        either = sum(index in pair for pair in known)
        found = made.iou_by_class()[index]
        assert math.isnan(found) if either == 0 else found == pytest.approx(both / either)
    if known:
        assert made.oa() == pytest.approx(sum(r == p for r, p in known) / len(known))


@given(maps, maps)
def test_parts_merge_into_the_whole(reference, prediction):
    parts = ConfusionMatrix(CLASSES)
    for row in range(3):
        parts.merge(matrix(reference[row], prediction[row]))
    whole = matrix(reference, prediction)
    assert (parts.counts == whole.counts).all()
    assert json.loads(json.dumps(whole.summary(), allow_nan=False)) == whole.summary()


@given(maps)
def test_perfect_agreement(reference):
    made = matrix(reference, reference)
    if (reference >= 0).any():
        assert made.miou() == made.f1() == made.oa() == 1.0


@given(maps, maps, st.permutations(range(CLASSES)))
def test_order_of_classes_does_not_matter(reference, prediction, order):
    table = np.array([*order, -1])
    made, moved = matrix(reference, prediction), matrix(table[reference], table[prediction])
    for name in ("miou", "f1", "oa", "kappa"):
        assert getattr(made, name)() == pytest.approx(getattr(moved, name)(), nan_ok=True)


def test_classes_must_be_as_many_to_merge():
    with pytest.raises(ValueError, match="merged"):
        ConfusionMatrix(2).merge(ConfusionMatrix(3))


def test_what_chooses_counts_the_classes_of_the_reference_alone():
    made = ConfusionMatrix(4)
    made.update(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    assert made.miou_of_known() == made.miou() == 1.0
    made.update(np.array([0]), np.array([3]))
    # One pixel of a class that the reference lacks costs its own class a little, not a class of its own.
    assert made.miou_of_known() == pytest.approx((2 / 3 + 1) / 2)
    assert made.miou() == pytest.approx((2 / 3 + 1 + 0) / 3)
