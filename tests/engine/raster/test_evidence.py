# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of an evidence raster: one for each set of modalities, and the way back."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.raster.evidence import evidence_of, scenario_of

ORDER = ("optical", "radar", "elevation")


def test_bits_are_in_the_order_of_the_card():
    assert evidence_of((), ORDER) == 0
    assert evidence_of(("elevation", "optical"), ORDER) == 0b101
    assert scenario_of(0b110, ORDER) == ("radar", "elevation")


@given(st.lists(st.text(min_size=1), unique=True, max_size=7))
def test_every_set_has_a_number_of_its_own(order):
    sets = [names for size in range(len(order) + 1) for names in combinations(order, size)]
    assert [scenario_of(evidence_of(names, order), order) for names in sets] == sets
    assert len({evidence_of(names, order) for names in sets}) == len(sets) == 2 ** len(order)
